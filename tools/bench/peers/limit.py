"""The limit of our method: the loader's decoding of the tiles to planes, by our own decoder, with no resampling at all.

The same samples, order and crops as the loader's with the same seed, and the loader's own ``decode_jpeg_planes``,
on one thread: the difference to the loader is what resampling, colour and hand-over cost.  JPEGs of an unusual kind go to
libjpeg-turbo here as there.  Each sample is decoded alone; the loader decodes three in turn where they have no tiles.
"""

from __future__ import annotations

import numba
import numpy as np

from alexnet_fast.beton.reader import Beton
from alexnet_fast.decode import turbojpeg
from alexnet_fast.decode.crop import CROP_DTYPE, CropOptions, draw_crops
from alexnet_fast.decode.decoder import Decoder
from alexnet_fast.decode.kernel import sample_table
from alexnet_fast.decode.planes import CropAxis, decode_jpeg_planes
from alexnet_fast.decode.scratch import fits
from alexnet_fast.decode.status import MEANING, OK, TOO_LARGE
from alexnet_fast.loader.sampler import epoch_permutation
from bench.peer import FLIP, RATIO, SCALE, SIZE_PX, Peer, Tally, Task

SEED = 0  # the loader's default
CHUNK = 32  # samples a call


# Not ``kernel_cache.kernel``: a benchmark stores no compiled code.
@numba.njit(nogil=True, error_model="numpy")
def decode_to_planes(file, samples, boxes, scratch):
    """Decode the tiles of each sample's crop. -> (samples done, status of the first that was not)"""
    for q in range(len(samples)):
        s, box = samples[q], boxes[q]
        width, height = np.int64(s.width), np.int64(s.height)
        if not fits(scratch, width, height) or s.size + 2 > len(scratch.jpeg):
            return q, TOO_LARGE
        y = CropAxis(box.top, box.height, box.low_y, box.high_y)
        x = CropAxis(box.left, box.width, box.low_x, box.high_x)
        planes = decode_jpeg_planes(file[s.ptr : s.ptr + s.size], width, height, y, x, scratch)
        if planes.status != OK:
            return q, planes.status
    return len(samples), OK


class Limit(Peer):
    def __init__(self, task: Task) -> None:
        self.batch_size = task.batch_size
        self.beton = Beton(task.input)
        self.samples = sample_table(self.beton)
        self.cropping = CropOptions(True, SIZE_PX, SIZE_PX, np.uint64(SEED), SCALE, RATIO, FLIP)
        self.decoder = Decoder(SIZE_PX)

    def prepare(self, first_epoch: int) -> None:
        self.epoch = first_epoch

    def run(self, epochs: int) -> Tally:
        tally = Tally()
        for epoch in range(self.epoch, self.epoch + epochs):
            order = epoch_permutation(len(self.samples), SEED, epoch)
            for begin in range(0, len(order), CHUNK):
                self._decode(self.samples[order[begin : begin + CHUNK]], epoch)
            tally.images += len(order)
            tally.labels += int(self.beton.labels.sum())
        return tally

    def _decode(self, samples: np.ndarray, epoch: int) -> None:
        boxes = np.empty(len(samples), CROP_DTYPE)
        draw_crops(samples, np.uint64(epoch), self.cropping, boxes)
        while len(samples):
            done, status = decode_to_planes(self.beton.map, samples, boxes, self.decoder.scratch)
            samples, boxes = samples[done:], boxes[done:]
            if status == TOO_LARGE:
                self.decoder.reserve(samples[:1])
            elif status != OK:
                raise RuntimeError(f"{self.beton.source(int(samples['index'][0]))}: {MEANING[status]}")


def open_peer(task: Task) -> Peer:
    return Limit(task)


def versions() -> dict[str, str]:
    return {"numba": numba.__version__, "libturbojpeg": turbojpeg.load()}
