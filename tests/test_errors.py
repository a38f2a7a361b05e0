"""How a command exits, whether or not its output is still read."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from components import ROOT

HEAD = "import os, sys\nfrom alexnet_fast.errors import StoppedBySignal, UserError, exit_code\n"


def end_of(body: str, unread: str) -> tuple[int, str]:
    """Run a command with that body, where stdout, or stdout and stderr ("both"), is a pipe without a reader; its code and stderr."""
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
def test_a_command_whose_reader_has_gone_as_with_head_ends_quietly_with_141(length: int, unread: str) -> None:
    assert end_of(f"print('x' * {length})", unread) == (141, "")


@pytest.mark.parametrize(
    ("raised", "code"),
    [("UserError('no')", 2), ("StoppedBySignal(15, 'here')", 143), ("KeyboardInterrupt", 130)],
)
def test_the_exit_code_is_right_even_if_the_message_is_not_read(raised: str, code: int) -> None:
    assert end_of(f"print('unsaid'); raise {raised}", "both") == (code, "")


def test_a_broken_pipe_of_the_commands_own_is_an_error_with_a_traceback() -> None:
    code, error = end_of("end = os.pipe(); os.close(end[0]); os.dup2(2, 1); os.write(end[1], b'x')", "stdout")
    assert code == 1 and "BrokenPipeError" in error


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("open('x' * 300)", f"error: {'x' * 300}: File name too long; give a shorter one"),
        ("os.mkdir('/proc/x/y')", None),
        ("open('/proc/1/environ/x')", "error: /proc/1/environ/x: Not a directory; give a path whose"),
        (
            "raise OSError(28, 'No space left on device', 'a\\x1b[2J')",
            r"error: a\x1b[2J: No space left on device; make room",
        ),
        (
            "raise OSError(24, 'Too many open files')",
            "error: Too many open files; allow more open files, as with ulimit",
        ),
        (
            "raise OSError(13, 'Permission denied', b'a\\xff')",
            r"error: a\udcff: Permission denied; check that you may",
        ),
    ],
)
def test_a_system_error_about_a_file_is_a_users_mistake_and_one_sentence(
    body: str, sentence: str | None
) -> None:
    code, error = run_of(body)
    if sentence is None:
        assert code == 1 and "FileNotFoundError" in error, "a missing file may be our mistake"
    else:
        assert code == 2 and error.startswith(sentence) and error.count("\n") == 1, error


def test_a_system_error_without_a_file_has_a_traceback() -> None:
    code, error = run_of("raise OSError(13, 'Permission denied')")
    assert code == 1 and "Traceback" in error


def test_a_sentence_is_one_line_whatever_names_are_in_it() -> None:
    names = r"a\nerror: b\x1b[2J\u202e\udce9é[bold]"
    for raised in (f"UserError('{names}')", f"StoppedBySignal(15, '{names}')"):
        _, error = run_of(f"raise {raised}")
        assert error.endswith(r"a\nerror: b\x1b[2J\u202e\udce9é[bold]" + "\n") and error.count("\n") == 1


def test_characters_that_the_terminals_encoding_lacks_are_printed_as_escapes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{HEAD}sys.exit(exit_code(lambda: print('caf\\udce9 été')))"],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"caf\\udce9 \\xe9t\\xe9\n", b"")


def test_a_parser_that_exits_after_the_reader_has_gone_is_quiet_too() -> None:
    assert end_of("print('usage'); sys.exit(0)", "stdout") == (141, "")
    assert run_of("print('usage'); sys.exit(2)") == (2, "")


def run_of(body: str) -> tuple[int, str]:
    """Run a command with that body; its code and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", f"{HEAD}def body():\n    {body}\nsys.exit(exit_code(body))"],
        cwd=ROOT,
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return done.returncode, done.stderr
