"""timeline.json in the Chrome trace format, read back by the rules of the format."""

from __future__ import annotations

from pathlib import Path

import pytest

import trace_events
from alexnet_fast.devices.device_timer import Span
from alexnet_fast.profile import chrome_trace

THIRD_S = 1 / 3e4  # not an integer of microseconds: spans that touch must touch after rounding too
STEPS, THREADS = 40, 12


def spans_of_a_rank(threads: int = THREADS, steps: int = STEPS) -> list[Span]:
    """Every lane of a rank with an accelerator, each without a gap, the last lane first."""
    found = []
    for step in range(steps):
        at = [(9 * step + k) * THIRD_S for k in range(10)]
        for thread in range(threads):
            found.append(Span(f"decode-{thread}", "decode", at[0], at[4], (0, step + 5)))
            found.append(Span(f"decode-{thread}", "decode", at[4], at[8], (0, step + 5)))
            found.append(Span(f"decode-{thread}", "wait", at[8], at[9]))
        found.append(Span("host", "wait for batch", at[0], at[1], (0, step + 2)))
        found.append(Span("copy", "copy", at[1], at[4], (0, step + 2)))
        for part, (begin, end) in {
            "normalize": (0, 1), "forward": (1, 3), "backward": (4, 8), "optimizer": (8, 9)
        }.items():  # fmt: skip
            found.append(Span("step", part, at[begin], at[end], (0, step)))
    return found[::-1]


@pytest.fixture
def written(tmp_path: Path) -> dict[trace_events.Lane, list[trace_events.Slice]]:
    chrome_trace.write(tmp_path / "timeline.json", [spans_of_a_rank(), spans_of_a_rank(threads=2)])
    return trace_events.read(tmp_path / "timeline.json")


Lanes = dict[trace_events.Lane, list[trace_events.Slice]]


def test_every_lane_of_every_rank_is_there_in_order(written: Lanes) -> None:
    above = ["training steps", "copy stream", "host: waits for batches"]
    of_ranks = {0: above + [f"decode-{k}" for k in range(THREADS)], 1: [*above, "decode-0", "decode-1"]}
    assert [(lane.process, lane.name) for lane in written] == [
        (("rank", rank), name) for rank, names in of_ranks.items() for name in names
    ]


def test_times_are_microseconds_and_spans_that_touch_do_not_overlap(written: Lanes) -> None:
    decoding = next(slices for lane, slices in written.items() if lane.name == "decode-3")
    expected = [round(4 * k * THIRD_S * 1e6) / 4 for n in range(STEPS) for k in (9 * n, 9 * n + 4, 9 * n + 8)]
    assert [each.begin_us for each in decoding] == expected
    assert [each.end_us for each in decoding[:-1]] == expected[1:]
    assert {each.depth for each in decoding} == {0}


def test_the_parts_of_a_step_are_under_it(written: Lanes) -> None:
    for slices in (slices for lane, slices in written.items() if lane.name == "training steps"):
        steps = [each for each in slices if each.depth == 0]
        assert [each.name for each in steps] == [f"step 0:{k}" for k in range(STEPS)]
        for number, step in enumerate(steps):
            parts = slices[5 * number + 1 : 5 * number + 5]
            assert [part.name for part in parts] == [
                "normalize",
                "forward",
                "backward",
                "optimizer",
            ]
            assert {part.depth for part in parts} == {1}
            assert (step.begin_us, step.end_us) == (parts[0].begin_us, parts[-1].end_us)


def test_waits_have_a_name_and_a_colour_of_their_own(written: Lanes) -> None:
    waits = {
        (lane.name.partition("-")[0], each.name.partition(" 0:")[0], each.cname)
        for lane, slices in written.items()
        for each in slices
        if each.cname is not None
    }
    assert waits == {("host: waits for batches", "wait for batch", "terrible"), ("decode", "wait", "grey")}


def test_a_rank_on_a_cpu_has_no_copy_stream_and_spans_need_no_batch(tmp_path: Path) -> None:
    spans = [span._replace(batch=None) for span in spans_of_a_rank() if span.lane != "copy"]
    chrome_trace.write(tmp_path / "timeline.json", [spans])
    lanes = {lane.name: slices for lane, slices in trace_events.read(tmp_path / "timeline.json").items()}
    assert "copy stream" not in lanes
    assert {each.name for each in lanes["training steps"]} == {"step", *chrome_trace.PARTS}


def test_the_reader_refuses_slices_that_overlap(tmp_path: Path) -> None:
    overlapping = [Span("decode-0", "decode", 0.0, 2.0), Span("decode-0", "decode", 1.0, 3.0)]
    chrome_trace.write(tmp_path / "timeline.json", [overlapping])
    with pytest.raises(AssertionError, match="overlaps"):
        trace_events.read(tmp_path / "timeline.json")
