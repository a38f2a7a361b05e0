"""The one kind of error that is the user's to mend, the one way for a run to be stopped in order, and how commands end."""

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

MENDABLE = {
    errno.EACCES: "see that you may read and write there, or give another path",
    errno.EPERM: "see that you may read and write there, or give another path",
    errno.EROFS: "give a path that can be written",
    errno.ENAMETOOLONG: "give a shorter one: a name takes at most 255 bytes, a path 4,095",
    errno.ENOTDIR: "give a path whose folders are folders",
    errno.ELOOP: "mend the link that leads back to itself",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EMFILE: "allow more open files, as with ulimit -n 4096, or use fewer workers",
    errno.ENFILE: "close some of the machine's open files",
    errno.EIO: "see that its disk or network is well",
    errno.ESTALE: "see that its disk or network is well",
}
"""What the system may refuse, and what the user can do about it."""
WITHOUT_FILE = (errno.EMFILE, errno.ENFILE)
"""Those that say enough though they name no file."""


class UserError(ValueError):
    """Something given to us that the user can put right: a path, a value, a file, a missing package.

    The message is one sentence that says what was given, what was expected and what to do.  The
    command lines print it without a traceback and exit with code 2.
    """


class StoppedBySignal(BaseException):
    """A run that a signal has stopped.  where: where it stood, and whether that is saved.

    Like KeyboardInterrupt it is no Exception, so that nobody takes it for a failure.
    The command lines print it and exit with code 128 + `number`, as a shell reports that signal.
    """

    def __init__(self, number: int, where: str) -> None:
        self.number, self.where = number, where
        super().__init__(f"stopped by {signal.Signals(number).name} {where}")


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command line's body: its result or 0; 2, with the message alone on stderr, for a user's mistake; 128 + n for signal n.

    A mistake is a UserError, or what the system refuses about a file (``MENDABLE``).  Its sentence may hold names that others chose: it is
    printed on one line, with what a terminal would obey escaped.

    One whose reader went before all was said, as in ``command | head``, ends as SIGPIPE ends others: with 141.
    """
    _take_any_text(sys.stdout)
    try:
        try:
            code = command() or 0
        except SystemExit:  # a parser's, after --help or a mistake
            print(end="", flush=True)
            raise
        print(end="", flush=True)  # here, where it can still be caught
        return code
    except UserError as error:
        _tell(f"error: {error}")
        return 2
    except StoppedBySignal as stopped:
        _tell(str(stopped))
        return 128 + stopped.number
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130
    except BrokenPipeError:
        without_reader = [stream for stream in (sys.stdout, sys.stderr) if not _has_reader(stream)]
        if not without_reader:
            raise  # another pipe of ours
        for stream in without_reader:
            mute(stream)
        return 128 + signal.SIGPIPE
    except OSError as error:
        named = isinstance(error.filename, (str, bytes))
        if error.errno not in MENDABLE or not (named or error.errno in WITHOUT_FILE):
            raise
        what = f"{os.fsdecode(error.filename)}: {error.strerror}" if named else f"{error.strerror}"
        _tell(f"error: {what}; {MENDABLE[error.errno]}")
        return 2


def escaped_lines(text: str) -> str:
    """The same for text of several lines: its line breaks stay."""
    return "\n".join(map(escaped, text.split("\n")))


def escaped(text: str) -> str:
    """The same text on one line, with what a terminal would obey or not print escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def mute(stream: IO[str]) -> None:
    """Have all that is written to `stream`, and what it still holds, go nowhere: its reader is gone, or its disk is full.

    Otherwise Python would find it so again as it ends, and exit with 120.
    """
    with suppress(OSError), open(os.devnull, "w") as nowhere:  # a test's stream may have no descriptor
        os.dup2(nowhere.fileno(), stream.fileno())


def _take_any_text(stream: TextIO) -> None:
    """Have a stream write what its encoding does not know as escapes, as stderr does: a name that is no UTF-8 would be an error."""
    if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="backslashreplace")


def _tell(text: str) -> None:
    """Print one line on stderr, if anybody is there to read it."""
    for stream, line in ((sys.stdout, ""), (sys.stderr, f"{escaped(text)}\n")):
        try:
            print(line, end="", file=stream, flush=True)
        except OSError:
            mute(stream)


def _has_reader(stream: TextIO) -> bool:
    """Whether what is written to a pipe can still be read; True for what is none."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return not any(event & select.POLLERR for _, event in poll.poll(0))
    except OSError:
        return True
