"""The rows on the console."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from ...common.console import Console
from ...common.text import plural
from ...errors import escaped
from .row import Row

STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red", "skipped": "dim"}


def show(title: str, rows: Sequence[Row], stopped: bool, console: Console) -> None:
    """A table of what was expected and seen, below it what to do, and a summary in one line."""
    table = Table(title=Text(escaped(title)))
    table.add_column("", no_wrap=True)
    table.add_column("check", overflow="fold", ratio=2)
    table.add_column("expected", overflow="fold", ratio=3)
    table.add_column("seen", overflow="fold", ratio=4)
    for row in rows:
        texts = [Text(escaped(text)) for text in (row.name, row.expected, row.seen)]
        table.add_row(Text(row.status, STYLES[row.status]), *texts)
    console.print(table)
    for row in rows:
        if row.remedy:
            console.print(f"{row.name}: {row.remedy}")
    if stopped:
        console.print("stopped by Ctrl-C: the checks after these were not made")
    console.print(closing(rows))


def closing(rows: Sequence[Row]) -> str:
    """How many rows are not as expected."""
    counts = {status: sum(row.status == status for row in rows) for status in ("fault", "warning", "skipped")}
    said = [plural(count, noun) for noun, count in counts.items() if count and noun != "skipped"]
    checked = len(rows) - counts["skipped"]
    if not said:
        return f"{plural(checked, 'row')} checked, all as expected."
    return f"{plural(checked, 'row')} checked: {' and '.join(said)}."
