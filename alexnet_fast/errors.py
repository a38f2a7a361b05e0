"""The one kind of error that is the user's to mend."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something given to us that the user can put right: a path, a value, a file, a missing package.

    The message is one sentence that says what was given, what was expected and what to do.  The
    command lines print it without a traceback and exit with code 2.
    """


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command line's body: its result or 0; 2, with the message alone on stderr, for a user's mistake; 130 for Ctrl-C."""
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
