"""The classes of several files as one list, by their names: labels of each file are renumbered where its list differs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..common.untrusted import printable
from .errors import BetonError

Named = tuple[str, Sequence[str]]
"""A file's name for messages, and its classes."""


def union(files: Sequence[Named]) -> list[str]:
    """The classes of labels 0, 1, ... of all files together.

    - Where all lists are equal it is that list.
    - Else it is the first list that has every class of the others.
    - Else, if each list is sorted, as folders of classes are numbered, it is the sorted union: what one packing of all would have.

    Raises:
        BetonError: it is none of these, so the numbering would be a guess; or a list has a name twice.
    """
    lists = [classes for _, classes in files]
    first = lists[0]
    if all(list(classes) == list(first) for classes in lists):
        return list(first)
    for whose, classes in files:
        if len(set(classes)) < len(classes):
            twice = next(name for name in classes if list(classes).count(name) > 1)
            raise BetonError(
                f"{whose} has two classes of the name {_shown(twice)}, and other classes than {files[0][0]}: they cannot be "
                "compared by name; pack it again with names that differ"
            )
    every = set[str]().union(*lists)
    for classes in lists:
        if len(classes) == len(every):
            return list(classes)
    if all(list(classes) == sorted(classes) for classes in lists):
        return sorted(every)
    unsorted = next(whose for whose, classes in files if list(classes) != sorted(classes))
    lacking = next((whose, name) for whose, classes in files for name in sorted(every - set(classes)))
    raise BetonError(
        f"{lacking[0]} lacks the class {_shown(lacking[1])}, no file has all {len(every):,} classes, and those of {unsorted} are "
        "not in sorted order, so how to number them all would be a guess: pack one of the files, or all, with the full list of classes"
    )


def renumbered(labels: np.ndarray, classes: Sequence[str], of_all: Sequence[str], whose: str) -> np.ndarray:
    """The labels of one file in the numbering of all: (n,) int64.

    Raises:
        BetonError: a label has no name.
    """
    if list(classes) == list(of_all):
        return labels
    wrong = labels[(labels < 0) | (labels >= len(classes))]
    if len(wrong):
        raise BetonError(
            f"{whose} has the label {wrong[0]}, but the names of {len(classes)} classes only: it cannot be compared by name with "
            "the other files; pack it again"
        )
    place = {name: k for k, name in enumerate(of_all)}
    found: np.ndarray = np.array([place[name] for name in classes], np.int64)[labels]
    return found


def _shown(name: str) -> str:
    return printable(repr(name), 60)
