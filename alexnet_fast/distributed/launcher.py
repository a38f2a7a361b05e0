"""Start this host's ranks, watch them, and say in one message why a run ended early.

    launcher --+-- rank 0: the same command line; RANK=0, WORLD_SIZE=2, ... in its environment
               +-- rank 1: the same command line; RANK=1, WORLD_SIZE=2, ...

The ranks share a folder that lives as long as the run: there each leaves a record of how it ended, and those of one host
meet.  Several hosts meet at a store that the launcher of host 0 keeps.  Each rank has a session of its own, so that Ctrl-C
reaches the launcher alone.

The first signal is passed on to the ranks, which have `LaunchConfig.stop_s` to save and end.  From then on SIGTERM changes
nothing, and any other ends them at once, without a save: the rule of stop_signals.py.  Ranks whose launcher is killed have
SIGTERM of the system.  When a rank fails, the others have LOST_GRACE_S to say that they lost it, and are killed.
"""

from __future__ import annotations

import ctypes
import faulthandler
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from ..errors import StoppedBySignal, UserError, escaped, escaped_lines
from .exit_records import EndedRank, ExitRecord, explain, own_error, stack_file, stop_of
from .world import RANKS_FOLDER, is_joined, is_torchruns

LOST_GRACE_S = 4.0  # within which ranks that lost another say so
POLL_S = 0.02
GATHERING_S = 900  # how long hosts wait for each other at the start
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # that end a run
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class LaunchConfig:
    """`nproc` ranks on this host, which is number `node_rank` of `nnodes`; host 0 listens at `address`.

    stop_s: how long ranks that are told to stop may take to end.
    """

    nproc: int = 1
    nnodes: int = 1
    node_rank: int = 0
    address: str = ""
    stop_s: int = 60

    def __post_init__(self) -> None:
        """Raise UserError for hosts that could not meet."""
        if self.node_rank >= self.nnodes:
            raise UserError(
                f"distributed.host = {self.node_rank} is out of range: distributed.hosts = {self.nnodes} are numbered "
                f"0 to {self.nnodes - 1}"
            )
        if self.nnodes > 1 and not (re.fullmatch(r".+:\d{1,5}", self.address) and self.endpoint[1] < 2**16):
            raise UserError(
                f"distributed.address = {self.address!r} cannot be met at by {self.nnodes} hosts: give host 0's "
                "name or address and a free port, as 10.0.0.1:29500"
            )

    @property
    def world_size(self) -> int:
        return self.nproc * self.nnodes

    @property
    def endpoint(self) -> tuple[str, int]:
        """Name or address, and port, of `address`."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


def launch(
    config: LaunchConfig, entry: Callable[[], Any], command: Sequence[str] | None = None, shared: str = ""
) -> int:
    """Run `entry()` as each of this host's ranks; the exit code.

    One rank alone runs in this process.  Several are processes of their own, which run `command` and come to this call
    again: there, and in a rank that torchrun has started, it runs `entry`.

    Args:
        command: what each rank runs, by default the command line of this process.
        shared: a text that the ranks can read by `shared_text`.

    Raises what the user can fix (UserError) or what stopped the run (StoppedBySignal, which says whether it saved;
    KeyboardInterrupt where SIGINT ended it at once), from whichever rank it came.  A rank that failed otherwise is named on
    stderr with its error, and the exit code is 1.
    """
    if is_joined():
        return _run_as_rank(entry)
    if config.world_size == 1:
        entry()
        return 0
    store, counts = _meet(config)
    with tempfile.TemporaryDirectory(prefix="ranks-") as name, _caught_signals() as caught:
        folder, ranks = Path(name), list[_Rank]()
        (folder / "launcher").write_text(str(os.getpid()))
        (folder / "shared").write_text(shared, encoding="utf-8")
        try:
            for local_rank in range(config.nproc):
                place = _place(config, counts, local_rank) | {RANKS_FOLDER: name}
                ranks.append(_Rank(command or (sys.executable, *sys.orig_argv[1:]), place))
            told, failed = _watch(ranks, folder, caught, config.stop_s)
        finally:
            for rank in ranks:
                rank.process.kill()
                rank.process.wait()
            del store  # the hosts' meeting place goes with its last reference
        if told:
            return _end_of_stopped(ranks, folder, told[-1])
        if failed:
            silent = [rank.number for rank in ranks if rank.code is None]
            _complain(explain(failed, silent, folder, config.nnodes))
        return 1 if failed else 0


def shared_text() -> str | None:
    """What the launcher of this rank shares with all its ranks; None in other processes, torchrun's ranks among them."""
    folder = os.environ.get(RANKS_FOLDER)
    return None if folder is None else (Path(folder) / "shared").read_text(encoding="utf-8")


class _Rank:
    """A rank of this host: its process, and what its launcher has seen of it.

    has_begun: it has come to `launch`: it answers to signals, and may have something to save.
    code: its exit code; None while it runs, and where its launcher has killed it.
    """

    def __init__(self, command: Sequence[str], place: dict[str, str]) -> None:
        # What torch's C++ warns of a lost rank is said here once; the other is what torchrun gives its ranks.
        defaults = {"TORCH_CPP_LOG_LEVEL": "ERROR", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}
        self.number, self.has_begun = int(place["RANK"]), False
        self.code: int | None = None
        self.process = subprocess.Popen(
            command, env=defaults | os.environ | place, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def look(self, folder: Path) -> None:
        """See whether it has begun and ended."""
        self.code = self.process.poll()
        self.has_begun = self.has_begun or _begun_file(folder, self.number).exists()

    @property
    def has_failed(self) -> bool:
        """Whether it ended badly, or well without having been a rank, as a command that reads its script from stdin."""
        return self.code is not None and (self.code != 0 or not self.has_begun)


def _watch(
    ranks: Sequence[_Rank], folder: Path, caught: list[signal.Signals], stop_s: float
) -> tuple[list[signal.Signals], list[EndedRank]]:
    """Return when all ranks have ended or are to be killed: the signals that counted, and who failed, the first first."""
    told, failed, deadline = list[signal.Signals](), list[EndedRank](), math.inf
    while alive := [rank for rank in ranks if rank.code is None]:
        while caught:
            number, is_first = caught.pop(0), not told
            if number == signal.SIGTERM and not is_first:
                continue
            told.append(number)
            for rank in ranks:
                rank.look(folder)  # it may have begun before the signal and after the last look
            if is_first and all(rank.has_begun for rank in ranks):
                _send(alive, number)
                deadline = min(deadline, time.monotonic() + stop_s)
            else:  # before all have begun there is nothing to save
                deadline = 0.0
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
        for rank in ranks:
            rank.look(folder)
        had_failed = bool(failed)
        failed += [
            EndedRank(rank.number, rank.process.pid, rank.code or 0) for rank in alive if rank.has_failed
        ]
        if failed and not had_failed:
            deadline = min(deadline, time.monotonic() + LOST_GRACE_S)
            if any(record.kind == "lost" for record in ExitRecord.all_in(folder)):
                _send([rank for rank in alive if rank.has_begun], signal.SIGUSR1)  # for their stacks
    return told, failed


def _send(ranks: Sequence[_Rank], number: signal.Signals) -> None:
    for rank in ranks:
        rank.process.send_signal(number)  # unless it has ended


def _end_of_stopped(ranks: Sequence[_Rank], folder: Path, last: signal.Signals) -> int:
    """The exit code of a run that a signal has struck; raises what ended it."""
    records = ExitRecord.all_in(folder)
    if (stopped := stop_of(records)) is not None:
        raise stopped
    if (failure := own_error(records)) is not None:
        _complain(failure)
        return 1
    done = {record.rank for record in records if record.kind == "done"}
    if all(rank.number in done or (rank.code == 0 and rank.has_begun) for rank in ranks):
        return 0  # it came after the last step that looks for it
    if last == signal.SIGINT:
        raise KeyboardInterrupt
    raise StoppedBySignal(last, "without a save")


@contextmanager
def _caught_signals() -> Iterator[list[signal.Signals]]:
    """Signals that came while the body runs, but for those that are ignored, as nohup and a shell's & arrange."""
    caught = list[signal.Signals]()
    is_main = threading.current_thread() is threading.main_thread()  # nobody else may set handlers
    heeded = [number for number in SIGNALS if is_main and signal.getsignal(number) is not signal.SIG_IGN]
    before = {
        number: signal.signal(number, lambda number, _: caught.append(signal.Signals(number)))
        for number in heeded
    }
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _place(config: LaunchConfig, counts: Sequence[int], local_rank: int) -> dict[str, str]:
    """The variables by which a rank knows its place.  counts: how many ranks each host has."""
    place: dict[str, object] = {
        "RANK": sum(counts[: config.node_rank]) + local_rank,
        "LOCAL_RANK": local_rank,
        "WORLD_SIZE": sum(counts),
        "LOCAL_WORLD_SIZE": config.nproc,
    }
    if config.nnodes > 1:
        place["MASTER_ADDR"], place["MASTER_PORT"] = config.endpoint
    return {name: str(value) for name, value in place.items()}


def _meet(config: LaunchConfig) -> tuple[Any, list[int]]:
    """Wait for the other hosts: the store where their ranks will meet, and how many ranks each host has."""
    if config.nnodes == 1:
        return None, [config.nproc]
    us, where = f"host {config.node_rank} of {config.nnodes}", config.address
    print(f"{us} waits for the others at {where}", file=sys.stderr, flush=True)
    keeps_store, deadline, store = config.node_rank == 0, time.monotonic() + GATHERING_S, None
    names = [f"host {number}" for number in range(config.nnodes)]
    while True:  # a second at a time, since nobody can interrupt a wait of torch's
        try:
            if store is None:
                if not keeps_store:
                    socket.create_connection(config.endpoint, timeout=1).close()
                store = TCPStore(*config.endpoint, is_master=keeps_store, wait_for_workers=False)
                store.set(names[config.node_rank], str(config.nproc))
            store.wait(names, timedelta(seconds=1))
            return store, [int(store.get(name)) for name in names]
        except (OSError, dist.DistError) as error:
            cannot_listen = keeps_store and store is None
            if cannot_listen or time.monotonic() > deadline:
                why = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise UserError(
                    f"{us} did not meet the others at distributed.address = {where!r} ({why}): see that all hosts "
                    "were started, that host 0 can be reached there and that the port is free"
                ) from error
            time.sleep(0.2)


def _run_as_rank(entry: Callable[[], Any]) -> int:
    """A rank's whole life: what it runs, and how it ended, for our launcher in a record, for torchrun's user here."""
    rank, folder = int(os.environ["RANK"]), None
    if not is_torchruns():
        folder = Path(os.environ[RANKS_FOLDER])
        _end_with_launcher(folder)
        faulthandler.register(signal.SIGUSR1, os.open(stack_file(folder, rank), os.O_WRONLY | os.O_CREAT))
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # the launcher says the word
        _begun_file(folder, rank).touch()
    with suppress(OSError):
        Path("/proc/self/comm").write_text(f"rank {rank}")  # what ps and top call it
    try:
        entry()
    except (Exception, StoppedBySignal) as error:
        record = ExitRecord.of(rank, error)
        if folder is None:
            _tell(record, error)
        else:
            try:
                record.write(folder)
            except OSError:  # the temporary folder is full, or was cleared during a long run
                _complain(f"rank {rank}: {record.text}")
        with suppress(OSError):
            sys.stdout.flush()
        code = {"user": 2, "stopped": 128 + record.number}.get(record.kind, 1)
        os._exit(code)  # no clean-up that may wait for ranks that are gone
    if folder is not None:
        sys.stdout.flush()  # before it says that it is done: a signal may end it from then on
        with suppress(OSError):
            ExitRecord(rank, "done", "", time.time()).write(folder)
    return 0


def _end_with_launcher(folder: Path) -> None:
    """Have the system send SIGTERM to this rank when its launcher is gone, so that it saves and ends."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM))
    if os.getppid() != int((folder / "launcher").read_text()):  # it went before
        os._exit(1)


def _begun_file(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.begun"


def _tell(record: ExitRecord, error: BaseException) -> None:
    """Say how a rank of torchrun ended, once a host where all end the same, and have its closing table show an error."""
    if isinstance(error, Exception):
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        handler = get_error_handler()
        handler.initialize()
        handler.record_exception(error)
    if record.kind in ("user", "stopped"):
        if _speaks_for_host():
            text = escaped(str(error))
            print(f"error: {text}" if record.kind == "user" else text, file=sys.stderr, flush=True)
        return
    if record.kind == "lost":
        time.sleep(LOST_GRACE_S)  # torchrun's first to end is to be the one at fault
    _complain(f"rank {record.rank} on {socket.gethostname()} failed:\n{record.text}")


def _speaks_for_host() -> bool:
    """True in the first of torchrun's local ranks that asks; they share the folder of its error files."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        return True
    try:
        (Path(path).parent.parent / "told").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        pass
    return True


def _complain(text: str) -> None:
    """Print an error, which may hold names that others chose, and a traceback of several lines."""
    print(f"error: {escaped_lines(text)}", file=sys.stderr, flush=True)
