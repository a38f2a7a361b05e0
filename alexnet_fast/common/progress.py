"""Progress of long work: over many images, a bar on a terminal and a line every LINE_EVERY_S seconds in a log; of work that takes a
given time, a bar that moves by the clock and, in a log, a line for each part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress_bar import ProgressBar
from rich.text import Text

from ..errors import escaped
from .console import Console

LINE_EVERY_S = 30.0


@contextmanager
def progress_bar(name: str, total: int | None = None, *, unit: str = "img") -> Iterator[Callable[..., None]]:
    """The context's value is a function of the number of images done and, if not known before, of the number of all images.

    unit: what is counted, if not images; "B" for bytes, which are shown in MB.

    The number in the first call is where the work resumes; it does not count for the speed.
    """
    name = escaped(name)
    console, printed = Console(stderr=True), time.monotonic()
    first: tuple[int, float] | None = None
    columns = (
        TextColumn("{task.description}", markup=False),  # a name may look like markup
        BarColumn(),
        DownloadColumn() if unit == "B" else MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )

    def amount(count: float) -> str:
        return f"{count / 1e6:,.1f} MB" if unit == "B" else f"{count:,}"

    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total, rate="")

        def progress(done: int, of: int | None = total) -> None:
            nonlocal first, printed
            now = time.monotonic()
            if first is None:
                first = done, now
                bar.reset(task, total=of, completed=done)
            per_s = (done - first[0]) / max(now - first[1], 1e-3)
            rate = f"{amount(per_s)}/s" if unit == "B" else f"{per_s:,.0f} {unit}/s"
            bar.update(task, completed=done, total=of, rate=rate)
            if not console.is_terminal and now - printed >= LINE_EVERY_S:
                printed = now
                left_min = ((of or done) - done) / per_s / 60 if per_s else 0.0
                line = f"{name}: {amount(done)} of {amount(of or done)}, {rate}, {left_min:,.1f} min left"
                console.print(line, soft_wrap=True)

        yield progress


class ClockProgress:
    """Progress of measurements, which take a given time; a context, which ends the bar.

    total_s: about how long they take.  speaks: False shows nothing, as on ranks other than the first.
    """

    def __init__(self, begin: str, total_s: float, console: Console, *, speaks: bool = True) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            _ByTheClock(bar_width=24),
            _Left(),
            console=console,
            refresh_per_second=1,  # drawing uses a core that is being measured
            disable=not (console.is_terminal and speaks),
        )
        self._task = self._bar.add_task(begin, total=total_s)

    def __enter__(self) -> ClockProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def say(self, what: str) -> None:
        """Show what comes next, on the progress line or, if there is none, as a line."""
        self._bar.update(self._task, description=escaped(what))
        if self._bar.disable:
            self._console.print(f"{what} ...")

    def stop(self) -> None:
        self._bar.stop()


class _ByTheClock(BarColumn):
    """A bar that moves with the time."""

    def render(self, task: Task) -> ProgressBar:
        task.completed = min(task.elapsed or 0.0, task.total or 0.0)
        return super().render(task)


class _Left(ProgressColumn):
    """Time left."""

    def render(self, task: Task) -> Text:
        return Text(f"about {max(0.0, task.remaining or 0.0):.0f} s left")
