"""The fused kernel: for each sample of a chunk tiles, planes, pixels and a status, without the GIL."""

from __future__ import annotations

import numpy as np

from ..beton.format import RAW
from ..beton.reader import Beton
from ..kernel_cache import kernel
from .baseline import begin_image, lay_out, read_tables, reset
from .entropy import STREAMS, run_stream, run_streams
from .jpeg_header import agrees, is_too_small, read_header
from .jpeg_tiles import has_grid
from .memory import fetch_add, get, put
from .planes import (
    ALIGN,
    count_path,
    crop_axes,
    decode_planes,
    laid_out_planes,
    no_planes,
    raw_planes,
    touched,
)
from .render import resample_to_rgb
from .scratch import fits
from .simd import VECTOR_PIXELS
from .status import OK
from .units import COMPLETE, GOES_ON, advance, flush
from .workspace import (
    AMISS,
    COUNT,
    ENABLED,
    EXHAUSTED,
    HELD,
    OWN,
    OWNERS,
    PENDING,
    RUNNING,
    SHARED_AT,
    STREAM_BYTES,
    UNUSUAL,
)

I64 = np.int64

SAMPLE_DTYPE = np.dtype(
    [
        ("ptr", "<i8"),
        ("size", "<i8"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("raw", "<i4"),
        ("index", "<i4"),
        ("occurrence", "<i4"),
    ],
    align=True,
)
"""What a kernel must know of one sample: the offset of its payload in the file, its size in pixels, and which of its copies this is."""


def sample_table(beton: Beton) -> np.ndarray:
    """What the kernels need of every sample. (N,) kernel.SAMPLE_DTYPE.

    Raises:
        BetonError: the file was changed since it was opened, and with it the metadata that was checked then.
    """
    samples = np.empty(beton.num_samples, SAMPLE_DTYPE)
    with beton.unchanged:
        samples["ptr"] = beton.images["data_ptr"]
        samples["size"] = beton.sizes
        samples["width"] = beton.images["width"]
        samples["height"] = beton.images["height"]
        samples["raw"] = beton.images["mode"]
        samples["index"] = np.arange(beton.num_samples)
        samples["occurrence"] = 0
    return samples


@kernel
def decode_chunk(file, samples, boxes, scratch, out, statuses, progress, done):
    """Decode samples until none of a chunk is left, each once for all of its views. Several threads may work on one chunk.

    Args:
        file: (bytes,) uint8, the beton.
        samples: (n,) SAMPLE_DTYPE.
        boxes: (views, n) crop.CROP_DTYPE, inside their images (LoaderOptions sees to it).
        scratch: this thread's Scratch.
        out: (views, n or more, 3, height, width) uint8, RGB.
        statuses: (n,) uint8, out.
        progress: (2,) int64: samples that threads have taken, and have finished.
        done: (n,) int64, out: the places of the samples that this thread has decoded; COUNT of them, counted on from call to call.

    Returns:
        The place of a sample that the scratch is too small for, which is then this thread's to decode, or -1.
    """
    shared = get(I64(scratch.workspace.ctypes.data), SHARED_AT)
    counters = I64(progress.ctypes.data)
    put(shared, EXHAUSTED, 0)
    while True:
        q, planes = next_planes(file, samples, boxes, scratch, counters)
        if q < 0:
            break
        if planes.status == OK:
            for view in range(len(boxes)):
                y, x = crop_axes(boxes[view, q])
                resample_to_rgb(planes, y, x, boxes[view, q].mirrored, scratch, out[view, q])
        statuses[q] = planes.status
        done[get(shared, COUNT)] = q
        put(shared, COUNT, get(shared, COUNT) + 1)
        fetch_add(counters + 8, 1)
    return get(shared, PENDING)


@kernel
def take_sample(shared, counters, count):
    """A sample that no other thread has; -1 when there is none."""
    q = get(shared, PENDING)
    put(shared, PENDING, -1)
    if q < 0:
        q = fetch_add(counters, 1)
    return q if q < count else -1


@kernel
def next_planes(file, samples, boxes, scratch, counters):
    """Decode one more sample. -> its place in the chunk (-1: none is left, or one is pending), its Planes

    Samples whose JPEG is one stream are decoded three at a time.
    """
    streams = I64(scratch.workspace.ctypes.data)
    shared, spare = get(streams, SHARED_AT), I64(scratch.turned.ctypes.data)
    own_bytes = 3 * len(scratch.turned)
    stream_bytes = (len(scratch.planes) - own_bytes) // STREAMS
    memory = I64(scratch.planes.ctypes.data) + own_bytes
    found, own, complete = -1, True, -1
    while found < 0:
        if not get(shared, EXHAUSTED) and get(shared, HELD) < 0 and get(shared, RUNNING) < STREAMS:
            q = take_sample(shared, counters, len(samples))
            if q < 0:
                put(shared, EXHAUSTED, 1)
                continue
            s = samples[q]
            width, height = I64(s.width), I64(s.height)
            payload = file[s.ptr : s.ptr + s.size]
            # Memory is allocated for what the file can contain, not for what it claims: such a sample fails before it needs any.
            fails = s.raw != RAW and is_too_small(s.size, width, height)
            if not fails and (not fits(scratch, width, height) or s.size + 2 > len(scratch.jpeg)):
                put(shared, PENDING, q)
                put(shared, EXHAUSTED, 1)
                continue
            if s.raw == RAW:
                span = touched(boxes, q, scratch.output, 1, 1)
                return q, raw_planes(payload, width, span, scratch.planes)
            header = read_header(payload)
            status = header.status if header.status != OK else agrees(header, width, height, len(payload))
            if status != OK:
                return q, no_planes(status, scratch.planes)
            if not (get(shared, ENABLED) and may_share(header, len(scratch.ends), stream_bytes)):
                if get(shared, RUNNING):
                    put(shared, HELD, q)
                else:
                    found = q
                continue
            k = 0
            while get(shared, OWNERS + k) >= 0:
                k += 1
            stream = streams + k * STREAM_BYTES
            span = touched(boxes, q, scratch.output, header.down, header.across)
            if begin_sharing(payload, header, span, stream, memory + k * stream_bytes):
                put(shared, OWNERS + k, q)
                put(shared, RUNNING, get(shared, RUNNING) + 1)
            else:
                found, own = q, False
        elif get(shared, RUNNING):
            k = run_owned(streams, shared)
            stream = streams + k * STREAM_BYTES
            state = advance(stream)
            if state == GOES_ON:
                continue
            found = get(shared, OWNERS + k)
            put(shared, OWNERS + k, -1)
            put(shared, RUNNING, get(shared, RUNNING) - 1)
            own = state == COMPLETE and flush(stream, spare)
            count_path(shared, OWN if own else AMISS)
            if own:
                complete = k
            else:
                reset(stream)
        elif get(shared, HELD) >= 0:
            found = get(shared, HELD)
            put(shared, HELD, -1)
        else:
            return -1, no_planes(OK, scratch.planes)
    if complete >= 0:
        begin = own_bytes + complete * stream_bytes
        return found, laid_out_planes(
            streams + complete * STREAM_BYTES, scratch.planes[begin : begin + stream_bytes]
        )
    s = samples[found]
    payload = file[s.ptr : s.ptr + s.size]
    header = read_header(payload)
    span = touched(boxes, found, scratch.output, header.down, header.across)
    return found, decode_planes(payload, header, span, scratch, own)


@kernel
def may_share(header, capacity, stream_bytes):
    """Whether a JPEG is one stream, and can be decoded in turn with others into planes of so many bytes."""
    if not header.cuttable or has_grid(header, capacity):
        return False
    wide = (header.width + VECTOR_PIXELS - 1) // VECTOR_PIXELS * VECTOR_PIXELS + 64
    return 3 * wide * (header.height + 64 + 2 * VECTOR_PIXELS) + 3 * ALIGN <= stream_bytes


@kernel
def begin_sharing(jpeg, header, span, stream, memory):
    """Let a stream begin with a rectangle of a sample, its planes at an address; whether it is for our own decoder."""
    shared = get(stream, SHARED_AT)
    if not read_tables(stream, jpeg, header):
        count_path(shared, UNUSUAL)
        return False
    top, bottom, left, right = span
    lay_out(stream, header, top, left, bottom, right, memory)
    if begin_image(stream, jpeg, header, bottom):
        return True
    reset(stream)
    count_path(shared, AMISS)
    return False


@kernel
def run_owned(streams, shared):
    """Decode the streams that have samples until a unit of one of them is complete; returns which."""
    if get(shared, RUNNING) == STREAMS:
        return run_streams(streams, STREAM_BYTES)
    k = 0
    while get(shared, OWNERS + k) < 0:
        k += 1
    run_stream(streams + k * STREAM_BYTES)
    return k
