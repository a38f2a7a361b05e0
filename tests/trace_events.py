"""A strict reader of the "Trace Event Format" of the Chromium project, for the parts that timelines use."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

KEYS = {"X": {"ph", "name", "pid", "tid", "ts", "dur"}, "M": {"ph", "name", "pid", "tid", "args"}}
OPTIONAL = {"X": {"cat", "cname", "args"}, "M": {"ts", "cat"}}
ARGUMENTS = {
    "process_name": ("name", str),
    "thread_name": ("name", str),
    "process_sort_index": ("sort_index", int),
    "thread_sort_index": ("sort_index", int),
}


class Slice(NamedTuple):
    """One X event; start and end in microseconds; depth 0 is the top row of its lane."""

    name: str
    begin_us: float
    end_us: float
    depth: int
    cname: str | None


class Lane(NamedTuple):
    """A thread of a process: the process's name and number, and the thread's name."""

    process: tuple[str, int]
    name: str


def read(path: Path) -> dict[Lane, list[Slice]]:
    """All lanes in the order in which viewers show them; raises AssertionError for what the format does not allow."""
    document = json.loads(path.read_text(encoding="utf-8"))
    assert set(document) == {"displayTimeUnit", "traceEvents"} and document["displayTimeUnit"] in ("ms", "ns")
    names: dict[tuple[str, int, int | None], Any] = {}
    slices: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for event in document["traceEvents"]:
        phase = event["ph"]
        assert KEYS[phase] <= set(event) <= KEYS[phase] | OPTIONAL[phase], event
        assert type(event["pid"]) is int and type(event["tid"]) is int and isinstance(event["name"], str)
        if phase == "X":
            slices[event["pid"], event["tid"]].append(event)
            continue
        argument, kind = ARGUMENTS[event["name"]]
        assert set(event["args"]) == {argument} and type(event["args"][argument]) is kind, event
        of = event["tid"] if event["name"].startswith("thread") else None
        assert (
            names.setdefault((event["name"], event["pid"], of), event["args"][argument])
            is event["args"][argument]
        )
    assert len({thread for _, thread in slices}) == len(slices), "a thread's number is used in two processes"
    assert not any(process == thread for process, thread in slices), "a viewer would call it the main thread"

    def place(key: tuple[int, int]) -> tuple[int, int]:
        process, thread = key
        return names["process_sort_index", process, None], names["thread_sort_index", process, thread]

    return {
        Lane((names["process_name", process, None], process), names["thread_name", process, thread]): _nested(
            slices[process, thread]
        )
        for process, thread in sorted(slices, key=place)
    }


def _nested(events: list[dict[str, Any]]) -> list[Slice]:
    """Slices of one thread; of two, one contains the other or ends before it starts."""
    found: list[Slice] = []
    around: list[float] = []  # the ends of the slices that are open
    for event in events:
        begin, end = event["ts"], event["ts"] + event["dur"]  # as viewers add them
        assert begin >= 0 and event["dur"] >= 0, event
        assert not found or begin >= found[-1].begin_us, "not in the order of their starts"
        while around and around[-1] <= begin:
            around.pop()
        assert not around or end <= around[-1], f"{event} overlaps the one before"
        found.append(Slice(event["name"], begin, end, len(around), event.get("cname")))
        around.append(end)
    return found
