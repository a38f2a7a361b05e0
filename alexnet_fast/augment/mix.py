"""Mix: mixup and cutmix, which make an image of two of its batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..common.arguments import number, probability, set_checked, whole
from ..decode.counter_rng import GOLDEN, mix, sample_key, uniform
from ..decode.simd import copy_bytes
from ..decode.status import OK
from ..errors import UserError
from ..kernel_cache import kernel
from .vectors import over_pixels, spare_bytes

U = np.uintp
SALT = 0x6D69786573  # "mixes": keeps these keys apart from the crops' and the augmentations' of the same seed
NOTHING, MIXUP, CUTMIX = range(3)
WHOLE = 256
"""A share of mixup is of so many parts, so that pixels and labels are mixed by the same number."""


@dataclass(frozen=True)
class Mix:
    """Mixes each image of a batch with the one before it (the first with the last), and their labels with them.

    One share is drawn for the whole batch.  mixup (Zhang et al., ICLR 2018) blends the images; cutmix (Yun et al., ICCV 2019) puts a
    rectangle of the one before into an image.  A batch's labels are then soft: float32 (B, num_classes), each row sums to one;
    numbers of a float field are blended.  Samples that are skipped are no partners.

    References: torchvision.transforms.v2.MixUp and CutMix.  The same for any threads and after a resume, at one batch size
    and number of ranks.

    Args:
        mixup, cutmix: alpha of the Beta(alpha, alpha) that the share is drawn from, 0 to 100; 0 = not this one.  If neither is 0, each batch
            gets one of the two, each as often.
        prob: probability that a batch is mixed.
        num_classes: of the soft labels (default: one more than the file's largest label).
    """

    mixup: float = 0.2
    cutmix: float = 1.0
    prob: float = 1.0
    num_classes: int | None = None

    def __post_init__(self) -> None:
        alphas = {
            name: number(f"Mix.{name}", getattr(self, name), "0 to 100", lambda alpha: 0 <= alpha <= 100)
            for name in ("mixup", "cutmix")
        }
        if not any(alphas.values()):
            raise UserError(
                "Mix(mixup=0, cutmix=0) would mix nothing: give one of them an alpha above 0, or no Mix"
            )
        if self.num_classes is not None:
            whole("Mix.num_classes", self.num_classes, "at least 1", lambda n: n >= 1)
        set_checked(self, **alphas, prob=probability("Mix.prob", self.prob))

    def apply(
        self, samples: np.ndarray, seed: int, epoch: int, images: np.ndarray, statuses: np.ndarray
    ) -> float:
        """Mix a complete batch in place; returns the share of each image's own label, 1 where nothing is mixed.

        Args:
            samples: (n,) kernel.SAMPLE_DTYPE; the first one's key is the batch's.
            images: (n, 3, height, width) uint8.
            statuses: (n,) uint8.
        """
        settings = (self.prob, self.mixup, self.cutmix)
        return float(mix_batch(samples, np.uint64(seed ^ SALT), np.uint64(epoch), settings, images, statuses))


blended = over_pixels(
    lambda own, other, share, rest: [(own * share + other * rest + 128).unsigned_shift_right(8)], planes=2
)


@kernel
def draw_beta(key, alpha):
    """A number of Beta(alpha, alpha), of draws 8 and later of a key."""
    k = 8
    while True:
        first, second = uniform(key, k), uniform(key, k + 1)
        k += 2
        if alpha < 1.0:  # Jöhnk's
            x, y = first ** (1.0 / alpha), second ** (1.0 / alpha)
            if 0.0 < x + y <= 1.0:
                return x / (x + y)
        elif second <= (4.0 * first * (1.0 - first)) ** (alpha - 1.0):
            return first


@kernel
def draw_mix(key, sides, settings):
    """What a batch gets: (kind, parts of WHOLE that are an image's own, (top, left, bottom, right)).

    sides: the images' (height, width).
    settings: (probability, alpha of mixup, alpha of cutmix).
    """
    probability, mixup, cutmix = settings
    nowhere = (0, 0, 0, 0)
    if uniform(key, 0) >= probability:
        return NOTHING, WHOLE, nowhere
    if cutmix == 0.0 or (mixup > 0.0 and uniform(key, 1) < 0.5):
        return MIXUP, int(math.floor(WHOLE * draw_beta(key, mixup) + 0.5)), nowhere
    # As torchvision: a rectangle of the share's area about any pixel, cut at the edges.
    height, width = sides
    side = 0.5 * math.sqrt(1.0 - draw_beta(key, cutmix))
    half, across = int(side * height), int(side * width)
    y, x = int(uniform(key, 2) * height), int(uniform(key, 3) * width)
    box = max(y - half, 0), max(x - across, 0), min(y + half, height), min(x + across, width)
    return CUTMIX, WHOLE, box


@kernel
def mix_batch(samples, seed, epoch, settings, images, statuses):
    """Mix a batch in place; returns the share of an image's own label, float64."""
    places = np.flatnonzero(statuses == OK)
    count, sides = len(places), (images.shape[2], images.shape[3])
    if count < 2:
        return 1.0
    first = samples[0]
    key = mix(sample_key(seed, epoch, first.index, first.occurrence) + GOLDEN)
    kind, own, box = draw_mix(key, sides, settings)
    if kind == MIXUP and own < WHOLE:
        last = images[places[count - 1]].copy()
        for k in range(count - 1, 0, -1):
            blend_images(images[places[k]], images[places[k - 1]], own)
        blend_images(images[places[0]], last, own)
        return own / WHOLE
    top, left, bottom, right = box
    if kind == CUTMIX and top < bottom and left < right:
        last = images[places[count - 1]].copy()
        for k in range(count - 1, 0, -1):
            copy_box(images[places[k - 1]], images[places[k]], box)
        copy_box(last, images[places[0]], box)
        return 1.0 - (bottom - top) * (right - left) / (sides[0] * sides[1])
    return 1.0


@kernel
def blend_images(image, other, own):
    """image = (own * image + (WHOLE - own) * other) / WHOLE, rounded."""
    at = U(image.ctypes.data)
    # The other image is as good as a second plane, however far away.
    stride = U(other.ctypes.data) - at
    blended(at, at, stride, U(image.size), (np.int64(own), np.int64(WHOLE - own)), spare_bytes())


@kernel
def copy_box(source, target, box):
    """Copy a rectangle of all channels."""
    top, left, bottom, right = box
    for channel in range(3):
        for y in range(top, bottom):
            copy_bytes(
                U(source[channel, y].ctypes.data) + U(left),
                U(target[channel, y].ctypes.data) + U(left),
                U(right - left),
            )
