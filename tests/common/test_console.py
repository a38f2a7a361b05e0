"""Long work prints to a console, and finishes even if the console cannot be written."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from rich.table import Table

from alexnet_fast.common.console import Console
from components import ROOT

PRINTS = (
    "import sys\n"
    "from alexnet_fast.common.console import Console\n"
    "console = Console()\n"
    "for line in 'ab':\n"
    "    console.print(line)\n"
    "print('is quiet' if console.quiet else 'prints', file=sys.stderr)\n"
)


@pytest.mark.parametrize("gone", ["its reader", "its disk"])
def test_a_console_that_cannot_be_written_becomes_quiet_and_the_work_continues(gone: str) -> None:
    if gone == "its disk":
        out = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    try:
        done = run_printing(out)
    finally:
        os.close(out)
    assert (done.returncode, done.stderr) == (0, "is quiet\n")


def test_a_console_that_has_a_reader_prints() -> None:
    done = run_printing(subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\nb\n", "prints\n")


def run_printing(out: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRINTS],
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


def test_a_name_is_printed_as_it_is_but_with_control_characters_escaped() -> None:
    """No markup, emoji name or escape sequence has an effect; line breaks stay."""
    out = io.StringIO()
    Console(file=out, width=200).print("[bold]a[/] :cat: \x1b[2J\nb\x07")
    assert out.getvalue() == "[bold]a[/] :cat: \\x1b[2J\nb\\x07\n"


def test_a_cell_of_a_table_is_no_markup_either() -> None:
    out = io.StringIO()
    (table := Table("name")).add_row("[bold]a[/] :cat:")
    Console(file=out, width=200).print(table)
    assert "[bold]a[/] :cat:" in out.getvalue()
