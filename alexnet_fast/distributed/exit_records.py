"""How ranks ended: the record that each leaves, and which of them is at fault."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from ..devices.facts import COLLECTIVE_ERROR
from ..errors import StoppedBySignal, UserError


@dataclass(frozen=True)
class ExitRecord:
    """How a rank ended: "done", "user" (a UserError), "stopped" (in order), "lost" (a collective failed) or "error"."""

    rank: int
    kind: Literal["done", "user", "stopped", "lost", "error"]
    text: str
    at: float
    number: int = 0  # the signal's, where it was stopped

    def write(self, folder: Path) -> None:
        partial = folder / f"{self.rank}.partial"
        partial.write_text(json.dumps([self.rank, self.kind, self.text, self.at, self.number]))
        partial.rename(folder / f"{self.rank}.json")

    @classmethod
    def all_in(cls, folder: Path) -> list[ExitRecord]:
        """Those that were left, the earliest first."""
        records = [cls(*json.loads(path.read_text())) for path in folder.glob("*.json")]
        return sorted(records, key=lambda record: record.at)

    @classmethod
    def of(cls, rank: int, error: BaseException) -> ExitRecord:
        if isinstance(error, UserError):
            return cls(rank, "user", str(error), time.time())
        if isinstance(error, StoppedBySignal):
            return cls(rank, "stopped", error.where, time.time(), error.number)
        text = "".join(traceback.format_exception(error)).rstrip()
        return cls(rank, "lost" if is_collective_error(error) else "error", text, time.time())


def is_collective_error(error: BaseException) -> bool:
    """Whether `error` is a collective's, so that most likely another rank is at fault."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and COLLECTIVE_ERROR.search(str(error)) is not None


def stop_of(records: list[ExitRecord]) -> StoppedBySignal | None:
    """How the run was stopped in order, if it was: no rank failed, and at least one says so."""
    stops = [record for record in records if record.kind == "stopped"]
    failed = any(record.kind in ("user", "error") for record in records)
    return StoppedBySignal(stops[0].number, stops[0].text) if stops and not failed else None


def own_error(records: list[ExitRecord]) -> str | None:
    """The first error that was a rank's own, for stderr; raises it where it is a UserError."""
    own = next((record for record in records if record.kind in ("user", "error")), None)
    if own is not None and own.kind == "user":
        raise UserError(own.text)
    if own is None:
        return None
    return f"rank {own.rank} on {socket.gethostname()} failed, and the others were stopped. Its error:\n{own.text}"


def pid_file(folder: Path, rank: int) -> Path:
    """Where a rank says which process it is."""
    return folder / f"{rank}.pid"


def stack_file(folder: Path, rank: int) -> Path:
    """Where a rank that is asked to writes what each of its threads is doing."""
    return folder / f"{rank}.stack"


def silent_ranks(folder: Path) -> list[int]:
    """Those that began and left no record."""
    began = {int(path.stem) for path in folder.glob("*.pid")}
    return sorted(began - {record.rank for record in ExitRecord.all_in(folder)})


def await_all(folder: Path, ranks: int, longest_s: float) -> None:
    """Return when so many of this host's ranks have left their record: the agent kills all when the first has ended."""
    deadline = time.monotonic() + longest_s
    while len(ExitRecord.all_in(folder)) < ranks and time.monotonic() < deadline:
        time.sleep(0.01)


def request_stacks(folder: Path) -> None:
    """Have this host's ranks that left no record write down what each of their threads is doing."""
    for rank in silent_ranks(folder):
        try:
            os.kill(int(pid_file(folder, rank).read_text()), signal.SIGUSR1)
        except (OSError, ValueError):
            continue


def explain(failures: dict[int, ProcessFailure], folder: Path, hosts: int) -> str:
    """Which rank is at fault and why, for stderr; raises the UserError, Stopped or KeyboardInterrupt that it was.

    failures: the first to end by the agent's account.  folder: where this host's ranks left their records.
    """
    rank, failure = min(failures.items(), key=lambda item: item[1].timestamp)
    records, host = ExitRecord.all_in(folder), socket.gethostname()
    code = int(failure.exitcode)
    if (stopped := stop_of(records)) is not None:
        raise stopped
    if code == -signal.SIGINT:
        raise KeyboardInterrupt
    if code < 0 and code != -signal.SIGABRT:  # an abort is often a collective's answer to another's end
        hint = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        return (
            f"rank {rank} on {host} (process {failure.pid}) was killed by {signal.Signals(-code).name}{hint}; "
            "the others were stopped"
        )
    if (error := own_error(records)) is not None:
        return error
    lost = next((record for record in records if record.kind == "lost"), None)
    if lost is None or rank not in {record.rank for record in records}:
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return f"rank {rank} on {host} (process {failure.pid}) ended with {how}; the others were stopped"
    silent = silent_ranks(folder)
    if not silent:
        others = "a rank on another host, which tells why" if hosts > 1 else "the others"
        return f"rank {lost.rank} on {host} lost {others}. Its error:\n{lost.text}"
    names = f"rank{'s' if len(silent) > 1 else ''} {', '.join(map(str, silent))} on {host}"
    stacks = [(rank, stack_file(folder, rank).read_text().rstrip()) for rank in silent]
    return f"{names} did not answer rank {lost.rank}: {lost.text.splitlines()[-1]}" + "".join(
        f"\nRank {rank} was here:\n{stack}" for rank, stack in stacks if stack
    )
