"""The compiled half (shim.cpp): queues, waits, and what the tests ask of them."""

from __future__ import annotations

import atexit
import ctypes
import itertools
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMPUTE, COPY = 0, 1
_EVENT, _STREAM, _DEVICE = range(3)

_library: ctypes.CDLL
_numbers = itertools.count()
_work: dict[int, Callable[[], object]] = {}
_names: dict[int, object] = {}
_reads: Counter[str] = Counter()
capture: Any = None  # the graph that is being captured
replays = 0  # of graphs, so far
allocations = 0  # of memory, so far; views are none
saturates = (
    False  # as a 910A does: what overflows becomes the largest number, and a flag of the card's is set
)
overflowed = False  # that flag


def start() -> None:
    global _library
    _library = ctypes.CDLL(os.environ["ALEXNET_FAST_STANDIN_SHIM"])
    _library.standin_waits.restype = ctypes.c_int64
    _library.standin_start(_run, visible_devices())
    atexit.register(_library.standin_drain)
    # As engine.device does for a CPU: without it the weights of an AlexNet are mapped and faulted in at every step.
    m_trim_threshold, m_mmap_max = -1, -4
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def visible_devices() -> int:
    return len([entry for entry in os.environ.get("ASCEND_RT_VISIBLE_DEVICES", "0").split(",") if entry])


def launch(kind: int, work: Callable[[], object], name: object = "") -> None:
    """Have `work` run later, behind everything else on the current stream; while a graph is captured, at its replays."""
    if capture is not None:
        capture.record(kind, work, name)
        return
    number = next(_numbers)
    _work[number], _names[number] = work, name
    _library.standin_launch(kind, ctypes.c_int64(number))


@ctypes.CFUNCTYPE(None, ctypes.c_int64)
def _run(number: int) -> None:
    try:
        import torch

        name = _names.pop(number)
        with torch.no_grad():
            _work.pop(number)()
    except BaseException:  # there is nobody to raise it to: the host is far ahead
        print(f"the stand-in NPU failed in {name}", file=sys.stderr)
        traceback.print_exc()
        os._exit(70)


def wait_to(read: str) -> None:
    """Wait for the current stream because the host reads something, and count that."""
    if capture is not None:
        raise RuntimeError(f"operation not permitted when stream is capturing: {read}")
    frames = (frame for frame in traceback.extract_stack() if "alexnet_fast" in Path(frame.filename).parts)
    own = [f"{Path(frame.filename).stem}.{frame.name}" for frame in frames if "tests" not in frame.filename]
    _reads[f"{read} in {own[-1]}" if own else read] += 1
    _library.standin_wait()


def tell_time(tells: bool) -> None:
    """Whether events tell the time between them from now on: those of torch_npu 2.9.0 do not."""
    _library.standin_tell_time(int(tells))


def is_block(address: int) -> bool:
    """Whether a pinned block begins at this address."""
    return bool(_library.standin_is_block(ctypes.c_uint64(address)))


def wait_quietly() -> None:
    """Wait for the current stream where the real device would not: not counted."""
    _library.standin_wait()


def waits() -> Counter[str]:
    """How often the host waited, and what for: "item in meter.read", "event", "stream", "device" ..."""
    own = {name: _library.standin_waits(kind) for kind, name in enumerate(("event", "stream", "device"))}
    return Counter({name: count for name, count in own.items() if count}) + _reads


def be_late(*, copies_s: float = 0.0, compute_s: float = 0.0) -> None:
    """From now on each copy, and each operation, begins that much later than its stream could."""
    _library.standin_be_late(COPY, ctypes.c_int64(int(copies_s * 1e6)))
    _library.standin_be_late(COMPUTE, ctypes.c_int64(int(compute_s * 1e6)))
