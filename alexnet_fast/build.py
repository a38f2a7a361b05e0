"""From a recipe to the parts of a run: loaders, model, schedule, and where to begin."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .beton.classes import Classes, difference
from .common.text import plural
from .devices.device import Device, resolve
from .distributed import world as ranks
from .distributed.launcher import Layout
from .distributed.world import World
from .engine.lr_schedule import Schedule
from .engine.meter import Averages, Meter
from .engine.precision import Precision, fused_or_foreach
from .engine.train_state import TrainState
from .errors import UserError
from .loader.bad_samples import SkippedSample
from .loader.loader import Loader
from .models import MODELS
from .models.initial_weights import initialise_he
from .recipe import Recipe, differences, dump
from .run import checkpoint, checkpoint_manager, import_reference, log
from .run.checkpoint import BEST, LAST, Cursor, ResumeState
from .run.run_lock import run_lock
from .run.same_set import check_goes_on, identity, learnt_classes

# What a step's number within an epoch depends on.
FIXED_WITHIN_EPOCH = ("run.seed", "data.train", "data.global_batch_size", "schedule.steps_per_epoch")


def launch_config(recipe: Recipe) -> Layout:
    """Which ranks the recipe asks for, on this host and on others."""
    asked = recipe.distributed
    return Layout(asked.nproc, asked.hosts, asked.host, asked.address, asked.stop_s)


def init_distributed(recipe: Recipe, stack: ExitStack) -> tuple[World, Device]:
    """This process's place among the ranks, and its device, in use; the ranks part when `stack` closes."""
    asked = recipe.distributed
    world = ranks.from_environment(launch_config(recipe).world_size)
    if world.local_world_size > 1 and ":" in recipe.run.device:
        raise UserError(
            f"run.device = {recipe.run.device!r} is one device for {world.local_world_size} ranks: leave out its "
            "index, and each rank takes its own"
        )
    device = resolve(recipe.run.device, world.local_rank)
    device.use(world.threads)
    stack.enter_context(ranks.process_group(world, device, asked.backend, asked.timeout_s))
    return world, device


def train_loader(recipe: Recipe, world: World, device: Device, **other: Any) -> Loader:
    """This rank's training batches; raises UserError for a file, batch or labels that do not fit.

    other: arguments of Loader in place of the recipe's.
    """
    data = recipe.data
    arguments: dict[str, Any] = {
        "train": True,
        "size": data.size,
        "seed": recipe.run.seed,
        "threads": data.threads or world.threads,
        "rank": world.rank,
        "world_size": world.world_size,
        "scale": data.scale,
        "ratio": data.ratio,
        "flip": data.flip,
        "batches_ahead": data.batches_ahead,
        "read_ahead_bytes": data.read_ahead_bytes,
        "pin_memory": device.pin_memory,
        "on_error": data.on_error,
        **data.fields,
    }
    batch_size = world.batch_size(data.global_batch_size)
    return check_labels(Loader(data.train, batch_size, **(arguments | other)), recipe)


def val_loader(recipe: Recipe, world: World, device: Device) -> Loader:
    """This rank's evaluation batches, each sample once over all ranks; one that cannot be decoded is an error, whatever
    data.on_error says: an accuracy counts every sample, or is none."""
    data, size = recipe.data, recipe.eval.size or recipe.data.size
    spec = MODELS[recipe.model.name]
    if size < spec.min_size_px:
        raise UserError(
            f"eval.size = {size} is too small: {spec.title} needs at least {spec.min_size_px} pixels"
        )
    loader = Loader(
        data.val,
        math.ceil((recipe.eval.global_batch_size or data.global_batch_size) / world.world_size),
        train=False,
        size=size,
        threads=data.threads or world.threads,
        rank=world.rank,
        world_size=world.world_size,
        center_ratio=recipe.eval.center_ratio,
        batches_ahead=data.batches_ahead,
        read_ahead_bytes=data.read_ahead_bytes,
        pin_memory=device.pin_memory,
        **data.fields,
    )
    return check_labels(loader, recipe)


def all_skipped(world: World, loader: Loader, before: list[SkippedSample]) -> list[SkippedSample]:
    """What data.on_error = "skip" left out so far, on any rank, each sample once; on rank 0, and nothing on the others.

    before: what was left out before the run was resumed, as rank 0 knows it.  Every rank has to call this.
    """
    gathered, by_index = world.gather_object(loader.skipped), dict[int, SkippedSample]()
    for of_rank in [before, *gathered] if gathered is not None else []:
        for each in of_rank:
            if each.index not in by_index or each.epoch < by_index[each.index].epoch:
                by_index[each.index] = each
    return [by_index[index] for index in sorted(by_index)]


def check_labels(loader: Loader, recipe: Recipe) -> Loader:
    """The loader, if the model has a class for each of its labels; otherwise UserError, and it is closed."""
    lowest, classes = int(loader.beton.labels.min(initial=0)), recipe.model.num_classes
    if lowest >= 0 and loader.num_classes <= classes:
        return loader
    wrong = lowest if lowest < 0 else loader.num_classes - 1
    path = loader.beton.path
    loader.close()
    raise UserError(
        f"{path} has a label {wrong}, but model.num_classes = {classes} leaves 0 to {classes - 1}: "
        + (f"set model.num_classes = {loader.num_classes}" if lowest >= 0 else "pack the set again")
    )


def train_state(recipe: Recipe, world: World, device: Device) -> TrainState:
    """The model with fresh weights, the same on every rank, its optimizer and its sums, on the device."""
    sgd = partial(
        torch.optim.SGD,
        lr=recipe.optim.lr,
        momentum=recipe.optim.momentum,
        nesterov=recipe.optim.nesterov,
        weight_decay=recipe.optim.weight_decay,
    )
    spec = MODELS[recipe.model.name]
    model = spec.build(recipe.model.num_classes, recipe.model.dropout)
    if recipe.model.init == "he":
        initialise_he(model)
    precision = Precision(
        model,
        fused_or_foreach(sgd, device),
        level=recipe.precision.level,
        device=device,
        title=spec.title,
        loss_scale=recipe.precision.loss_scale,
        replicate=partial(ranks.wrap_ddp, world=world, reduce=recipe.precision.reduce),
    )
    return TrainState(precision, Meter(device.torch_device, world), recipe.optim.label_smoothing)


def schedule(recipe: Recipe, steps_per_epoch: int) -> Schedule:
    plan = recipe.schedule
    return Schedule(recipe.optim.lr, plan.curve, plan.per, plan.epochs, steps_per_epoch, plan.warmup_epochs)


def load_start(
    recipe: Recipe,
    resume: str | None,
    precision: Precision,
    world: World,
    device: Device,
    dataset: Loader,
    classes: Classes,
) -> tuple[ResumeState, Path | None, list[str]]:
    """Fresh weights, given weights, or a run's checkpoint: where the run goes on, which run's checkpoint that is,
    if any, and notes that say so.

    resume: a checkpoint's path, or "auto" for the run's own newest that is whole.
    dataset, classes: what is to be trained on, and what its labels mean.
    Raises UserError for a run's checkpoint that learnt other classes.  Weights to begin with may have learnt others, as many:
    training changes what the last layer means, and a warning says that it has to.
    """
    known, now = tuple(classes.names[: recipe.model.num_classes]), identity(dataset)
    fresh = ResumeState({"epoch": 0, "step": 0}, [], None, classes=known, train_set=now)
    newest = checkpoint_manager.load_latest_valid(recipe.folder) if resume == "auto" else None
    if newest is not None:
        path, loaded, notes = newest
    elif resume is None or resume == "auto":
        notes = []
        if resume == "auto":
            notes = [f"--resume auto: {recipe.folder / LAST} does not exist, so the run begins anew"]
        elif checkpoint_manager.list_checkpoints(recipe.folder):
            checkpoints = "go with this one's first" if recipe.checkpoint.is_asked_for else "stay"
            notes = [
                f"{recipe.folder} is of an earlier run, whose report goes now and whose checkpoints {checkpoints}"
            ]
        if not recipe.model.weights:
            return fresh, None, notes
        path = Path(recipe.model.weights)
        loaded = checkpoint_manager.load(path)
        precision.load_state_dict(loaded["state_dict"])
        notes.append(f"begins with the weights of {path}")
        if other := difference(learnt_classes(path, loaded, recipe), classes):
            notes.append(f"warning: {other}: the last layer begins with what it learnt of other classes")
        return fresh, None, notes
    else:
        path, notes = Path(resume), []
        loaded = checkpoint_manager.load(path)

    if import_reference.is_reference_checkpoint(loaded):
        progress, has_momenta = import_reference.import_reference(loaded, precision)
        progress = replace(progress, classes=known, train_set=now)
        momenta = (
            "with its momenta" if has_momenta else "its momenta, which are not torch's SGD's, begin anew"
        )
        return (
            progress,
            None,
            [
                f"goes on from {path}, a checkpoint of the reference, at epoch {progress.cursor['epoch']}, {momenta}"
            ],
        )
    if not checkpoint.holds_run(loaded):
        precision.load_state_dict(loaded["state_dict"])
        return fresh, None, [*notes, f"{path} holds weights alone: the run begins with them at epoch 0"]
    changed = differences(loaded["recipe"], recipe.model_dump(mode="json"))
    cursor = loaded["cursor"]
    if cursor["step"] and (fixed := [name for name in changed if name in FIXED_WITHIN_EPOCH]):
        raise UserError(
            f"{path} stands within epoch {cursor['epoch']}, and {fixed[0]} has changed since: its step "
            f"{cursor['step']} would be another one; set {fixed[0]} back, or begin anew"
        )
    notes += check_goes_on(path, loaded, recipe, dataset, classes)
    notes.append(f"goes on from {path} at epoch {cursor['epoch']}, step {cursor['step']}")
    if changed:
        notes.append(f"changed since that checkpoint: {', '.join(changed)}")
    if (saved := len(loaded["rng"])) != world.world_size:
        notes.append(
            f"saved by {plural(saved, 'rank')} and gone on with by {world.world_size}: dropout differs from here"
        )
    progress = checkpoint.restore(loaded, precision, device, world)
    return replace(progress, classes=known or progress.classes, train_set=now), path, notes


def assert_ranks_agree(
    world: World,
    precision: Precision,
    dataset: Loader,
    cursor: Cursor | None = None,
    val_set: Loader | None = None,
) -> None:
    """Raise UserError unless all ranks hold the same weights, samples and labels, and stand at the same step.

    Hosts that share no disk may have different files, or a checkpoint that the others lack.
    """
    if world.world_size > 1:
        weights = f"of checksum {precision.fingerprint()}"
        world.assert_same({"cursor": cursor, "weights": weights, **_agreed(dataset, "")})
        if val_set is not None:
            world.assert_same(_agreed(val_set, " to evaluate on"))


def _agreed(dataset: Loader, which: str) -> dict[str, Any]:
    told = identity(dataset)
    return {f"samples{which}": told["samples"], f"labels{which}": f"of checksum {told['labels']}"}


def raise_if_diverged(recipe: Recipe, averages: Averages, steps: int, weights: bool = True) -> None:
    """Raise UserError for a run that no further step can mend, which leaves its last checkpoint as it is.

    averages: as read after `steps` steps of the run.  weights: whether they are finite, as far as is known.
    """
    streak, most = averages.nonfinite_steps, recipe.schedule.nonfinite_steps
    if most == 0 or (streak < most and weights):
        return
    what = "the weights are no longer finite"
    if streak:
        what = f"the loss has not been finite for {streak} steps, since step {steps - streak} of the run"
    found = checkpoint_manager.list_checkpoints(recipe.folder)
    kept = f"{found[0]} is of before" if found else "nothing was saved before"
    remedy = "a lower optim.lr" + ("" if recipe.schedule.warmup_epochs else ", schedule.warmup_epochs")
    if recipe.precision.level != "O0":
        remedy += ' or precision.loss_scale = "dynamic"' if recipe.precision.loss_scale != "dynamic" else ""
    raise UserError(f"{what}: stopped at optim.lr = {recipe.optim.lr:g}; {kept}; try {remedy}")


def find_weights(recipe: Recipe, resume: str | None) -> Path:
    """The checkpoint to evaluate."""
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


def make_folder(recipe: Recipe, begins: bool = False) -> Path:
    """The run's folder, with the resolved recipe in it; begins: and without the results of an earlier run."""
    with writing(recipe.folder):
        for name in (log.REPORT, log.EVALUATION) if begins else ():
            (recipe.folder / name).unlink(missing_ok=True)
        log.write_text(recipe.folder / "recipe.toml", dump(recipe))
    return recipe.folder


def hold_run_folder(recipe: Recipe, world: World, stack: ExitStack) -> None:
    """Have the run's folder for this run alone until `stack` closes, once a run that still saves there has ended.

    Every rank has to call this; the first claims it.  Raises UserError where another run stays there.
    """
    if world.is_rank0:
        with writing(recipe.folder):
            patience_s = recipe.distributed.stop_s  # which is what a run that is told to stop may take
            stack.enter_context(run_lock(recipe.folder, patience_s, partial(print, flush=True)))
    world.all_reduce_sum(torch.zeros(1))  # nobody looks for checkpoints before


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """The run's folder, there to be written to; an OSError is the user's to mend."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be written ({error}): set run.out") from error
