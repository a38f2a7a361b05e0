"""What can be wrong with a beton."""

from __future__ import annotations

from ..errors import UserError


class BetonError(UserError):
    """A file that is no beton, is cut short, says things about itself that cannot be true, or was changed while it was read."""


class FieldError(BetonError):
    """A file whose fields leave open which is the image and which the label, or that lacks one that is named: no fault of its."""
