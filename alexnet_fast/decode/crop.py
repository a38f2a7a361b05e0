"""Crop boxes and flips, drawn as torchvision draws them, as pure functions of (seed, epoch, index, occurrence)."""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np

from ..common.sizes import Size, sides
from ..kernel_cache import kernel
from .counter_rng import sample_key, uniform, view_key

CROP_DTYPE = np.dtype(
    [
        ("top", "<f8"),
        ("left", "<f8"),
        ("height", "<f8"),
        ("width", "<f8"),
        ("low_y", "<i8"),
        ("high_y", "<i8"),
        ("low_x", "<i8"),
        ("high_x", "<i8"),
        ("mirrored", "<i8"),
    ],
    align=True,
)
"""One sample's crop: the box in source pixels, which may begin between two, the pixels that its filter may look at, and the flip."""


class CropOptions(
    namedtuple("CropOptions", ("train", "size", "resize", "seed", "scale", "ratio", "flip", "cubic"))
):
    """How a loader crops: see ``random_resized_crop`` and ``draw_flip`` (train), or ``center_crop``; and whether crops are bicubic.

    Sizes are kept as (height, width).
    """

    __slots__ = ()

    def __new__(
        cls,
        train: bool,
        size: Size,
        resize: Size,
        seed: np.uint64,
        scale: tuple[float, float],
        ratio: tuple[float, float],
        flip: float,
        cubic: bool = False,
    ) -> CropOptions:
        return super().__new__(cls, train, sides(size), sides(resize), seed, scale, ratio, flip, cubic)


TRIES = 10  # torchvision's RandomResizedCrop gives up after ten boxes that do not fit


@kernel
def random_resized_crop(height, width, key, scale, ratio):
    """A crop as torchvision.transforms.RandomResizedCrop draws it.

    Args:
        height, width: of the image, in pixels.
        key: of the sample's draws; draws 0 to 39 are used.
        scale: (least, most) share of the image's area.
        ratio: (least, most) width / height, drawn uniformly in its logarithm.

    Returns:
        (top, left, height, width) in pixels, int64, inside the image.
    """
    log_least, log_most = math.log(ratio[0]), math.log(ratio[1])
    for k in range(0, 4 * TRIES, 4):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform(key, k))
        aspect = math.exp(log_least + (log_most - log_least) * uniform(key, k + 1))
        w = int(round(math.sqrt(area * aspect)))
        h = int(round(math.sqrt(area / aspect)))
        if 0 < w <= width and 0 < h <= height:
            return (
                int(uniform(key, k + 2) * (height - h + 1)),
                int(uniform(key, k + 3) * (width - w + 1)),
                h,
                w,
            )
    # The largest centred box of an allowed shape.
    h, w = height, width
    if width < ratio[0] * height:
        h = min(height, max(1, int(round(width / ratio[0]))))
    elif width > ratio[1] * height:
        w = min(width, max(1, int(round(height * ratio[1]))))
    return (height - h) // 2, (width - w) // 2, h, w


@kernel
def draw_flip(key, probability):
    """Whether the sample is mirrored: draw 40 of its key."""
    return uniform(key, 4 * TRIES) < probability


@kernel
def center_crop(height, width, size, resize):
    """Resize, then CenterCrop(size), torchvision's evaluation, as one crop of the source.

    The image keeps its shape and becomes as small as it can without being smaller than ``resize`` in either direction.  Where that is a square,
    it is torchvision's Resize(side): the shorter side becomes that.

    Args:
        height, width: of the image, in pixels.
        size: (height, width) of the output, in pixels.
        resize: (height, width) that the image covers before the centre crop, in pixels.

    Returns:
        (top, left, height, width) in source pixels, float64.  It reaches beyond the image where ``size > resize``.
    """
    # torchvision's Resize: one side becomes that of `resize`, the other int(that * other / side).
    if height * resize[1] > width * resize[0]:
        resized_height, resized_width = int(resize[1] * height / width), resize[1]
    else:
        resized_height, resized_width = resize[0], int(resize[0] * width / height)
    scale_y, scale_x = height / resized_height, width / resized_width
    top = int(round((resized_height - size[0]) / 2.0))
    left = int(round((resized_width - size[1]) / 2.0))
    return top * scale_y, left * scale_x, size[0] * scale_y, size[1] * scale_x


@kernel
def draw_crops(samples, epoch, cropping, boxes):
    """Fill the boxes of a chunk of samples.

    Args:
        samples: (n,) kernel.SAMPLE_DTYPE.
        epoch: for training.
        cropping: CropOptions.
        boxes: (n,) or (views, n) CROP_DTYPE, out, contiguous; each view of a sample is drawn by itself.
    """
    count = len(samples)
    of_views = boxes.reshape(boxes.size // max(count, 1), count)
    for view in range(len(of_views)):
        for q in range(count):
            height, width = np.int64(samples[q].height), np.int64(samples[q].width)
            box = of_views[view, q]
            if cropping.train:
                own = sample_key(cropping.seed, epoch, samples[q].index, samples[q].occurrence)
                key = view_key(own, view)
                top, left, h, w = random_resized_crop(height, width, key, cropping.scale, cropping.ratio)
                box.top, box.left, box.height, box.width = top, left, h, w
                # As torchvision: the filter does not look beyond the crop.
                box.low_y, box.high_y, box.low_x, box.high_x = top, top + h, left, left + w
                box.mirrored = draw_flip(key, cropping.flip)
            else:
                box.top, box.left, box.height, box.width = center_crop(
                    height, width, cropping.size, cropping.resize
                )
                box.low_y, box.high_y, box.low_x, box.high_x = 0, height, 0, width
                box.mirrored = False
