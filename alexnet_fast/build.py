"""Builds the parts of a run from a recipe: loaders, model, schedule."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from .beton.several import expanded
from .beton.target_fields import misfit
from .common.sizes import Size, sides
from .devices.device import Device
from .devices.registry import resolve
from .distributed import world as ranks
from .distributed.flat_gradients import FlatGradients
from .distributed.launcher import LaunchConfig
from .distributed.world import World
from .engine.fast_paths import Choices, FastPaths, use
from .engine.lr_schedule import Schedule
from .engine.meter import Averages, Meter
from .engine.optimizers import adamw
from .engine.precision import Precision
from .engine.sgd import fused_or_foreach
from .engine.tasks import TASKS, Task
from .engine.train_state import TrainState
from .engine.trial_pass import try_network, try_precision
from .errors import UserError
from .loader.bad_samples import SkippedSample
from .loader.block_order import Block
from .loader.loader import Loader
from .loader.options import LoaderKeywords, LoaderOptions
from .models import spec_of
from .models.initial_weights import initialise_he
from .recipe import Recipe
from .run import checkpoint_manager

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .augment.augmentation import Augmentation
    from .augment.mix import Mix


def launch_config(recipe: Recipe) -> LaunchConfig:
    """The ranks that the recipe asks for, on this host and on others."""
    asked = recipe.distributed
    return LaunchConfig(asked.nproc, asked.hosts, asked.host, asked.address, asked.stop_s)


def fetch_sets(recipe: Recipe) -> None:
    """Wait for the copies of the sets that a recipe names by URLs, before ranks are started, which would time out meanwhile.

    Raises:
        UserError: one cannot be fetched.
    """
    data, evaluates = recipe.data, recipe.eval.only or recipe.eval.every > 0
    if not data.synthetic:
        for path in ([] if recipe.eval.only else [data.train]) + ([data.val] if evaluates else []):
            expanded(path)


def init_distributed(recipe: Recipe, stack: ExitStack) -> tuple[World, Device]:
    """Join the ranks and select this process's device; returns both.  The process group ends when `stack` closes."""
    asked = recipe.distributed
    world = ranks.from_environment(launch_config(recipe).world_size)
    if world.local_world_size > 1 and ":" in recipe.run.device:
        raise UserError(
            f"run.device = {recipe.run.device!r} is one device for {world.local_world_size} ranks: remove its "
            "index, and each rank takes its own"
        )
    device = resolve(recipe.run.device, world.local_rank)
    if recipe.precision.half != "auto":
        device = device.with_half(getattr(torch, recipe.precision.half))
    device.use(world.threads)
    stack.enter_context(ranks.process_group(world, device, asked.backend, asked.timeout_s))
    return world, device


def train_loader(recipe: Recipe, world: World, device: Device, **other: Unpack[LoaderKeywords]) -> Loader:
    """This rank's training batches; raises UserError for a file, batch or labels that do not fit.

    other: options of the Loader that override the recipe's.
    """
    data = recipe.data
    options = LoaderOptions(
        **_shared_options(recipe, world, device),
        train=True,
        size=data.size_at(0),
        seed=recipe.run.seed,
        scale=data.scale,
        ratio=data.ratio,
        flip=data.flip,
        order=Block(data.window_pages) if data.order == "block" else None,
        weights=data.weights or None,
        on_error=data.on_error,
        augmentations=augmentations(recipe),
        mix=mix(recipe),
    )
    return check_labels(
        Loader(data.train, world.batch_size(data.global_batch_size), options, **other), recipe
    )


def augmentations(recipe: Recipe) -> list[Augmentation]:
    """What is done to each training image, in this order."""
    if not recipe.augment.operations:
        return []
    from .augment.operations import all_made  # imports every operation

    return all_made(recipe.augment.operations)


def mix(recipe: Recipe) -> Mix | None:
    """How the training batches are mixed."""
    asked = recipe.augment
    if not asked.mixup and not asked.cutmix:
        return None
    from .augment.mix import Mix

    outputs = recipe.model.num_classes if recipe.model.task == "classification" else None
    return Mix(asked.mixup, asked.cutmix, asked.mix_prob, outputs)


def val_loader(recipe: Recipe, world: World, device: Device) -> Loader:
    """This rank's evaluation batches, each sample once over all ranks; one that cannot be decoded is an error, whatever
    data.on_error says, since an accuracy must count every sample."""
    data, size = recipe.data, recipe.eval_size
    spec = spec_of(recipe.model.name)
    if min(sides(size)) < spec.min_size_px:
        raise UserError(
            f"eval.size = {json.dumps(size)} is too small: {spec.title} needs at least {spec.min_size_px} pixels"
        )
    options = LoaderOptions(
        **_shared_options(recipe, world, device),
        train=False,
        size=size,
        center_ratio=recipe.eval.center_ratio,
    )
    batch_size = math.ceil((recipe.eval.global_batch_size or data.global_batch_size) / world.world_size)
    return check_labels(Loader(data.val, batch_size, options), recipe)


def _shared_options(recipe: Recipe, world: World, device: Device) -> dict[str, Any]:
    """The options that both loaders of a run share."""
    data = recipe.data
    return {
        "threads": data.threads or world.threads,
        "rank": world.rank,
        "world_size": world.world_size,
        "batches_ahead": data.batches_ahead,
        "read_ahead_bytes": data.read_ahead_bytes,
        "pin_memory": device.pin_memory,
        "decoder": data.decoder,
        "interpolation": data.interpolation,
        **data.fields,
    }


def all_skipped(world: World, loader: Loader, before: list[SkippedSample]) -> list[SkippedSample]:
    """The samples that data.on_error = "skip" has skipped on any rank, each once; on rank 0, and none on the others.

    before: those skipped before the run was resumed, as rank 0 knows them.  Every rank has to call this.
    """
    gathered, by_index = world.gather_object(loader.skipped), dict[int, SkippedSample]()
    for of_rank in [before, *gathered] if gathered is not None else []:
        for each in of_rank:
            if each.index not in by_index or each.epoch < by_index[each.index].epoch:
                by_index[each.index] = each
    return [by_index[index] for index in sorted(by_index)]


def check_labels(loader: Loader, recipe: Recipe) -> Loader:
    """The loader, if the recipe's task can learn from its labels with the recipe's number of outputs; otherwise UserError, and it is closed."""
    found = misfit(loader.beton, recipe.model.task, recipe.model.num_classes)
    if found is None:
        return loader
    path = loader.beton.path
    loader.close()
    raise UserError(f"{path} has {found.has}, but {found.but}: {found.remedy}")


def task_of(recipe: Recipe) -> Task:
    """What the model is trained for."""
    return TASKS[recipe.model.task](recipe.optim.label_smoothing)


def train_state(recipe: Recipe, world: World, device: Device) -> TrainState:
    """The model with fresh weights, the same on every rank, its optimizer and its meter, on the device."""
    spec, reduce, several = spec_of(recipe.model.name), recipe.precision.reduce, world.world_size > 1
    model = spec.build(recipe.model.num_classes, recipe.model.dropout)
    sizes = {recipe.eval_size, *(size for _, size in recipe.data.stages)}
    if spec.is_tried:
        try_network(model, spec.title, recipe.model.num_classes, sizes)
    if recipe.model.init == "he":
        initialise_he(model)
    precision = Precision(
        model,
        optimizer(recipe, device),
        level=recipe.precision.level,
        device=device,
        title=spec.title,
        loss_scale=recipe.precision.loss_scale,
        over_ranks=world.add_up if several else None,
        sync_statistics=world.copy_rank0s if several else None,
        decays_all=recipe.optim.decay_norms_and_biases,
        clip_norm=recipe.optim.clip_norm,
        ema=recipe.optim.ema,
        **(
            {"reduce": partial(FlatGradients, world=world, reduce=reduce)}
            if averages_flat(recipe, world, device)
            else {"replicate": partial(ranks.wrap_ddp, world=world, reduce=reduce)}
        ),
    )
    if spec.is_tried:
        try_precision(precision, max(sizes))
    meter = Meter(device.torch_device, world, task_of(recipe))
    return TrainState(precision, meter, recipe.schedule.accumulate)


def optimizer(recipe: Recipe, device: Device) -> Callable[[Any], torch.optim.Optimizer]:
    """What makes the recipe's optimizer of parameters, or of groups of them."""
    asked = recipe.optim
    if asked.name == "adamw":
        return adamw(device, asked.lr, asked.betas, asked.epsilon, asked.weight_decay)
    sgd = partial(
        torch.optim.SGD,
        lr=asked.lr,
        momentum=asked.momentum,
        nesterov=asked.nesterov,
        weight_decay=asked.weight_decay,
    )
    return fused_or_foreach(sgd, device)


def averages_flat(recipe: Recipe, world: World, device: Device) -> bool:
    """Whether gradients are averaged in flat buffers of our own in place of DDP: where a step may be captured or compiled.

    Not by a backend that cannot be captured, which is every one but the device's own.
    """
    asked = recipe.engine
    wants = any(
        each is True or (each == "auto" and device.trusts_fast_paths) for each in (asked.graph, asked.compile)
    )
    own = recipe.distributed.backend in ("auto", device.collective_backend)
    return world.world_size > 1 and wants and own


def fast_paths(
    recipe: Recipe,
    state: TrainState,
    world: World,
    say: Callable[[str], None] = lambda text: None,
    val_set: Loader | None = None,
    size: Size = 0,
) -> FastPaths:
    """Switch on what engine.* asks for and is proven on this device.  Every rank has to call this.

    say: shows a line before what takes long.  size: of the images; 0 = those of the first epoch.
    """
    asked, data = recipe.engine, recipe.data
    return use(
        state,
        Choices(asked.space_to_depth, asked.compile, asked.fused_optimizer, asked.graph),
        world.batch_size(data.global_batch_size),
        size or data.size_at(0),
        recipe.model.num_classes,
        world,
        say,
        None if val_set is None else (val_set.batch_size, val_set.size),
    )


def schedule(recipe: Recipe, steps_per_epoch: int) -> Schedule:
    plan = recipe.schedule
    return Schedule(recipe.optim.lr, plan.curve, plan.per, plan.epochs, steps_per_epoch, plan.warmup_epochs)


def raise_if_diverged(recipe: Recipe, averages: Averages, steps: int, weights: bool = True) -> None:
    """Raise UserError for a run that further steps cannot fix; its last checkpoint stays as it is.

    averages: as read after `steps` steps of the run.  weights: whether they are finite, as far as is known.
    """
    streak, most = averages.nonfinite_steps, recipe.schedule.nonfinite_steps
    if most == 0 or (streak < most and weights):
        return
    what = "the weights are no longer finite"
    if streak:
        what = f"the loss has not been finite for {streak} steps, since step {steps - streak} of the run"
    found = checkpoint_manager.list_checkpoints(recipe.folder)
    kept = f"{found[0]} was saved before that" if found else "nothing was saved before that"
    remedy = "a lower optim.lr" + ("" if recipe.schedule.warmup_epochs else ", schedule.warmup_epochs")
    if recipe.precision.level != "O0":
        remedy += ' or precision.loss_scale = "dynamic"' if recipe.precision.loss_scale != "dynamic" else ""
    raise UserError(f"{what}: stopped at optim.lr = {recipe.optim.lr:g}; {kept}; try {remedy}")
