"""Reads the paths that people give, on a command line or in a recipe."""

from __future__ import annotations

import os

from ..errors import UserError
from .untrusted import printable


def given_path(text: str) -> str:
    """The path that a user wrote, with a leading ``~`` or ``~name`` replaced by that user's home folder; else unchanged.

    A shell expands these too, but not in quotes, after ``--flag=`` or in a recipe.

    Raises:
        UserError: it is empty, or there is no such user.
    """
    if not text:
        raise UserError("an empty path: give one, such as . for the current folder")
    path = os.path.expanduser(text)
    if path.startswith("~"):
        user = text[1:].partition("/")[0]
        whose = (
            f"{user!r}, a user that this machine does not know" if user else "a user that it does not know"
        )
        raise UserError(
            f"{text} is in the home folder of {whose}: give the full path, or ./{text} for a name that starts so"
        )
    return path


def check_text(path: str, what: str) -> str:
    """The path, if a recipe can hold it.

    Raises:
        UserError: it is not UTF-8; file names need not be, but TOML and JSON must.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{printable(what)} {printable(path)} is not UTF-8, and a recipe holds no other text: rename that, or give a link to it with another name (ln -s)"
        ) from None
    return path
