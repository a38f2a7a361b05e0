"""A sample's bytes -> the planes of the part that a crop touches: by our own decoder, by libjpeg-turbo, or out of raw pixels."""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from ..kernel_cache import kernel
from . import turbojpeg
from .baseline import begin_image, decode_image, decode_tiles, lay_out, read_tables, reset
from .entropy import STREAMS
from .jpeg_header import agrees, read_header
from .jpeg_tiles import find_tiles, has_grid, slice_jpeg, whole_jpeg
from .memory import get, put
from .resample import support
from .simd import VECTOR_PIXELS, split_rgb
from .status import DECODER, OK
from .workspace import (
    ACROSS,
    AMISS,
    COMPONENTS,
    DOWN,
    ENABLED,
    LAYOUT,
    OWN,
    PATHS,
    SHARED_AT,
    STREAM_BYTES,
    UNUSUAL,
)

U8, U64, I32, I64 = np.uint8, np.uint64, np.int32, np.int64
YCBCR, GREY, RGB = 0, 1, 2
ALIGN = 64

CropAxis = namedtuple("CropAxis", ("start", "length", "low", "high"))
"""A crop along one direction: the box in source pixels (float64), and the pixels that its filter may read."""

Planes = namedtuple("Planes", ("status", "colour", "top", "left", "across", "down", "luma", "blue", "red"))
"""Decoded samples: the planes, where in the image they begin (pixels), and how many pixels a chroma sample spans."""


@kernel
def crop_axes(box):
    """A box -> its CropAxis down and across."""
    y = CropAxis(box.top, box.height, box.low_y, box.high_y)
    return y, CropAxis(box.left, box.width, box.low_x, box.high_x)


@kernel
def source_span(axis, size, cubic, factor):
    """The pixels [a, b) of the image that the filters of luma and of chroma (``factor`` pixels a sample) read."""
    a, b = support(axis.start, axis.length, size, cubic, axis.low, axis.high)
    if factor > 1:
        low, high = axis.low // factor, (axis.high + factor - 1) // factor
        c, d = support(axis.start / factor, axis.length / factor, size, cubic, low, high)
        a, b = min(a, c * factor), min(max(b, d * factor), axis.high)
    return a, b


@kernel
def span_of(y, x, output, down, across):
    """The pixels of the image that a crop's filters read: (top, bottom, left, right), of [top, bottom) x [left, right)."""
    top, bottom = source_span(y, output.height, output.cubic, down)
    left, right = source_span(x, output.width, output.cubic, across)
    return top, bottom, left, right


@kernel
def touched(boxes, q, output, down, across):
    """The smallest rectangle, as of ``span_of``, that has all that the views of sample ``q`` read. boxes: (views, n) CROP_DTYPE"""
    y, x = crop_axes(boxes[0, q])
    top, bottom, left, right = span_of(y, x, output, down, across)
    for view in range(1, len(boxes)):
        y, x = crop_axes(boxes[view, q])
        a, b, c, d = span_of(y, x, output, down, across)
        top, bottom, left, right = min(top, a), max(bottom, b), min(left, c), max(right, d)
    return top, bottom, left, right


@kernel
def decode_jpeg_planes(jpeg, width, height, y, x, scratch):
    """Decode what a crop touches of a JPEG that should be ``width`` x ``height``. (n,) uint8, crop axes -> Planes."""
    header = read_header(jpeg)
    status = header.status
    if status == OK:
        status = agrees(header, width, height, len(jpeg))
    if status != OK:
        return no_planes(status, scratch.planes)
    span = span_of(y, x, scratch.output, header.down, header.across)
    return decode_planes(jpeg, header, span, scratch, True)


@kernel
def decode_planes(jpeg, header, span, scratch, own):
    """Decode a rectangle, as of ``span_of``, of a JPEG, whose ``header`` is sound, by our ``own`` decoder if it can, or by libjpeg-turbo. -> Planes"""
    top, bottom, left, right = span
    streams = I64(scratch.workspace.ctypes.data)
    if own and get(get(streams, SHARED_AT), ENABLED):
        memory, spare = I64(scratch.planes.ctypes.data), I64(scratch.turned.ctypes.data)
        if own_planes(jpeg, header, top, left, bottom, right, streams, memory, scratch.ends, spare):
            return laid_out_planes(streams, scratch.planes)
    return libjpeg_planes(jpeg, header, top, left, bottom, right, scratch)


@kernel
def count_path(shared, path):
    put(shared, PATHS + path, get(shared, PATHS + path) + 1)


@kernel
def own_planes(jpeg, header, top, left, bottom, right, streams, memory, ends, spare):
    """Decode the pixels [top, bottom) x [left, right) by our own decoder; whether it could: else this JPEG is for libjpeg-turbo.

    Args:
        streams: address of the workspace.
        memory: address of the planes.
        ends: (capacity,) int64 scratch.
        spare: address of memory for 8 rows of luma.
    """
    shared = get(streams, SHARED_AT)
    if not header.cuttable or not read_tables(streams, jpeg, header):
        count_path(shared, UNUSUAL)
        return False
    lay_out(streams, header, top, left, bottom, right, memory)
    if has_grid(header, len(ends)):
        grid = find_tiles(jpeg, header, top, left, bottom, right, ends)
        sound = grid.status == OK and decode_tiles(streams, jpeg, header, grid, ends, spare)
    else:
        sound = begin_image(streams, jpeg, header, bottom) and decode_image(streams, spare)
    count_path(shared, OWN if sound else AMISS)
    if not sound:
        for k in range(STREAMS):
            reset(streams + k * STREAM_BYTES)
    return sound


@kernel
def laid_out_planes(stream, memory):
    """The planes of a stream's picture, which were decoded into ``memory``. -> Planes"""
    rows, stride = get(stream, LAYOUT + 2), get(stream, LAYOUT + 3)
    chroma_rows, chroma_stride = get(stream, LAYOUT + 4), get(stream, LAYOUT + 5)
    at_blue, at_red = get(stream, LAYOUT + 6), get(stream, LAYOUT + 7)
    return Planes(
        OK,
        YCBCR if get(stream, COMPONENTS) == 3 else GREY,
        get(stream, LAYOUT),
        get(stream, LAYOUT + 1),
        get(stream, ACROSS),
        get(stream, DOWN),
        memory[: stride * rows].reshape(rows, stride),
        memory[at_blue : at_blue + chroma_stride * chroma_rows].reshape(chroma_rows, chroma_stride),
        memory[at_red : at_red + chroma_stride * chroma_rows].reshape(chroma_rows, chroma_stride),
    )


@kernel
def libjpeg_planes(jpeg, header, top, left, bottom, right, scratch):
    """By libjpeg-turbo. -> Planes"""
    small = slice_jpeg(jpeg, header, top, left, bottom, right, scratch.jpeg, scratch.ends)
    if small.status != OK:
        return no_planes(small.status, scratch.planes)
    if small.bytes == 0:
        return slice_planes(jpeg, header, small, scratch)
    planes = slice_planes(scratch.jpeg[: small.bytes], header, small, scratch)
    if planes.status == DECODER and small.ends_early:
        # Corrupt, or a libjpeg-turbo that words left-over bytes in another way: decoding the complete image decides.
        planes = slice_planes(jpeg, header, whole_jpeg(header), scratch)
    return planes


@kernel
def no_planes(status, memory):
    """The Planes that say why there are none."""
    none = memory[:0].reshape(0, 0)
    return Planes(status, YCBCR, 0, 0, 1, 1, none, none, none)


@kernel
def slice_planes(source, header, small, scratch):
    """Decode the small JPEG ``source`` into the scratch. -> Planes"""
    stride = (small.width + VECTOR_PIXELS - 1) // VECTOR_PIXELS * VECTOR_PIXELS
    rows = (small.height + header.down - 1) // header.down * header.down
    chroma_stride, chroma_rows = 0, 0
    if header.components == 3:
        chroma_stride = (
            ((small.width + header.across - 1) // header.across + VECTOR_PIXELS - 1)
            // VECTOR_PIXELS
            * VECTOR_PIXELS
        )
        chroma_rows = rows // header.down
    at_blue = (stride * rows + ALIGN - 1) // ALIGN * ALIGN
    at_red = (at_blue + chroma_stride * chroma_rows + ALIGN - 1) // ALIGN * ALIGN
    base = U64(scratch.planes.ctypes.data)
    scratch.pointers[0] = base
    scratch.pointers[1] = base + U64(at_blue)
    scratch.pointers[2] = base + U64(at_red)
    scratch.strides[0] = stride
    scratch.strides[1] = chroma_stride
    scratch.strides[2] = chroma_stride
    failed = turbojpeg.decompress_to_planes(
        scratch.handle,
        U64(source.ctypes.data),
        U64(len(source)),
        U64(scratch.pointers.ctypes.data),
        I32(0),
        U64(scratch.strides.ctypes.data),
        I32(0),
        I32(turbojpeg.STOP_ON_WARNING),
    )
    if failed and small.ends_early and bytes_left_over(scratch.handle):
        failed = I32(0)
    luma = scratch.planes[: stride * rows].reshape(rows, stride)
    blue = scratch.planes[at_blue : at_blue + chroma_stride * chroma_rows].reshape(chroma_rows, chroma_stride)
    red = scratch.planes[at_red : at_red + chroma_stride * chroma_rows].reshape(chroma_rows, chroma_stride)
    return Planes(
        DECODER if failed else OK,
        YCBCR if header.components == 3 else GREY,
        small.top,
        small.left,
        header.across,
        header.down,
        luma,
        blue,
        red,
    )


LEFT_OVER = np.frombuffer(b" extraneous bytes before marker", U8)
LONGEST_TEXT = 200  # libjpeg's JMSG_LENGTH_MAX


@kernel
def bytes_left_over(handle):
    """Whether the decoder stopped for bytes after the last row: all of the slice's rows are decoded by then."""
    text = turbojpeg.error_text(handle)
    matched = 0
    for k in range(LONGEST_TEXT):
        letter = text[k]
        if letter == 0:
            return False
        matched = matched + 1 if letter == LEFT_OVER[matched] else (1 if letter == LEFT_OVER[0] else 0)
        if matched == len(LEFT_OVER):
            return True
    return False


@kernel
def raw_planes(pixels, width, span, memory):
    """Take a rectangle, as of ``span_of``, out of height x width x 3 raw RGB. -> Planes."""
    top, bottom, left, right = span
    rows, columns = bottom - top, right - left
    stride = (columns + VECTOR_PIXELS - 1) // VECTOR_PIXELS * VECTOR_PIXELS
    vectors = columns // VECTOR_PIXELS * VECTOR_PIXELS
    planes = memory[: 3 * rows * stride].reshape(3, rows, stride)
    for row in range(rows):
        begin = 3 * ((top + row) * width + left)
        source = pixels[begin : begin + 3 * columns]
        r, g, b = planes[0, row], planes[1, row], planes[2, row]
        split_rgb(
            U64(source.ctypes.data),
            U64(r.ctypes.data),
            U64(g.ctypes.data),
            U64(b.ctypes.data),
            U64(vectors),
        )
        for k in range(vectors, columns):  # the last vector would read beyond the payload
            r[k], g[k], b[k] = source[3 * k], source[3 * k + 1], source[3 * k + 2]
    return Planes(OK, RGB, top, left, 1, 1, planes[0], planes[1], planes[2])
