"""Networks by name: those that are measured here, and any classifier of torchvision and timm (zoo.py).

Free of torch, so that recipes and the doctor can read it: a network is imported when it is built.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModelSpec:
    """What the rest of the package needs to know about a network without importing it.

    title: its name in messages.
    network: "module:callable", called with `num_classes` and `arguments` (and `dropout`, if has_dropout); returns a module that maps
        float images (B, 3, H, W) to logits (B, num_classes).
    min_size_px: smallest side of its images, in pixels; 1 where that is seen when it is built.
    parameters: function of num_classes; returns the number of parameters, from which memory and checkpoints are estimated.
    activation_bytes: memory of a training step for each pixel of its batch, in bytes, on a CPU at O2.
        Both are None for a network that has to be built to know it.
    is_tried: whether its images and outputs are known only after a pass (engine/trial_pass.py), which is then made at the start.
    card_img_per_s: images of 224 px that an accelerator trains a second, at least: its host has to decode as many.
    core_img_per_s: images of min_size_px that one core of a CPU trains a second, at most.
        Both are None if nobody has measured them: then the doctor says so and does not judge by them.
    """

    title: str
    network: str
    min_size_px: int
    parameters: Callable[[int], int] | None = None
    activation_bytes: int | None = None
    card_img_per_s: float | None = None
    core_img_per_s: float | None = None
    has_dropout: bool = True
    is_tried: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self, num_classes: int, dropout: float = 0.0) -> nn.Module:
        """The network with fresh weights from torch's generator; `dropout` applies to networks that have it.

        Raises UserError if the network's package does not load.
        """
        module, _, name = self.network.partition(":")
        try:
            network = getattr(importlib.import_module(module), name)
        except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another build than torch
            raise does_not_load(self.title, module.partition(".")[0], error) from error
        model: nn.Module = network(
            num_classes=num_classes,
            **self.arguments,
            **({"dropout": dropout} if self.has_dropout else {}),
        )
        return model

    def check(self) -> None:
        """Raise UserError for a network that its package, one that is asked by name, has not; otherwise that is seen when it is built."""
        if self.is_tried:
            importlib.import_module(f"{__name__}.zoo").find(**self.arguments)


def does_not_load(title: str, package: str, error: Exception) -> UserError:
    """The error for a network whose package cannot be imported."""
    reason = str(error).partition("\n")[0]
    return UserError(
        f"{title} comes from {package}, which does not load ({reason}): install the {package} that "
        "belongs to your torch, or set model.name to another network"
    )


MODELS = {
    "alexnet": ModelSpec(
        "AlexNet",
        "alexnet_fast.models.alexnet:AlexNet",
        min_size_px=63,
        parameters=lambda classes: 57_003_840 + 4097 * classes,
        activation_bytes=80,  # a step takes 1.9 GB at batch 128 of 224 px, 1.4 GB of it for the weights
        card_img_per_s=10_000,
        core_img_per_s=300,  # on 2 cores of an AMD EPYC, at 64 px
    ),
    "resnet18": ModelSpec(
        "ResNet-18",
        "torchvision.models:resnet18",
        min_size_px=32,  # it halves the side five times
        parameters=lambda classes: 11_176_512 + 513 * classes,
        activation_bytes=400,  # measured: 401 (peak memory of batches of 4 and 28 at 224 px)
        core_img_per_s=550,  # measured: 528 at O1, 521 at O2 (one thread, its CPU time, batches of 128 at 32 px, n = 5)
        has_dropout=False,
    ),
}
"""Those that are measured here."""

AUXILIARY = ("googlenet", "inception_v3")
"""Torchvision's networks with further outputs in training; they are built without."""

NAME = re.compile(r"((torchvision|timm)/)?[A-Za-z0-9][\w.-]*")


def check_name(name: str) -> str:
    """The name, if it is written as one; whether there is such a network is known when it is built."""
    if not NAME.fullmatch(name):
        raise ValueError(
            "expected a name, such as alexnet, resnet18 (torchvision's) or timm/vit_small_patch16_224"
        )
    return name


def spec_of(name: str) -> ModelSpec:
    """The spec of a network: torchvision's by its name, with torchvision/ or without, and timm's with timm/."""
    package, _, own = name.rpartition("/")
    known = MODELS.get(own)
    if known is not None and (not package or known.network.startswith(f"{package}.")):
        return known
    title = f"{own} (without its auxiliary outputs)" if own in AUXILIARY and package != "timm" else own
    return ModelSpec(
        title if package != "timm" else name,
        f"{__name__}.zoo:network",
        min_size_px=1,
        has_dropout=False,
        is_tried=True,
        arguments={"package": package or "torchvision", "name": own},
    )
