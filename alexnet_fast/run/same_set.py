"""Whether the sets and the checkpoint of a run belong together: the same classes, and where it is resumed, the same samples.

Every rank calls these; the first alone reads the names of classes, and so finds what differs, for all.
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
    """What the labels of a set mean; none if the task does not learn classes."""
    if not TARGETS[recipe.model.task].are_classes:
        return Classes.none(str(dataset.beton.path))
    return Classes.of(dataset.beton, named=world.is_rank0)


def learnt_classes(path: Path, loaded: dict[str, Any], recipe: Recipe) -> Classes:
    """What the outputs of a checkpoint's model mean: without names where it is of weights alone, or of an older version."""
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
            f'{path} has learned {printable(str(learned), 60)}, but model.task = "{recipe.model.task}": set model.task back, or '
            "start a new run with model.weights"
        )


def check_val_classes(known: Classes, val_set: Loader, recipe: Recipe, world: World) -> list[str]:
    """Warnings of what cannot be compared; raises UserError where a label of the set to evaluate on is another class in `known`."""
    other, name = classes_of(val_set, recipe, world), val_set.beton.path.name
    if found := difference(known, other):
        raise UserError(
            f"{found}: accuracies would be wrong; pack it with train/ beside it, so that both number their classes alike, "
            f"or, where the names alone differ, move {name}.json away"
        )
    doubtful = doubt(known, other)
    return [*unread(other), *([f"warning: {doubtful}"] if doubtful else [])]


def unread(classes: Classes) -> list[str]:
    """A warning where the names of classes could not be read."""
    return [f"warning: {classes.trouble}; until then class names are not compared"] if classes.trouble else []


def check_goes_on(
    path: Path, loaded: dict[str, Any], recipe: Recipe, train_set: Loader, classes: Classes
) -> list[str]:
    """Warnings; raises UserError where the run of a checkpoint cannot go on with a set.

    That is where a label is another class than the one learnt, and within an epoch where the samples are others: a step's
    number would mean another batch.
    """
    beton, cursor = train_set.beton, loaded["cursor"]
    if found := difference(learnt_classes(path, loaded, recipe), classes):
        raise UserError(
            f"{found}: a run goes on with the classes that it began with; give its own set, begin a new run with model.weights, "
            f"or, where the names alone differ, move {beton.path.name}.json away"
        )
    before, now = loaded.get("train_set"), identity(train_set)
    if not isinstance(before, dict) or before == now:
        return []
    what = f"{beton.path} is not the set of {path}: "
    if before.get("samples") == now["samples"]:
        what += f"as many samples ({now['samples']:,}), of other labels or in another order"
    else:
        what += f"it had {before.get('samples')} samples and has {now['samples']}"
    if cursor["step"]:
        raise UserError(f"{what}; {_within(cursor)} is another one there: give its own set, or begin anew")
    return [f"warning: {what}"]


def identity(dataset: Loader) -> dict[str, Any]:
    """What tells a set from another one under its name, as far as the order and the labels of samples go."""
    labels = dataset.beton.labels
    return {"samples": len(labels), "labels": f"{zlib.crc32(labels.data):08x}"}


def _within(cursor: Cursor) -> str:
    return f"step {cursor['step']} of epoch {cursor['epoch']}"
