"""Real photos, our operations on them, and how far the result lies from torchvision's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

import components
from alexnet_fast.augment.augmentation import Augmentation
from alexnet_fast.common.sizes import Size, sides


class Difference(NamedTuple):
    """most: the largest difference of any value, in levels.  share: of values that differ.  mean: in levels."""

    most: int
    share: float
    mean: float


def functional() -> Any:
    """torchvision.transforms.v2.functional; the test skips where torchvision is not installed."""
    components.require("torchvision")
    return importlib.import_module("torchvision.transforms.v2.functional")


def transforms() -> Any:
    """torchvision.transforms.v2; the test skips where torchvision is not installed."""
    components.require("torchvision")
    return importlib.import_module("torchvision.transforms.v2")


@cache
def photos(size: Size = 224, count: int = 10) -> np.ndarray:
    """Photos of ImageNet, squeezed into squares, or into (height, width). (count, 3, height, width) uint8, not to be written to."""
    height, width = sides(size)
    folder = Path(components.require("data")) / "imagenet-samples" / "train"
    paths = sorted(folder.glob("*/*"))[:: 1000 // count][:count]
    opened = [np.asarray(Image.open(path).convert("RGB").resize((width, height))) for path in paths]
    images = np.ascontiguousarray(np.stack(opened).transpose(0, 3, 1, 2))
    images.flags.writeable = False
    return images


def keys_of(count: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 2**64, count, np.uint64)


def applied(operation: Augmentation, images: np.ndarray, keys: np.ndarray | None = None) -> np.ndarray:
    """A copy of the images, each changed by the operation."""
    out = images.copy()
    operation.apply(out, np.arange(len(images)), keys_of(len(images)) if keys is None else keys)
    return out


def difference(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    away = np.abs(ours.astype(np.int64) - theirs.astype(np.int64))
    return Difference(int(away.max()), float((away > 0).mean()), float(away.mean()))


def by_torch(
    function: Callable[..., torch.Tensor], images: np.ndarray, *arguments: Any, **named: Any
) -> np.ndarray:
    """What one of torchvision's functions makes of each image, called with the same arguments."""
    return np.stack(
        [function(torch.from_numpy(image.copy()), *arguments, **named).numpy() for image in images]
    )
