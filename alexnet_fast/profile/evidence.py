"""What the end-to-end run shows of the bottleneck: where the time of the host, the device and the decoding threads went.

A ceiling says what a stage makes alone.  Next to the others it may make less, so the stage with the lowest ceiling is named only if the
run agrees: a stage that delivers batches cannot be the limit of a host that never waits for one, nor the step of an idle device.
"""

from __future__ import annotations

from ..run.data_wait import BUSY
from .prediction import Prediction, Stage, Stages

SOME = 0.05  # of the time: a host that waits less does not wait
MOST = 0.5
HOST_WAITS = 0.3  # a host that waits longer, for data and the device, is not the limit
DEVICE_IDLE = 0.1  # a device that is idle for less is busy
DATA: tuple[Stage, ...] = ("read", "decode")


def bottleneck(stages: Stages, found: Prediction) -> Stage:
    """The stage with the lowest ceiling that the run does not contradict; if it contradicts all, what the host spends most of its time on.

    Where decoding and the step share the cores and are the limit together, it is the one of `found`.
    """
    if found.cores_s is not None:
        return found.binding
    ceilings = stages.ceilings()
    by_ceiling = sorted(ceilings, key=ceilings.__getitem__)
    for stage in by_ceiling:
        if contradiction(stages, stage) is None:
            return stages.all_reduce_if_it_binds(stage)
    return stages.all_reduce_if_it_binds(_where_the_host_is(stages, by_ceiling))


def contradiction(stages: Stages, stage: Stage) -> str | None:
    """Why this stage cannot have been the limit of the run, in words; None if it can."""
    whole = stages.whole
    waits, idle = whole.data_wait_share, whole.idle_share
    if stage in DATA:
        if waits < SOME:
            return f"the host waits for data only {percent(waits)} of its time"
        if whole.decode_busy_share < BUSY:
            return f"the decoding threads work only {percent(whole.decode_busy_share)} of theirs"
    elif waits > MOST:
        return f"the host waits for data {percent(waits)} of its time"
    if stages.shares_cores:
        return None
    if stage in ("step", "all-reduce"):
        held_up = idle > DEVICE_IDLE and whole.device_wait_share < SOME
        return f"the device is idle {percent(idle)} of the time" if held_up or idle > MOST else None
    if stage == "copy":
        if whole.device_wait_share < SOME:
            return f"the host waits for the device only {percent(whole.device_wait_share)} of its time"
        return None if idle > SOME else "the device is never idle"
    if stage == "queue":
        if 1 - whole.queue_share > HOST_WAITS:
            return f"the host queues only {percent(whole.queue_share)} of its time"
        return None if idle > DEVICE_IDLE else f"the device is idle only {percent(idle)} of the time"
    return None


def _where_the_host_is(stages: Stages, by_ceiling: list[Stage]) -> Stage:
    """The stage for which the host spends most of its time."""
    whole = stages.whole
    if whole.data_wait_share >= max(whole.device_wait_share, whole.queue_share) or (
        whole.data_wait_share > MOST
    ):
        idle_threads = whole.decode_busy_share < BUSY
        return "ahead" if idle_threads else next(stage for stage in by_ceiling if stage in DATA)
    if stages.shares_cores:
        return "step"
    if whole.device_wait_share >= whole.queue_share:
        return "step" if whole.idle_share <= MOST else "copy"
    return "queue" if whole.idle_share > DEVICE_IDLE and stages.queue is not None else "step"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"
