"""The one kind of error that is the user's to mend, the one way for a run to be stopped in order, and how commands end."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TextIO


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

    One whose reader went before all was said, as in ``command | head``, ends as SIGPIPE ends others: with 141.
    """
    try:
        code = command() or 0
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


def mute(stream: IO[str]) -> None:
    """Have all that is written to `stream`, and what it still holds, go nowhere: its reader is gone, or its disk is full.

    Otherwise Python would find it so again as it ends, and exit with 120.
    """
    with suppress(OSError), open(os.devnull, "w") as nowhere:  # a test's stream may have no descriptor
        os.dup2(nowhere.fileno(), stream.fileno())


def _tell(text: str) -> None:
    """Print on stderr, if anybody is there to read it."""
    for stream, line in ((sys.stdout, ""), (sys.stderr, f"{text}\n")):
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
