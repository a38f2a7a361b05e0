"""Rounds -> medians, spreads and ratios, as the JSON report holds them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from bench.competitors import RATIOS
from bench.runner import Entry


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum of a list."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def speeds(entry: Entry) -> list[float]:
    """Images a second of wall time, of each round."""
    return [outcome["images"] / outcome["wall_s"] for outcome in entry.rounds]


def cpu_ms(entry: Entry) -> list[float]:
    """Milliseconds of CPU time an image, of each round."""
    return [1e3 * outcome["cpu_s"] / outcome["images"] for outcome in entry.rounds]


def measured(entry: Entry) -> dict[str, Any]:
    """Everything about one entry.

    ``busy`` is CPU time over wall time and cores: 1 means that the contestant had its cores to itself and used
    them; less means that it waited or that something else ran there. ``rest_cpu_s`` is what it used up between its
    rounds, while others were timed: it should be close to 0.
    """
    busy = [outcome["cpu_s"] / outcome["wall_s"] / entry.threads for outcome in entry.rounds]
    return {
        "name": entry.contestant.name,
        "label": entry.contestant.label,
        "input": entry.contestant.input,
        "side_px": entry.side_px,
        "threads": entry.threads,
        "img_per_s": spread(speeds(entry)),
        "cpu_ms_per_image": spread(cpu_ms(entry)),
        "busy": spread(busy),
        "peak_memory_bytes": entry.peak_memory_bytes,
        "rest_cpu_s": max(outcome["rest_cpu_s"] for outcome in entry.rounds),
        "versions": entry.versions,
        "rounds": entry.rounds,
    }


def ratios(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The ratios of ``competitors.RATIOS``, then of each contestant's threads over its one thread.

    ``ratio`` is that of the medians; ``min`` and ``max`` are of the ratios within a round, whose two runs
    are close in time. ``by_cpu_time`` is the slower's CPU time an image over the faster's: it does not count waiting,
    neither for other programs nor for the contestant's own threads.
    """
    by_key = {(e.contestant.name, e.side_px, e.threads): e for e in entries}
    found = []
    for side_px, threads in dict.fromkeys((e.side_px, e.threads) for e in entries):
        for faster, slower in RATIOS:
            a, b = by_key.get((faster, side_px, threads)), by_key.get((slower, side_px, threads))
            if a and b:
                found.append(_ratio(f"{faster} / {slower}", a, b))
    for entry in entries:
        one = by_key.get((entry.contestant.name, entry.side_px, 1))
        if entry.threads > 1 and one:
            found.append(_ratio(f"{entry.contestant.name}, {entry.threads} threads / 1", entry, one))
    return found


def _ratio(what: str, a: Entry, b: Entry) -> dict[str, Any]:
    within = [x / y for x, y in zip(speeds(a), speeds(b))]
    return {
        "what": what,
        "side_px": a.side_px,
        "threads": a.threads,
        "ratio": median(speeds(a)) / median(speeds(b)),
        "min": min(within),
        "max": max(within),
        "by_cpu_time": median(cpu_ms(b)) / median(cpu_ms(a)),
    }
