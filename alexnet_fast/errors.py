"""The error that a user can fix, the exception of a run that a signal has stopped, and the exit codes of the commands."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from typing import IO, TextIO

FIXABLE = {
    errno.EACCES: "check that you may read and write there, or give another path",
    errno.EPERM: "check that you may read and write there, or give another path",
    errno.EROFS: "give a path that can be written",
    errno.ENAMETOOLONG: "give a shorter one: a name takes at most 255 bytes, a path 4,095",
    errno.ENOTDIR: "give a path whose folders are folders",
    errno.ELOOP: "fix the link, which points back to itself",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EMFILE: "allow more open files, as with ulimit -n 4096, or use fewer workers",
    errno.ENFILE: "close some of the machine's open files",
    errno.EIO: "check its disk or network",
    errno.ESTALE: "check its disk or network",
}
"""Errors of the operating system that the user can fix, and how."""
WITHOUT_FILE = (errno.EMFILE, errno.ENFILE)
"""Those that need no file name to be understood."""


class UserError(ValueError):
    """An error that the user can fix: a wrong path, value or file, or a missing package.

    The message is one sentence: what was given, what was expected and what to do.  The
    command lines print it without a traceback and exit with code 2.
    """


class StoppedBySignal(BaseException):
    """A signal has stopped the run.  number: the signal's.  where: how far the run was, and whether that is saved.

    Like KeyboardInterrupt it is not an Exception, so that no code treats it as a failure.
    The command lines print it and exit with code 128 + `number`, as a shell reports that signal.
    """

    def __init__(self, number: int, where: str) -> None:
        self.number, self.where = number, where
        super().__init__(f"stopped by {signal.Signals(number).name} {where}")


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command line's body; returns its exit code.

    That is the body's result or 0; 2, with only the message on stderr, for a user's mistake; 128 + n for signal n.

    A mistake is a UserError, or an error of the operating system about a file (``FIXABLE``).  Its message may contain names
    from others, so it is printed on one line with control characters escaped.

    If the reader of the output ends first, as in ``command | head``, the exit code is 141, as for SIGPIPE.
    """
    _take_any_text(sys.stdout)
    try:
        try:
            code = command() or 0
        except SystemExit:  # from a parser, after --help or a mistake
            print(end="", flush=True)
            raise
        print(end="", flush=True)  # here, where an error of it can still be caught
        return code
    except UserError as error:
        _print_line(f"error: {error}")
        return 2
    except StoppedBySignal as stopped:
        _print_line(str(stopped))
        return 128 + stopped.number
    except KeyboardInterrupt:
        _print_line("interrupted")
        return 130
    except BrokenPipeError:
        without_reader = [stream for stream in (sys.stdout, sys.stderr) if not _has_reader(stream)]
        if not without_reader:
            raise  # the error is of another pipe
        for stream in without_reader:
            mute(stream)
        return 128 + signal.SIGPIPE
    except OSError as error:
        named = isinstance(error.filename, (str, bytes))
        if error.errno not in FIXABLE or not (named or error.errno in WITHOUT_FILE):
            raise
        what = f"{os.fsdecode(error.filename)}: {error.strerror}" if named else f"{error.strerror}"
        _print_line(f"error: {what}; {FIXABLE[error.errno]}")
        return 2


def escaped_lines(text: str) -> str:
    """As ``escaped``, for text of several lines: line breaks stay."""
    return "\n".join(map(escaped, text.split("\n")))


def escaped(text: str) -> str:
    """The text on one line, with control characters and other unprintable ones escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def mute(stream: IO[str]) -> None:
    """Discard what is written to `stream` and what is still in its buffer, since its reader is gone or its disk is full.

    Otherwise Python would get the same error when it flushes the stream at exit, and exit with 120.
    """
    with suppress(OSError), open(os.devnull, "w") as nowhere:  # a test's stream may have no descriptor
        os.dup2(nowhere.fileno(), stream.fileno())


def _take_any_text(stream: TextIO) -> None:
    """Make a stream escape what its encoding does not have, as stderr does; else a name that is not UTF-8 would be an error."""
    if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="backslashreplace")


def _print_line(text: str) -> None:
    """Print one line on stderr, if it can be written."""
    for stream, line in ((sys.stdout, ""), (sys.stderr, f"{escaped(text)}\n")):
        try:
            print(line, end="", file=stream, flush=True)
        except OSError:
            mute(stream)


def _has_reader(stream: TextIO) -> bool:
    """Whether a pipe still has a reader; True for a stream that is not a pipe."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return not any(event & select.POLLERR for _, event in poll.poll(0))
    except OSError:
        return True
