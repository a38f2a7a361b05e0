"""Where a run starts: fresh weights, given weights or a checkpoint, the same on all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..beton.classes import Classes, difference
from ..common.text import plural
from ..devices.device import Device
from ..distributed.world import World
from ..engine.precision import Precision
from ..errors import UserError
from ..loader.loader import Loader
from ..recipe import Recipe
from ..recipe_toml import differences
from . import checkpoint, checkpoint_manager, import_reference
from .checkpoint import BEST, LAST, Cursor, ResumeState
from .same_set import check_goes_on, check_learnt_task, identity, learnt_classes

# Keys on which the meaning of a step's number within an epoch depends.
FIXED_WITHIN_EPOCH = (
    "run.seed",
    "data.train",
    "data.global_batch_size",
    "data.order",
    "data.weights",
    "data.window_pages",
    "schedule.steps_per_epoch",
)


def load_start(
    recipe: Recipe,
    resume: str | None,
    precision: Precision,
    world: World,
    device: Device,
    dataset: Loader,
    classes: Classes,
) -> tuple[ResumeState, Path | None, list[str]]:
    """Load fresh weights, given weights or a checkpoint; returns the state to resume, the path of the run's checkpoint
    that it comes from, or None, and notes to log.

    resume: a checkpoint's path, or "auto" for the run's own newest valid one.
    dataset, classes: the training set, and the classes of its labels.
    Raises UserError for a run's checkpoint that learnt other classes.  Initial weights (model.weights) may have learnt
    others, of the same number: training changes what the last layer means, and a warning says so.
    """
    known, now = tuple(classes.names[: recipe.model.num_classes]), identity(dataset)
    fresh = ResumeState({"epoch": 0, "step": 0}, [], None, classes=known, train_set=now)
    newest = checkpoint_manager.load_latest_valid(recipe.folder) if resume == "auto" else None
    if newest is not None:
        path, loaded, notes = newest
    elif resume is None or resume == "auto":
        notes = []
        if resume == "auto":
            notes = [f"--resume auto: {recipe.folder / LAST} does not exist, so the run starts from scratch"]
        elif checkpoint_manager.list_checkpoints(recipe.folder):
            checkpoints = (
                "are deleted with this run's first" if recipe.checkpoint.is_asked_for else "are kept"
            )
            notes = [
                f"{recipe.folder} holds an earlier run: its report is deleted now, its checkpoints {checkpoints}"
            ]
        if not recipe.model.weights:
            return fresh, None, notes
        path = Path(recipe.model.weights)
        loaded = checkpoint_manager.load(path)
        precision.load_state_dict(loaded["state_dict"])
        notes.append(f"starts with the weights of {path}")
        if other := difference(learnt_classes(path, loaded, recipe), classes):
            notes.append(f"warning: {other}: the last layer starts with what it learnt for other classes")
        return fresh, None, notes
    else:
        path, notes = Path(resume), []
        loaded = checkpoint_manager.load(path)

    check_learnt_task(path, loaded, recipe)
    if import_reference.is_reference_checkpoint(loaded):
        progress, has_momenta = import_reference.import_reference(loaded, precision)
        progress = replace(progress, classes=known, train_set=now)
        momenta = (
            "with its momenta" if has_momenta else "without its momenta, which are not those of torch's SGD"
        )
        return (
            progress,
            None,
            [
                f"resumes from {path}, a checkpoint of the reference, at epoch {progress.cursor['epoch']}, {momenta}"
            ],
        )
    if not checkpoint.holds_run(loaded):
        precision.load_state_dict(loaded["state_dict"])
        return fresh, None, [*notes, f"{path} holds only weights: the run starts with them at epoch 0"]
    changed = differences(loaded["recipe"], recipe.model_dump(mode="json"))
    cursor = loaded["cursor"]
    if cursor["step"] and (fixed := [name for name in changed if name in FIXED_WITHIN_EPOCH]):
        raise UserError(
            f"cannot resume from {path}, saved at epoch {cursor['epoch']}, step {cursor['step']}: {fixed[0]} has changed "
            "since; restore it, or start a new run"
        )
    if "optim.name" in changed:
        raise UserError(
            f"cannot resume from {path}: what its optimizer has kept is of no use to optim.name = {recipe.optim.name!r}; "
            f"restore optim.name, or start a new run with --set model.weights={path}"
        )
    notes += check_goes_on(path, loaded, recipe, dataset, classes)
    notes.append(f"resumes from {path} at epoch {cursor['epoch']}, step {cursor['step']}")
    if changed:
        notes.append(f"changed since that checkpoint: {', '.join(changed)}")
    if (saved := len(loaded["rng"])) != world.world_size:
        notes.append(
            f"saved by {plural(saved, 'rank')} and resumed by {world.world_size}: dropout differs from here on"
        )
    progress = checkpoint.restore(loaded, precision, device, world)
    if precision.average is not None and "ema" not in loaded:
        notes.append("optim.ema: the average of the weights begins with those of the checkpoint")
    return replace(progress, classes=known or progress.classes, train_set=now), path, notes


def paths_differ(saved: Sequence[str] | None, now: Sequence[str]) -> list[str]:
    """A note if a run resumes on other fast paths of engine.* than those that its checkpoint was trained on, whose sums round otherwise."""
    if saved is None or set(saved) == set(now):
        return []
    one, other = (", ".join(sorted(paths)) or "none" for paths in (saved, now))
    return [f"saved with the fast paths {one}, resumed with {other}: sums round differently from here on"]


def assert_ranks_agree(
    world: World,
    precision: Precision,
    dataset: Loader,
    cursor: Cursor | None = None,
    val_set: Loader | None = None,
) -> None:
    """Raise UserError unless all ranks have the same weights, samples, labels and cursor.

    Hosts without a shared disk may have different files, or a checkpoint that the others lack.
    """
    if world.world_size > 1:
        weights = f"of checksum {precision.fingerprint()}"
        world.assert_same({"cursor": cursor, "weights": weights, **_agreed(dataset, "")})
        if val_set is not None:
            world.assert_same(_agreed(val_set, " to evaluate on"))


def _agreed(dataset: Loader, which: str) -> dict[str, Any]:
    found = identity(dataset)
    agreed = {f"samples{which}": found["samples"], f"labels{which}": f"of checksum {found['labels']}"}
    if "pages" in found:
        agreed[f"pages{which}"] = f"of checksum {found['pages']}"
    return agreed


def find_weights(recipe: Recipe, resume: str | None) -> Path:
    """The checkpoint to evaluate; raises UserError where there is none."""
    if resume not in (None, "auto"):
        return Path(str(resume))
    if resume is None and recipe.model.weights:
        return Path(recipe.model.weights)
    for name in (BEST, LAST):
        if (recipe.folder / name).exists():
            return recipe.folder / name
    raise UserError(
        f"nothing to evaluate: {recipe.folder} has no checkpoint; give --resume PATH or model.weights"
    )
