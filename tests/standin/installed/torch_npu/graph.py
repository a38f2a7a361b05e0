"""torch.npu.NPUGraph and torch.npu.graph: a capture records what is queued, a replay queues it again.

As strict as the real one where that shows in a test:

    waiting for the device while a capture is on                refused, in the real one's words
    a tensor whose memory moved after the capture               an error at the next replay (the real one uses the old memory)
    a tensor from before the capture that nobody holds any more an error at the next replay (the real one uses freed memory)

While a capture is on nothing runs, as on the real one, so its tensors hold nothing until the first replay.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch

from . import native


class NPUGraph:
    def __init__(self) -> None:
        self._calls: list[tuple[int, Any, object]] = []
        self._seen: dict[int, tuple[weakref.ref[Any], int, str]] = {}
        self._waits = Counter[str]()

    def capture_begin(self, *_: Any, **__: Any) -> None:
        assert native.capture is None, "a capture is on already"
        native.capture, self._waits = self, native.waits()

    def capture_end(self) -> None:
        native.capture = None
        if waited := native.waits() - self._waits:
            raise RuntimeError(f"operation not permitted when stream is capturing: {dict(waited)}")

    def record(self, kind: int, work: Any, name: object) -> None:
        self._calls.append((kind, work, name))

    def saw(self, tensors: list[Any]) -> None:
        """Arguments of a call that is recorded."""
        for tensor in tensors:
            if not tensor.made_in_a_capture and id(tensor) not in self._seen:
                what = f"{tuple(tensor.shape)} {tensor.dtype}"
                self._seen[id(tensor)] = weakref.ref(tensor), tensor.raw.data_ptr(), what

    def replay(self) -> None:
        for reference, address, what in self._seen.values():
            if (tensor := reference()) is None:
                raise RuntimeError(f"a captured graph uses a tensor that was freed since: {what}")
            if tensor.raw.data_ptr() != address:
                raise RuntimeError(f"a captured graph uses a tensor whose address has changed: {what}")
        native.replays += 1
        for call in self._calls:
            native.launch(*call)

    def reset(self) -> None:
        self._calls.clear()
        self._seen.clear()


class graph:  # noqa: N801 (torch's name)
    def __init__(self, npu_graph: NPUGraph, pool: Any = None, stream: Any = None) -> None:
        self._graph = npu_graph

    def __enter__(self) -> None:
        torch.npu.synchronize()  # type: ignore[attr-defined]
        self._graph.capture_begin()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self._graph.capture_end()
        except RuntimeError:
            if error is None:
                raise
