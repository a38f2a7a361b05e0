"""Decode samples by the loader's own kernel, every pixel of them, and tell what each one's status says."""

from __future__ import annotations

import weakref

import numpy as np

from ..beton.reader import Beton
from ..decode import turbojpeg
from ..decode.crop import CROP_DTYPE, CropOptions, draw_crops
from ..decode.decoder import MAX_PIXELS, close_handle, first_scratch, grown, open_handle
from ..decode.kernel import decode_chunk, sample_table


class Decoder:
    """Decodes the samples of one beton in this thread.

    Args:
        size: side of what comes out, in pixels.
    """

    def __init__(self, beton: Beton, size: int) -> None:
        turbojpeg.load()
        self._file, self._size = beton.map, size
        self._samples = sample_table(beton)
        self._handle = open_handle()
        self._scratch = first_scratch(self._handle, size)
        weakref.finalize(self, close_handle, self._handle)

    def whole(self, index: int) -> tuple[np.ndarray, int]:
        """The whole image squeezed into a square, so that every tile of it is decoded: (3, size, size) uint8, and its status."""
        sample = self._samples[index : index + 1]
        width, height = int(sample["width"][0]), int(sample["height"][0])
        boxes = np.zeros(1, CROP_DTYPE)
        boxes["height"] = boxes["high_y"] = height
        boxes["width"] = boxes["high_x"] = width
        return self._decoded(sample, boxes)

    def cropped(self, index: int, epoch: int, cropping: CropOptions) -> tuple[np.ndarray, int]:
        """The crop that a loader of this ``cropping`` draws in ``epoch``: (3, size, size) uint8, and its status."""
        sample = self._samples[index : index + 1]
        boxes = np.zeros(1, CROP_DTYPE)
        draw_crops(sample, np.uint64(epoch), cropping, boxes)
        return self._decoded(sample, boxes)

    def _decoded(self, sample: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, int]:
        image, statuses = np.zeros((1, 3, self._size, self._size), np.uint8), np.zeros(1, np.uint8)
        while (
            decode_chunk(self._file, sample, boxes, self._size, self._scratch, image, statuses) == 0
            and int(sample["width"][0]) * int(sample["height"][0]) <= MAX_PIXELS
        ):
            self._scratch = grown(self._scratch, sample[0], self._handle, self._size)
        return image[0], int(statuses[0])
