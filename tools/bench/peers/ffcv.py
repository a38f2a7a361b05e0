"""FFCV's Loader, with its own decoder or with ours instead. Its iterator prefetches nothing before an epoch or after it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import cv2
from ffcv.fields import rgb_image
from ffcv.fields.basics import IntDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor

from alexnet_fast.ffcv_ops import decoders as ffcv_ops
from bench.peer import FLIP, RATIO, SCALE, SIZE_PX, Peer, Tally, Task


def operations(variant: str) -> list[Any]:
    """What turns a stored image into a flipped crop.

    "own": FFCV's decoder and FFCV's flip.  "import": our decoder by the same arguments, and FFCV's flip.  "ours": our
    decoder, which flips too.
    """
    crop: tuple[Any, ...] = ((SIZE_PX, SIZE_PX), SCALE, RATIO)
    if variant == "ours":
        return [ffcv_ops.RandomResizedCropRGBImageDecoder(*crop, flip=FLIP)]
    decoders: Any = {"own": rgb_image, "import": ffcv_ops}[variant]
    return [decoders.RandomResizedCropRGBImageDecoder(*crop), RandomHorizontalFlip(FLIP)]


class Ffcv(Peer):
    def __init__(self, task: Task) -> None:
        self.loader = Loader(
            task.input,
            batch_size=task.batch_size,
            num_workers=task.threads,
            order=OrderOption.RANDOM,
            os_cache=True,
            drop_last=False,
            pipelines={
                "image": [*operations(task.variant), ToTensor()],
                "label": [IntDecoder(), ToTensor(), Squeeze()],
            },
        )

    def run(self, epochs: int) -> Tally:
        tally = Tally()
        for _ in range(epochs):
            tally.count(self.loader)
        return tally


def open_peer(task: Task) -> Peer:
    return Ffcv(task)


def versions() -> dict[str, str]:
    return {"opencv": cv2.__version__, **{name: version(name) for name in ("ffcv", "numba", "torch")}}
