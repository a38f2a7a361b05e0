"""Failed reads of a mapped file: those of our files are recorded, all others do what they would do without our handler."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components import ROOT

PROGRAM = """
import ctypes, faulthandler, mmap, os, signal, sys, threading
from alexnet_fast.beton import sigbus
from alexnet_fast.beton.sigbus import Action, _libc
import numpy as np

def mapped(name, pages=8):
    with open(os.path.join({folder!r}, name), "w+b") as file:
        file.write(b"x" * pages * mmap.PAGESIZE)
        file.flush()
        map = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    return map, file.name

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def act(function, flags=0):
    # A handler in C's sense, which must not return to Python's bytecode first.
    global kept
    kept = function
    action = Action(handler=ctypes.cast(function, ctypes.c_void_p).value, flags=flags)
    assert not _libc.sigaction(signal.SIGBUS, ctypes.byref(action), None)

def install():
    assert sigbus.install() and sigbus.install()

ours, our_path = mapped("ours")
foreign, foreign_path = mapped("foreign")
region = sigbus.watch(ours.ctypes.data, len(ours))

def fail():
    os.truncate(foreign_path, 0)
    return foreign[0]
"""
PLAIN = "ctypes.CFUNCTYPE(None, ctypes.c_int)"
INFORMED = "ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)"
KILLED = -signal.SIGBUS


def run(folder: Path, *lines: str) -> tuple[int, str, str]:
    program = "\n".join([PROGRAM.format(folder=str(folder)), *lines])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_what_follows_the_first_lost_page_of_a_watched_map_is_zeros(tmp_path: Path) -> None:
    assert run(
        tmp_path,
        "install()",
        "os.truncate(our_path, 3 * mmap.PAGESIZE + 5)",
        "say(region.lost_at, ours[: 3 * mmap.PAGESIZE + 5].tobytes() == b'x' * (3 * mmap.PAGESIZE + 5))",
        "say(int(ours[6 * mmap.PAGESIZE + 7]), region.lost_at - 6 * mmap.PAGESIZE)",
        "say(int(ours[5 * mmap.PAGESIZE:].sum()), region.lost_at - 5 * mmap.PAGESIZE)",
        "other = sigbus.watch(foreign.ctypes.data, len(foreign)); fail(); say(other.lost_at)",
    ) == (0, "None True\n0 7\n0 0\n0\n", "")


def test_every_thread_and_every_forked_child_has_the_handler(tmp_path: Path) -> None:
    code, out, _ = run(
        tmp_path,
        "install()",
        "os.truncate(our_path, 0)",
        "if (child := os.fork()) == 0:",
        "    os._exit(int(ours.sum()) + 10 * (region.lost_at == 0))",
        "say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), region.lost_at)  # its own memory",
        "threads = [threading.Thread(target=lambda: say(int(ours.sum()))) for _ in range(4)]",
        "for thread in threads: thread.start()",
        "for thread in threads: thread.join()",
        "say(region.lost_at)",
    )
    assert (code, out) == (0, "10 None\n0\n0\n0\n0\n0\n")


def test_a_region_that_is_forgotten_is_not_ours(tmp_path: Path) -> None:
    code, out, _ = run(
        tmp_path, "install()", "region.forget()", "os.truncate(our_path, 0)", "say('so far')", "ours[0]"
    )
    assert (code, out) == (KILLED, "so far\n")


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_without_another_handler_a_foreign_fault_ends_the_process(tmp_path: Path, first: str) -> None:
    lines = ["install()"] if first == "ours" else []
    assert run(tmp_path, *lines, "say('so far')", "fail()") == (KILLED, "so far\n", "")


@pytest.mark.parametrize(
    "order", [("faulthandler.enable()", "install()"), ("install()", "faulthandler.enable()")]
)
def test_faulthandler_reports_where_a_foreign_fault_was(tmp_path: Path, order: tuple[str, str]) -> None:
    code, _, error = run(tmp_path, *order, "fail()")
    assert code == KILLED
    assert error.count("Fatal Python error: Bus error") == 1 and "in fail" in error


def test_faulthandler_says_nothing_of_a_fault_that_is_ours(tmp_path: Path) -> None:
    lines = ("faulthandler.enable()", "install()", "os.truncate(our_path, 0)", "say(int(ours.sum()))")
    assert run(tmp_path, *lines) == (0, "0\n", "")


@pytest.mark.parametrize("own_is_first", [True, False])
@pytest.mark.parametrize("flags", ["0", "sigbus.SA_NODEFER", "sigbus.SA_RESETHAND"])
def test_the_users_handler_gets_a_foreign_fault_as_if_ours_did_not_exist(
    tmp_path: Path, flags: str, own_is_first: bool
) -> None:
    """It repairs the fault itself, from the address that it receives."""
    handler = [
        f"@{INFORMED}",
        "def handler(number, info, context):",
        "    say(number == signal.SIGBUS, ctypes.c_int64.from_address(info + 16).value - foreign.ctypes.data, bool(context))",
        "    os.truncate(foreign_path, 4096)",
        f"act(handler, sigbus.SA_SIGINFO | {flags})",
    ]
    lines = [*handler, "install()"] if own_is_first else ["install()", *handler]
    again = ["os.truncate(foreign_path, 0)", "say(int(foreign[0]))"]
    code, out, _ = run(tmp_path, *lines, "say(int(fail()))", *again)
    if "RESETHAND" in flags:
        assert (code, out) == (KILLED, "True 0 True\n0\n")
    else:
        assert (code, out) == (0, "True 0 True\n0\n" * 2)


def test_a_handler_that_takes_only_the_number_gets_it(tmp_path: Path) -> None:
    assert run(
        tmp_path,
        f"@{PLAIN}",
        "def handler(number):",
        "    say(number == signal.SIGBUS)",
        "    os._exit(42)",
        "act(handler)",
        "install()",
        "os.truncate(our_path, 0)",
        "say(int(ours.sum()))",
        "fail()",
    )[:2] == (42, "0\nTrue\n")


SENT = "os.kill(os.getpid(), signal.SIGBUS)"


@pytest.mark.parametrize("with_ours", [True, False])
@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("signal.signal(signal.SIGBUS, signal.SIG_DFL)", (KILLED, "")),
        ("signal.signal(signal.SIGBUS, signal.SIG_IGN)", (0, "lives\n")),
        (
            "signal.signal(signal.SIGBUS, lambda number, frame: say('python', number))",
            (0, "python 7\nlives\n"),
        ),
    ],
)
def test_a_signal_that_a_process_sends_does_what_it_did(
    tmp_path: Path, before: str, expected: tuple[int, str], with_ours: bool
) -> None:
    code, out, _ = run(tmp_path, before, *(["install()"] if with_ours else []), SENT, "say('lives')")
    assert (code, out) == expected


def test_a_fault_cannot_be_ignored(tmp_path: Path) -> None:
    """The system ends a process that tries: else the instruction would run for ever."""
    lines = ("signal.signal(signal.SIGBUS, signal.SIG_IGN)", "install()", "fail()")
    assert run(tmp_path, *lines)[0] == KILLED


def test_without_llvmlite_everything_is_as_before(tmp_path: Path) -> None:
    lines = ("sys.modules['llvmlite'] = None", "say(sigbus.install(), sigbus.install())")
    more = ("say(region.lost_at)", "os.truncate(our_path, 0)", "ours[0]")
    assert run(tmp_path, *lines, *more)[:2] == (KILLED, "False False\nNone\n")
