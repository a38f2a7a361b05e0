"""Worker processes that do one thing to many items, in order, and whose death is noticed at once and named."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import selectors
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import ModuleType
from typing import Generic, TypeVar

from ..errors import UserError
from .errors import WorkerDied

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 8  # items a message: large enough to hide the way to the worker, small enough that all end together
IN_HAND = 2 * CHUNK  # of a worker at most: one chunk to work on and one to begin without a wait
AHEAD = (
    3 * CHUNK
)  # results for each worker that may wait for an earlier one: bounds memory, however slow one item is

FILES_A_WORKER = 3  # that its owner holds open: the pipe, and forkserver's two
FILES_TO_START = (
    6  # forkserver's own, and what a start takes for a moment (of 8 workers 37 files were enough, 36 not)
)


def ordered_map(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, *, doing: Callable[[Item], str]
) -> Generator[Result, None, None]:
    """``work(item)`` of each item, in order, made ahead by ``workers`` processes (1: by this one).

    Close it to have no process left; the end of this process, whatever ends it, ends its workers too.

    Args:
        work: can be pickled.  What it raises is raised here.
        doing: what ``work`` does to an item, in words: "encoding a/b.JPEG".

    Raises:
        WorkerDied: naming its process, the signal and what it was doing.
    """
    if workers <= 1:
        for item in items:
            try:
                result = work(item)
            except MemoryError:
                raise WorkerDied(f"memory ran out while {doing(item)}", "free some") from None
            yield result
        return
    team: _WorkerPool[Item, Result] = _WorkerPool(items, doing)
    try:
        team.start(work, min(workers, -(-len(items) // CHUNK)))
        yield from team.results()
    finally:
        team.end()


class _Worker:
    """One process, the pipe to it, and the places of the items that it has been given and not returned."""

    def __init__(self, context: ForkServerContext, work: Callable) -> None:
        self.pipe, theirs = context.Pipe()
        self.process: ForkServerProcess = context.Process(target=_serve, args=(theirs, work))
        with _light_main():
            self.process.start()
        theirs.close()
        self.hand: deque[int] = deque()


class _WorkerPool(Generic[Item, Result]):
    def __init__(self, items: Sequence[Item], doing: Callable[[Item], str]) -> None:
        self._items, self._doing = items, doing
        self._given = 0
        self._results: dict[int, Result] = {}
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()

    def start(self, work: Callable[[Item], Result], workers: int) -> None:
        _check_open_files(workers)
        # forkserver: a fork of this process would copy the locks of its threads.
        context = multiprocessing.get_context("forkserver")
        function = getattr(work, "func", work)  # of a functools.partial
        context.set_forkserver_preload([function.__module__])
        try:
            for _ in range(workers):
                worker = _Worker(context, work)
                self._workers.append(worker)
                self._selector.register(worker.pipe, selectors.EVENT_READ, worker)
        except OSError as error:
            raise UserError(
                f"cannot start {workers} worker processes ({error.strerror or error}); use fewer --workers"
            ) from error

    def results(self) -> Iterator[Result]:
        for place in range(len(self._items)):
            while place not in self._results:
                self._give(most=place + AHEAD * len(self._workers))
                for key, _ in self._selector.select():
                    self._take(key.data)
            yield self._results.pop(place)

    def end(self) -> None:
        """Leave no process behind."""
        for worker in self._workers:
            worker.process.kill()  # what it has in hand is of no use any more
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join()
        self._selector.close()

    def _give(self, most: int) -> None:
        """Let every worker have something to begin with when it is done with what it does."""
        for worker in sorted(self._workers, key=lambda worker: len(worker.hand)):
            end = min(self._given + CHUNK, most, len(self._items))
            if self._given < end and len(worker.hand) <= IN_HAND - CHUNK:
                try:
                    worker.pipe.send(self._items[self._given : end])
                except OSError:  # it died: what it had done before lies in the pipe, and behind that its end
                    continue
                worker.hand.extend(range(self._given, end))
                self._given = end

    def _take(self, worker: _Worker) -> None:
        try:
            done, outcome = worker.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):  # OSError: amidst an answer
            raise self._died(worker) from None
        place = worker.hand.popleft()
        if isinstance(outcome, MemoryError):
            raise WorkerDied(
                f"worker process {worker.process.pid} ran out of memory while {self._doing(self._items[place])}",
                "free some, or use fewer --workers",
            )
        if not done:
            raise outcome
        self._results[place] = outcome

    def _died(self, worker: _Worker) -> WorkerDied:
        worker.process.join(timeout=10)
        code = worker.process.exitcode
        how = "ended"
        if code is not None:
            how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
        hand = [self._doing(self._items[place]) for place in worker.hand]
        during = f" while {hand[0]}" if hand else " before it had anything to do"
        return WorkerDied(
            f"worker process {worker.process.pid} {how}{during}",
            "if nobody killed it, memory ran out: free some or use fewer --workers",
        )


def _check_open_files(workers: int) -> None:
    """See that so many processes can be started: one that is begun and not finished prints a traceback of its own."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/proc/self/fd")) + FILES_A_WORKER * workers + FILES_TO_START
    if most != resource.RLIM_INFINITY and needed > most:
        raise UserError(
            f"cannot start {workers} worker processes: they need {needed} open files, and {most} are allowed; use fewer --workers, "
            f"or allow more with ulimit -n {needed}"
        )


def _serve(pipe: Connection, work: Callable) -> None:
    """A worker's life: until the other end of the pipe is closed, by its owner or by the owner's death."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the owner decides
        signal.signal(number, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        while True:
            for item in pipe.recv():
                pipe.send(_outcome(work, item))


def _outcome(work: Callable[[Item], Result], item: Item) -> tuple[bool, Result | BaseException]:
    try:
        return True, work(item)
    except (UserError, MemoryError) as error:
        return False, error
    except (
        Exception
    ) as error:  # our own fault: where it happened is worth more than its type, and always travels
        return False, RuntimeError("a worker process failed: " + "".join(traceback.format_exception(error)))


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({number})"
    except ValueError:
        return f"signal {number}"


@contextmanager
def _light_main() -> Iterator[None]:
    """Keep worker processes from importing this process's main module, as multiprocessing has them do.

    Training's would load torch, seconds and hundreds of MB for each core.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
