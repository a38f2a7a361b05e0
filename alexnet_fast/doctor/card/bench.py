"""What the checks of a card share: the device, the recipe, images of its own, and what they are built into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...beton.target_fields import TARGETS
from ...build import train_loader, train_state
from ...common.cpus import allowed_cores
from ...common.sizes import sides
from ...devices.device import Device
from ...distributed.world import World
from ...engine.train_state import TrainState
from ...errors import UserError
from ...loader.device_prefetcher import DevicePrefetcher
from ...loader.loader import Loader
from ...loader.preload import kernels
from ...recipe import Recipe
from ...synthetic.dataset import Counts, make

IMAGES = 256  # different ones; samples repeat them
FEW = 4  # samples of a batch that is compared and not timed


class Bench:
    """One card, in one process.

    seconds: what the check that runs now may take, about.  say: called with what comes next.
    """

    def __init__(self, recipe: Recipe, device: Device, say: Callable[[str], None]) -> None:
        self.recipe, self.device, self.say = recipe, device, say
        self.world, self.cores = World(), allowed_cores()
        self.seconds = 1.0
        self.found: dict[str, float] = {}
        """Rates of earlier checks, by name, for those that compare with them."""

    @property
    def batch_size(self) -> int:
        return self.recipe.data.global_batch_size

    def changed(self, section: str, **values: Any) -> Recipe:
        """The recipe with other values in one section."""
        return with_values(self.recipe, section, **values)

    def state(self, recipe: Recipe | None = None) -> TrainState:
        """Fresh weights, the same each time, in training mode."""
        recipe = recipe or self.recipe
        torch.manual_seed(recipe.run.seed)
        state = train_state(recipe, self.world, self.device)
        state.precision.model.train()
        return state

    def feed(self, state: TrainState) -> DevicePrefetcher:
        return DevicePrefetcher(self.device, state.precision.dtype, normalizes=False)

    def batch(self, size: int, number: int = 0) -> tuple[Tensor, Tensor]:
        """Random images and targets on the device: uint8 (size, 3, H, W) and (size,); each number gives another batch."""
        size_px, generator = (
            self.recipe.data.largest_size,
            torch.Generator().manual_seed(number),
        )  # not the one of dropout
        images = torch.randint(0, 256, (size, 3, *sides(size_px)), dtype=torch.uint8, generator=generator)
        targets = TARGETS[self.recipe.model.task].examples(size, self.recipe.model.num_classes)
        on_device = self.device.torch_device
        return images.to(on_device), torch.from_numpy(targets).to(on_device)

    @cached_property
    def set_path(self) -> str:
        """A training set of synthetic images; made at first use."""
        counts = Counts(
            num_classes=self.recipe.model.num_classes,
            task=self.recipe.model.task,
            train_images=IMAGES,
            val=16,
            val_images=16,
        )
        return str(make(counts, self.say) / "train.beton")

    @contextmanager
    def loader(self, decoder: str = "auto") -> Iterator[Loader]:
        """Training batches of synthetic images."""
        kernels.wait(lambda: False)
        values = {"train": self.set_path, "image_field": "", "label_field": "", "on_error": "raise"}
        recipe = self.changed("data", **values, decoder=decoder)
        with train_loader(recipe, self.world, self.device) as loader:
            yield loader


def with_values(recipe: Recipe, section: str, **values: Any) -> Recipe:
    """The recipe with other values in one section."""
    changed = getattr(recipe, section).model_copy(update=values)
    return recipe.model_copy(update={section: changed})


def weights(state: TrainState) -> dict[str, Tensor]:
    """Copies of the float32 weights and buffers: on a CPU a state_dict shares its memory with the model."""
    return {key: tensor.clone() for key, tensor in state.precision.state_dict().items()}


def fits(attempt: Callable[[], float]) -> float | None:
    """What `attempt` returns; None if the device has not enough memory for it."""
    try:
        return attempt()
    except (RuntimeError, UserError) as error:
        if "out of memory" not in str(error).lower():
            raise
        return None
