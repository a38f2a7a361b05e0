"""What is the bottleneck, and what would remove it, from synthetic figures."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from alexnet_fast.profile.copying import Copy
from alexnet_fast.profile.decoding import Decode, Scaling, Split
from alexnet_fast.profile.end_to_end import EndToEnd
from alexnet_fast.profile.prediction import Stages
from alexnet_fast.profile.queueing import Queue
from alexnet_fast.profile.repack import StorageOption
from alexnet_fast.profile.stats import Stat
from alexnet_fast.profile.stepping import Step
from alexnet_fast.profile.storage import Read
from alexnet_fast.profile.verdict import WORDS, find_bottleneck


def figure(value: float) -> Stat:
    return Stat(value, 0.95 * value, 1.05 * value, 5)


def stages(
    *,
    decode: tuple[float, ...] = (2500, 5000),
    threads: int = 2,
    step: float = 10_000,
    copy: float | None = 100_000,
    disk: float | None = 1e9,
    resident: float = 1.0,
    measured: float = 1000,
    cpu_share: float = 0.9,
    all_reduce_share: float | None = None,
    file_bytes: float = 130e9,
    idle: float = 0.1,
    wait: float = 0.4,
    device_wait: float = 0.4,
    busy: float = 0.9,
    queue_ms: tuple[float, float] | None = None,
    device_ms: float | None = None,
    batch: int = 64,
) -> Stages:
    """One rank on two cores (two ranks if gradients are summed), a file of 100 kB samples; rates in img/s."""
    step_ms = batch * 1e3 / step
    parts = [figure(share * step_ms) for share in (0.05, 0.3, 0.6, 0.05)]
    summing = None if all_reduce_share is None else figure(all_reduce_share * step_ms)
    return Stages(
        Read(
            figure(8e9),
            None if disk is None else figure(disk),
            resident,
            int(file_bytes),
            int(16e9),
            1e5,
        ),
        Decode(
            threads,
            [Scaling(k + 1, figure(rate)) for k, rate in enumerate(decode)],
            Split(figure(9), figure(300), figure(40), figure(349)),
        ),
        [
            StorageOption("as it is", "", figure(350), 1e5),
            StorageOption("JPEG, 256 px", "--max-resolution 256", figure(120), 2e4),
        ],
        None if copy is None else Copy(figure(copy * 150_528), figure(copy * 50_000), 150_528),
        Step(figure(step), figure(step_ms), *parts, summing, cpu_share, 50),
        EndToEnd(figure(measured), wait, idle, busy, 0.6, 0, resident, 100, 20.0, device_wait),
        1 if summing is None else 2,
        2,
        None
        if queue_ms is None
        else Queue(
            *map(figure, queue_ms),
            None if device_ms is None else figure(device_ms),
            figure(batch * 1e3 / queue_ms[1]),
        ),
    )


def test_on_a_device_the_lowest_ceiling_binds() -> None:
    assert (
        find_bottleneck(stages()).binding == "decode"
        and find_bottleneck(stages()).predicted_img_per_s == 5000
    )
    assert find_bottleneck(stages(step=900)).binding == "step"
    assert find_bottleneck(stages(copy=700)).binding == "copy"
    assert find_bottleneck(stages(resident=0.0, disk=5e7)).binding == "read"


def test_on_a_cpu_the_cores_seconds_of_decoding_and_step_add_up() -> None:
    verdict = find_bottleneck(stages(copy=None, step=5000, cpu_share=1.0))
    assert verdict.predicted_img_per_s == pytest.approx(2500) and "share the cores" in verdict.model
    assert find_bottleneck(stages(copy=None, step=80, cpu_share=1.0)).predicted_img_per_s == pytest.approx(
        80, rel=0.02
    )
    idle = find_bottleneck(stages(copy=None, step=500, cpu_share=0.4))
    assert idle.predicted_img_per_s == 500, "decoding may use what the step leaves idle"
    one_thread = find_bottleneck(stages(copy=None, step=5000, cpu_share=1.0, decode=(2500,), threads=1))
    assert one_thread.predicted_img_per_s == pytest.approx(2500), "one thread takes half of two cores"


def test_gradients_bind_where_they_take_most_of_the_step() -> None:
    assert find_bottleneck(stages(step=900, all_reduce_share=0.7)).binding == "all-reduce"
    assert find_bottleneck(stages(step=900, all_reduce_share=0.2)).binding == "step"


def test_from_the_second_epoch_on_a_file_that_memory_can_hold_comes_from_there() -> None:
    cold = find_bottleneck(stages(resident=0.0, disk=5e7, file_bytes=1e9))
    assert (cold.predicted_img_per_s, cold.later_epochs_img_per_s) == (500, 5000)
    too_large = find_bottleneck(stages(resident=0.0, disk=5e7))
    assert (too_large.predicted_img_per_s, too_large.later_epochs_img_per_s) == (500, 500)


def test_the_advice_for_a_decode_bound_accelerator_is_how_many_cores_or_which_storage_is_enough() -> None:
    assert find_bottleneck(stages(measured=4900)).text == (
        "Decoding is the limit: training makes 4,900 img/s, 98 % of the 5,000 img/s that the stages allow together. "
        "Alone they make, in img/s: decoding 5,000, the training step 10,000, reading samples 80,000 and copying to the device "
        "100,000. The device is idle 10 % of the time; the host waits 40 % for data and 40 % for the device, and queues steps 20 %; the decoding threads work 90 %. To reach the next limit, 10,000 img/s, it "
        "takes about 4 cores in place of 2 (2,500 img/s each). Packed and decoded again, as some of these samples were, it would make 10,000 "
        "as JPEG, 256 px (--max-resolution 256; 20 kB a sample)."
    )


def test_the_advice_for_shared_cores_is_how_much_of_them_each_stage_takes() -> None:
    assert find_bottleneck(
        stages(copy=None, decode=(1300, 2500), step=2400, cpu_share=1.0, measured=1200)
    ).text == (
        "The cores are the limit, mostly for the training step: training makes 1,200 img/s, 98 % of the 1,224 img/s that the stages "
        "allow together. Alone they make, in img/s: the training step 2,400, decoding 2,500 and reading samples 80,000. The step "
        "waits for data 40 % of its time. A step takes 26.7 ms: normalize 1.3, forward 8.0, backward 16.0 and optimizer 1.3. Decoding "
        "and the step share the cores: an image takes 0.83 ms of a core for the step and 0.80 for decoding. With 4 cores in place of "
        "2 training would make up to 2,449 img/s. Packed and decoded again, as some of these samples were, it would make 1,806 as JPEG, 256 px "
        "(--max-resolution 256; 20 kB a sample)."
    )


def test_the_advice_for_a_read_bound_run_is_how_fast_a_disk_it_needs_and_that_memory_cannot_hold_the_file() -> (
    None
):
    assert find_bottleneck(stages(resident=0.0, disk=5e7, measured=490)).text == (
        "Reading samples is the limit: training makes 490 img/s, 98 % of the 500 img/s that the stages allow together. Alone they "
        "make, in img/s: reading samples 500, decoding 5,000, the training step 10,000 and copying to the device 100,000. The device "
        "is idle 10 % of the time; the host waits 40 % for data and 40 % for the device, and queues steps 20 %; the decoding threads "
        "work 90 %. 100 % of the file comes from the disk, which gives 50 MB/s; "
        "5,000 img/s need 500 MB/s of samples of 100 kB. The file (130.0 GB) does not fit into the memory that is free (16.0 GB): put "
        "it on a faster disk, or pack it smaller. Packed and decoded again, as some of these samples were, it would make 2,500 as JPEG, 256 px "
        "(--max-resolution 256; 20 kB a sample)."
    )


def test_the_advice_for_a_run_bound_by_sums_is_to_sum_less_and_not_to_use_more_devices() -> None:
    assert find_bottleneck(stages(step=900, all_reduce_share=0.7, measured=880, wait=0.0)).text == (
        "Summing gradients over the ranks is the limit: training makes 880 img/s, 98 % of the 900 img/s that the stages allow "
        "together. Alone they make, in img/s: the training step 900, decoding 5,000, reading samples 80,000 and copying to the device "
        "100,000. The device is idle 10 % of the time; the host waits 0 % for data and 40 % for the device, and queues steps 60 %; the decoding threads work 90 %. A step takes 71.1 ms: normalize 3.6, forward "
        "21.3, backward 42.7 and optimizer 3.6; of it, 49.8 ms sum gradients over the ranks. More pipeline would not help: a larger "
        'batch on each rank, precision.reduce = "half" where it is "float32", or a faster link between ranks would.'
    )


def test_more_devices_are_no_advice_for_a_step_that_sums_for_a_third_of_its_time() -> None:
    text = find_bottleneck(stages(step=900, all_reduce_share=0.3)).text
    assert "21.3 ms sum gradients" in text and "or more of them" not in text
    assert "a faster device, a larger batch on each rank" in text
    little = find_bottleneck(stages(step=900, all_reduce_share=0.05)).text
    assert "sum gradients" not in little and "a faster device, or more of them, would" in little
    shared = find_bottleneck(stages(copy=None, decode=(1000, 2000), step=2500, all_reduce_share=0.3)).text
    assert "share the cores" in shared and "Summing gradients costs less with a larger batch" in shared


def test_twice_as_many_shared_cores_make_twice_as_much_until_reading_is_the_limit() -> None:
    text = find_bottleneck(stages(copy=None, decode=(1000, 2000), step=2500, cpu_share=1.0)).text
    assert "With 4 cores in place of 2 training would make up to 2,222" in text and "3 cores" not in text
    read_next = stages(copy=None, decode=(1000, 2000), step=2500, cpu_share=1.0, resident=0.0, disk=1.5e8)
    assert "would make up to 1,500" in find_bottleneck(read_next).text


def test_decoding_on_half_idle_cores_gets_advice_even_if_it_alone_is_faster_than_the_step() -> None:
    verdict = find_bottleneck(stages(copy=None, decode=(1600, 3000), step=2500, cpu_share=0.5))
    assert verdict.binding == "decode" and verdict.predicted_img_per_s == pytest.approx(1875)
    assert "With 4 cores in place of 2" in verdict.text and "2,500 as JPEG, 256 px" in verdict.text


def test_shared_cores_are_not_mentioned_if_the_step_alone_is_the_limit() -> None:
    text = find_bottleneck(stages(copy=None, step=500, cpu_share=0.4)).text
    assert "share" not in text and text.endswith("More pipeline would not help: faster cores would.")
    busy = find_bottleneck(stages(copy=None, step=10, cpu_share=0.98)).text
    assert busy.endswith("More pipeline would not help: faster cores, or more of them, would.")


def test_a_larger_packing_is_limited_by_the_speed_of_the_disk() -> None:
    raw = StorageOption("raw, 256 px", "--mode raw --max-resolution 256", figure(35), 2e5)
    found = stages(resident=0.0, disk=6e8)
    text = find_bottleneck(replace(found, modes=[found.modes[0], raw])).text
    assert find_bottleneck(found).binding == "decode" and "raw" not in text, (
        "3,000 img/s of 200 kB are all that it gives"
    )


def test_idle_cores_are_reported_before_more_cores_are_advised() -> None:
    text = find_bottleneck(stages(threads=1, measured=2400)).text
    assert (
        "data.threads = 1 leaves cores idle: with data.threads = 0, 2 a rank, decoding alone made 5,000"
        in text
    )
    assert "takes about 4 cores in place of 2" in text
    on_a_cpu = find_bottleneck(stages(copy=None, threads=1, step=5000)).text
    assert "training would make 2,632" in on_a_cpu and "With 4 cores in place of 2" in on_a_cpu
    three_of_four = stages(copy=None, threads=3, decode=(1000, 2000, 3000, 4000), step=5000)
    no_idle_core = find_bottleneck(replace(three_of_four, cores=4))
    assert no_idle_core.binding == "decode" and "leaves cores idle" not in no_idle_core.text


def test_what_is_reported_of_the_first_epoch_depends_on_where_the_file_is() -> None:
    fits = find_bottleneck(stages(resident=0.0, disk=5e7, file_bytes=1e9)).text
    assert "first epoch only: from the page cache training would make 5,000." in fits and "Packed" not in fits
    fast = {"decode": (60_000, 100_000), "step": 1e6, "copy": 1e6}
    in_memory = find_bottleneck(stages(**fast, file_bytes=1e9)).text
    assert "copying out of it gives 8,000 MB/s; 100,000 img/s need 10,000 MB/s" in in_memory
    assert "Memory is the limit" in in_memory and "disk" not in in_memory and "first epoch" not in in_memory
    unknown = find_bottleneck(stages(**fast, resident=0.5, disk=None)).text
    assert "could not be measured and is taken to be as fast as the page cache, 8,000 MB/s" in unknown


def test_a_device_that_idles_is_distinguished_from_a_host_that_waits_for_data() -> None:
    text = find_bottleneck(stages(copy=700, idle=0.51, wait=0.0)).text
    assert "The device is idle 51 % of the time; the host waits 0 % for data and 40 % for the device" in text
    on_a_cpu = find_bottleneck(stages(copy=None, idle=0.51)).text
    assert "The step waits for data 40 % of its time." in on_a_cpu and "idle" not in on_a_cpu


def test_what_the_stages_do_not_explain_is_reported_with_what_the_threads_did() -> None:
    text = find_bottleneck(stages(measured=2000)).text
    assert "less than the stages explain" in text
    assert "the decoding threads worked 90 % of the time and had a core for 60 % of that" in text
    assert "more than the stages explain" in find_bottleneck(stages(measured=9000)).text
    assert "explain" not in find_bottleneck(stages(measured=4900)).text


def test_jpegs_that_our_own_decoder_leaves_to_libjpeg_turbo_are_told_if_they_are_more_than_a_few() -> None:
    def text(share: float) -> str:
        figures = stages(step=900)
        return find_bottleneck(replace(figures, decode=replace(figures.decode, libjpeg_share=share))).text

    assert text(0.12).endswith(
        "12 % of the JPEGs are decoded by libjpeg-turbo, which is slower than our own decoder: they are progressive, of an unusual kind, "
        "or corrupt. Packed again with --mode reencode, all would be decoded by ours."
    )
    assert text(0.03) == text(0.0) and "libjpeg" not in text(0.0)


# One H100 with 16 cores, recipe 1p at batch 128: 4.4 ms to queue a step alone, 11.5 next to 16 decoding threads.
THREADS_OF_16 = tuple(1_400.0 * n for n in range(1, 16))
H100 = {
    "decode": (*THREADS_OF_16, 21_933.0),
    "threads": 16,
    "step": 24_327.0,
    "copy": 347_148.0,
    "measured": 11_183.0,
    "idle": 0.61,
    "wait": 0.01,
    "device_wait": 0.0,
    "busy": 0.51,
    "queue_ms": (4.4, 11.5),
    "device_ms": 4.45,
    "batch": 128,
}


def of_16_cores(found: Stages) -> Stages:
    read = replace(found.read, cached_bytes_per_s=figure(52_786 * found.read.sample_bytes))
    return replace(found, cores=16, read=read)


def test_the_host_that_queues_is_named_by_the_figures_of_an_h100_and_more_cores_are_no_advice() -> None:
    verdict = find_bottleneck(of_16_cores(stages(**H100)))
    assert verdict.binding == "queue" and verdict.share_of_ceiling == pytest.approx(1.0, abs=0.01)
    assert verdict.text == (
        "Queueing steps on the host is the limit: training makes 11,183 img/s, 100 % of the 11,130 img/s that the stages allow together. "
        "Alone they make, in img/s: queueing steps on the host 11,130, decoding 21,933, the training step 24,327, reading samples 52,786 "
        "and copying to the device 347,148. The device is idle 61 % of the time; the host waits 1 % for data and 0 % for the device, and queues steps 99 %; the decoding threads work 51 %. Queueing a step takes the host 4.40 ms alone and 11.50 "
        "ms next to the decoding threads, and the device computes it in 4.45 ms. More cores for decoding would not help: engine.graph = "
        "true (a step in one call), a larger batch on each rank or fewer decoding threads (data.threads = 9 alone make 12,600 "
        "img/s) would. The next limit is 21,933 img/s."
    )


def test_queueing_is_named_even_if_it_was_quicker_when_it_was_measured_alone() -> None:
    verdict = find_bottleneck(of_16_cores(stages(**H100 | {"queue_ms": (4.4, 5.0)})))
    assert verdict.binding == "queue"
    assert (
        "Decoding makes least alone, but is not the limit: the host waits for data only 1 % of its time."
        in verdict.text
    )
    assert "in place of" not in verdict.text and "Packed" not in verdict.text


def test_at_batch_1024_the_same_card_waits_for_decoding() -> None:
    """As measured: 21,835 img/s, 59 % of the time waiting for data; the host queues as long as at 128."""
    figures = H100 | {"decode": (*THREADS_OF_16, 25_134.0), "step": 45_188.0, "measured": 21_835.0}
    figures |= {"batch": 1024, "wait": 0.59, "idle": 0.52, "busy": 0.95, "device_ms": 22.0}
    verdict = find_bottleneck(of_16_cores(stages(**figures)))
    assert verdict.binding == "decode" and verdict.share_of_ceiling == pytest.approx(0.87, abs=0.01)
    assert "about 29 cores in place of 16" in verdict.text
    idle = find_bottleneck(of_16_cores(stages(**figures | {"busy": 0.6})))
    assert idle.binding == "ahead" and "a larger data.batches_ahead would" in idle.text
    assert (
        "but is not the limit: the decoding threads work only 60 % of theirs" in idle.text
        and "in place of" not in idle.text
    )


def test_a_step_that_waits_for_the_device_itself_is_no_queueing() -> None:
    """An optimizer that reads on the host whether there was an overflow: the host is in the step, the device is busy."""
    verdict = find_bottleneck(stages(step=900, queue_ms=(71.0, 72.0), idle=0.02, wait=0.0, device_wait=0.0))
    assert verdict.binding == "step" and "makes least alone, but is not the limit" in verdict.text


def random_figures(rng: random.Random) -> Stages:
    """Any figures, also such as contradict each other: every rate and share is drawn by itself."""

    def rate() -> float:
        return 10 ** rng.uniform(2, 5)

    def share() -> float:
        return rng.choice((0.0, 1.0, rng.random(), rng.random() ** 4, 1 - rng.random() ** 4))

    wait, on_cpu = share(), rng.random() < 0.25
    slowest = rate()
    return stages(
        decode=(slowest, slowest * rng.uniform(1, 2)),
        threads=rng.choice((1, 2)),
        step=rate(),
        copy=None if on_cpu else rate(),
        disk=rng.choice((None, 10 ** rng.uniform(7, 10))),
        resident=share(),
        measured=rate(),
        cpu_share=share(),
        all_reduce_share=rng.choice((None, share())),
        file_bytes=10 ** rng.uniform(8, 12),
        idle=share(),
        wait=wait,
        device_wait=0.0 if on_cpu else (1 - wait) * share(),
        busy=share(),
        queue_ms=None if on_cpu else (10 ** rng.uniform(-1, 2), 10 ** rng.uniform(-1, 2.5)),
        device_ms=rng.choice((None, 10 ** rng.uniform(-1, 2))),
    )


def test_the_verdict_never_contradicts_what_host_device_and_threads_did() -> None:
    rng, seen = random.Random(17), set()
    for _ in range(20_000):
        figures = random_figures(rng)
        verdict, whole = find_bottleneck(figures), figures.whole
        bound, text = verdict.binding, verdict.text
        seen.add((bound, figures.shares_cores))
        cores_are_the_limit = "share the cores" in verdict.model
        if bound in ("read", "decode") and not cores_are_the_limit:
            assert whole.data_wait_share >= 0.05 and whole.decode_busy_share >= 0.7, text
        if bound not in ("read", "decode", "ahead") and not cores_are_the_limit:
            assert whole.data_wait_share <= 0.5, text
        if bound == "ahead":
            assert whole.data_wait_share > 1 / 3 and whole.decode_busy_share < 0.7, text
        if bound == "queue":
            assert whole.idle_share > 0.1, text
            assert whole.queue_share >= max(whole.data_wait_share, whole.device_wait_share), text
        if bound in ("step", "all-reduce") and not figures.shares_cores:
            assert whole.idle_share <= 0.5, text
        if bound == "copy":
            assert whole.device_wait_share >= 0.05 and whole.idle_share > 0.05, text
        more_cores = re.search(r"about (\d+) cores in place of (\d+)", text)
        if more_cores:
            assert bound == "decode" and whole.decode_busy_share >= 0.7
            assert int(more_cores[1]) >= int(more_cores[2]), text
        if "Packed and decoded again" in text:
            assert cores_are_the_limit or bound in ("read", "decode"), text
        if "engine.graph" in text:
            assert bound == "queue", text
        assert text.startswith(
            f"{WORDS[bound].capitalize()} is the limit"
            if not cores_are_the_limit
            else "The cores are the limit, mostly for"
        ), text
    on_a_card = {bound for bound, shares in seen if not shares}
    assert on_a_card == set(WORDS), "every stage was named at least once"
