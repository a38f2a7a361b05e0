"""What binds, and what would lift it, from figures made up for the purpose."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alexnet_fast.throughput.copy import Copy
from alexnet_fast.throughput.decode import Decode, Scaling, Split
from alexnet_fast.throughput.modes import Mode
from alexnet_fast.throughput.rate import Figure
from alexnet_fast.throughput.read import Read
from alexnet_fast.throughput.step import Step
from alexnet_fast.throughput.verdict import Stages, judge
from alexnet_fast.throughput.whole import Whole


def figure(value: float) -> Figure:
    return Figure(value, 0.95 * value, 1.05 * value, 5)


def stages(
    *,
    decode: tuple[float, ...] = (2500, 5000),
    threads: int = 2,
    step: float = 10_000,
    copy: float | None = 100_000,
    disk: float = 1e9,
    resident: float = 1.0,
    measured: float = 1000,
    cpu_share: float = 0.9,
    all_reduce_share: float | None = None,
) -> Stages:
    """One rank on two cores (two where gradients are summed), a file of 100 kB samples; rates in img/s."""
    step_ms = 64e3 / step
    parts = [figure(share * step_ms) for share in (0.05, 0.3, 0.6, 0.05)]
    summing = None if all_reduce_share is None else figure(all_reduce_share * step_ms)
    return Stages(
        Read(figure(8e9), figure(disk), resident, int(130e9), int(16e9), 1e5),
        Decode(
            threads,
            [Scaling(k + 1, figure(rate)) for k, rate in enumerate(decode)],
            Split(figure(9), figure(300), figure(40), figure(349)),
        ),
        [
            Mode("as it is", "", figure(350), 1e5),
            Mode("JPEG, 256 px", "--max-resolution 256", figure(120), 2e4),
        ],
        None if copy is None else Copy(figure(copy * 150_528), figure(copy * 50_000), 150_528),
        Step(figure(step), figure(step_ms), *parts, summing, cpu_share, 50),
        Whole(figure(measured), 0.4, 0.1, 0.9, 0.99, 0, resident, 100, 20.0),
        1 if summing is None else 2,
        2,
    )


def test_on_a_device_the_lowest_ceiling_binds() -> None:
    assert judge(stages()).binding == "decode" and judge(stages()).predicted_img_per_s == 5000
    assert judge(stages(step=900)).binding == "step"
    assert judge(stages(copy=700)).binding == "copy"
    assert judge(stages(resident=0.0, disk=5e7)).binding == "read"


def test_on_a_cpu_the_cores_seconds_of_decoding_and_step_add_up() -> None:
    verdict = judge(stages(copy=None, step=5000, cpu_share=1.0))
    assert verdict.predicted_img_per_s == pytest.approx(2500) and "share the cores" in verdict.model
    assert judge(stages(copy=None, step=80, cpu_share=1.0)).predicted_img_per_s == pytest.approx(80, rel=0.02)
    idle = judge(stages(copy=None, step=500, cpu_share=0.4))
    assert idle.predicted_img_per_s == 500, "what the step leaves idle, decoding may have"
    one_thread = judge(stages(copy=None, step=5000, cpu_share=1.0, decode=(2500,), threads=1))
    assert one_thread.predicted_img_per_s == pytest.approx(2500), "one thread takes half of two cores"


def test_gradients_bind_where_they_take_most_of_the_step() -> None:
    assert judge(stages(step=900, all_reduce_share=0.7)).binding == "all-reduce"
    assert judge(stages(step=900, all_reduce_share=0.2)).binding == "step"


def test_the_text_tells_the_numbers_and_how_many_cores_or_which_storage_would_do() -> None:
    text = judge(stages(measured=4900)).text
    assert text.startswith("Decoding is the limit: training makes 4,900 img/s, 98 % of the 5,000")
    assert "waits for data 40 %" in text
    assert "10,000 img/s, it takes about 4 cores in place of 2 (2,500 img/s each)" in text
    assert "--max-resolution 256" in text and "14,583" in text
    assert "idle" not in text and "less than the stages explain" not in text


def test_threads_that_are_held_back_are_told_before_cores_are_asked_for() -> None:
    text = judge(stages(threads=1, measured=2400)).text
    assert "data.threads = 1 leaves cores idle: 2 threads a rank made 5,000" in text


def test_a_slow_disk_is_told_with_what_is_wanted_of_it_and_the_memory_that_would_do() -> None:
    text = judge(stages(resident=0.0, disk=5e7)).text
    assert "gives 50 MB/s" in text and "500 MB/s of samples of 100 kB" in text
    assert "does not fit into the memory" in text and "a sample takes 20 kB" in text
    small = stages(resident=0.0, disk=5e7)
    small = replace(small, read=replace(small.read, file_bytes=int(1e9)))
    assert "first epoch only" in judge(small).text


def test_what_the_stages_do_not_explain_is_said() -> None:
    assert "less than the stages explain" in judge(stages(measured=2000)).text
    assert "more than the stages explain" in judge(stages(measured=9000)).text
