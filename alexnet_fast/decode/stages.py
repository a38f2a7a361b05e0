"""The decoding of samples, stage by stage on one thread, for whoever measures.

Each stage runs those before it too, by the decoder's own functions, so that the difference of two is what one of them takes.
Samples that our own decoder leaves to libjpeg-turbo have no UNSTUFF and no HUFFMAN: the two skip them.
"""

from __future__ import annotations

import time

import numpy as np

from ..beton.format import RAW
from ..errors import UserError
from ..kernel_cache import kernel
from .baseline import begin_image, decode_tiles, lay_out, read_tables, reset
from .crop import CROP_DTYPE, CropOptions, draw_crops
from .decoder import Decoder, DecoderName
from .entropy import POSITION, STREAMS, run_stream, run_streams
from .jpeg_header import agrees, read_header
from .jpeg_tiles import find_tiles, has_grid, slice_jpeg
from .kernel import next_planes
from .memory import get, put
from .planes import touched
from .status import MEANING, OK
from .units import COMPLETE, GOES_ON, advance, begin_stream, flush, top_up
from .workspace import (
    A_TILE,
    AN_IMAGE,
    CHROMA_BLOCKS,
    END,
    EXHAUSTED,
    LIVE,
    LUMA_BLOCKS,
    SHARED_AT,
    SOURCE,
    SOURCE_END,
    STREAM_BYTES,
)

CUT, UNSTUFF, HUFFMAN, PLANES, ALL, LIBJPEG_CUT, LIBJPEG_PLANES = range(7)
"""Stages, each with those before it: header, tables and tiles; removing the stuffing; Huffman decoding; the inverse DCT, and so the
tiles' planes; resampling and colour.  Then two of libjpeg-turbo: the small JPEG of the same tiles, and its planes."""
OF_LIBJPEG = (LIBJPEG_CUT, LIBJPEG_PLANES)
CHUNK = 10
TO_THE_END = -1

I64 = np.int64


@kernel
def cut_for_libjpeg(file, samples, boxes, scratch):
    """Write the small JPEG of each sample's crop, as for libjpeg-turbo. -> the sum of their bytes"""
    total = 0
    for q in range(len(samples)):
        s = samples[q]
        jpeg = file[s.ptr : s.ptr + s.size]
        header = read_header(jpeg)
        if header.status == OK:
            top, bottom, left, right = touched(boxes, q, scratch.output, header.down, header.across)
            total += slice_jpeg(jpeg, header, top, left, bottom, right, scratch.jpeg, scratch.ends).bytes
    return total


@kernel
def all_planes(file, samples, boxes, scratch, progress):
    """Decode each sample's planes, in the decoder's own way. -> the sum of statuses"""
    put(get(I64(scratch.workspace.ctypes.data), SHARED_AT), EXHAUSTED, 0)
    progress[:] = 0
    counters, total = I64(progress.ctypes.data), 0
    while True:
        q, planes = next_planes(file, samples, boxes, scratch, counters)
        if q < 0:
            return total
        total += planes.status


@kernel
def entropy_stages(file, samples, boxes, scratch, stage, used):
    """Go as far as CUT, UNSTUFF or HUFFMAN with each sample's crop: first those with tiles, then those of one stream, three in turn.

    Args:
        used: (n,) int64: bytes of the scan that a sample of one stream takes, down to its crop's end, or TO_THE_END.
            HUFFMAN finds them out, UNSTUFF needs them.

    Returns:
        How many samples our own decoder took.
    """
    streams, spare = I64(scratch.workspace.ctypes.data), I64(scratch.turned.ctypes.data)
    capacity = len(scratch.ends)
    taken = 0
    for q in range(len(samples)):
        jpeg = payload_of(file, samples[q])
        header = usual_header(jpeg, samples[q])
        if header.status == OK and header.cuttable and has_grid(header, capacity):
            taken += tiles_as_far_as(stage, jpeg, header, boxes, q, scratch)
    owners, live, q = np.empty(STREAMS, np.int64), 0, 0
    while q < len(samples) or live:
        if q == len(samples) or live == STREAMS:
            k = run_live(streams, live)
            stream = streams + k * STREAM_BYTES
            state = advance(stream)
            if state != GOES_ON:
                jpeg = payload_of(file, samples[owners[k]])
                used[owners[k]] = get(stream, SOURCE) - I64(jpeg.ctypes.data) - read_header(jpeg).scan
                if state == COMPLETE and flush(stream, spare):
                    taken += 1
                else:
                    reset(stream)
                live -= 1
            continue
        jpeg = payload_of(file, samples[q])
        header = usual_header(jpeg, samples[q])
        if header.status == OK and header.cuttable and not has_grid(header, capacity):
            k = 0
            while get(streams + k * STREAM_BYTES, LIVE):
                k += 1
            stream = streams + k * STREAM_BYTES
            bottom = lay_out_crop(stream, jpeg, header, boxes, q, scratch)
            if bottom and stage == HUFFMAN:
                owners[k] = q
                if begin_image(stream, jpeg, header, bottom):
                    live += 1
                else:
                    reset(stream)
            elif bottom:
                taken += 1
                if stage == UNSTUFF:
                    unstuff_image(stream, jpeg, header, used[q])
        q += 1
    return taken


@kernel
def payload_of(file, sample):
    return file[sample.ptr : sample.ptr + sample.size]


@kernel
def usual_header(jpeg, sample):
    """A sample's header, of status OK if there is something to decode."""
    header = read_header(jpeg)
    if header.status == OK and agrees(header, I64(sample.width), I64(sample.height), len(jpeg)) != OK:
        return read_header(jpeg[:0])
    return header


@kernel
def lay_out_crop(stream, jpeg, header, boxes, q, scratch):
    """Prepare a stream for a sample's crop, of which it touches no block: all are decoded, none is transformed.

    Returns:
        Where the crop ends, in rows of pixels; 0 if the JPEG is for libjpeg-turbo.
    """
    top, bottom, left, right = touched(boxes, q, scratch.output, header.down, header.across)
    if not read_tables(stream, jpeg, header):
        return 0
    lay_out(stream, header, top, left, bottom, right, I64(scratch.planes.ctypes.data))
    for side in range(4):
        put(stream, LUMA_BLOCKS + side, 0)
        put(stream, CHROMA_BLOCKS + side, 0)
    return bottom


@kernel
def tiles_as_far_as(stage, jpeg, header, boxes, q, scratch):
    """Go as far as a stage with a sample that has tiles; whether our own decoder takes it."""
    streams, spare = I64(scratch.workspace.ctypes.data), I64(scratch.turned.ctypes.data)
    if not lay_out_crop(streams, jpeg, header, boxes, q, scratch):
        return False
    top, bottom, left, right = touched(boxes, q, scratch.output, header.down, header.across)
    grid = find_tiles(jpeg, header, top, left, bottom, right, scratch.ends)
    if grid.status != OK:
        return False
    if stage == UNSTUFF:
        unstuff_tiles(streams, jpeg, header, grid, scratch.ends)
    elif stage == HUFFMAN and not decode_tiles(streams, jpeg, header, grid, scratch.ends, spare):
        for k in range(STREAMS):
            reset(streams + k * STREAM_BYTES)
        return False
    return True


@kernel
def run_live(streams, live):
    """Decode the streams that hold an image until a unit of one of them is complete; returns which."""
    if live == STREAMS:
        return run_streams(streams, STREAM_BYTES)
    k = 0
    while not get(streams + k * STREAM_BYTES, LIVE):
        k += 1
    run_stream(streams + k * STREAM_BYTES)
    return k


@kernel
def unstuff_tiles(stream, jpeg, header, grid, ends):
    """Remove the stuffing of the tiles that a crop touches."""
    address = I64(jpeg.ctypes.data)
    for row in range(grid.y0, grid.y1):
        for tile in range(row * grid.columns + grid.x0, row * grid.columns + grid.x1):
            begin = header.scan + (ends[tile - 1] if tile else 0)
            end = header.scan + ends[tile] - 2
            if begin <= end and end + 2 <= len(jpeg):
                begin_stream(
                    stream, address + begin, address + end, address + len(jpeg), 0, 0, 0, 0, A_TILE, 0
                )
                unstuff_stream(stream)


@kernel
def unstuff_image(stream, jpeg, header, used):
    """Remove the stuffing of a sample of one stream, as far as ``used`` bytes of its scan."""
    begin, limit = I64(jpeg.ctypes.data) + header.scan, I64(jpeg.ctypes.data) + len(jpeg)
    end = limit if used == TO_THE_END else min(limit, begin + used)
    begin_stream(stream, begin, end, limit, 0, 0, 0, 0, AN_IMAGE, 0)
    unstuff_stream(stream)


@kernel
def unstuff_stream(stream):
    """Remove the stuffing of what a stream has begun with, as if all that stands in its buffer were decoded at once."""
    while get(stream, SOURCE) < get(stream, SOURCE_END):
        before = get(stream, SOURCE)
        top_up(stream)
        put(stream, POSITION, get(stream, END))
        if get(stream, SOURCE) == before:
            put(stream, SOURCE, before + 2)  # a marker
    put(stream, LIVE, 0)


class DecodeStages:
    """Chunks of samples, to be decoded again and again as far as a stage.

    Args:
        file: (bytes,) uint8 that hold the samples: a beton's map, or what is to be tried in its place.
        samples: (n,) kernel.SAMPLE_DTYPE, at least one.
        cropping: how their crops are drawn, in epoch 0.
        use: which decoder decodes them as far as PLANES and ALL.

    Attributes:
        chunks: (CHUNK or fewer,) kernel.SAMPLE_DTYPE each.
        raw: whether some samples are pixels already, which have no first stages.
        payload_bytes: a sample, on average.
    """

    def __init__(
        self, file: np.ndarray, samples: np.ndarray, cropping: CropOptions, use: DecoderName = "auto"
    ) -> None:
        self.chunks = [samples[at : at + CHUNK] for at in range(0, len(samples), CHUNK)]
        self.raw = bool((samples["raw"] == RAW).any())
        self.payload_bytes = float(samples["size"].mean())
        self._file, self._samples, self._cropping = file, samples, cropping
        self._boxes = [np.empty((1, len(chunk)), CROP_DTYPE) for chunk in self.chunks]
        for chunk, boxes in zip(self.chunks, self._boxes):
            draw_crops(chunk, np.uint64(0), cropping, boxes)
        self._decoder = Decoder(cropping.size, use, cropping.cubic)
        self._decoder.reserve(samples)  # now, or the first rounds would measure that
        self._libjpeg: Decoder | None = None
        self._used = [np.full(len(chunk), TO_THE_END) for chunk in self.chunks]
        self._is_known = [False] * len(self.chunks)
        self._progress = np.zeros(2, np.int64)
        self._out = np.empty((1, CHUNK, 3, *cropping.size), np.uint8)
        self._statuses = np.zeros(CHUNK, np.uint8)

    def time(self, number: int, stage: int) -> float:
        """Decode chunk ``number`` as far as ``stage``; seconds that it took.

        Raises:
            UserError: one of its samples cannot be decoded.
        """
        chunk = self.chunks[number]
        if stage == UNSTUFF and not self._is_known[number]:
            self.reach(number, HUFFMAN)  # it tells how many bytes the crops take
        decoder = self._forced() if stage in OF_LIBJPEG else self._decoder
        started = time.perf_counter()
        if stage != ALL:
            self._run(number, stage, decoder)
            return time.perf_counter() - started
        statuses = self._decode(number)
        took_s = time.perf_counter() - started
        if statuses.any():
            broken = int(np.flatnonzero(statuses)[0])
            index, why = int(chunk["index"][broken]), MEANING[int(statuses[broken])]
            raise UserError(f"sample {index} cannot be decoded: {why}; pack it again or leave it out")
        return took_s

    def reach(self, number: int, stage: int) -> int:
        """Decode chunk ``number`` as far as CUT, UNSTUFF or HUFFMAN; how many of its samples our own decoder took."""
        return self._run(number, stage, self._decoder)

    def sound(self) -> np.ndarray:
        """The samples that can be decoded, (as many,) kernel.SAMPLE_DTYPE."""
        return np.concatenate([chunk[self._decode(number) == 0] for number, chunk in enumerate(self.chunks)])

    def _run(self, number: int, stage: int, decoder: Decoder) -> int:
        what = (self._file, self.chunks[number], self._boxes[number], decoder.scratch)
        if stage == LIBJPEG_CUT:
            return int(cut_for_libjpeg(*what))
        if stage in (PLANES, LIBJPEG_PLANES):
            return int(all_planes(*what, self._progress))
        self._is_known[number] |= stage == HUFFMAN
        return int(entropy_stages(*what, stage, self._used[number]))

    def _forced(self) -> Decoder:
        """A decoder that leaves everything to libjpeg-turbo."""
        if self._libjpeg is None:
            self._libjpeg = Decoder(self._cropping.size, "libjpeg", self._cropping.cubic)
            self._libjpeg.reserve(self._samples)
        return self._libjpeg

    def _decode(self, number: int) -> np.ndarray:
        """Each sample's status."""
        chunk = self.chunks[number]
        statuses = self._statuses[: len(chunk)]
        self._decoder.decode(self._file, chunk, self._boxes[number], self._out, statuses)
        return statuses
