"""How ranks ended: the record that each one writes, and which rank is at fault."""

from __future__ import annotations

import json
import signal
import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch.distributed as dist

from ..devices.facts import COLLECTIVE_ERROR
from ..errors import StoppedBySignal, UserError


@dataclass(frozen=True)
class ExitRecord:
    """How a rank ended: "done", "user" (a UserError), "stopped" (by a signal, after a save if it saves), "lost" (a collective failed) or "error"."""

    rank: int
    kind: Literal["done", "user", "stopped", "lost", "error"]
    text: str
    at: float
    number: int = 0  # of the signal, if it was stopped by one

    def write(self, folder: Path) -> None:
        partial = folder / f"{self.rank}.partial"
        partial.write_text(json.dumps([self.rank, self.kind, self.text, self.at, self.number]))
        partial.rename(folder / f"{self.rank}.json")

    @classmethod
    def all_in(cls, folder: Path) -> list[ExitRecord]:
        """The records in the folder, earliest first."""
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
    """Whether `error` comes from a collective, so that another rank is most likely at fault."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and COLLECTIVE_ERROR.search(str(error)) is not None


def stop_of(records: list[ExitRecord]) -> StoppedBySignal | None:
    """How a signal stopped the run; None unless a rank was stopped by one and no rank failed."""
    stops = [record for record in records if record.kind == "stopped"]
    failed = any(record.kind in ("user", "error") for record in records)
    return StoppedBySignal(stops[0].number, stops[0].text) if stops and not failed else None


def own_error(records: list[ExitRecord]) -> str | None:
    """The text for stderr of the first error that is a rank's own (not a lost collective); raises it if it is a UserError."""
    own = next((record for record in records if record.kind in ("user", "error")), None)
    if own is not None and own.kind == "user":
        raise UserError(own.text)
    if own is None:
        return None
    return f"rank {own.rank} on {socket.gethostname()} failed, and the others were stopped. Its error:\n{own.text}"


def stack_file(folder: Path, rank: int) -> Path:
    """The file to which a rank writes the stacks of its threads on SIGUSR1."""
    return folder / f"{rank}.stack"


class EndedRank(NamedTuple):
    """A rank that its launcher did not end.  code: its exit code, or minus the signal that killed it."""

    rank: int
    pid: int
    code: int


def explain(failed: Sequence[EndedRank], silent: Sequence[int], folder: Path, nnodes: int) -> str:
    """Which rank is at fault and why, for stderr.

    failed: ranks of this host that failed, earliest first.  silent: ranks that did not end.  folder: holds the records of
    this host's ranks.  Raises UserError, StoppedBySignal or KeyboardInterrupt if the run ended by one of these.
    """
    records, host = ExitRecord.all_in(folder), socket.gethostname()
    if (stopped := stop_of(records)) is not None:
        raise stopped
    lost = {record.rank: record for record in records if record.kind == "lost"}
    rank, pid, code = next((ended for ended in failed if ended.rank not in lost), failed[0])
    if code == -signal.SIGINT:
        raise KeyboardInterrupt
    if code < 0 and code != -signal.SIGABRT:  # a collective often aborts because another rank ended
        hint = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        return (
            f"rank {rank} on {host} (process {pid}) was killed by {signal.Signals(-code).name}{hint}; "
            "the others were stopped"
        )
    if (error := own_error(records)) is not None:
        return error
    if rank not in lost:
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return f"rank {rank} on {host} (process {pid}) ended with {how}; the others were stopped"
    if not silent:
        others = "a rank on another host, whose output gives the cause" if nnodes > 1 else "the others"
        return f"rank {rank} on {host} lost {others}. Its error:\n{lost[rank].text}"
    names = f"rank{'s' if len(silent) > 1 else ''} {', '.join(map(str, silent))} on {host}"
    stacks = [(rank, stack_file(folder, rank)) for rank in silent]
    return f"{names} did not respond to rank {rank}: {lost[rank].text.splitlines()[-1]}" + "".join(
        f"\nStack of rank {rank}:\n{path.read_text().rstrip()}"
        for rank, path in stacks
        if path.exists() and path.stat().st_size
    )
