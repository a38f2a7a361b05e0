"""Training as a whole: how long the host queues a step, alone and next to decoding, and end to end against the ceilings."""

from __future__ import annotations

from collections.abc import Iterator

from ...common.text import plural
from ...devices.device_timer import DeviceTimer
from ...profile import decoding, end_to_end, queueing, stepping
from .bench import Bench
from .fast_paths import switch_on
from .row import Row, judged, skipped

REACHED = 0.95  # of the lowest ceiling


def training(bench: Bench) -> Iterator[Row]:
    """Decoding alone, queueing, and all together, with one model and one set of decoding threads."""
    name, expected = (
        "host: queueing a step",
        "shorter than the device computes it, also next to the decoding threads",
    )
    bench.say("opening a set of synthetic images")
    device, world = bench.device, bench.world
    with bench.loader() as loader:
        bench.say("decoding alone")
        decode = decoding.alone(loader, bench.seconds * 0.15, world)
        yield judged(
            "decoding alone",
            decode.median > 0.9 * bench.found.get("step", 0.0),
            "faster than the step",
            f"{decode.median:,.0f} img/s on {plural(loader.threads, 'thread')}",
            "decoding is slower than the step of this device: more cores, or smaller images",
            img_per_s=decode.median,
        )
        state = bench.state()
        switch_on(bench, state)
        feed = bench.feed(state)
        stepping.prepare(state)
        batch = bench.batch(loader.batch_size)
        stepping.mark(state, feed, DeviceTimer(device))
        bench.say("training on data that is on the device")
        step = stepping.measure(state, feed, batch, bench.cores, bench.seconds * 0.15, world)
        stepping.mark(state, feed, None)
        ceilings = {"decoding": decode.median, "the step": step.img_per_s.median}
        if "copy" in bench.found:
            ceilings["the link"] = bench.found["copy"]
        device_s = None
        if device.is_host:
            yield skipped(name, expected, "a CPU computes a step when it is called")
        else:
            bench.say("queueing steps next to decoding")
            queue = queueing.measure(state, feed, batch, decoding.forever(loader), bench.seconds * 0.3, world)
            device_s = None if queue.device_ms is None else queue.device_ms.median / 1e3
            yield _queueing(name, expected, queue)

        bench.say("training with everything running")
        queued = loader.options.batches_ahead + (0 if device.is_host else feed.depth)
        whole, _ = end_to_end.measure(loader, feed, state, queued, bench.seconds * 0.4, world, device_s)
        yield _end_to_end(bench, whole, ceilings, step)


def _queueing(name: str, expected: str, queue: queueing.Queue) -> Row:
    alone, beside = queue.alone_ms.median, queue.beside_ms.median
    device_ms = None if queue.device_ms is None else queue.device_ms.median
    computes = (
        "a step waits for the device" if device_ms is None else f"the device computes it in {device_ms:,.2f}"
    )
    return judged(
        name,
        device_ms is not None and beside < device_ms,
        expected,
        f"{alone:,.2f} ms alone, {beside:,.2f} next to the decoding threads; {computes}",
        "the host is the limit of training: engine.graph = true (a step in one call), a larger batch, or fewer decoding threads",
        alone_ms=alone,
        beside_ms=beside,
        device_ms=device_ms,
        img_per_s=queue.img_per_s.median,
    )


def _end_to_end(
    bench: Bench, whole: end_to_end.EndToEnd, ceilings: dict[str, float], step: stepping.Step
) -> Row:
    lowest = min(ceilings, key=ceilings.__getitem__)
    limit, how = ceilings[lowest], f"the lowest ceiling, {lowest}"
    if bench.device.is_host:  # the step and decoding share the cores
        limit = 1 / (step.cpu_share / ceilings["the step"] + 1 / ceilings["decoding"])
        limit, how = min(limit, ceilings[lowest]), "what decoding and the step make of the same cores"
    rate = whole.img_per_s.median
    seen = f"{rate:,.0f} img/s, {100 * rate / limit:.0f} % of {limit:,.0f}; the host waits {_percent(whole.data_wait_share)} for data"
    if not bench.device.is_host:
        seen += f" and {_percent(whole.device_wait_share)} for the device, which is idle {_percent(whole.idle_share)}"
    return judged(
        "end to end",
        rate >= REACHED * limit,
        f"{100 * REACHED:.0f} % or more of {how}",
        f"{seen}; decoding threads busy {_percent(whole.decode_busy_share)}",
        "python -m alexnet_fast.train RECIPE --profile says which stage is the limit, and what would remove it",
        img_per_s=rate,
        ceiling_img_per_s=limit,
        data_wait_share=whole.data_wait_share,
        device_wait_share=whole.device_wait_share,
        idle_share=whole.idle_share,
        decode_busy_share=whole.decode_busy_share,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
