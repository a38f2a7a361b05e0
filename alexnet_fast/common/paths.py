"""Paths as people give them, on a command line or in a recipe: read in this one place."""

from __future__ import annotations

import os

from ..errors import UserError
from .untrusted import printable


def given_path(text: str) -> str:
    """The path that a user wrote, with ``~`` or ``~name`` in front as that user's home folder; any other as it stands.

    A shell expands them itself, but not in quotes, behind ``--flag=`` or in a recipe.

    Raises:
        UserError: it is empty, or no such user is known.
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
            f"{text} is in the home folder of {whose}: give the whole path, or ./{text} for a name that begins so"
        )
    return path


def check_text(path: str, what: str) -> str:
    """The path, which a recipe can hold.

    Raises:
        UserError: it is not UTF-8, which names on a disk need not be, but TOML and JSON are.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{printable(what)} {printable(path)} is not UTF-8, and a recipe holds no other text: rename that, or give a link to it with another name (ln -s)"
        ) from None
    return path
