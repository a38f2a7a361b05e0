"""The parent's end: one process for each contestant, and the rounds in which they take turns."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alexnet_fast.errors import UserError
from bench.competitors import Contestant
from bench.peer import SIZE_PX, Task
from bench.proc import memory_bytes

TOOLS = Path(__file__).resolve().parents[1]
ROOT = TOOLS.parent
SAMPLE_S = 0.02  # between two looks at a contestant's memory

# Every library's own pool, so that T cores never meet more than T threads of a kind.
POOLS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)


class PeerFailed(UserError):
    """A contestant that ended, or did not deliver what all must deliver."""


def child_environment(threads: int) -> dict[str, str]:
    """The environment of a contestant's process: our sources on its path, its pools as large as its share of cores."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **dict.fromkeys(POOLS, str(threads))}


@dataclass
class Entry:
    """One contestant at one side and thread count, and what was measured of it."""

    contestant: Contestant
    side_px: int
    threads: int
    versions: dict[str, str] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    peak_memory_bytes: int = 0

    @property
    def name(self) -> str:
        return f"{self.contestant.name} at {self.side_px} px on {self.threads} {'core' if self.threads == 1 else 'cores'}"


class Process:
    """The process of one contestant."""

    def __init__(self, entry: Entry, task: Task, python: str, log: Path) -> None:
        self.entry, self.log = entry, log
        with open(log, "w") as stderr:
            self._child = subprocess.Popen(
                [python, "-m", "bench.child", json.dumps(asdict(task))],
                cwd=TOOLS,
                env=child_environment(task.threads),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def start(self) -> str | None:
        """Wait until it has opened its input. -> why its peer is absent, or None

        Raises:
            PeerFailed: it ended instead.
        """
        first = self._reply()
        self.entry.versions = first.get("versions", {})
        return first.get("absent")

    def round(self, first_epoch: int, epochs: int, watch_memory: bool = False) -> dict[str, Any]:
        """Let it run a round and wait for the outcome.

        Args:
            watch_memory: sample the memory during the round and keep the peak; that costs a little, so it has its own round.

        Raises:
            PeerFailed: naming the contestant and its log.
        """
        stdin, stdout = self._child.stdin, self._child.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps({"first_epoch": first_epoch, "epochs": epochs}) + "\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None
        ended = not watch_memory
        while not ended:
            self.entry.peak_memory_bytes = max(self.entry.peak_memory_bytes, memory_bytes(self._child.pid))
            ended = bool(select.select([stdout], [], [], SAMPLE_S)[0])
        return self._reply()

    def close(self) -> None:
        """End the process: it stops at the end of its input."""
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                stream.close()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _reply(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise self._failed()
        return dict(json.loads(line))

    def _failed(self) -> PeerFailed:
        self._child.wait()
        lines = self.log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
        return PeerFailed(
            f"{self.entry.name} failed: {lines[-1]} (exit code {self._child.returncode}); its log is {self.log}"
        )


def run_rounds(
    processes: list[Process],
    *,
    images: int,
    labels_sum: int,
    rounds: int,
    epochs: int,
    done: Callable[[str], None],
) -> None:
    """One warm-up round that is not counted, ``rounds`` timed ones, and one that is watched for memory; in each all run in turn.

    Args:
        images: in every epoch.
        labels_sum: of every epoch's labels.
        done: called with a description of what has just been done.

    Raises:
        PeerFailed: a process ended, or delivered the wrong images.
    """
    for number in range(rounds + 2):
        warm_up, last = number == 0, number == rounds + 1
        for process in processes:
            outcome = process.round(number * epochs, epochs, watch_memory=last)
            check(process.entry, outcome, images * epochs, labels_sum * epochs)
            if not warm_up and not last:
                process.entry.rounds.append(outcome)
            done(
                f"{'warm-up' if warm_up else 'memory' if last else f'round {number} of {rounds}'}: {process.entry.name}"
            )


def check(entry: Entry, outcome: dict[str, Any], images: int, labels_sum: int) -> None:
    """Check that a round delivered every image, as often as expected, in the shape that all deliver."""
    delivered = (outcome["images"], outcome["labels"])
    if delivered != (images, labels_sum):
        raise PeerFailed(
            f"{entry.name} delivered {delivered[0]} images whose labels sum to {delivered[1]}, "
            f"expected {images} and {labels_sum}; its figures would not compare"
        )
    shape = sorted(outcome["shape"][1:])
    if shape and (shape != [3, SIZE_PX, SIZE_PX] or outcome["dtype"] != "uint8"):
        raise PeerFailed(
            f"{entry.name} delivered {outcome['dtype']} {outcome['shape']}, expected uint8 of 3 x {SIZE_PX} x {SIZE_PX}"
        )
