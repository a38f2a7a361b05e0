"""From a recipe to the parts of a run: loaders, model, schedule, and where to begin."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from .engine import checkpoint, metrics
from .engine.alexnet import AlexNet
from .engine.checkpoint import BEST, LAST, Progress
from .engine.device import Device
from .engine.precision import Precision
from .engine.ranks import World
from .engine.schedule import Schedule
from .errors import UserError
from .pipeline.loader import Loader
from .recipe import Recipe, differences, dump

# What a step's number within an epoch depends on.
FIXED_WITHIN_EPOCH = ("run.seed", "data.train", "data.global_batch_size", "schedule.steps_per_epoch")


def open_train_set(recipe: Recipe, world: World, device: Device) -> Loader:
    """This rank's training batches; raises UserError for a file, batch or labels that do not fit."""
    data = recipe.data
    loader = Loader(
        data.train,
        world.batch_size(data.global_batch_size),
        train=True,
        size=data.size,
        seed=recipe.run.seed,
        threads=data.threads or None,
        rank=world.rank,
        world_size=world.world_size,
        scale=data.scale,
        ratio=data.ratio,
        flip=data.flip,
        batches_ahead=data.batches_ahead,
        pin_memory=device.pin_memory,
    )
    return check_labels(loader, recipe)


def open_val_set(recipe: Recipe, world: World, device: Device) -> Loader:
    """This rank's evaluation batches, each sample once over all ranks."""
    data, size = recipe.data, recipe.eval.size or recipe.data.size
    if size < AlexNet.min_size_px:
        raise UserError(
            f"eval.size = {size} is too small: AlexNet needs at least {AlexNet.min_size_px} pixels"
        )
    loader = Loader(
        data.val,
        world.batch_size(recipe.eval.global_batch_size or data.global_batch_size, "eval.global_batch_size"),
        train=False,
        size=size,
        threads=data.threads or None,
        rank=world.rank,
        world_size=world.world_size,
        center_ratio=recipe.eval.center_ratio,
        batches_ahead=data.batches_ahead,
        pin_memory=device.pin_memory,
    )
    return check_labels(loader, recipe)


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


def build(recipe: Recipe, device: Device) -> Precision:
    """The model with fresh weights and its optimizer, on the device."""
    sgd = partial(
        torch.optim.SGD,
        lr=recipe.optim.lr,
        momentum=recipe.optim.momentum,
        nesterov=recipe.optim.nesterov,
        weight_decay=recipe.optim.weight_decay,
        fused=True,
    )
    model = AlexNet(recipe.model.num_classes, recipe.model.dropout)
    if recipe.model.init == "he":
        model.initialise_he()
    return Precision(
        model,
        sgd,
        level=recipe.precision.level,
        device=device,
        loss_scale=recipe.precision.loss_scale,
    )


def schedule(recipe: Recipe, steps_per_epoch: int) -> Schedule:
    plan = recipe.schedule
    return Schedule(recipe.optim.lr, plan.curve, plan.per, plan.epochs, steps_per_epoch, plan.warmup_epochs)


def begin(
    recipe: Recipe, resume: str | None, precision: Precision, device: Device
) -> tuple[Progress, list[str]]:
    """Fresh weights, given weights, or a run's checkpoint: where the run goes on, and notes that say so."""
    fresh = Progress({"epoch": 0, "step": 0}, {}, None)
    path = None if resume is None else recipe.folder / LAST if resume == "auto" else Path(resume)
    if path is None or (resume == "auto" and not path.exists()):
        notes = [] if path is None else [f"--resume auto: {path} does not exist, so the run begins anew"]
        if not recipe.model.weights:
            return fresh, notes
        precision.load_state_dict(checkpoint.load(Path(recipe.model.weights))["state_dict"])
        return fresh, [*notes, f"begins with the weights of {recipe.model.weights}"]

    loaded = checkpoint.load(path)
    if not checkpoint.holds_run(loaded):
        precision.load_state_dict(loaded["state_dict"])
        return fresh, [f"{path} holds weights alone: the run begins with them at epoch 0"]
    changed = differences(loaded["recipe"], recipe.model_dump(mode="json"))
    cursor = loaded["cursor"]
    if cursor["step"] and (fixed := [name for name in changed if name in FIXED_WITHIN_EPOCH]):
        raise UserError(
            f"{path} stands within epoch {cursor['epoch']}, and {fixed[0]} has changed since: its step "
            f"{cursor['step']} would be another one; set {fixed[0]} back, or begin anew"
        )
    notes = [f"goes on from {path} at epoch {cursor['epoch']}, step {cursor['step']}"]
    if changed:
        notes.append(f"changed since that checkpoint: {', '.join(changed)}")
    return checkpoint.restore(loaded, precision, device), notes


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


def make_folder(recipe: Recipe) -> Path:
    """The run's folder, with the resolved recipe in it."""
    try:
        recipe.folder.mkdir(parents=True, exist_ok=True)
        metrics.write_text(recipe.folder / "recipe.toml", dump(recipe))
    except OSError as error:
        raise UserError(f"the folder {recipe.folder} cannot be written ({error}): set run.out") from error
    return recipe.folder
