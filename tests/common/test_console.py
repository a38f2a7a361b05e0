"""Long work speaks to whoever listens, and ends well where nobody does."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from rich.table import Table

from alexnet_fast.common.console import Console
from components import ROOT

SPEAKS = (
    "import sys\n"
    "from alexnet_fast.common.console import Console\n"
    "console = Console()\n"
    "for line in 'ab':\n"
    "    console.print(line)\n"
    "print('is quiet' if console.quiet else 'speaks', file=sys.stderr)\n"
)


@pytest.mark.parametrize("gone", ["its reader", "its disk"])
def test_a_console_that_cannot_be_written_to_is_quiet_and_the_work_goes_on(gone: str) -> None:
    if gone == "its disk":
        out = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    try:
        done = speak(out)
    finally:
        os.close(out)
    assert (done.returncode, done.stderr) == (0, "is quiet\n")


def test_a_console_that_is_heard_speaks() -> None:
    done = speak(subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\nb\n", "speaks\n")


def speak(out: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SPEAKS],
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


def test_a_name_is_printed_as_it_stands_but_for_what_a_terminal_would_obey() -> None:
    """Neither markup nor an emoji's name nor an escape sequence; the lines of a text stay lines."""
    out = io.StringIO()
    Console(file=out, width=200).print("[bold]a[/] :cat: \x1b[2J\nb\x07")
    assert out.getvalue() == "[bold]a[/] :cat: \\x1b[2J\nb\\x07\n"


def test_a_cell_of_a_table_is_no_markup_either() -> None:
    out = io.StringIO()
    (table := Table("name")).add_row("[bold]a[/] :cat:")
    Console(file=out, width=200).print(table)
    assert "[bold]a[/] :cat:" in out.getvalue()
