"""A trained model from its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import recipe_toml
from ..beton.sidecar import names
from ..build import task_of
from ..common.sizes import Size, size_text
from ..devices.device import Device
from ..devices.registry import resolve
from ..engine.precision import Precision
from ..engine.tasks import target_of
from ..errors import UserError
from ..loader.buffer_pool import Batch
from ..loader.device_prefetcher import DevicePrefetcher
from ..models import spec_of
from ..recipe import Recipe
from ..run import checkpoint_manager
from ..run.checkpoint import BEST, LAST
from ..run.same_set import check_learnt_task


@dataclass(frozen=True)
class TrainedModel:
    """A network with a checkpoint's weights, in evaluation mode, in the precision that it was trained in.

    recipe: the one that it was trained by.
    classes: the names of its outputs; empty where the checkpoint does not hold them, and where they are no classes.
    """

    path: Path
    recipe: Recipe
    classes: tuple[str, ...]
    device: Device
    precision: Precision

    @property
    def size(self) -> Size:
        """The side of the images that it is evaluated on, in pixels, or their (height, width)."""
        return self.recipe.eval_size

    @property
    def num_outputs(self) -> int:
        return self.recipe.model.num_classes

    @property
    def predicts_classes(self) -> bool:
        return target_of(task_of(self.recipe)).are_classes

    def describe(self) -> str:
        """The model in words."""
        named = task_of(self.recipe).describe(self.num_outputs)
        return f"{spec_of(self.recipe.model.name).title}, {named}, {size_text(self.size)}"

    @torch.no_grad()
    def outputs(self, batches: Iterable[Batch]) -> Iterator[Tensor]:
        """Float32 outputs (B, C) on the CPU of batches of uint8 images: an evaluation's own."""
        feed = DevicePrefetcher(self.device, self.precision.dtype)
        for images, _ in feed(batches):
            yield self.precision.forward(images).cpu()

    def plain(self) -> nn.Module:
        """The network on the CPU in float32, with the float32 weights of the checkpoint."""
        network = spec_of(self.recipe.model.name).build(self.recipe.model.num_classes)
        network.load_state_dict(self.precision.state_dict())
        return network.eval()


def load_trained(
    given: Path,
    recipe_file: Path | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    averaged: bool = False,
) -> TrainedModel:
    """A model by its checkpoint, or by the folder of its run, of which the best checkpoint is taken.

    recipe_file: needed for a checkpoint that holds weights alone.  overrides: "section.key=value", as --set.
    averaged: with the moving average of the weights (optim.ema) in place of the weights.
    Raises UserError where there is no checkpoint, or none of this model.
    """
    path = find_checkpoint(given)
    loaded = checkpoint_manager.load(path)
    recipe = _recipe_of(path, loaded, recipe_file, [*overrides, f"run.device={device}"])
    check_learnt_task(path, loaded, recipe)
    place = resolve(recipe.run.device, 0)
    place.use()
    spec = spec_of(recipe.model.name)
    network = spec.build(recipe.model.num_classes)
    # Its optimizer never steps; without momentum it holds no memory.
    precision = Precision(
        network,
        lambda params: torch.optim.SGD(params, lr=0.0),
        level=recipe.precision.level,
        device=place,
        title=spec.title,
    )
    precision.load_state_dict(averaged_weights(path, loaded) if averaged else loaded["state_dict"])
    precision.model.eval()
    known = tuple(names(loaded, "classes")) if target_of(task_of(recipe)).are_classes else ()
    return TrainedModel(path, recipe, known[: recipe.model.num_classes], place, precision)


def averaged_weights(path: Path, loaded: dict[str, Any]) -> dict[str, Tensor]:
    """The average of the weights that a checkpoint holds; raises UserError where it holds none."""
    saved = loaded.get("ema")
    if not isinstance(saved, dict) or not isinstance(saved.get("state_dict"), dict):
        raise UserError(f"{path} holds no average of the weights: train with optim.ema, or give no --ema")
    state: dict[str, Tensor] = saved["state_dict"]
    return state


def find_checkpoint(given: Path) -> Path:
    """A checkpoint, or the best of a run's folder (the last, where none is the best)."""
    if not given.is_dir():
        return given
    for name in (BEST, LAST):
        if (given / name).exists():
            return given / name
    raise UserError(f"{given} has no {BEST} and no {LAST}: give a checkpoint, or the folder of a run")


def _recipe_of(
    path: Path, loaded: dict[str, Any], recipe_file: Path | None, overrides: Sequence[str]
) -> Recipe:
    if recipe_file is not None:
        return recipe_toml.load(recipe_file, overrides)
    if "recipe" not in loaded:
        raise UserError(
            f"{path} holds weights alone, and not the recipe that they were trained by: give --recipe FILE"
        )
    return recipe_toml.overridden(loaded["recipe"], str(path), overrides)
