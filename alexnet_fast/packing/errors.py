"""Errors that stop a packing.  Each keeps what happened and what to do about it separately."""

from __future__ import annotations

from ..errors import UserError


class PackingError(UserError):
    """A packing cannot start or continue.

    Attributes:
        what: what happened.
        remedy: what to do, in terms of ``python -m alexnet_fast.pack``.  Other callers of the packer replace it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what, self.remedy = what, remedy

    def __reduce__(self) -> tuple[type[PackingError], tuple[str, str]]:
        return type(self), (self.what, self.remedy)  # worker processes pickle it


class UnreadableImage(PackingError):
    """A source file that no decoder can read, or that ends before its pixels do."""

    def __init__(
        self,
        what: str,
        remedy: str = "pack with --on-error skip to skip it, or fix it and start from scratch with --fresh",
    ) -> None:
        super().__init__(what, remedy)


class CorruptImage(UnreadableImage):
    """A source file whose decoder warns that it invented pixels, if the packer was asked to treat that as an error."""

    def __init__(
        self,
        what: str,
        remedy: str = "pack with --on-error skip to skip it, or without --on-corrupt error to pack it as its decoder reads it",
    ) -> None:
        super().__init__(what, remedy)


class InputUnreadable(PackingError):
    """The disk or network could not read a source file, which may be intact, or the program that it needs could not run."""

    def __init__(self, what: str, remedy: str = "fix that first") -> None:
        super().__init__(what, remedy)


class InputChanged(PackingError):
    """An interrupted packing cannot resume, since its settings or its images differ; or an image changed during a packing."""


class OutputExists(PackingError):
    """The output file already exists, with other settings or images, or of unknown origin."""

    def __init__(self, what: str, remedy: str = "give another --out, or --fresh to replace it") -> None:
        super().__init__(what, remedy)


class OutputUnwritable(PackingError):
    """The disk is full, or the output cannot be written."""


class OutputLocked(PackingError):
    """Another process packs into the same file."""


class WorkerDied(PackingError):
    """A worker process ended before its work was done, or ran out of memory."""
