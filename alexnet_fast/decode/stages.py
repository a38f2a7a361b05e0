"""The decoding of one image, stage by stage on one thread, for whoever measures: cut, libjpeg, render."""

from __future__ import annotations

import time

import numpy as np

from ..beton.format import RAW
from ..errors import UserError
from ..kernel_cache import kernel
from .crop import CROP_DTYPE, CropOptions, draw_crops
from .decoder import Decoder
from .jpeg_header import read_header
from .jpeg_tiles import slice_jpeg
from .planes import CropAxis, decode_jpeg_planes, source_span
from .status import MEANING

CUT, PLANES, ALL = range(3)
"""Stages, each with those before it: header and tiles; libjpeg's planes of the tiles; resampling and colour."""
CHUNK = 10


@kernel
def first_stages(file, samples, boxes, size, scratch, stage):
    """Cut the tiles of each sample's crop and, for stage PLANES, decode them. -> the sum of bytes or statuses"""
    total = 0
    for q in range(len(samples)):
        s, box = samples[q], boxes[q]
        y = CropAxis(box.top, box.height, box.low_y, box.high_y)
        x = CropAxis(box.left, box.width, box.low_x, box.high_x)
        jpeg = file[s.ptr : s.ptr + s.size]
        if stage == CUT:
            header = read_header(jpeg)
            top, bottom = source_span(y, size, header.down)
            left, right = source_span(x, size, header.across)
            total += slice_jpeg(jpeg, header, top, left, bottom, right, scratch.jpeg, scratch.ends).bytes
        else:
            total += decode_jpeg_planes(
                jpeg, np.int64(s.width), np.int64(s.height), y, x, size, scratch
            ).status
    return total


class DecodeStages:
    """Chunks of samples, to be decoded again and again as far as a stage.

    Args:
        file: (bytes,) uint8 that hold the samples: a beton's map, or what is to be tried in its place.
        samples: (n,) decode.SAMPLE, at least one.
        cropping: how their crops are drawn, in epoch 0.

    Attributes:
        chunks: (CHUNK or fewer,) decode.SAMPLE each.
        raw: whether some samples are pixels already, which have no first stages.
        payload_bytes: a sample, on average.
    """

    def __init__(self, file: np.ndarray, samples: np.ndarray, cropping: CropOptions) -> None:
        self.chunks = [samples[at : at + CHUNK] for at in range(0, len(samples), CHUNK)]
        self.raw = bool((samples["raw"] == RAW).any())
        self.payload_bytes = float(samples["size"].mean())
        self._file, self._size = file, cropping.size
        self._boxes = [np.empty(len(chunk), CROP_DTYPE) for chunk in self.chunks]
        for chunk, boxes in zip(self.chunks, self._boxes):
            draw_crops(chunk, np.uint64(0), cropping, boxes)
        self._decoder = Decoder(cropping.size)
        self._decoder.reserve(samples)  # now, or the first rounds would measure that
        self._out = np.empty((CHUNK, 3, cropping.size, cropping.size), np.uint8)
        self._statuses = np.zeros(CHUNK, np.uint8)

    def time(self, number: int, stage: int) -> float:
        """Decode chunk ``number`` as far as ``stage``; seconds that it took.

        Raises:
            UserError: one of its samples cannot be decoded.
        """
        chunk, boxes = self.chunks[number], self._boxes[number]
        started = time.perf_counter()
        if stage != ALL:
            first_stages(self._file, chunk, boxes, self._size, self._decoder.scratch, stage)
            return time.perf_counter() - started
        statuses = self._decode(number)
        took_s = time.perf_counter() - started
        if statuses.any():
            broken = int(np.flatnonzero(statuses)[0])
            index, why = int(chunk["index"][broken]), MEANING[int(statuses[broken])]
            raise UserError(f"sample {index} cannot be decoded: {why}; pack it again or leave it out")
        return took_s

    def sound(self) -> np.ndarray:
        """The samples that can be decoded, (as many,) decode.SAMPLE."""
        return np.concatenate([chunk[self._decode(number) == 0] for number, chunk in enumerate(self.chunks)])

    def _decode(self, number: int) -> np.ndarray:
        """Each sample's status."""
        chunk = self.chunks[number]
        out, statuses = self._out[: len(chunk)], self._statuses[: len(chunk)]
        self._decoder.decode(self._file, chunk, self._boxes[number], out, statuses)
        return statuses
