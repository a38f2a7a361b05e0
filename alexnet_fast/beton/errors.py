"""Errors of reading a beton."""

from __future__ import annotations

from ..errors import UserError


class BetonError(UserError):
    """A file that is not a beton, is truncated, has impossible metadata, or was changed while it was read."""


class FieldError(BetonError):
    """A file with several possible image or label fields, or without a named one.  The file itself is intact."""
