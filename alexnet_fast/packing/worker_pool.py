"""Worker processes that apply a function to many items, in order; the death of a worker is detected at once and reported by name."""

from __future__ import annotations

import multiprocessing
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

from ..common.systems import open_files
from ..errors import UserError
from .errors import WorkerDied

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 8  # items a message: large enough to hide the cost of a message, small enough that all workers end together
LARGE_CHUNK = 2  # large items: a worker waits while this process reads its next ones
MAX_ASSIGNED = 2 * CHUNK  # items of a worker: one chunk to work on and one to start without a wait
AHEAD = (
    3 * CHUNK
)  # results per worker that may wait for an earlier one: bounds memory, however slow one item is

FILES_A_WORKER = 3  # open files of this process for each worker: the pipe, and two of forkserver
FILES_TO_START = 6  # forkserver's own, and those open only during a start (for 8 workers 37 files were enough, 36 were not)


def ordered_map(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    *,
    doing: Callable[[Item], str],
    are_large: bool = False,
) -> Generator[Result, None, None]:
    """Yields ``work(item)`` of each item, in order, computed ahead by ``workers`` processes (1: by this process).

    Closing the generator ends all workers; they also end with this process, however it ends.

    Args:
        work: must be picklable.  What it raises is raised here.
        doing: what ``work`` does to an item, in words: "encoding a/b.JPEG".
        are_large: whether an item does not fit into a pipe; then a worker gets items only when it has returned all that it had,
            or it and this process would each wait for the other to read.

    Raises:
        WorkerDied: names the worker's process, the signal and what it was doing.
    """
    if workers <= 1:
        for item in items:
            try:
                result = work(item)
            except MemoryError:
                raise WorkerDied(f"memory ran out while {doing(item)}", "free some") from None
            yield result
        return
    chunk = LARGE_CHUNK if are_large else CHUNK
    pool: _WorkerPool[Item, Result] = _WorkerPool(items, doing, chunk, chunk if are_large else MAX_ASSIGNED)
    try:
        pool.start(work, min(workers, -(-len(items) // chunk)))
        yield from pool.results()
    finally:
        pool.end()


class _Worker:
    """One process, the pipe to it, and the positions of the items that it was given and has not returned."""

    def __init__(self, context: ForkServerContext, work: Callable) -> None:
        self.pipe, theirs = context.Pipe()
        self.process: ForkServerProcess = context.Process(target=_serve, args=(theirs, work))
        with _light_main():
            self.process.start()
        theirs.close()
        self.assigned: deque[int] = deque()


class _WorkerPool(Generic[Item, Result]):
    def __init__(
        self, items: Sequence[Item], doing: Callable[[Item], str], chunk: int, max_assigned: int
    ) -> None:
        self._items, self._doing, self._chunk, self._max_assigned = items, doing, chunk, max_assigned
        self._given = 0
        self._results: dict[int, Result] = {}
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()

    def start(self, work: Callable[[Item], Result], workers: int) -> None:
        _check_open_files(workers)
        # forkserver, not fork: a fork would copy locks that this process's threads hold.
        context = multiprocessing.get_context("forkserver")
        function = getattr(work, "func", work)  # work may be a functools.partial
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
        """End all workers."""
        for worker in self._workers:
            worker.process.kill()  # its results are not needed
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join()
        self._selector.close()

    def _give(self, most: int) -> None:
        """Send each worker its next items before it needs them, up to position ``most``."""
        for worker in sorted(self._workers, key=lambda worker: len(worker.assigned)):
            end = min(self._given + self._chunk, most, len(self._items))
            if self._given < end and len(worker.assigned) <= self._max_assigned - self._chunk:
                try:
                    worker.pipe.send(self._items[self._given : end])
                except OSError:  # it died: _take first reads the results left in the pipe, then its end
                    continue
                worker.assigned.extend(range(self._given, end))
                self._given = end

    def _take(self, worker: _Worker) -> None:
        try:
            done, outcome = worker.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):  # OSError: it died while it sent a result
            raise self._died(worker) from None
        place = worker.assigned.popleft()
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
        assigned = [self._doing(self._items[place]) for place in worker.assigned]
        during = f" while {assigned[0]}" if assigned else " before it had anything to do"
        return WorkerDied(
            f"worker process {worker.process.pid} {how}{during}",
            "if nobody killed it, memory ran out: free some or use fewer --workers",
        )


def _check_open_files(workers: int) -> None:
    """Check that N processes can be started: a start that fails halfway prints a traceback."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = open_files() + FILES_A_WORKER * workers + FILES_TO_START
    if most != resource.RLIM_INFINITY and needed > most:
        raise UserError(
            f"cannot start {workers} worker processes: they need {needed} open files, and {most} are allowed; use fewer --workers, "
            f"or allow more with ulimit -n {needed}"
        )


def _serve(pipe: Connection, work: Callable) -> None:
    """The main function of a worker: runs until the owner closes its end of the pipe, or dies."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the complete process group; the owner decides
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
    ) as error:  # a bug of ours: its traceback says more than its type, and a str can always be pickled
        return False, RuntimeError("a worker process failed: " + "".join(traceback.format_exception(error)))


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({number})"
    except ValueError:
        return f"signal {number}"


@contextmanager
def _light_main() -> Iterator[None]:
    """Keep worker processes from importing this process's main module, as multiprocessing makes them do.

    The main module of a training loads torch: seconds and hundreds of MB for each worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
