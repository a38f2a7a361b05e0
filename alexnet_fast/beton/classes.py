"""What labels mean, and whether they mean the same in two places: the training set, the set to evaluate on, a checkpoint.

A label is a number; what it means stands in the sidecar that the packer wrote, or in the checkpoint of a run on such a
set.  In a set that was packed alone, with one class missing, all later classes have one number less: a model that is
always right scored 50 % on one.
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
"""Labels up to here are counted, which takes a tenth of the time of sorting them."""


@dataclass(frozen=True)
class Classes:
    """The labels that occur in one place, and what they mean.

    Attributes:
        whose: what has them, for a message.
        labels: (K,) int64, ascending, each once.
        names: of labels 0, 1, ...; empty where nobody tells them.
        trouble: why the names could not be had, though there is a sidecar.
    """

    whose: str
    labels: np.ndarray
    names: Sequence[str] = ()
    trouble: str = ""

    @classmethod
    def of(cls, beton: Beton, named: bool = True) -> Classes:
        """Those of a file.

        named: whether its sidecar is read, which takes half a second for 1.28 million samples; it is not kept.
        """
        found, trouble = list[str](), ""
        try:
            found = class_names(beton, beton.read_sidecar() if named else None)
        except BetonError as error:
            trouble = str(error)
        return cls(str(beton.path), _each_once(beton.labels), found, trouble)

    @classmethod
    def none(cls, whose: str) -> Classes:
        """Where targets are no classes: nothing that could differ."""
        return cls(whose, np.zeros(0, np.int64))

    @property
    def count(self) -> int:
        """How many classes there are; without names as far as labels tell, one more than the largest."""
        return len(self.names) or (int(self.labels[-1]) + 1 if len(self.labels) else 0)

    def name(self, label: int) -> str | None:
        """What a label means; None where nobody tells."""
        return self.names[label] if 0 <= label < len(self.names) else None


def class_names(beton: Beton, told: Mapping[str, Any] | None) -> list[str]:
    """What labels 0, 1, ... of a file mean by its sidecar; empty where it tells nothing of the field that is the label.

    In a file of several ints it speaks of the one that our packer writes, and of no other; a float has no classes.
    """
    if beton.target_field != INT:
        return []
    ints = sum(field.type_id == fmt.INT_ID for field in beton.fields)
    return names(told, "classes") if ints == 1 or beton.label_field == PACKED else []


def packed_classes(path: Path) -> list[str] | None:
    """The classes of a beton that was packed before, empty where its labels are numbers; None where there is none that tells them."""
    with suppress(BetonError), Beton(path) as beton:
        if beton.target_field != INT:
            return []
        return class_names(beton, beton.read_sidecar()) or None
    return None


def difference(known: Classes, other: Classes) -> str:
    """How labels of ``other`` mean something else than in ``known``: the first one, in words; "" where none is known to.

    That ``other`` lacks a class is no difference, as long as the others keep their numbers.
    """
    differing = [label for label in other.labels.tolist() if _differs(known, other, label)]
    if not differing:
        return ""
    first = differing[0]
    ours, theirs = known.name(first), other.name(first)
    more = f" ({len(differing):,} of {len(other.labels):,} labels differ)" if len(differing) > 1 else ""
    if ours is None:
        which = f"a label {first}" + (f" ({_said(theirs)})" if theirs is not None else "")
        return f"{other.whose} has {which}, but {known.whose} the classes 0 to {len(known.names) - 1}{more}"
    return f"label {first} is {_said(theirs)} in {other.whose}, but {_said(ours)} in {known.whose}{more}"


def doubt(known: Classes, other: Classes) -> str:
    """What speaks against labels meaning the same where names are missing: that one side has more classes; else "".

    Two files of as many classes each give no reason to warn: that would be said of all that FFCV wrote.
    """
    if known.count == other.count or (known.names and other.names):
        return ""
    return (
        f"{other.whose} has {other.count:,} classes and {known.whose} {known.count:,}, and no names tell whether the labels "
        "mean the same"
    )


def without_images(labels: Sequence[float], classes: Sequence[str]) -> str:
    """Which classes have no image, in words; "" where each has one."""
    empty = sorted(set(range(len(classes))) - set(labels))
    if not empty:
        return ""
    more = f" and {len(empty) - 1:,} more" if len(empty) > 1 else ""
    return f"no image of {_said(classes[empty[0]])}{more}, of {len(classes):,} classes"


def _differs(known: Classes, other: Classes, label: int) -> bool:
    if not known.names:
        return False
    ours, theirs = known.name(label), other.name(label)
    return ours is None or (theirs is not None and theirs != ours)


def _each_once(labels: np.ndarray) -> np.ndarray:
    if int(labels.min()) >= 0 and int(labels.max()) < FEW:
        return np.flatnonzero(np.bincount(labels))
    return np.unique(labels)


def _said(name: str | None) -> str:
    return printable(repr(name), 60)
