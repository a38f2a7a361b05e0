"""The one kind of error that is the user's to mend, and the one way for a run to be stopped in order."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something given to us that the user can put right: a path, a value, a file, a missing package.

    The message is one sentence that says what was given, what was expected and what to do.  The
    command lines print it without a traceback and exit with code 2.
    """


class Stopped(BaseException):
    """A run that a signal asked to stop has done so in order: what it has trained is saved, if anything is.

    Like KeyboardInterrupt it is no Exception, so that nobody takes it for a failure.
    The command lines print it and exit with code 128 + `number`, as a shell reports that signal.
    """

    def __init__(self, number: int, where: str) -> None:
        self.number, self.where = number, where
        super().__init__(f"stopped by {signal.Signals(number).name} {where}")


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command line's body: its result or 0; 2, with the message alone on stderr, for a user's mistake; 128 + n for signal n."""
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
