"""End to end: the steps of a training run with everything running, and what each thread and stream did at the same time."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from ..common import page_cache
from ..devices.device_timer import STEP, DeviceTimer, Span, Stamp
from ..distributed.world import World
from ..engine.train_state import TrainState
from ..loader.device_prefetcher import DevicePrefetcher
from ..loader.loader import Loader
from ..run.data_wait import DecodeTotals
from .decoding import forever
from .recorder import Recorder
from .stats import WINDOWS, Stat, barrier, broadcast, mean_over_ranks, summed, windows

TRACED_STEPS = 100
TRIED_STEPS = 2  # to estimate how many fit into the time
MAX_STEPS = 10_000


@dataclass(frozen=True)
class EndToEnd:
    """Training with everything running.

    img_per_s: over all ranks.  Shares are 0 to 1, means over ranks.  data_wait_share: of the time, how long a rank waited
    for its batch; device_wait_share: how long it waited for the device; it queued steps for the rest.  idle_share: of the traced time,
    how long the device computed no step; gaps between the launches of a step count as idle.  decode_busy_share: of the decoding
    threads' time, how long they decoded; decode_cpu_share: of that, how long they had a processor (for the rest they waited for the
    disk or for a core).  faults: pages that decoding threads waited for.  resident_share: of the file, how much was in the page cache
    at the start.
    """

    img_per_s: Stat
    data_wait_share: float
    idle_share: float
    decode_busy_share: float
    decode_cpu_share: float
    faults: int
    resident_share: float
    steps: int
    seconds: float
    device_wait_share: float = 0.0

    @property
    def queue_share(self) -> float:
        """Of the time, how long the host waited for nothing: it queued steps, and on a CPU computed them."""
        return max(0.0, 1 - self.data_wait_share - self.device_wait_share)


def measure(
    loader: Loader,
    feed: DevicePrefetcher,
    state: TrainState,
    queued: int,
    seconds: float,
    world: World,
    device_s: float | None = None,
) -> tuple[EndToEnd, list[Span]]:
    """Train for about `seconds` and at least WINDOWS steps; also what this rank's threads and streams did in the first
    TRACED_STEPS of them, in seconds since these started; on one host, since those of the first rank started.

    queued: batches that are ready before the first step; they are used up before anything counts.  device_s: how long the device
    computes a step without gaps, if known.  Every rank has to call this.
    """
    resident_share = page_cache.resident_share_of(loader.beton.files)
    marks = DeviceTimer(feed.device)
    recorder = Recorder(loader, feed, state, marks)
    with closing(feed(recorder.of_waits(forever(loader)))) as batches:

        def run(steps: int) -> list[tuple[int, Stamp]]:
            """Run N steps: the images of each, and when it was done.  Only the prefetcher waits for the device."""
            done = []
            for images, labels in islice(batches, steps):
                state.train_step(images, labels)
                done.append((len(labels), marks.stamp()))
            return done

        def steps_in(seconds: float, fewest: int, most: int, made: int, took_s: float) -> int:
            """How many steps fit into `seconds`, the same on every rank, if each takes as long as the last `made` did."""
            return int(broadcast(min(max(seconds * made / max(took_s, 1e-6), fewest), most), world))

        barrier(world)
        end_s = time.perf_counter() + seconds
        run(queued)
        began_s = time.perf_counter()
        run(TRIED_STEPS)
        took_s = time.perf_counter() - began_s
        traced = steps_in((end_s - time.perf_counter()) / 2, WINDOWS, TRACED_STEPS, TRIED_STEPS, took_s)

        # The device works on what is queued: waiting for it here would leave it idle at the start.
        before, began_s = DecodeTotals.of(loader.thread_stats), time.perf_counter()
        waits_s = np.array([loader.wait_s, feed.wait_s])
        begin = marks.stamp()
        recorder.start(queued + TRIED_STEPS)
        done = run(traced)
        recorder.stop()
        took_s = time.perf_counter() - began_s
        done += run(steps_in(end_s - time.perf_counter(), 0, MAX_STEPS, traced, took_s))
        elapsed_s = time.perf_counter() - began_s
        busy = DecodeTotals.of(loader.thread_stats).since(before)
        waits_s = np.array([loader.wait_s, feed.wait_s]) - waits_s

    feed.device.synchronize()
    origin_s = marks.when(begin)
    at = [(0, origin_s)]
    for images, stamp in done:
        at.append((at[-1][0] + images, marks.when(stamp)))
    if world.local_world_size == world.world_size:  # hosts' clocks differ
        origin_s = -world.all_reduce_max(-origin_s)
    spans = recorder.spans(origin_s)
    shares = [
        *(waits_s / elapsed_s),
        idle_share(spans, device_s),
        busy.busy_s / (elapsed_s * len(loader.thread_stats)),
        busy.cpu_s / busy.busy_s if busy.busy_s else 0.0,
    ]
    means = mean_over_ranks(np.array(shares).clip(0, 1), world)
    data_wait, device_wait, idle, decode_busy, decode_cpu = means.tolist()
    whole = EndToEnd(
        img_per_s=summed(windows(at), world),
        data_wait_share=data_wait,
        idle_share=idle,
        decode_busy_share=decode_busy,
        decode_cpu_share=decode_cpu,
        faults=int(world.all_reduce_sum(torch.tensor(busy.faults))),
        resident_share=resident_share,
        steps=len(done),
        seconds=at[-1][1] - origin_s,
        device_wait_share=device_wait,
    )
    return whole, spans


def idle_share(spans: list[Span], device_s: float | None = None) -> float:
    """The share of the time from the first step to the last in which the device computed none.

    device_s: how long it computes one without gaps.  A span of a step's part ends when its last kernel does: a device that waits for
    the host within it is idle there too, so spans alone tell too little.
    """
    steps = [span for span in spans if span.lane == STEP]
    length_s = max(span.end_s for span in steps) - min(span.begin_s for span in steps)
    busy_s = sum(span.seconds for span in steps)
    if device_s is not None:
        first = min(steps, key=lambda span: span.begin_s).name
        busy_s = min(busy_s, device_s * sum(span.name == first for span in steps))
    return max(0.0, 1 - busy_s / length_s)
