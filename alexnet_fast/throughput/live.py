"""What a training run says of its own speed: its share of the profiled ceiling, and why it waits for data."""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

from ..engine.device import Device, processor_name
from ..engine.meter import Span
from ..engine.ranks import World
from ..pipeline.activity import Activity
from ..pipeline.cores import allowed_cores
from ..pipeline.loader import Loader
from ..recipe import Recipe, differences

PROFILE = "throughput.json"
FORMAT = 1
SETS_THE_SPEED = ("data.", "model.num_classes", "model.dropout", "precision.")
BUT_NOT = ("data.val", "data.on_error")

MUCH = 0.1  # of the time; a run that waits longer for data says why
LEAST_STEPS = 20  # after those that are left out as warm-up


def machine_of(device: Device, world: World) -> dict[str, Any]:
    """What a profile holds for: on another machine it is another."""
    return {
        "processor": processor_name(),
        "cores": (world.threads or allowed_cores()) * world.world_size,
        "device": device.name,
        "kind": device.kind,
        "ranks": world.world_size,
    }


def ceiling_img_per_s(recipe: Recipe, machine: dict[str, Any]) -> float | None:
    """What this recipe could make on this machine by the profile in the run's folder; None where there is none that fits."""
    try:
        document = json.loads((recipe.folder / PROFILE).read_text(encoding="utf-8"))
        if document["format"] != FORMAT or document["machine"] != machine:
            return None
        changed = differences(document["recipe"], recipe.model_dump(mode="json"))
        if any(name.startswith(SETS_THE_SPEED) and name not in BUT_NOT for name in changed):
            return None
        return float(document["verdict"]["predicted_img_per_s"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


class Totals(NamedTuple):
    """What all decoding threads of a loader have done."""

    busy_s: float
    cpu_s: float
    faults: int

    @classmethod
    def of(cls, activities: list[Activity]) -> Totals:
        return cls(
            sum(activity.busy_s for activity in activities),
            sum(activity.cpu_s for activity in activities),
            sum(activity.faults for activity in activities),
        )

    def since(self, before: Totals) -> Totals:
        return Totals(self.busy_s - before.busy_s, self.cpu_s - before.cpu_s, self.faults - before.faults)


class DataWait:
    """Says, once in a run, that the step waits for data, and why."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._before: tuple[Totals, float, float] | None = None
        self._said = False

    def warning(self, steady: Span) -> str | None:
        """To be asked at log lines, with the steps behind the warm-up; a sentence the first time that they wait too much."""
        if self._said or steady.steps == 0:
            return None
        now = Totals.of(self._loader.activities), time.perf_counter(), self._loader.wait_s
        if self._before is None:
            self._before = now
        if steady.steps < LEAST_STEPS or steady.data_wait_share <= MUCH:
            return None
        self._said = True
        done, seconds = now[0].since(self._before[0]), now[1] - self._before[1]
        is_here = now[2] - self._before[2] > MUCH / 2 * seconds
        why = reason(done, seconds, self._loader.threads) if is_here else "another rank's batches come late"
        return (
            f"warning: the step waits for data {100 * steady.data_wait_share:.0f} % of its time: {why}; "
            "--profile in place of training tells what would lift it"
        )


def reason(done: Totals, seconds: float, threads: int) -> str:
    """Why data comes late, from what `threads` decoding threads did in the last `seconds`."""
    busy = done.busy_s / (seconds * threads) if seconds else 0.0
    on_core = done.cpu_s / done.busy_s if done.busy_s else 1.0
    several = f"{threads} decoding threads are" if threads > 1 else "the one decoding thread is"
    if busy < 0.7:
        return (
            f"{several} busy only {100 * busy:.0f} % of the time, so batches are not made far enough ahead: "
            "raise data.batches_ahead"
        )
    if on_core < 0.7 and done.faults > seconds:
        return (
            f"{several} busy, but {100 * (1 - on_core):.0f} % of that is waiting for the disk ({done.faults:,} page faults): "
            "the file is not in the page cache"
        )
    if on_core < 0.7:
        return f"{several} busy, but {100 * (1 - on_core):.0f} % of that is waiting for a core: more is running than there are cores"
    return f"{several} busy {100 * min(1.0, busy):.0f} % of the time, so decoding is the limit"
