"""RandAugment, TrivialAugmentWide and AutoAugment: a few operations for each image, drawn from a table.

All three are torchvision's of the same names, with their tables.  A policy is a table of choices, each of
some steps; one kernel draws and applies them.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..common.arguments import check, choice, set_checked
from ..decode.counter_rng import uniform
from ..kernel_cache import kernel
from .augmentation import INTERPOLATIONS, Augmentation, Colour, colour_bytes, colour_of, is_smooth, whole_in
from .geometry import inverse_affine, map_image, map_image_smoothly, map_scratch_bytes
from .neighbourhoods import scratch_bytes, sharpen_image
from .point_operations import (
    auto_contrast_image,
    brighten_image,
    contrast_image,
    equalize_image,
    invert_image,
    posterize_image,
    saturate_image,
    solarize_image,
)

NAMES = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
    "Invert",
)
"""The steps, by torchvision's names; a step's code is its place here."""
(
    IDENTITY,
    SHEAR_X,
    SHEAR_Y,
    TRANSLATE_X,
    TRANSLATE_Y,
    ROTATE,
    BRIGHTNESS,
    COLOR,
    CONTRAST,
    SHARPNESS,
    POSTERIZE,
    SOLARIZE,
    AUTO_CONTRAST,
    EQUALIZE,
    INVERT,
) = range(len(NAMES))
SIGNED = frozenset(NAMES[SHEAR_X : SHARPNESS + 1])
STEP_DTYPE = np.dtype(
    [("code", np.int64), ("magnitude", np.float64), ("signed", np.int64), ("chance", np.float64)]
)


class Space(NamedTuple):
    """The largest magnitudes of a policy's steps: slope, pixels (and for each pixel of the side along which it moves), degrees, distance of a factor from 1, bits."""

    shear: float
    translate: float
    translate_per_px: float
    rotate: float
    factor: float
    bits: int

    def magnitudes(self, name: str, bins: int, sides: tuple[int, int]) -> np.ndarray:
        """Those of one step, for images of this (height, width). (bins,) float64"""
        if name in ("Identity", "AutoContrast", "Equalize", "Invert"):
            return np.zeros(bins)
        if name == "Posterize":  # half to even, as torch rounds
            return np.round(8 - np.arange(bins, dtype=np.float32) / np.float32((bins - 1) / self.bits))
        if name == "Solarize":
            return linspace(1.0, 0.0, bins)
        side = sides[1] if name == "TranslateX" else sides[0]
        most = {
            "Shear": self.shear,
            "Trans": self.translate + self.translate_per_px * side,
            "Rotat": self.rotate,
        }
        return linspace(0.0, most.get(name[:5], self.factor), bins)


def linspace(first: float, last: float, count: int) -> np.ndarray:
    """torch.linspace of float32, to the bit, as float64: from both ends to the middle, each product and sum rounded once."""
    begin, end = np.float32(first), np.float32(last)
    step = np.float64((end - begin) / np.float32(count - 1))
    places = np.arange(count)
    from_begin = (begin + step * places).astype(np.float32)
    from_end = (end - step * (count - 1 - places)).astype(np.float32)
    return np.where(places < count // 2, from_begin, from_end).astype(np.float64)


NARROW = Space(0.3, 0.0, 150.0 / 331.0, 30.0, 0.9, 4)
WIDE = Space(0.99, 32.0, 0.0, 135.0, 0.99, 6)


@dataclass(frozen=True)
class Policy(Augmentation):
    """What the three have in common."""

    p: float = field(default=1.0, kw_only=True)

    @property
    def rounds(self) -> int:
        """How many choices an image gets."""
        return 1

    @abstractmethod
    def table(self, sides: tuple[int, int]) -> np.ndarray:
        """The choices for images of this (height, width). (choices, steps) STEP_DTYPE"""

    @abstractmethod
    def outside(self) -> tuple[Colour, bool]:
        """The colour of pixels from outside of the image, and whether pixels are bilinear."""

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        fill, smooth = self.outside()
        table = _table_of(self, (images.shape[2], images.shape[3]))
        apply_policy(images, chosen, keys, self.rounds, table, colour_bytes(fill), smooth)


@lru_cache(64)
def _table_of(policy: Policy, sides: tuple[int, int]) -> np.ndarray:
    return policy.table(sides)


@dataclass(frozen=True)
class RandAugment(Policy):
    """Some operations of one strength (Cubuk et al., "RandAugment", NeurIPS 2020).

    Reference: torchvision.transforms.v2.RandAugment, to one level for each step.

    Args:
        num_ops: operations for each image, 0 to 20.
        magnitude: their strength, 0 to num_magnitude_bins - 1.
        num_magnitude_bins: strengths that there are, 2 to 1000.
        fill: 0 to 255, or one for each channel: of pixels from outside of the image.
        interpolation: "nearest" or "bilinear", of what shears, moves and rotates.
        p: probability that an image is changed; by name only.
    """

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31
    fill: Colour = 0.0
    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        bins = whole_in(self, "num_magnitude_bins", 2, 1000)
        set_checked(
            self,
            num_ops=whole_in(self, "num_ops", 0, 20),
            magnitude=whole_in(self, "magnitude", 0, bins - 1),
            num_magnitude_bins=bins,
            fill=colour_of(self, "fill"),
        )
        choice("RandAugment.interpolation", self.interpolation, INTERPOLATIONS)

    @property
    def rounds(self) -> int:
        return self.num_ops

    def table(self, sides: tuple[int, int]) -> np.ndarray:
        return np.array(
            [
                [step(name, NARROW.magnitudes(name, self.num_magnitude_bins, sides)[self.magnitude])]
                for name in NAMES[:INVERT]
            ],
            STEP_DTYPE,
        )

    def outside(self) -> tuple[Colour, bool]:
        return self.fill, is_smooth(self)

    def reference(self) -> tuple[str, dict[str, Any]]:
        names = ("num_ops", "magnitude", "num_magnitude_bins", "fill", "interpolation")
        return "RandAugment", {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class TrivialAugmentWide(Policy):
    """One operation of any strength (Müller and Hutter, "TrivialAugment", ICCV 2021).

    Reference: torchvision.transforms.v2.TrivialAugmentWide, to one level.

    Args:
        num_magnitude_bins: strengths that there are, 2 to 1000.
        fill: 0 to 255, or one for each channel: of pixels from outside of the image.
        interpolation: "nearest" or "bilinear", of what shears, moves and rotates.
        p: probability that an image is changed; by name only.
    """

    num_magnitude_bins: int = 31
    fill: Colour = 0.0
    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        bins = whole_in(self, "num_magnitude_bins", 2, 1000)
        choice("TrivialAugmentWide.interpolation", self.interpolation, INTERPOLATIONS)
        set_checked(self, num_magnitude_bins=bins, fill=colour_of(self, "fill"))

    def table(self, sides: tuple[int, int]) -> np.ndarray:
        rows = [
            [step(name, magnitude)]
            for name in NAMES[:INVERT]
            for magnitude in WIDE.magnitudes(name, self.num_magnitude_bins, sides)
        ]
        return np.array(rows, STEP_DTYPE)

    def outside(self) -> tuple[Colour, bool]:
        return self.fill, is_smooth(self)

    def reference(self) -> tuple[str, dict[str, Any]]:
        names = ("num_magnitude_bins", "fill", "interpolation")
        return "TrivialAugmentWide", {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class AutoAugment(Policy):
    """Two operations that were found to suit each other, of a table for one data set (Cubuk et al., "AutoAugment", CVPR 2019).

    Reference: torchvision.transforms.v2.AutoAugment, to one level for each step.

    Args:
        policy: "imagenet", the one table that there is.
        fill: 0 to 255, or one for each channel: of pixels from outside of the image.
        interpolation: "nearest" or "bilinear", of what shears, moves and rotates.
        p: probability that an image is changed; by name only.
    """

    policy: str = "imagenet"
    fill: Colour = 0.0
    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        check("AutoAugment.policy", self.policy, '"imagenet"', self.policy == "imagenet")
        choice("AutoAugment.interpolation", self.interpolation, INTERPOLATIONS)
        set_checked(self, fill=colour_of(self, "fill"))

    def table(self, sides: tuple[int, int]) -> np.ndarray:
        rows = [
            [
                step(name, NARROW.magnitudes(name, 10, sides)[0 if place is None else place], chance)
                for name, chance, place in pair
            ]
            for pair in IMAGENET
        ]
        return np.array(rows, STEP_DTYPE)

    def outside(self) -> tuple[Colour, bool]:
        return self.fill, is_smooth(self)

    def reference(self) -> tuple[str, dict[str, Any]]:
        return "AutoAugment", {"fill": self.fill, "interpolation": self.interpolation}


def step(name: str, magnitude: float, chance: float = 1.0) -> tuple[int, float, int, float]:
    """One of STEP_DTYPE."""
    return NAMES.index(name), float(magnitude), int(name in SIGNED), chance


Choice = tuple[str, float, int | None]
IMAGENET: tuple[tuple[Choice, Choice], ...] = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, None)),
    (("Equalize", 0.8, None), ("Equalize", 0.6, None)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, None), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, None), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, None)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, None)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, None), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, None)),
    (("Equalize", 0.0, None), ("Equalize", 0.8, None)),
    (("Invert", 0.6, None), ("Equalize", 1.0, None)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, None)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, None)),
    (("Color", 0.4, 0), ("Equalize", 0.6, None)),
    (("Equalize", 0.4, None), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, None)),
    (("Invert", 0.6, None), ("Equalize", 1.0, None)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, None), ("Equalize", 0.6, None)),
)
"""Name, chance and strength (of ten) of the two steps of each choice."""


@kernel
def draw_steps(key, rounds, table, codes, magnitudes):
    """The steps of one image, out: (rounds * steps,) int64 and float64; returns how many."""
    count, draw = 0, 0
    for _ in range(rounds):
        choice = int(uniform(key, draw) * len(table))
        draw += 1
        for place in range(table.shape[1]):
            each = table[choice, place]
            if uniform(key, draw) < each.chance:
                codes[count] = each.code
                turned = each.signed != 0 and uniform(key, draw + 1) < 0.5
                magnitudes[count] = -each.magnitude if turned else each.magnitude
                count += 1
            draw += 2
    return count


@kernel
def apply_step(image, code, magnitude, fill, smooth, scratch):
    """One step, as torchvision's policies take its magnitude."""
    if code == SOLARIZE:
        # torch compares in float32.
        solarize_image(image, int(math.ceil(np.float32(255.0 * magnitude))))
    elif code == POSTERIZE:
        posterize_image(image, int(magnitude))
    elif code == AUTO_CONTRAST:
        auto_contrast_image(image)
    elif code == EQUALIZE:
        equalize_image(image)
    elif code == INVERT:
        invert_image(image)
    elif code == BRIGHTNESS:
        brighten_image(image, 1.0 + magnitude)
    elif code == COLOR:
        saturate_image(image, 1.0 + magnitude)
    elif code == CONTRAST:
        contrast_image(image, 1.0 + magnitude)
    elif code == SHARPNESS:
        sharpen_image(image, 1.0 + magnitude, scratch)
    elif code != IDENTITY:
        angle = across = down = lean_x = lean_y = centre_x = centre_y = 0.0
        if code == ROTATE:
            angle = -magnitude
        elif code == TRANSLATE_X:
            across = float(int(magnitude))
        elif code == TRANSLATE_Y:
            down = float(int(magnitude))
        else:  # about the upper left corner
            centre_x, centre_y = -0.5 * image.shape[2], -0.5 * image.shape[1]
            lean = math.degrees(math.atan(magnitude))
            if code == SHEAR_X:
                lean_x = lean
            else:
                lean_y = lean
        matrix = inverse_affine(angle, across, down, 1.0, lean_x, lean_y, centre_x, centre_y)
        if smooth:
            map_image_smoothly(image, matrix, fill, scratch)
        else:
            map_image(image, matrix, fill, scratch)


@kernel
def apply_policy(images, chosen, keys, rounds, table, fill, smooth):
    """Draw and apply the steps of images[chosen].

    Args:
        rounds: choices for each image.
        table: (choices, steps) STEP_DTYPE.
        fill: (3,) uint8.
        smooth: bilinear pixels.
    """
    height, width = images.shape[2], images.shape[3]
    scratch = np.empty(max(scratch_bytes(height, width, 1), map_scratch_bytes(height, width)), np.uint8)
    most = max(rounds * table.shape[1], 1)
    codes, magnitudes = np.empty(most, np.int64), np.empty(most, np.float64)
    for k in range(len(chosen)):
        count = draw_steps(keys[k], rounds, table, codes, magnitudes)
        for place in range(count):
            apply_step(images[chosen[k]], codes[place], magnitudes[place], fill, smooth, scratch)
