"""A set packed in parts: each is a beton of its own, which no other part needs, written by one command or by a cluster's job array.

    python -m alexnet_fast.pack --data DIR --out OUT --shards 8        # all eight, one after the other
    python -m alexnet_fast.pack --data DIR --out OUT --part 3/8        # one of them: any order, any machine, at the same time

Part k of N has the samples of the one file from (k - 1) * n // N on, in the same order, with the same payloads.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..beton.index_file import MAX_PARTS
from ..beton.sidecar import PART, WHOLE
from ..errors import UserError
from .columns import Column, columns_of
from .sources import Reader, Source
from .sources.listing import Ignored


@dataclass(frozen=True)
class PartOf:
    """Which part of how many."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> PartOf:
        """The part that a text such as "3/8" names.

        Raises:
            ValueError: it names none; the text says what is expected.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal()):
            raise ValueError(f"{text!r} is not a part, expected one such as 3/8, the third of eight")
        made = cls(int(number), int(count))
        if not 1 <= made.count <= MAX_PARTS:
            raise ValueError(f"{text!r} is of {made.count} parts, expected 1 to {MAX_PARTS}")
        if not 1 <= made.number <= made.count:
            raise ValueError(
                f"{text!r} is no part of {made.count}: they are counted from 1, as 1/{made.count} to {made.count}/{made.count} "
                f"(Slurm: --array=1-{made.count} and --part $SLURM_ARRAY_TASK_ID/{made.count})"
            )
        return made

    def path(self, beton: Path) -> Path:
        """Where the part of a set is that would be packed into ``beton``; the parts' names sort in their order."""
        return beton.with_name(f"{beton.stem}-{self.number:0{len(str(self.count))}}-of-{self.count}.beton")

    def places(self, images: int) -> slice:
        """The places of this part's images among all."""
        return slice((self.number - 1) * images // self.count, self.number * images // self.count)


def all_parts(count: int) -> list[PartOf]:
    """All parts of so many."""
    return [PartOf(number, count) for number in range(1, count + 1)]


@dataclass(frozen=True)
class SourcePart:
    """Some images of a source, as a source.  What a source has besides its images is the first part's to report."""

    keys: list[str]
    labels: Sequence[float]
    classes: list[str]
    reader: Reader
    ignored: Ignored
    in_several_classes: list[str]
    columns: tuple[Column, ...] = ()

    @classmethod
    def of(cls, whole: Source, part: PartOf) -> SourcePart:
        """A part of a source.

        Raises:
            UserError: it would have no image.
        """
        keys = whole.keys
        if len(keys) < part.count:
            raise UserError(
                f"{whole.reader.place} has {len(keys):,} images, too few for {part.count} parts: give at most {len(keys)}"
            )
        places = part.places(len(keys))
        own = keys[places]
        return cls(
            own,
            whole.labels[places],
            whole.classes,
            whole.reader,
            whole.ignored if part.number == 1 else Ignored(),
            sorted(set(whole.in_several_classes) & set(own)),
            tuple(each.reordered(range(len(keys))[places]) for each in columns_of(whole)),
        )

    def shuffled(self, seed: int) -> SourcePart:
        """The same images in a random order."""
        order = list(range(len(self.keys)))
        random.Random(seed).shuffle(order)
        return self._with(order)

    def limited(self, count: int) -> SourcePart:
        """The first ``count`` images."""
        return self._with(list(range(min(count, len(self.keys)))))

    def _with(self, order: list[int]) -> SourcePart:
        labels = [self.labels[i] for i in order] if self.labels else []  # none where they are vectors
        columns = tuple(each.reordered(order) for each in self.columns)
        return replace(self, keys=[self.keys[i] for i in order], labels=labels, columns=columns)


def digest_of(whole: Source) -> str:
    """A digest of the images of all parts and their labels: parts of other images do not belong together.

    Not of the images' sizes, since every part would look at every image.
    """
    fields = [[each.name, each.digest()] for each in columns_of(whole)]
    listed = json.dumps(
        [whole.classes, list(whole.keys), list(whole.labels), *([fields] if fields else [])],
        separators=(",", ":"),
    )
    return hashlib.blake2b(listed.encode(), digest_size=16).hexdigest()


def settings_of(part: PartOf, digest: str) -> dict[str, object]:
    """What a part's settings say more than those of one file."""
    return {PART: str(part), WHOLE: digest}
