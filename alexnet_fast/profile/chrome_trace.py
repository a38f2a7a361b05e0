"""When each thing ran, in the Chrome trace format: load it in ui.perfetto.dev, chrome://tracing or speedscope.app.

The format: "Trace Event Format" of the Chromium project; times are microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..common.files import write_text
from ..devices.device_timer import COPY, STEP, Span
from ..engine.train_state import WHOLE
from .recorder import HOST
from .stepping import PARTS

LANES = {STEP: "training steps", COPY: "copy stream", HOST: "host: waits for batches"}  # in their order
MAX_LANES = 1000  # of a rank
# Names that chrome://tracing knows; the other viewers choose colours themselves, by a slice's name without its digits.
TRAINING_WAITS, THREAD_WAITS = "terrible", "grey"

Event = dict[str, Any]


def write(path: Path, spans_of_ranks: Sequence[Sequence[Span]]) -> None:
    """One process a rank; in each, lanes for the steps with their parts below, the copy stream, the host's waits and every decoding thread.

    Spans of a lane do not overlap, since each lane is one stream or one thread.
    """
    events = [event for rank, spans in enumerate(spans_of_ranks) for event in _of_rank(rank, spans)]
    lines = ",\n".join(json.dumps(event, separators=(",", ":")) for event in events)
    write_text(path, f'{{"displayTimeUnit":"ms","traceEvents":[\n{lines}\n]}}\n')


def _of_rank(rank: int, spans: Sequence[Span]) -> Iterator[Event]:
    # Viewers write the number of a process or thread after its name: "rank 0".
    yield _metadata(rank, rank * MAX_LANES + 1, "process_name", name="rank")
    yield _metadata(rank, rank * MAX_LANES + 1, "process_sort_index", sort_index=rank)
    lanes = sorted({span.lane for span in spans}, key=_place)
    for thread, lane in enumerate(lanes, rank * MAX_LANES + 1):  # unique over all ranks
        yield _metadata(rank, thread, "thread_name", name=LANES.get(lane, lane))
        yield _metadata(rank, thread, "thread_sort_index", sort_index=thread)
        own = sorted((span for span in spans if span.lane == lane), key=lambda span: span.begin_s)
        if lane == STEP:
            for parts in _steps(own):
                yield _slice(rank, thread, _around(parts))
                yield from (_slice(rank, thread, part._replace(batch=None)) for part in parts)
        else:
            yield from (_slice(rank, thread, span) for span in own)


def _steps(parts: Sequence[Span]) -> Iterator[list[Span]]:
    """The parts of each step, step after step."""
    step: list[Span] = []
    for part in parts:
        if part.name in (PARTS[0], WHOLE) and step:
            yield step
            step = []
        step.append(part)
    yield step


def _around(parts: Sequence[Span]) -> Span:
    return Span(STEP, "step", parts[0].begin_s, parts[-1].end_s, parts[0].batch)


def _slice(process: int, thread: int, span: Span) -> Event:
    # Viewers add these as floats.  Quarters add up exactly: spans that touch still touch, and a step ends with its last part.
    begin_us, end_us = round(span.begin_s * 4e6) / 4, round(span.end_s * 4e6) / 4
    is_wait = span.name.startswith("wait")
    return {
        "ph": "X",
        "name": span.name if span.batch is None else "{} {}:{}".format(span.name, *span.batch),
        "pid": process,
        "tid": thread,
        "ts": begin_us,
        "dur": end_us - begin_us,
        **({"cname": TRAINING_WAITS if span.lane == HOST else THREAD_WAITS} if is_wait else {}),
    }


def _metadata(process: int, thread: int, what: str, **args: Any) -> Event:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": args}


def _place(lane: str) -> tuple[int, int, str]:
    """The step first, the decoding threads by their numbers last."""
    order = list(LANES)
    return (order.index(lane) if lane in order else len(order), len(lane), lane)
