"""The other readers of a beton and its sidecar: the survey, its pictures, the verification, and the check before a training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_fast.beton.reader import Beton
from alexnet_fast.errors import UserError
from alexnet_fast.inspection import contact_sheets
from alexnet_fast.inspection.survey import survey, text
from alexnet_fast.inspection.verify import verify
from alexnet_fast.packing.data_folder import find_or_pack


class Onlookers:
    """Has all of them read each beton.

    Args:
        folder: where a folder of images is written, and next to it the beton that was packed from it.
        jpeg: each of its images.
        count: how many there are.

    Attributes:
        path: where the beton is expected.
    """

    def __init__(self, folder: Path, jpeg: bytes, count: int) -> None:
        self.data, self.path = folder / "data", folder / "data-beton" / "train.beton"
        self.path.parent.mkdir()
        (self.data / "train/class").mkdir(parents=True)
        for k in range(count):
            (self.data / f"train/class/{k}.JPEG").write_bytes(jpeg)

    def see(self, beton: Beton, decode: bool) -> None:
        """Survey the beton at ``path`` and, with ``decode``, draw it and compare it with the images.

        Raises:
            AssertionError: a printed line holds control characters for a terminal.
        """
        said: list[str] = []
        with _refusals(said.append):
            found = survey(beton)
            said += text(found).split("\n")
            json.dumps(found.as_json()).encode("ascii")
        with _refusals(said.append):
            find_or_pack(self.data, wanted=("train",), say=said.append)
        if decode:
            with _refusals(said.append):
                contact_sheets.samples_sheet(beton)
                contact_sheets.crops_sheet(beton, 0, 0)
            with _refusals(said.append):
                verdict = verify(self.path, self.data, workers=1)
                said += [str(verdict), *map(str, verdict.faults)]
        for line in said:
            assert line.isprintable(), f"not for a terminal: {line[:100]!r}"
            assert len(line) < 4000, f"{len(line)} letters: {line[:100]!r} ..."


@contextmanager
def _refusals(tell: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        tell(str(error))
