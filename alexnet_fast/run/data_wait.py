"""What a training run says of its own speed: its share of the profiled ceiling, and why it waits for data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from operator import add, sub
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..common import page_cache
from ..common.cpus import allowed_cores
from ..devices.device import Device, processor_name
from ..distributed.world import World
from ..engine.meter import Interval
from ..loader.loader import Loader
from ..loader.thread_stats import ThreadStats
from ..recipe import Recipe, differences

PROFILE = "throughput.json"
FORMAT = 1
SETS_THE_SPEED = ("data.", "model.name", "model.num_classes", "model.dropout", "precision.")
BUT_NOT = ("data.val", "data.on_error", "data.label_field")

MUCH = 0.1  # of the time; a run that waits longer for data says why
MIN_STEPS, MIN_S = 20, 5.0  # of training that are judged together; what is shorter may be chance
Cause = Literal["another rank", "idle threads", "threads without a core", "decoding"]
BUSY = ON_CORE = 0.7  # shares of a thread's time; with less it idles, or waits for the disk or a core
CACHED = 0.95  # of the file; with less it comes from the disk


def machine_of(device: Device, world: World) -> dict[str, Any]:
    """What a profile holds for: on another machine it is another."""
    return {
        "processor": processor_name(),
        "cores": (world.threads or allowed_cores()) * world.world_size,
        "device": device.name,
        "kind": device.kind,
        "ranks": world.world_size,
    }


def ceiling_img_per_s(recipe: Recipe, machine: dict[str, Any], file_bytes: int) -> float | None:
    """What this recipe could make on this machine by the profile in the run's folder; None where there is none that fits.

    file_bytes: of the training set now; a profile of another file under the same name tells nothing.
    """
    try:
        document = json.loads((recipe.folder / PROFILE).read_text(encoding="utf-8"))
        if document["format"] != FORMAT or document["machine"] != machine:
            return None
        if document["read"]["file_bytes"] != file_bytes:
            return None
        changed = differences(document["recipe"], recipe.model_dump(mode="json"))
        if any(name.startswith(SETS_THE_SPEED) and name not in BUT_NOT for name in changed):
            return None
        return float(document["verdict"]["later_epochs_img_per_s"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


class DecodeTotals(NamedTuple):
    """What all decoding threads of a loader have done."""

    busy_s: float = 0.0
    cpu_s: float = 0.0
    faults: int = 0

    @classmethod
    def of(cls, activities: list[ThreadStats]) -> DecodeTotals:
        return cls(
            sum(activity.busy_s for activity in activities),
            sum(activity.cpu_s for activity in activities),
            sum(activity.faults for activity in activities),
        )

    def since(self, before: DecodeTotals) -> DecodeTotals:
        return DecodeTotals(*map(sub, self, before))

    def and_also(self, more: DecodeTotals) -> DecodeTotals:
        return DecodeTotals(*map(add, self, more))

    def busy_share(self, seconds: float, threads: int) -> float:
        """Of so many threads' time, 0 to 1."""
        return min(1.0, self.busy_s / (seconds * threads)) if seconds else 0.0

    @property
    def core_share(self) -> float:
        """Of the time in which they were busy, how long they had a core."""
        return self.cpu_s / self.busy_s if self.busy_s else 1.0


class DataWaitMonitor:
    """Says that the step waits for data, and why; each reason once in a run.

    It judges training alone, window by window: the time of evaluations and checkpoints, and what threads decode during an
    evaluation, are in none.
    """

    def __init__(self, loader: Loader, world_size: int) -> None:
        self._loader, self._world_size = loader, world_size
        self._steady = Interval()  # as it stood at the last log line
        self._said: set[Cause] = set()
        self.go_on()
        self._begin_window()

    def go_on(self) -> None:
        """Training goes on; what the threads have done since the last log line was beside it."""
        self._before = DecodeTotals.of(self._loader.thread_stats), self._loader.wait_s

    def _begin_window(self) -> None:
        self._window, self._done, self._own_wait_s = Interval(), DecodeTotals(), 0.0

    def warning(self, steady: Interval) -> str | None:
        """To be asked at log lines, with all steps behind the warm-up; a sentence where the last ones waited too much."""
        (done, wait_s), before, window = self._before, self._steady, self._window
        self.go_on()
        self._steady = replace(steady)
        if before.steps == 0:  # some of what the threads did was for the warm-up
            return None
        waited_s = steady.waited_s - before.waited_s
        window.add(steady.steps - before.steps, 0, steady.seconds - before.seconds, waited_s)
        self._done = self._done.and_also(self._before[0].since(done))
        self._own_wait_s += self._before[1] - wait_s
        if window.steps < MIN_STEPS or window.seconds < MIN_S:
            return None
        late = self._why() if window.data_wait_share > MUCH else None
        self._begin_window()
        if late is None:
            return None
        return (
            f"warning: the step waits for data {100 * window.data_wait_share:.0f} % of its time: {late}; "
            "--profile in place of training tells what would lift it"
        )

    def _why(self) -> str | None:
        """The reason, if it was not said before."""
        done, seconds, loader = self._done, self._window.seconds, self._loader
        if self._world_size > 1 and self._own_wait_s <= MUCH / 2 * seconds:
            cause: Cause = "another rank"
        else:
            cause = cause_of(done, seconds, loader.threads)
        if cause in self._said:
            return None
        self._said.add(cause)
        return in_words(cause, done, seconds, loader.threads, lambda: is_cached(loader.beton.path))


def cause_of(done: DecodeTotals, seconds: float, threads: int) -> Cause:
    """Why data comes late, from what `threads` decoding threads did in `seconds`."""
    if done.busy_share(seconds, threads) < BUSY:
        return "idle threads"
    return "threads without a core" if done.core_share < ON_CORE else "decoding"


def in_words(
    cause: Cause, done: DecodeTotals, seconds: float, threads: int, file_is_cached: Callable[[], bool]
) -> str:
    """For a person; asks whether the file is cached only where the disk may be the reason."""
    busy, waiting = 100 * done.busy_share(seconds, threads), 100 * (1 - done.core_share)
    several = f"{threads} decoding threads are" if threads > 1 else "the one decoding thread is"
    if cause == "another rank":
        return "another rank's batches come late"
    if cause == "idle threads":
        return (
            f"{several} busy only {busy:.0f} % of the time, so batches are not made far enough ahead: "
            "raise data.batches_ahead"
        )
    if cause == "decoding":
        return f"{several} busy {busy:.0f} % of the time, so decoding is the limit"
    # Of a page that is on its way already, as the loader reads ahead, the kernel counts no fault.
    if done.faults > seconds or not file_is_cached():
        return f"{several} busy, but {waiting:.0f} % of that is waiting for the disk: the file is not all in the page cache"
    return f"{several} busy, but {waiting:.0f} % of that is waiting for a core: more is running than there are cores"


def is_cached(path: Path) -> bool:
    """Whether nearly all of a file lies in the page cache; takes up to a second."""
    try:
        return page_cache.resident_share(path) >= CACHED
    except OSError:  # it was moved meanwhile, and a run that trains goes on
        return True
