"""Progress of long work over many images: a bar on a terminal, a line every LINE_EVERY_S seconds in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import escaped
from .console import Console

LINE_EVERY_S = 30.0


@contextmanager
def progress_bar(name: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """The context's value is a function of the number of images done and, if not known before, of the number of all images.

    The number in the first call is where the work resumes; it does not count for the speed.
    """
    name = escaped(name)
    console, printed = Console(stderr=True), time.monotonic()
    first: tuple[int, float] | None = None
    columns = (
        TextColumn("{task.description}", markup=False),  # a name may look like markup
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total, rate="")

        def progress(done: int, of: int | None = total) -> None:
            nonlocal first, printed
            now = time.monotonic()
            if first is None:
                first = done, now
                bar.reset(task, total=of, completed=done)
            per_s = (done - first[0]) / max(now - first[1], 1e-3)
            bar.update(task, completed=done, total=of, rate=f"{per_s:,.0f} img/s")
            if not console.is_terminal and now - printed >= LINE_EVERY_S:
                printed = now
                left_min = ((of or done) - done) / per_s / 60 if per_s else 0.0
                line = f"{name}: {done:,} of {of or done:,}, {per_s:,.0f} img/s, {left_min:,.1f} min left"
                console.print(line, soft_wrap=True)

        yield progress
