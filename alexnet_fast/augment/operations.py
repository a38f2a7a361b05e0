"""All operations by their names, and how one is made of a name and parameters, as a recipe has them."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache

from ..common.untrusted import printable
from ..errors import UserError
from .augmentation import Augmentation

PACKAGE = __name__.rpartition(".")[0]


@cache
def operations() -> dict[str, type[Augmentation]]:
    """Every operation of this package, by its name; imports all of its modules."""
    found = {}
    path = importlib.import_module(PACKAGE).__path__
    for module in sorted(each.name for each in pkgutil.iter_modules(path)):
        home = importlib.import_module(f"{PACKAGE}.{module}")
        for name, kind in vars(home).items():
            own = (
                inspect.isclass(kind) and issubclass(kind, Augmentation) and kind.__module__ == home.__name__
            )
            if own and not inspect.isabstract(kind):
                found[name] = kind
    return found


def of_recipes() -> dict[str, type[Augmentation]]:
    """Those that text can describe: every parameter has a default."""
    return {
        name: kind
        for name, kind in operations().items()
        if all(each.default is not MISSING for each in fields(kind))
    }


def described(kind: type[Augmentation]) -> str:
    """An operation with its parameters and their defaults: ``Solarize(threshold=128.0, p=0.5)``."""
    own = sorted(fields(kind), key=lambda each: each.name == "p")
    parameters = ", ".join(f"{each.name}={each.default!r}" for each in own)
    return f"{kind.__name__}({parameters})"


def all_made(tables: Iterable[Mapping[str, object]]) -> list[Augmentation]:
    """The operations of a recipe's list, each a table of an ``op`` and its parameters; UserError for one that cannot be made."""
    found = []
    for number, table in enumerate(tables, 1):
        name = table.get("op")
        if not isinstance(name, str):
            raise UserError(
                f'the table number {number} has no op, the operation\'s name, as in {{op = "RandAugment"}}: the operations are '
                + ", ".join(of_recipes())
            )
        found.append(made(name, {key: value for key, value in table.items() if key != "op"}))
    return found


def made(name: str, parameters: Mapping[str, object]) -> Augmentation:
    """An operation by its name; UserError for a name, a parameter or a value that it does not know."""
    known = of_recipes()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"the operations are {', '.join(known)}"
        raise UserError(f"there is no operation {printable(name)}: {hint}")
    own = [each.name for each in fields(known[name])]
    for each in parameters:
        if each not in own:
            near = difflib.get_close_matches(each, own, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(own)}"
            raise UserError(f"{name} has no parameter {printable(each)}: {hint}")
    return known[name](**parameters)  # type: ignore[arg-type]
