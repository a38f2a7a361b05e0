"""What labels mean, and whether they mean the same in two places: the training set, the set to evaluate on, a checkpoint.

A label is a number; its class name is in the sidecar that the packer wrote, or in the checkpoint of a run on such a
set.  If a set is packed alone and lacks a class, the label of every later class is one less: on such a set, a model that
is always right scored 50 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..common.untrusted import printable
from . import format as fmt
from .reader import Beton, BetonError
from .sidecar import names
from .target_fields import INT

PACKED = "label"
"""The field whose classes our packer names."""
FEW = 1 << 20
"""Labels below this are counted, which takes a tenth of the time of sorting them."""


@dataclass(frozen=True)
class Classes:
    """The labels that occur in one place, and what they mean.

    Attributes:
        whose: the file that has them, for messages.
        labels: (K,) int64, ascending, each once.
        names: of labels 0, 1, ...; empty if they are not known.
        trouble: why the names are not available although there is a sidecar.
    """

    whose: str
    labels: np.ndarray
    names: Sequence[str] = ()
    trouble: str = ""

    @classmethod
    def of(cls, beton: Beton, named: bool = True) -> Classes:
        """The classes of a file.

        named: whether to read its sidecar, which takes half a second for 1.28 million samples; it is not kept.
        """
        found, trouble = list[str](), ""
        try:
            found = class_names(beton, beton.read_sidecar() if named else None)
        except BetonError as error:
            trouble = str(error)
        return cls(str(beton.path), each_once(beton.labels), found, trouble)

    @classmethod
    def none(cls, whose: str) -> Classes:
        """For targets that are not classes: there is nothing to compare."""
        return cls(whose, np.zeros(0, np.int64))

    @property
    def count(self) -> int:
        """How many classes there are; without names, one more than the largest label."""
        return len(self.names) or (int(self.labels[-1]) + 1 if len(self.labels) else 0)

    def name(self, label: int) -> str | None:
        """The name of a label's class; None if it is not known."""
        return self.names[label] if 0 <= label < len(self.names) else None


def class_names(beton: Beton, sidecar: Mapping[str, Any] | None) -> list[str]:
    """The class names of labels 0, 1, ... by a file's sidecar; empty if it has none for the field that is the label.

    In a file of several int fields the sidecar describes only the one that our packer writes; a float field has no classes.
    """
    if beton.target_field != INT:
        return []
    ints = sum(field.type_id == fmt.INT_ID for field in beton.fields)
    return names(sidecar, "classes") if ints == 1 or beton.label_field == PACKED else []


def packed_classes(path: Path) -> list[str] | None:
    """The classes of a beton that was packed before: empty if its labels are numbers, None if there is no beton or its classes are
    not known."""
    with suppress(BetonError), Beton(path) as beton:
        if beton.target_field != INT:
            return []
        return class_names(beton, beton.read_sidecar()) or None
    return None


def difference(known: Classes, other: Classes) -> str:
    """The first label of ``other`` that means another class than in ``known``, in words; "" if none is known to.

    It is no difference if ``other`` lacks a class, as long as the other classes keep their labels.
    """
    differing = [label for label in other.labels.tolist() if _differs(known, other, label)]
    if not differing:
        return ""
    first = differing[0]
    ours, theirs = known.name(first), other.name(first)
    more = f" ({len(differing):,} of {len(other.labels):,} labels differ)" if len(differing) > 1 else ""
    if ours is None:
        which = f"a label {first}" + (f" ({_shown(theirs)})" if theirs is not None else "")
        return f"{other.whose} has {which}, but {known.whose} the classes 0 to {len(known.names) - 1}{more}"
    return f"label {first} is {_shown(theirs)} in {other.whose}, but {_shown(ours)} in {known.whose}{more}"


def doubt(known: Classes, other: Classes) -> str:
    """Why labels may not mean the same if names are missing: one side has more classes; else "".

    With the same number of classes there is no warning: else there would be one for every file that FFCV wrote.
    """
    if known.count == other.count or (known.names and other.names):
        return ""
    return (
        f"{other.whose} has {other.count:,} classes and {known.whose} {known.count:,}, and no class names show whether the "
        "labels mean the same"
    )


def without_images(labels: Sequence[float], classes: Sequence[str]) -> str:
    """Which classes have no image, in words; "" if each has one."""
    empty = sorted(set(range(len(classes))) - set(labels))
    if not empty:
        return ""
    more = f" and {len(empty) - 1:,} more" if len(empty) > 1 else ""
    return f"no image of {_shown(classes[empty[0]])}{more}, of {len(classes):,} classes"


def _differs(known: Classes, other: Classes, label: int) -> bool:
    if not known.names:
        return False
    ours, theirs = known.name(label), other.name(label)
    return ours is None or (theirs is not None and theirs != ours)


def each_once(labels: np.ndarray) -> np.ndarray:
    """The labels that occur, ascending."""
    if int(labels.min()) >= 0 and int(labels.max()) < FEW:
        return np.flatnonzero(np.bincount(labels))
    return np.unique(labels)


def _shown(name: str | None) -> str:
    return printable(repr(name), 60)
