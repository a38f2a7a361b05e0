"""Checks that the sets and the checkpoint of a run match: the same classes and, for a resume, the same samples.

Every rank calls these; only rank 0 reads the names of classes, and finds differences for all.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..beton.classes import Classes, difference, doubt
from ..beton.sidecar import names
from ..beton.target_fields import TARGETS
from ..common.untrusted import printable
from ..distributed.world import World
from ..errors import UserError
from ..loader.loader import Loader
from ..recipe import Recipe
from .checkpoint import Cursor, holds_run
from .import_reference import is_reference_checkpoint


def classes_of(dataset: Loader, recipe: Recipe, world: World) -> Classes:
    """The classes of a set's labels; none if the task does not learn classes."""
    if not TARGETS[recipe.model.task].are_classes:
        return Classes.none(str(dataset.beton.path))
    return Classes.of(dataset.beton, named=world.is_rank0)


def learnt_classes(path: Path, loaded: dict[str, Any], recipe: Recipe) -> Classes:
    """The classes of a checkpoint's outputs; without names for weights alone, or a checkpoint of an older version."""
    whose = f"the checkpoint {path}"
    if not TARGETS[recipe.model.task].are_classes:
        return Classes.none(whose)
    return Classes(whose, np.arange(recipe.model.num_classes), names(loaded, "classes"))


def check_learnt_task(path: Path, loaded: dict[str, Any], recipe: Recipe) -> None:
    """Raises UserError if a checkpoint's run has learned another task than the recipe's.

    Weights alone do not say what they learned; a checkpoint of the reference has learned classes.
    """
    if not (holds_run(loaded) or is_reference_checkpoint(loaded)):
        return
    learned = loaded.get("recipe", {}).get("model", {}).get("task", "classification")
    if learned != recipe.model.task:
        raise UserError(
            f'{path} has learned {printable(str(learned), 60)}, but model.task = "{recipe.model.task}": restore model.task, or '
            "start a new run with model.weights"
        )


def check_val_classes(known: Classes, val_set: Loader, recipe: Recipe, world: World) -> list[str]:
    """Warnings about what cannot be compared; raises UserError where a label of the evaluation set is another class in `known`."""
    other = classes_of(val_set, recipe, world)
    if found := difference(known, other):
        raise UserError(
            f"{found}: accuracies would be wrong; pack it with train/ next to it, so that both number their classes alike, "
            f"or, where only the names differ, move {val_set.beton.names_at} away"
        )
    doubtful = doubt(known, other)
    return [*unread(other), *([f"warning: {doubtful}"] if doubtful else [])]


def unread(classes: Classes) -> list[str]:
    """A warning where the class names could not be read."""
    return [f"warning: {classes.trouble}; until then class names are not compared"] if classes.trouble else []


def check_goes_on(
    path: Path, loaded: dict[str, Any], recipe: Recipe, train_set: Loader, classes: Classes
) -> list[str]:
    """Warnings; raises UserError where a checkpoint's run cannot be resumed with a set.

    That is where a label is another class than the one learnt, and, within an epoch, where the samples differ: a step's
    number would mean another batch.
    """
    beton, cursor = train_set.beton, loaded["cursor"]
    if found := difference(learnt_classes(path, loaded, recipe), classes):
        raise UserError(
            f"{found}: a run resumes with the classes that it started with; give its own set, start a new run with "
            f"model.weights, or, where only the names differ, move {beton.names_at} away"
        )
    before, now = loaded.get("train_set"), identity(train_set)
    if not isinstance(before, dict) or before == now:
        return []
    if ("pages" in before) != ("pages" in now):  # data.order has changed since, so the pages do not matter
        before, now = ({key: each[key] for key in each if key != "pages"} for each in (before, now))
        if before == now:
            return []
    what = f"{beton.path} is not the set of {path}: "
    if before.get("samples") == now["samples"]:
        what += f"it has as many samples ({now['samples']:,}), with other labels or in another order"
    else:
        what += f"it had {before.get('samples')} samples and has {now['samples']}"
    if cursor["step"]:
        raise UserError(
            f"{what}; {_within(cursor)} would be another batch: give its own set, or start from scratch"
        )
    return [f"warning: {what}"]


def identity(dataset: Loader) -> dict[str, Any]:
    """What identifies a set's content: its number of samples, and a checksum of its labels in order.

    With the block order also of the pages that hold the samples: the same images packed in another way have another order.
    """
    labels = dataset.beton.labels
    found = {"samples": len(labels), "labels": f"{zlib.crc32(labels.data):08x}"}
    pages = dataset.pages_checksum
    return found if pages is None else {**found, "pages": f"{pages:08x}"}


def _within(cursor: Cursor) -> str:
    return f"step {cursor['step']} of epoch {cursor['epoch']}"
