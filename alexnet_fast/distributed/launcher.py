"""Start this host's ranks with torch's elastic launcher, and say in one message why a run ended early.

    launcher -- elastic agent --+-- rank 0: entry(*arguments)
                                +-- rank 1: entry(*arguments)

Each rank leaves a record of how it ended in a folder that only lives as long as the run.  When one rank
fails, the agent stops the others.  A rank that merely *lost* the others waits to be stopped, so that the
first to end is the one at fault.  A signal to stop is passed on to the ranks, which have `Layout.stop_s` to save
and end.  Behind it SIGTERM changes nothing, and any other ends them at once, without a save: the rule of stopping.py.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import multiprocessing.util
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing import api as agent
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, get_error_handler
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ..errors import StoppedBySignal, UserError, escaped, escaped_lines
from .exit_records import (
    ExitRecord,
    await_all,
    explain,
    is_collective_error,
    own_error,
    pid_file,
    request_stacks,
    stack_file,
    stop_of,
)
from .world import is_joined

LOST_GRACE_S = 4.0  # a rank that lost the others lets the one at fault be seen to end first
GATHERING_S = 900  # how long hosts wait for each other at the start
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # that end a run


@dataclass(frozen=True)
class Layout:
    """Ranks on hosts: `nproc` on each of `hosts`; this is number `host`, and host 0 listens at `address`.

    stop_s: how long ranks that are told to stop may take to end.
    """

    nproc: int = 1
    hosts: int = 1
    host: int = 0
    address: str = ""
    stop_s: int = 60

    def __post_init__(self) -> None:
        """Raise UserError for hosts that could not meet."""
        if self.host >= self.hosts:
            raise UserError(
                f"distributed.host = {self.host} is out of range: distributed.hosts = {self.hosts} are numbered "
                f"0 to {self.hosts - 1}"
            )
        if self.hosts > 1 and not re.fullmatch(r".+:\d+", self.address):
            raise UserError(
                f"distributed.address = {self.address!r} cannot be met at by {self.hosts} hosts: give host 0's "
                "name or address and a free port, as 10.0.0.1:29500"
            )

    @property
    def world_size(self) -> int:
        return self.nproc * self.hosts


def launch(layout: Layout, entry: Callable[..., Any], *arguments: Any) -> int:
    """Run `entry(*arguments)` as each of this host's ranks; the exit code.

    One rank alone runs in this process, as does a rank that torchrun has started; others in processes of
    their own, where `entry` is found by its module and name.  Raises what is the user's to mend (UserError)
    or stopped the run (Stopped, which says whether it saved; KeyboardInterrupt where SIGINT ended it at once), from
    whichever rank it came; a rank that
    failed otherwise is named on stderr with its error, and the exit code is 1.
    """
    if is_joined():
        return _run_as_joined(entry, *arguments)
    if layout.world_size == 1:
        entry(*arguments)
        return 0
    if layout.hosts > 1:
        print(
            f"host {layout.host} of {layout.hosts} waits for the others at {layout.address}", file=sys.stderr
        )
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(layout.stop_s)  # older agents wait for 30 s
    with (
        tempfile.TemporaryDirectory(prefix="ranks-") as name,
        _silent_agent(),
        _whole_beginnings() as begun,
        _first_signal_alone(begun) as told,
        _end_of_the_done(folder := Path(name)),
    ):
        try:
            elastic_launch(_config(layout, folder), _run_as_rank)(folder, entry, arguments)
        except ChildFailedError as error:
            _complain(explain(error.failures, folder, layout.hosts))
            return 1
        except SignalException:
            _kill(begun)  # what the first signal left alive, as the agent did not know of it yet
            records = ExitRecord.all_in(folder)
            if (stopped := stop_of(records)) is not None:
                raise stopped from None
            if (failure := own_error(records)) is not None:
                _complain(failure)
                return 1
            if [record.kind for record in records] == ["done"] * layout.nproc:
                return 0  # it came behind the last step that looks for it
            if (last := told[-1]) == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise StoppedBySignal(last, "without a save") from None
        except dist.DistError as error:
            raise UserError(
                f"host {layout.host} of {layout.hosts} did not meet the others at distributed.address = "
                f"{layout.address!r} ({_first_line(error)}): see that all hosts were started, that host 0 can be "
                "reached there and that the port is free"
            ) from error
    return 0


def _heeded() -> tuple[signal.Signals, ...]:
    """Those of SIGNALS that are not ignored, as nohup and a shell's & arrange, for the launcher and its ranks alike."""
    return tuple(number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)


def _config(layout: Layout, folder: Path) -> LaunchConfig:
    alone = layout.hosts == 1
    config = LaunchConfig(
        min_nodes=layout.hosts,
        max_nodes=layout.hosts,
        nproc_per_node=layout.nproc,
        run_id=uuid.uuid4().hex if alone else "alexnet_fast",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="127.0.0.1:0" if alone else layout.address,
        rdzv_configs={"timeout": GATHERING_S, **({} if alone else {"rank": layout.host})},
        local_addr="127.0.0.1" if alone else None,
        max_restarts=0,
        start_method="spawn",
        logs_specs=DefaultLogsSpecs(str(folder / "agent")),  # by default one in /tmp that stays
    )
    config.signals_to_handle = ",".join(number.name for number in _heeded())
    return config


def _run_as_rank(folder: Path, entry: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """A rank's whole life in a process of its own."""
    rank = int(os.environ["RANK"])
    if signal.SIGINT in _heeded():  # Ctrl-C reaches all processes; the launcher speaks for them
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with suppress(OSError):
        Path("/proc/self/comm").write_text(f"rank {rank}")  # what ps and top call it
    pid_file(folder, rank).write_text(str(os.getpid()))
    with open(stack_file(folder, rank), "w") as stack:
        faulthandler.register(signal.SIGUSR1, file=stack, all_threads=True)
        try:
            entry(*arguments)
        except BaseException as error:
            record = ExitRecord.of(rank, error)
            try:
                record.write(folder)
            except OSError:  # the temporary folder is full, or was cleared behind a long run's back
                _complain(f"rank {rank}: {record.text}")
            if record.kind == "lost":
                request_stacks(folder)
                time.sleep(LOST_GRACE_S)
            sys.stdout.flush()
            sys.stderr.flush()
            if record.kind == "stopped":
                await_all(folder, int(os.environ["LOCAL_WORLD_SIZE"]), LOST_GRACE_S)
            code = {"user": 2, "stopped": 128 + record.number}.get(record.kind, 1)
            os._exit(code)  # no clean-up that may wait for ranks that are gone
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    sys.stdout.flush()  # once it has said that it is done it may be killed
    with suppress(OSError):
        ExitRecord(rank, "done", "", time.time()).write(folder)
    launcher = multiprocessing.parent_process()
    if launcher is not None and not launcher.is_alive():  # torch would wait for its leave to end
        os._exit(0)


def _run_as_joined(entry: Callable[..., Any], *arguments: Any) -> int:
    """A rank that torchrun started: errors are this process's to tell, once a host where all have the same."""
    try:
        entry(*arguments)
    except UserError as error:
        _record_for_torchrun(error)
        if _speaks_for_host():
            _complain(escaped(str(error)))
        return 2
    except StoppedBySignal as stopped:
        if _speaks_for_host():
            print(escaped(str(stopped)), file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(128 + stopped.number)
    except Exception as error:
        _record_for_torchrun(error)
        if is_collective_error(error):
            time.sleep(LOST_GRACE_S)
        _complain(f"rank {os.environ['RANK']} on {socket.gethostname()} failed:\n{traceback.format_exc()}")
        os._exit(1)
    return 0


def _complain(text: str) -> None:
    """Print an error, which may hold names that others chose, and a traceback of several lines."""
    print(f"error: {escaped_lines(text)}", file=sys.stderr, flush=True)


def _record_for_torchrun(error: Exception) -> None:
    """Let torchrun's closing table show the error."""
    handler = get_error_handler()
    handler.initialize()
    handler.record_exception(error)


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


@contextmanager
def _whole_beginnings() -> Iterator[list[int]]:
    """No signal strikes between two halves of a rank's beginning.  Yields the process ids of those that have begun.

    Ours waits until a rank has been given all that it is to read: half of it would be a traceback.  A rank begins with
    SIGINT blocked: one that comes while it imports is kept until then.  The mask is inherited, as multiprocessing itself
    uses it for its resource tracker.
    """
    start, spawn = SpawnProcess.start, multiprocessing.util.spawnv_passfds
    begun: list[int] = []

    def start_whole(process: SpawnProcess) -> None:
        with _signals_held():
            start(process)
            begun.append(process.pid)  # type: ignore[arg-type]

    def spawn_deaf(path: bytes, command: list[str], pipes: Any) -> int:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return spawn(path, command, pipes)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    SpawnProcess.start = start_whole  # type: ignore[assignment, method-assign]
    multiprocessing.util.spawnv_passfds = spawn_deaf  # type: ignore[assignment]
    try:
        yield begun
    finally:
        multiprocessing.util.spawnv_passfds = spawn
        SpawnProcess.start = start  # type: ignore[method-assign]


@contextmanager
def _signals_held() -> Iterator[None]:
    """Handle what comes meanwhile at the end.  A mask would not do: torch's threads would take it, and Python handle it here."""
    held: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: held.append(number)) for number in _heeded()}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in held:
            signal.raise_signal(late)


@contextmanager
def _first_signal_alone(begun: list[int]) -> Iterator[list[signal.Signals]]:
    """Let the agent hear of the first signal alone: a second would end its wait for ranks that save.

    Behind the first, SIGTERM changes nothing and any other kills the ranks that have `begun`.  Yields those signals that
    counted, in their order.
    """
    tell_the_agent, told = agent._terminate_process_handler, list[signal.Signals]()

    def heed(number: int, frame: FrameType | None) -> None:
        is_first = not told
        if is_first or number != signal.SIGTERM:
            told.append(signal.Signals(number))
        if is_first:
            tell_the_agent(number, frame)
        elif number != signal.SIGTERM:
            _kill(begun)

    agent._terminate_process_handler = heed  # type: ignore[assignment]
    try:
        yield told
    finally:
        agent._terminate_process_handler = tell_the_agent


@contextmanager
def _end_of_the_done(folder: Path) -> Iterator[None]:
    """Ranks that are done end at once where the agent stops the others.

    They wait for it to take their result, which it no longer does: it would wait `Layout.stop_s` for them in turn.
    """
    close = agent.MultiprocessContext._close

    def end_the_done(closed: threading.Event) -> None:
        while not closed.wait(0.05):
            done = [record.rank for record in ExitRecord.all_in(folder) if record.kind == "done"]
            _kill([int(pid_file(folder, rank).read_text()) for rank in done])

    def close_at_once(
        context: agent.MultiprocessContext, death_sig: signal.Signals, timeout: int = 30
    ) -> None:
        closed = threading.Event()
        ending = threading.Thread(target=end_the_done, args=(closed,), name="end-the-done")
        ending.start()
        try:
            close(context, death_sig, timeout)
        finally:
            closed.set()
            ending.join()

    agent.MultiprocessContext._close = close_at_once  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        agent.MultiprocessContext._close = close  # type: ignore[method-assign]


def _kill(begun: list[int]) -> None:
    """End those that live; the id of one whose end was taken note of may be a stranger's by now."""
    for pid in begun:
        with suppress(ChildProcessError, ProcessLookupError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            os.kill(pid, signal.SIGKILL)


@contextmanager
def _silent_agent() -> Iterator[None]:
    """Leave it to us to say what happened; the agent's signal handlers go when it does.

    Ranks whose run has failed are killed: SIGTERM, the agent's and torch.multiprocessing's own way, would have
    them wait for each other to save.
    """
    loggers = [
        logging.getLogger(name) for name in ("torch.distributed.elastic", "torch.multiprocessing.spawn")
    ]
    before = [(logger, logger.propagate) for logger in loggers]
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    quiet = logging.NullHandler()
    for logger in loggers:
        logger.propagate = False
        logger.addHandler(quiet)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    how_to_end = agent._get_default_signal
    agent._get_default_signal = lambda: signal.SIGKILL
    terminate = SpawnProcess.terminate
    SpawnProcess.terminate = SpawnProcess.kill  # type: ignore[method-assign]
    try:
        yield
    finally:
        agent._get_default_signal = how_to_end
        SpawnProcess.terminate = terminate  # type: ignore[method-assign]
        for logger, propagate in before:
            logger.propagate = propagate
            logger.removeHandler(quiet)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
