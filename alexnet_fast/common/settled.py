"""Objects that keep the settings of their constructor: setting an attribute later that nothing would read is an error."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from ..errors import UserError
from .untrusted import printable

PACKAGE = __name__.partition(".")[0]


class NoSetting(UserError, AttributeError):
    """An attribute was set that nothing would read."""


class Setting:
    """An attribute that may be set at any time and is read from then on; checked when it is set.

    Args:
        check: takes its name and the value given; returns the value to keep, or raises UserError.
    """

    def __init__(self, check: Callable[[str, Any], Any]) -> None:
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        try:
            return vars(instance)[self._name]
        except KeyError:
            raise AttributeError(f"{type(instance).__name__}.{self._name} was not set yet") from None

    def __set__(self, instance: object, given: Any) -> None:
        vars(instance)[self._name] = self._check(self._name, given)


class Settled:
    """Once ``_settled`` is True, refuses to set attributes, except properties with a setter, ``Setting`` and private names.

    A class that a user derives may set attributes of its own: names that this package does not use, or that the class
    declares.

    ``_instead``: for an attribute's name, what to do instead of setting it.
    """

    __slots__ = ()
    _instead: ClassVar[dict[str, str]] = {}

    def __setattr__(self, name: str, given: object) -> None:
        if not name.startswith("_") and getattr(self, "_settled", False) and not self._can_set(name):
            shown = printable(repr(given), 40)
            raise NoSetting(f"{type(self).__name__}.{name} = {shown} cannot be set: {self._why(name, shown)}")
        super().__setattr__(name, given)

    def _can_set(self, name: str) -> bool:
        attribute = inspect.getattr_static(type(self), name, None)
        if isinstance(attribute, property):
            return attribute.fset is not None
        if isinstance(attribute, Setting):
            return True
        ours, theirs = _classes(self)
        return bool(theirs) and (name in _declared(theirs) or name not in _known(ours))

    def _why(self, name: str, shown: str) -> str:
        kind, (ours, _) = type(self).__name__, _classes(self)
        if name in self._instead:
            return self._instead[name]
        if name in _parameters(ours):
            return f"it keeps what it was opened with, so open a new {kind} with {name}={shown}"
        if name in _known(ours):
            return "it only reports what was opened"
        near = difflib.get_close_matches(name, sorted(_known(ours)), 1, 0.5)
        return f"there is no such attribute{f'; did you mean {near[0]}?' if near else ''}"


Classes = list[type]


def _classes(instance: Settled) -> tuple[Classes, Classes]:
    """The classes of an object that belong to this package, and those that users derived from them."""
    ours = [each for each in type(instance).__mro__ if each.__module__.partition(".")[0] == PACKAGE]
    return ours, [each for each in type(instance).__mro__ if issubclass(each, ours[0]) and each not in ours]


def _known(classes: Classes) -> set[str]:
    """The public names that these classes use."""
    return {name for name in _declared(classes) | _parameters(classes) if not name.startswith("_")}


def _declared(classes: Classes) -> set[str]:
    return {name for each in classes for name in (*vars(each), *inspect.get_annotations(each))}


def _parameters(classes: Classes) -> set[str]:
    constructors = [made for each in classes if (made := vars(each).get("__init__"))]
    return {name for constructor in constructors for name in inspect.signature(constructor).parameters}
