"""Pillow alone: open, decode, crop, resize, flip, in a loop; several threads share each batch (Pillow decodes and resizes without the GIL)."""

from __future__ import annotations

import math
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from bench.peer import FLIP, RATIO, SCALE, SIZE_PX, Peer, Tally, Task


class Pillow(Peer):
    def __init__(self, task: Task) -> None:
        classes = sorted(entry for entry in Path(task.input).iterdir())
        self.photos = [
            (path, label) for label, folder in enumerate(classes) for path in sorted(folder.iterdir())
        ]
        self.batch_size, self.threads = task.batch_size, task.threads
        self.pool = ThreadPoolExecutor(task.threads)

    def run(self, epochs: int) -> Tally:
        tally = Tally()
        for _ in range(epochs):
            order = random.sample(self.photos, len(self.photos))
            for begin in range(0, len(order), self.batch_size):
                batch = order[begin : begin + self.batch_size]
                images = np.empty((len(batch), SIZE_PX, SIZE_PX, 3), np.uint8)
                shares = [range(k, len(batch), self.threads) for k in range(self.threads)]
                for future in [self.pool.submit(self._fill, batch, images, share) for share in shares]:
                    future.result()
                tally.add(images, sum(label for _, label in batch))
        return tally

    def _fill(self, batch: list[tuple[Path, int]], images: np.ndarray, share: range) -> None:
        for k in share:
            images[k] = np.asarray(random_resized_crop(batch[k][0]))


def random_resized_crop(path: Path) -> Image.Image:
    """A 224 px crop, flipped half of the time, with the antialiased bilinear filter that torchvision uses."""
    with Image.open(path) as image:
        left, top, width, height = random_box(*image.size)
        crop = image.crop((left, top, left + width, top + height))
    crop = crop.resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < FLIP else crop


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, width, height) in pixels, drawn as torchvision's RandomResizedCrop draws it; the largest square after ten draws that do not fit."""
    for _ in range(10):
        area = width * height * random.uniform(*SCALE)
        aspect = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def open_peer(task: Task) -> Peer:
    return Pillow(task)


def versions() -> dict[str, str]:
    return {"pillow": PIL.__version__, "numpy": np.__version__}
