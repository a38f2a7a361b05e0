"""Labels as lists, shards and tables write them, as text -> the numbers in the file, and what they mean.

Labels that are all whole numbers from 0 on stay what they are.  Labels that are all numbers, of which one has a decimal point or an
exponent, are not classes: they are stored as floats.  Other labels are names of classes, numbered in sorted order as folders of
classes are.  ``--label-type`` decides if this guess is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence

from ...common.untrusted import printable
from . import LabelType
from .listing import FolderError

MAX_LABEL = 1 << 20  # a number beyond it is an identifier, and would make as many classes
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
NO_NUMBER = re.compile(
    r"[+-]?(nan|inf|infinity)", re.IGNORECASE
)  # how programs write what they could not compute


def numbered(
    keys: Iterable[str],
    labels: Collection[str],
    place: str,
    label_type: LabelType = "auto",
    classes: list[str] | None = None,
) -> tuple[list[float], list[str]]:
    """The number of each label, and the classes that they mean; no classes if they are numbers.

    Args:
        keys: the image of each label, for messages.
        place: where the labels are, for messages.
        classes: where another split decides what they mean: its classes; empty if its labels are numbers.

    Raises:
        FolderError: a label is not what it has to be.
    """
    if has_numbers(labels, label_type, classes):
        return [_number(key, label, place) for key, label in zip(keys, labels)], []
    if not classes:
        classes = classes_of(labels)
    elif unknown := sorted(set(labels) - set(classes)):
        raise FolderError(
            f"{place} has the class {printable(repr(unknown[0]))}, which the training split does not have; remove or rename it"
            + (", or, if labels are numbers, give --label-type float" if are_numbers(labels) else "")
        )
    number = {name: k for k, name in enumerate(classes)}
    return [number[label] for label in labels], classes


def has_numbers(labels: Iterable[str], label_type: LabelType, classes: Sequence[str] | None) -> bool:
    """Whether labels are numbers rather than classes: by --label-type, by the split that decides it, or by how they look."""
    if label_type != "auto":
        return label_type == "float"
    return are_numbers(labels) if classes is None else not classes


def classes_of(labels: Iterable[str]) -> list[str]:
    """What labels 0, 1, ... mean: "0", "1", ... up to the largest number, or the names in sorted order."""
    names = set(labels)
    if all(name.isdecimal() and name == str(int(name)) and int(name) < MAX_LABEL for name in names):
        return [str(k) for k in range(max(map(int, names)) + 1)]
    return sorted(names)


def are_numbers(labels: Iterable[str]) -> bool:
    """Whether labels look like numbers that are not classes: all are numbers, and one has a decimal point or an exponent.

    A label such as "nan" does not change that: packing then reports it.
    """
    whole = True
    for label in set(labels):
        if NUMBER.fullmatch(label):
            whole = whole and label.lstrip("+-").isdecimal()
        elif not NO_NUMBER.fullmatch(label):
            return False
    return not whole


def _number(key: str, label: str, place: str) -> float:
    number = float(label) if NUMBER.fullmatch(label) else math.nan
    if not math.isfinite(number):
        raise FolderError(
            f"{place}: the label {printable(repr(label))} of {printable(repr(key))} is not a finite number, and labels are "
            "stored as numbers; correct or remove it, or, if they name classes, give --label-type class"
        )
    return number
