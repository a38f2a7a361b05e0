"""Starts this host's ranks, watches them, and reports in one message why a run ended early.

    launcher --+-- rank 0: the same command line; RANK=0, WORLD_SIZE=2, ... in its environment
               +-- rank 1: the same command line; RANK=1, WORLD_SIZE=2, ...

The ranks share a temporary folder.  Each writes a record there of how it ended, and on a single host they rendezvous through a
file in it.  Several hosts rendezvous at a store that the launcher of host 0 runs.  Each rank has its own session, so that
Ctrl-C reaches the launcher alone.

The launcher forwards the first signal to the ranks, which have `LaunchConfig.stop_s` to save and end.  After that, SIGTERM
changes nothing, and any other signal ends the ranks at once, without a save: the rule of stop_signals.py.  If the launcher is
killed, the kernel sends SIGTERM to its ranks.  When a rank fails, the others have LOST_GRACE_S to report that they lost it;
then they are killed.
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

LOST_GRACE_S = 4.0  # time for ranks that lost another rank to report it
POLL_S = 0.02
GATHERING_S = 900  # how long hosts wait for each other at the start
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # that end a run
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class LaunchConfig:
    """`nproc` ranks on this host, which is number `node_rank` of `nnodes`; host 0 listens at `address`.

    stop_s: seconds that ranks may take to end after a signal.
    """

    nproc: int = 1
    nnodes: int = 1
    node_rank: int = 0
    address: str = ""
    stop_s: int = 60

    def __post_init__(self) -> None:
        """Raises UserError for a host number out of range or an unusable address."""
        if self.node_rank >= self.nnodes:
            raise UserError(
                f"distributed.host = {self.node_rank} is out of range: distributed.hosts = {self.nnodes} are numbered "
                f"0 to {self.nnodes - 1}"
            )
        if self.nnodes > 1 and not (re.fullmatch(r".+:\d{1,5}", self.address) and self.endpoint[1] < 2**16):
            raise UserError(
                f"distributed.address = {self.address!r} is not an address for {self.nnodes} hosts: give host 0's "
                "name or IP address and a free port, as 10.0.0.1:29500"
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
    """Run `entry()` in each of this host's ranks; returns the exit code.

    A single rank runs in this process.  Several ranks are child processes, which run `command` and reach this call again:
    there, as in a rank that torchrun started, it runs `entry`.

    Args:
        command: what each rank runs, by default the command line of this process.
        shared: a text that the ranks can read with `shared_text`.

    Raises, whichever rank it came from:
        UserError: the user can fix it.
        StoppedBySignal: a signal stopped the run; says whether it saved.
        KeyboardInterrupt: SIGINT ended it at once.

    For any other failure it prints the rank and its error on stderr, and returns 1.
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
            received, failed = _watch(ranks, folder, caught, config.stop_s)
        finally:
            for rank in ranks:
                rank.process.kill()
                rank.process.wait()
            del store  # the last reference: this closes the store
        if received:
            return _end_of_stopped(ranks, folder, received[-1])
        if failed:
            silent = [rank.number for rank in ranks if rank.code is None]
            _print_error(explain(failed, silent, folder, config.nnodes))
        return 1 if failed else 0


def shared_text() -> str | None:
    """The text that this rank's launcher shares with all its ranks; None in other processes, such as torchrun's ranks."""
    folder = os.environ.get(RANKS_FOLDER)
    return None if folder is None else (Path(folder) / "shared").read_text(encoding="utf-8")


class _Rank:
    """A rank of this host: its process, and its state when the launcher last looked.

    has_started: it has reached `launch`: it handles signals, and may have something to save.
    code: its exit code; None while it runs, and if its launcher killed it.
    """

    def __init__(self, command: Sequence[str], place: dict[str, str]) -> None:
        # The launcher itself reports a lost rank, so torch's C++ warnings of it are off; the second is set by torchrun too.
        defaults = {"TORCH_CPP_LOG_LEVEL": "ERROR", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}
        self.number, self.has_started = int(place["RANK"]), False
        self.code: int | None = None
        self.process = subprocess.Popen(
            command, env=defaults | os.environ | place, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def look(self, folder: Path) -> None:
        """Update `has_started` and `code`."""
        self.code = self.process.poll()
        self.has_started = self.has_started or _start_marker(folder, self.number).exists()

    @property
    def has_failed(self) -> bool:
        """Whether it exited with an error, or with 0 but never ran as a rank, as a command that reads its script from stdin."""
        return self.code is not None and (self.code != 0 or not self.has_started)


def _watch(
    ranks: Sequence[_Rank], folder: Path, caught: list[signal.Signals], stop_s: float
) -> tuple[list[signal.Signals], list[EndedRank]]:
    """Wait until all ranks have ended or must be killed; returns the signals acted on, and the ranks that failed, earliest first."""
    received, failed, deadline = list[signal.Signals](), list[EndedRank](), math.inf
    while alive := [rank for rank in ranks if rank.code is None]:
        while caught:
            number, is_first = caught.pop(0), not received
            if number == signal.SIGTERM and not is_first:
                continue
            received.append(number)
            for rank in ranks:
                rank.look(folder)  # it may have started before the signal and after the last look
            if is_first and all(rank.has_started for rank in ranks):
                _send(alive, number)
                deadline = min(deadline, time.monotonic() + stop_s)
            else:  # before all have started there is nothing to save
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
                _send([rank for rank in alive if rank.has_started], signal.SIGUSR1)  # for their stacks
    return received, failed


def _send(ranks: Sequence[_Rank], number: signal.Signals) -> None:
    for rank in ranks:
        rank.process.send_signal(number)  # does nothing if it has ended


def _end_of_stopped(ranks: Sequence[_Rank], folder: Path, last: signal.Signals) -> int:
    """The exit code of a run that received a signal; raises what ended it."""
    records = ExitRecord.all_in(folder)
    if (stopped := stop_of(records)) is not None:
        raise stopped
    if (failure := own_error(records)) is not None:
        _print_error(failure)
        return 1
    done = {record.rank for record in records if record.kind == "done"}
    if all(rank.number in done or (rank.code == 0 and rank.has_started) for rank in ranks):
        return 0  # the signal came after the last step that checks for one
    if last == signal.SIGINT:
        raise KeyboardInterrupt
    raise StoppedBySignal(last, "without a save")


@contextmanager
def _caught_signals() -> Iterator[list[signal.Signals]]:
    """A list of the signals received while the body runs.  Signals that are ignored (by nohup or a shell's &) stay ignored."""
    caught = list[signal.Signals]()
    is_main = threading.current_thread() is threading.main_thread()  # only the main thread may set handlers
    handled = [number for number in SIGNALS if is_main and signal.getsignal(number) is not signal.SIG_IGN]
    before = {
        number: signal.signal(number, lambda number, _: caught.append(signal.Signals(number)))
        for number in handled
    }
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _place(config: LaunchConfig, counts: Sequence[int], local_rank: int) -> dict[str, str]:
    """The environment variables that give a rank its place.  counts: how many ranks each host has."""
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
    """Wait for the other hosts; returns the store where their ranks will rendezvous, and how many ranks each host has."""
    if config.nnodes == 1:
        return None, [config.nproc]
    us, where = f"host {config.node_rank} of {config.nnodes}", config.address
    print(f"{us} waits for the others at {where}", file=sys.stderr, flush=True)
    keeps_store, deadline, store = config.node_rank == 0, time.monotonic() + GATHERING_S, None
    names = [f"host {number}" for number in range(config.nnodes)]
    while True:  # a second at a time, since a wait in torch cannot be interrupted
        try:
            if store is None:
                if not keeps_store:
                    socket.create_connection(config.endpoint, timeout=1).close()
                # libuv is for thousands of ranks, and some builds of torch (Debian's) lack it.
                store = TCPStore(
                    *config.endpoint, is_master=keeps_store, wait_for_workers=False, use_libuv=False
                )
                store.set(names[config.node_rank], str(config.nproc))
            store.wait(names, timedelta(seconds=1))
            return store, [int(store.get(name)) for name in names]
        except (OSError, dist.DistError) as error:
            cannot_listen = keeps_store and store is None
            if cannot_listen or time.monotonic() > deadline:
                why = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise UserError(
                    f"{us} could not connect to the others at distributed.address = {where!r} ({why}): check that all "
                    "hosts were started, that host 0 can be reached there and that the port is free"
                ) from error
            time.sleep(0.2)


def _run_as_rank(entry: Callable[[], Any]) -> int:
    """Run `entry` as a rank, and report how it ended: in a record if our launcher started it, on stderr if torchrun did."""
    rank, folder = int(os.environ["RANK"]), None
    if not is_torchruns():
        folder = Path(os.environ[RANKS_FOLDER])
        _end_with_launcher(folder)
        faulthandler.register(signal.SIGUSR1, os.open(stack_file(folder, rank), os.O_WRONLY | os.O_CREAT))
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(
                signal.SIGINT, signal.SIG_DFL
            )  # without a traceback: the launcher prints the message
        _start_marker(folder, rank).touch()
    with suppress(OSError):
        Path("/proc/self/comm").write_text(f"rank {rank}")  # its name in ps and top
    try:
        entry()
    except (Exception, StoppedBySignal) as error:
        record = ExitRecord.of(rank, error)
        if folder is None:
            _report_to_torchrun(record, error)
        else:
            try:
                record.write(folder)
            except OSError:  # the temporary folder is full, or was cleared during a long run
                _print_error(f"rank {rank}: {record.text}")
        with suppress(OSError):
            sys.stdout.flush()
        code = {"user": 2, "stopped": 128 + record.number}.get(record.kind, 1)
        os._exit(code)  # no clean-up: it could wait for ranks that have ended
    if folder is not None:
        sys.stdout.flush()  # before the record says "done": from then on a signal may end this process
        with suppress(OSError):
            ExitRecord(rank, "done", "", time.time()).write(folder)
    return 0


def _end_with_launcher(folder: Path) -> None:
    """Have the kernel send SIGTERM to this rank when its launcher ends, so that it saves and ends."""
    if prctl := getattr(
        ctypes.CDLL(None), "prctl", None
    ):  # macOS has none: there a rank outlives a launcher that is killed
        prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM))
    if os.getppid() != int((folder / "launcher").read_text()):  # it had ended already
        os._exit(1)


def _start_marker(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.begun"


def _report_to_torchrun(record: ExitRecord, error: BaseException) -> None:
    """Print how a rank that torchrun started ended, and give the error to torchrun's closing table.

    What all ranks of a host report alike (a user's mistake, a stop) is printed by one of them.
    """
    if isinstance(error, Exception):
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        handler = get_error_handler()
        handler.initialize()
        handler.record_exception(error)
    if record.kind in ("user", "stopped"):
        if _is_first_on_host():
            text = escaped(str(error))
            print(f"error: {text}" if record.kind == "user" else text, file=sys.stderr, flush=True)
        return
    if record.kind == "lost":
        time.sleep(LOST_GRACE_S)  # torchrun blames the first rank to end: let the rank at fault be it
    _print_error(f"rank {record.rank} on {socket.gethostname()} failed:\n{record.text}")


def _is_first_on_host() -> bool:
    """True for the first of torchrun's local ranks to call this; they share the folder of torchrun's error files."""
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


def _print_error(text: str) -> None:
    """Print an error, escaped line by line: it may hold names from others, and a traceback of several lines."""
    print(f"error: {escaped_lines(text)}", file=sys.stderr, flush=True)
