"""Images whose class is the *shape* of the object in them (a disc, a star, stripes ...), drawn so that they look like photos.

Colours, backgrounds, light, sizes and clutter come from the same distributions for every class, so the mean colour of an image
does not depend on its label: a model that learns the set has learned to see shapes.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

# A shape is a signed distance: coordinates (u, v) in units of the object's radius -> negative inside, positive outside.
Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]


def disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - 0.85


def ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(u, v) - 0.76) - 0.2


def triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.maximum(0.866 * u + 0.5 * v, -0.866 * u + 0.5 * v), -v) - 0.52


def star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five points: fold the plane into one half-sector, where the outline is a single line."""
    sector = 2 * math.pi / 5
    angle = np.abs((np.arctan2(u, v) + sector / 2) % sector - sector / 2)
    radius = np.hypot(u, v)
    tip, notch_x, notch_y = 1.05, 0.44 * math.cos(sector / 2), 0.44 * math.sin(sector / 2)
    edge = math.hypot(tip - notch_x, notch_y)
    return (notch_y * (radius * np.cos(angle) - tip) + (tip - notch_x) * radius * np.sin(angle)) / edge


def cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 0.95, b - 0.27), np.maximum(a - 0.27, b - 0.95))


def stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _within_disc(u, v, _wave(u, 0.5))


def bars(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _within_disc(u, v, _wave(v, 0.5))


def checks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    across, along = _wave(u, 0.8), _wave(v, 0.8)
    return _within_disc(u, v, np.where(across * along > 0, 1, -1) * np.minimum(np.abs(across), np.abs(along)))


def dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    pitch = 0.5
    u_cell, v_cell = ((w + pitch / 2) % pitch - pitch / 2 for w in (u, v))
    return _within_disc(u, v, np.hypot(u_cell, v_cell) - 0.16)


def spiral(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    pitch = 0.5
    radius = np.hypot(u, v)
    return _within_disc(u, v, _wave(radius - pitch * np.arctan2(v, u) / (2 * math.pi), pitch))


def _wave(w: np.ndarray, period: float) -> np.ndarray:
    """Distance to bands that are half a period wide, centred on multiples of the period."""
    return np.abs((w + period / 2) % period - period / 2) - period / 4


def _within_disc(u: np.ndarray, v: np.ndarray, distance: np.ndarray) -> np.ndarray:
    return np.maximum(distance, np.hypot(u, v) - 1)


SHAPES: dict[str, Shape] = {
    shape.__name__: shape
    for shape in (disc, ring, triangle, star, cross, stripes, bars, checks, dots, spiral)
}


@dataclass(frozen=True)
class Sample:
    """One image to draw; it depends on these four values and on nothing else."""

    seed: int
    split: str
    shape: str
    number: int

    def generator(self) -> np.random.Generator:
        return np.random.default_rng(
            [self.seed, ("train", "val").index(self.split), list(SHAPES).index(self.shape), self.number]
        )


@lru_cache(maxsize=1)
def noise_bank(seed: int, count: int = 8, side: int = 512) -> np.ndarray:
    """(count, side, side) float32 fields of 1/f noise, the spectrum of natural scenes; mean 0, deviation 1.

    Tileable, and made once: a transform for each image would cost more than the rest of its drawing.
    """
    rng = np.random.default_rng([seed, 10_007])
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((count, side, side))) / frequency
    fields = np.fft.irfft2(spectrum, s=(side, side))
    fields /= fields.std(axis=(1, 2), keepdims=True)
    return fields.astype(np.float32)


def cut_noise(rng: np.random.Generator, bank: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) piece of a random field, at a random place, flipped at random; height, width <= the bank's."""
    field = bank[rng.integers(len(bank))]
    top, left = rng.integers(0, field.shape[0] - height + 1), rng.integers(0, field.shape[1] - width + 1)
    piece = field[top : top + height, left : left + width]
    return piece[:: 1 if rng.random() < 0.5 else -1, :: 1 if rng.random() < 0.5 else -1]


def draw_colour(rng: np.random.Generator, lightness: float) -> np.ndarray:
    """(3,) float32 RGB in 0..255 of any hue and of the given mean lightness."""
    rgb = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.45), 1.0))
    return (rgb * lightness / rgb.mean()).astype(np.float32)


def draw_picture(sample: Sample) -> np.ndarray:
    """(height, width, 3) uint8 RGB: a textured, lit background with clutter, and one object of the sample's shape."""
    rng, bank = sample.generator(), noise_bank(sample.seed)
    short, aspect = rng.uniform(200, 300), math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    height, width = round(short * max(1, 1 / aspect)), round(short * max(1, aspect))
    y, x = (np.arange(side, dtype=np.float32) for side in (height, width))

    radius_px, blur_px = min(height, width) * rng.uniform(0.38, 0.48), rng.uniform(1, 2.5)
    turn, stretch = rng.uniform(-0.25, 0.25), rng.uniform(0.88, 1.14)
    dx = (x[None, :] - width * rng.uniform(0.44, 0.56)) / radius_px * stretch
    dy = (y[:, None] - height * rng.uniform(0.44, 0.56)) / radius_px / stretch
    u, v = math.cos(turn) * dx + math.sin(turn) * dy, math.cos(turn) * dy - math.sin(turn) * dx
    cover = np.clip(0.5 - SHAPES[sample.shape](u, v) * (radius_px / blur_px), 0, 1)

    # The object is lighter than the background, and its area depends on its shape.  Weighing both by the area keeps
    # the mean of the complete image at the value that was drawn, so that the mean does not depend on the shape.
    mean, contrast, share = rng.uniform(95, 145), rng.uniform(70, 100), float(cover.mean())
    ground_lightness, body_lightness = mean - contrast * share, mean + contrast * (1 - share)
    ground = _textured(rng, bank, draw_colour(rng, ground_lightness), height, width, rng.uniform(6, 20))
    _blend_clutter(rng, ground, ground_lightness)
    body = _textured(rng, bank, draw_colour(rng, body_lightness), height, width, rng.uniform(4, 14))
    picture = ground + cover[..., None] * (body - ground)

    light, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.5)
    slope = math.cos(light) * (x[None, :] / width - 0.5) + math.sin(light) * (y[:, None] / height - 0.5)
    grain = rng.standard_normal((height, width, 1), np.float32) * rng.uniform(1, 5)
    return np.clip(np.rint(picture * (1 + strength * slope[..., None]) + grain), 0, 255).astype(np.uint8)


def _textured(
    rng: np.random.Generator, bank: np.ndarray, colour: np.ndarray, height: int, width: int, depth: float
) -> np.ndarray:
    """(height, width, 3) float32: the colour, lightened and darkened by noise, its hue wandering a little."""
    lightness, hue = cut_noise(rng, bank, height, width), cut_noise(rng, bank, height, width)
    tint = rng.standard_normal(3).astype(np.float32)
    tint -= tint.mean()
    return colour + depth * (lightness[..., None] + hue[..., None] * tint * 0.5)


def _blend_clutter(rng: np.random.Generator, ground: np.ndarray, lightness: float) -> None:
    """Lay a few soft-edged ellipses and bars, of about the background's own lightness, over it, in place."""
    height, width = ground.shape[:2]
    for _ in range(rng.integers(2, 6)):
        half_width, half_length = sorted(rng.uniform(6, 0.22 * min(height, width), size=2).tolist())
        turn, is_bar = rng.uniform(0, math.pi), rng.random() < 0.5
        centre_x, centre_y = rng.uniform(0, width), rng.uniform(0, height)
        reach = math.hypot(half_length, half_width)
        rows = slice(max(0, int(centre_y - reach)), int(centre_y + reach) + 1)
        columns = slice(max(0, int(centre_x - reach)), int(centre_x + reach) + 1)
        window = ground[rows, columns]
        dy = np.arange(rows.start, rows.start + window.shape[0], dtype=np.float32)[:, None] - centre_y
        dx = np.arange(columns.start, columns.start + window.shape[1], dtype=np.float32)[None, :] - centre_x
        along = ((math.cos(turn) * dx + math.sin(turn) * dy) / half_length) ** 2
        across = ((math.cos(turn) * dy - math.sin(turn) * dx) / half_width) ** 2
        extent = np.maximum(along, across) if is_bar else along + across
        cover = np.clip((1 - extent) * 3, 0, 1)[..., None] * rng.uniform(0.4, 0.9)
        window += cover * (draw_colour(rng, lightness * rng.uniform(0.85, 1.15)) - window)


def write_sample(sample: Sample, folder: Path) -> None:
    """Draw the sample and save it as folder/<split>/<shape>/<shape>_<number>.JPEG, at a camera's range of settings."""
    rng = np.random.default_rng([sample.seed, 1, sample.number])
    path = folder / sample.split / sample.shape / f"{sample.shape}_{sample.number:05d}.JPEG"
    Image.fromarray(draw_picture(sample)).save(
        path,
        "JPEG",
        quality=int(rng.integers(82, 96)),
        subsampling=("4:2:0", "4:4:4")[int(rng.random() < 0.2)],
    )
