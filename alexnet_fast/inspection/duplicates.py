"""Images that two betons share, as a training set and its evaluation set should not: the same bytes, or the same picture."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from ..beton.classes import Classes, class_names, difference, doubt
from ..beton.reader import Beton, BetonError
from ..beton.target_fields import INT
from ..common.cpus import allowed_cores
from ..common.untrusted import printable
from ..decode.crop import CROP_DTYPE
from ..decode.decoder import Decoder
from ..decode.kernel import sample_table
from ..decode.status import OK
from .perceptual_hash import BITS, GRAY_PX, are_flat, correlation, gray, near_pairs, perceptual_hashes
from .survey import Spread

DISTANCE = 6
"""Bits in which two hashes of the same picture may differ."""
MAX_DISTANCE = 12
CORRELATION = 0.95
"""That two pictures of 32 x 32 pixels with near hashes must have: near hashes alone are too few bits for a million images."""
CHUNK = 256  # samples that a thread takes at a time
TRIED = 4  # samples of one hash that are compared with a picture: they are nearly always copies of each other
SHOWN = 20

T = TypeVar("T")
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Hashes:
    """What is known of the samples of a file.

    Attributes:
        bytes: (n,) uint64: a payload's size and CRC-32.
        pictures: (n,) uint64: its perceptual hash.
        known: (n,) bool: whether it has one: it could be decoded, and is not of one colour.
        unreadable, flat: how many of those that have none could not be decoded, and are of one colour.
    """

    bytes: np.ndarray
    pictures: np.ndarray
    known: np.ndarray
    unreadable: int
    flat: int


@dataclass(frozen=True)
class Pair:
    """One sample of the second file, and the sample of the first that it is."""

    first: int
    second: int
    bits: int
    """In which their perceptual hashes differ; -1 if they have the same bytes."""
    other_class: bool
    """Whether the two are labelled differently."""


@dataclass(frozen=True)
class Side:
    """One of the two files, for a table."""

    path: str
    samples: int
    classes: int | None
    file_bytes: int
    payload_bytes: Spread
    width_px: Spread
    height_px: Spread
    unreadable: int
    one_colour: int


@dataclass(frozen=True)
class Comparison:
    """What two files have in common."""

    first: Side
    second: Side
    classes: str
    """What labels mean in the two, in words."""
    distance: int
    correlation: float
    same_bytes: int
    """Samples of the second whose bytes the first has too."""
    same_picture: int
    """Samples of the second that the first has re-encoded or resized."""
    other_class: int
    """Of all these, those that are labelled differently in the two."""
    pairs: list[Pair] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class _Opened:
    """A file whose samples are decoded."""

    def __init__(self, beton: Beton) -> None:
        self.beton, self._samples = beton, sample_table(beton)

    def grays(self, chosen: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Complete samples squeezed into 32 x 32 pixels, and which could be decoded. (n, 32, 32) float32, (n,) bool"""
        samples = self._samples[chosen]
        boxes = np.zeros(len(samples), CROP_DTYPE)
        boxes["height"] = boxes["high_y"] = samples["height"]
        boxes["width"] = boxes["high_x"] = samples["width"]
        images = np.zeros((len(samples), 3, GRAY_PX, GRAY_PX), np.uint8)
        statuses = np.zeros(len(samples), np.uint8)
        with Decoder(GRAY_PX) as decoder:
            decoder.decode(self.beton.map, samples, boxes, images, statuses)
        return gray(images), statuses == OK

    def hashes(self, progress: Progress) -> Hashes:
        """Decode every sample, and hash its bytes and its picture."""
        beton, count = self.beton, len(self.beton)
        byte_hashes, pictures = np.empty(count, np.uint64), np.zeros(count, np.uint64)
        known, flat = np.zeros(count, bool), np.zeros(count, bool)

        def work(part: slice) -> int:
            crcs = [zlib.crc32(beton.payload(index).data) for index in range(part.start, part.stop)]
            byte_hashes[part] = beton.sizes[part] << np.uint64(32) | np.array(crcs, np.uint64)
            grays, readable = self.grays(part)
            flat[part] = readable & are_flat(grays)
            known[part] = readable & ~flat[part]
            pictures[part] = perceptual_hashes(grays)
            return part.stop - part.start

        done = 0
        for number in _over_threads(work, _slices(count)):
            done += number
            progress(done)
        return Hashes(byte_hashes, pictures, known, int((~known & ~flat).sum()), int(flat.sum()))


def compare(
    first: Beton, second: Beton, distance: int = DISTANCE, progress: Progress = lambda done: None
) -> Comparison:
    """Find the samples of ``second`` that ``first`` has too.

    Every sample is decoded once, to 32 x 32 pixels, by all cores.  The search then compares 1.28 million hashes with 50,000 in 15 s on one
    core at the default distance, and takes about half as long again for each further bit.  About 100 bytes a sample are kept: 130 MB for
    1.28 million.

    Args:
        distance: bits in which two perceptual hashes of the same picture may differ, 0 to ``MAX_DISTANCE``.
        progress: called with the number of samples decoded, of both files.

    Raises:
        BetonError: a file was changed since it was opened.
    """
    one, two = _Opened(first), _Opened(second)
    with first.unchanged, second.unchanged:
        ours = one.hashes(progress)
        theirs = two.hashes(lambda done: progress(len(first) + done))
        found = _same_bytes(first, second, ours, theirs)
        left = theirs.known.copy()
        left[list(found)] = False
        found |= _same_picture(one, two, ours, theirs, left, distance)
    pairs = [
        Pair(place, index, bits, _labelled_differently(first, place, second, index))
        for index, (place, bits) in sorted(found.items())
    ]
    exact = sum(pair.bits < 0 for pair in pairs)
    return Comparison(
        _side(first, ours),
        _side(second, theirs),
        _meaning(first, second),
        distance,
        CORRELATION,
        exact,
        len(pairs) - exact,
        sum(pair.other_class for pair in pairs),
        pairs,
    )


def _same_bytes(first: Beton, second: Beton, ours: Hashes, theirs: Hashes) -> dict[int, tuple[int, int]]:
    """Samples of the second file -> (the first sample of the first file with the same bytes, -1)."""
    values, places = np.unique(ours.bytes, return_index=True)
    at = np.minimum(np.searchsorted(values, theirs.bytes), len(values) - 1)
    found = dict[int, tuple[int, int]]()
    for index in np.flatnonzero(values[at] == theirs.bytes).tolist():
        place = int(places[at[index]])
        if np.array_equal(first.payload(place), second.payload(index)):
            found[index] = place, -1
    return found


def _same_picture(
    one: _Opened, two: _Opened, ours: Hashes, theirs: Hashes, left: np.ndarray, distance: int
) -> dict[int, tuple[int, int]]:
    """Samples of the second file, of those that are left -> (the most similar one of the first, bits in which their hashes differ)."""
    of_first, of_second = _ByHash(ours.pictures, ours.known), _ByHash(theirs.pictures, left)
    if not len(of_first.values) or not len(of_second.values):
        return {}
    near = {
        pair
        for values, wanted in near_pairs(of_first.values, of_second.values, distance)
        for pair in zip(values.tolist(), wanted.tolist())
    }
    candidates = [
        (place, index)
        for value, wanted in sorted(near)
        for place in of_first.samples(value)[:TRIED]
        for index in of_second.samples(wanted)
    ]

    def alike(part: slice) -> list[float]:
        places, indices = np.array(candidates[part]).T
        return correlation(one.grays(places)[0], two.grays(indices)[0]).tolist()

    best = dict[int, tuple[float, int]]()
    for part, found in zip(_slices(len(candidates)), _over_threads(alike, _slices(len(candidates)))):
        for (place, index), value in zip(candidates[part], found):
            if value >= max(CORRELATION, best.get(index, (0.0, 0))[0]):
                best[index] = value, place
    return {
        index: (place, int(np.bitwise_count(ours.pictures[place] ^ theirs.pictures[index])))
        for index, (_, place) in best.items()
    }


class _ByHash:
    """The samples of each hash: a hash that many share is compared once."""

    def __init__(self, hashes: np.ndarray, chosen: np.ndarray) -> None:
        places = np.flatnonzero(chosen)
        self.values, inverse = np.unique(hashes[places], return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        self._places = places[order]
        self._starts = np.searchsorted(inverse[order], np.arange(len(self.values) + 1))

    def samples(self, value: int) -> list[int]:
        return self._places[self._starts[value] : self._starts[value + 1]].tolist()


def _slices(count: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _over_threads(work: Callable[[slice], T], parts: Iterable[slice]) -> Iterator[T]:
    """The results in order; after an error or Ctrl-C only what has begun is waited for."""
    threads, waiting = allowed_cores(), iter(parts)
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(work, part) for part in islice(waiting, 2 * threads)]
        while running:
            yield running.pop(0).result()
            running += [pool.submit(work, part) for part in islice(waiting, 1)]


def _side(beton: Beton, found: Hashes) -> Side:
    return Side(
        str(beton.path),
        len(beton),
        len(_known_classes(beton)) or beton.num_classes if beton.target_field == INT else None,
        beton.num_bytes,
        Spread.of(beton.sizes),
        Spread.of(beton.images["width"]),
        Spread.of(beton.images["height"]),
        found.unreadable,
        found.flat,
    )


def _known_classes(beton: Beton) -> list[str]:
    try:
        return class_names(beton, beton.sidecar)
    except BetonError:  # which Classes reports
        return []


def _meaning(first: Beton, second: Beton) -> str:
    """Whether labels mean the same in two files, in words."""
    if INT not in (first.target_field, second.target_field):
        return "labels are numbers"
    if first.target_field != second.target_field:
        return "one file's labels are classes, the other's are numbers"
    known, other = Classes.of(first), Classes.of(second)
    trouble = [each.trouble for each in (known, other) if each.trouble]
    if found := difference(known, other) or next(iter(trouble), "") or doubt(known, other):
        return found
    if not (known.names and other.names):
        return "no class names show whether labels mean the same"
    return "each label means the same in both"


def _labelled_differently(first: Beton, place: int, second: Beton, index: int) -> bool:
    """Whether two samples have other classes: by name where both files have names."""
    label, other = first.labels[place].item(), second.labels[index].item()
    names, others = _known_classes(first), _known_classes(second)
    if names and others and 0 <= label < len(names) and 0 <= other < len(others):
        return names[label] != others[other]
    return label != other


def text(found: Comparison, first: Beton, second: Beton) -> str:
    """The comparison as text for a terminal; text from the files' json is escaped."""
    one, two = found.first, found.second

    def row(what: str, a: str, b: str) -> str:
        return f"  {what:<20}{a:>24}{b:>24}"

    def spread(values: Spread, unit: float = 1.0) -> str:
        return f"{values.least / unit:,.0f} to {values.most / unit:,.0f}, median {values.median / unit:,.0f}"

    lines = [
        f"A: {one.path}",
        f"B: {two.path}",
        row("", "A", "B"),
        row("samples", f"{one.samples:,}", f"{two.samples:,}"),
        row("classes", *("numbers" if each.classes is None else f"{each.classes:,}" for each in (one, two))),
        row("file, MB", *(f"{each.file_bytes / 1e6:,.1f}" for each in (one, two))),
        row("an image, kB", *(spread(each.payload_bytes, 1e3) for each in (one, two))),
        row("width, px", *(spread(each.width_px) for each in (one, two))),
        row("height, px", *(spread(each.height_px) for each in (one, two))),
        f"  labels              {printable(found.classes, 500)}",
        _shared(found),
    ]
    for each, name in ((one, "A"), (two, "B")):
        if each.unreadable or each.one_colour:
            lines.append(
                f"  compared by bytes alone, of {name}: {each.unreadable:,} that do not decode, {each.one_colour:,} of one colour"
            )
    for pair in found.pairs[:SHOWN]:
        how = "same bytes" if pair.bits < 0 else f"same picture, {pair.bits} of {BITS} bits differ"
        lines.append(
            f"    {_named(second, pair.second)} of B is {_named(first, pair.first)} of A: {how}"
            + (", labelled differently" if pair.other_class else "")
        )
    if len(found.pairs) > SHOWN:
        lines.append(f"    and {len(found.pairs) - SHOWN:,} more; --json lists all")
    return "\n".join(lines)


def _shared(found: Comparison) -> str:
    total = found.same_bytes + found.same_picture
    rule = (
        f"perceptual hashes within {found.distance} of {BITS} bits, correlation at least {found.correlation}"
    )
    if not total:
        return f"  duplicates          none of B's {found.second.samples:,} samples is in A (bytes; {rule})"
    return (
        f"  duplicates          {total:,} of B's {found.second.samples:,} samples are in A: {found.same_bytes:,} with the same bytes, "
        f"{found.same_picture:,} re-encoded or resized ({rule})"
        + (f"; {found.other_class:,} of them are labelled differently" if found.other_class else "")
    )


def _named(beton: Beton, index: int) -> str:
    path = beton.source_path(index)
    return f"sample {index}" + (f" ({printable(path)})" if path else "")
