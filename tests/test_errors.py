"""How a command line ends, whoever still reads what it says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from components import ROOT

HEAD = "import os, sys\nfrom alexnet_fast.errors import Stopped, UserError, exit_code\n"


def end_of(body: str, unread: str) -> tuple[int, str]:
    """A command line of that body, with "stdout", or that and stderr ("both"), a pipe without a reader; its code and stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"{HEAD}def body():\n    {body}\nsys.exit(exit_code(body))"],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            stdout=writer,
            stderr=writer if unread == "both" else subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize("unread", ["stdout", "both"])
@pytest.mark.parametrize("length", [10, 100_000], ids=["at its end", "in its middle"])
def test_a_command_whose_reader_went_as_head_does_ends_quietly_with_141(length: int, unread: str) -> None:
    assert end_of(f"print('x' * {length})", unread) == (141, "")


@pytest.mark.parametrize(
    ("raised", "code"), [("UserError('no')", 2), ("Stopped(15, 'here')", 143), ("KeyboardInterrupt", 130)]
)
def test_the_exit_code_says_why_though_nobody_reads_the_sentence(raised: str, code: int) -> None:
    assert end_of(f"print('unsaid'); raise {raised}", "both") == (code, "")


def test_a_pipe_of_the_commands_own_that_breaks_is_an_error_with_its_traceback() -> None:
    code, error = end_of("end = os.pipe(); os.close(end[0]); os.dup2(2, 1); os.write(end[1], b'x')", "stdout")
    assert code == 1 and "BrokenPipeError" in error
