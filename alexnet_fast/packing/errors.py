"""What can be wrong with a beton, and what can stop a packing: such an error says what happened and, apart from that, what to do."""

from __future__ import annotations

from ..errors import UserError


class PackingError(UserError):
    """A packing that cannot begin or go on.

    Attributes:
        what: what happened.
        remedy: what to do, in words of ``python -m alexnet_fast.pack``.  Whoever packs in its stead says it in its own.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what, self.remedy = what, remedy

    def __reduce__(self) -> tuple[type[PackingError], tuple[str, str]]:
        return type(self), (self.what, self.remedy)  # it comes out of a worker process


class UnreadableImage(PackingError):
    """A source file that no decoder takes, or that ends before its pixels do."""

    def __init__(
        self,
        what: str,
        remedy: str = "pack with --on-error skip to leave it out, or mend it and begin anew with --fresh",
    ) -> None:
        super().__init__(what, remedy)


class CorruptImage(UnreadableImage):
    """A source file whose decoder warns of pixels that it invented, where that is an error."""

    def __init__(
        self,
        what: str,
        remedy: str = "pack with --on-error skip to leave it out, or without --on-corrupt error to pack it as its decoder reads it",
    ) -> None:
        super().__init__(what, remedy)


class InputUnreadable(PackingError):
    """A source file that may be whole was not given by its disk or network, or the program that it needs could not run."""

    def __init__(self, what: str, remedy: str = "mend that first") -> None:
        super().__init__(what, remedy)


class InputChanged(PackingError):
    """An interrupted packing cannot go on: it was begun otherwise, or from another folder."""


class OutputExists(PackingError):
    """Where the file is to go another stands: of other settings or images, or one that cannot be known again."""

    def __init__(self, what: str, remedy: str = "give another --out, or --fresh to replace it") -> None:
        super().__init__(what, remedy)


class OutputUnwritable(PackingError):
    """The disk is full, or the place cannot be written."""


class OutputLocked(PackingError):
    """Another process packs into the same file."""


class WorkerDied(PackingError):
    """A worker process ended before its work did."""
