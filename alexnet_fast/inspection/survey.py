"""The content of a beton in figures: settings, sizes, dimensions, class balance, tiles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..beton import format as fmt
from ..beton.classes import class_names
from ..beton.reader import Beton
from ..beton.several import BetonSet
from ..beton.sidecar import facts, names
from ..beton.target_fields import INT
from ..common.untrusted import printable
from ..packing.lossless import segments

BINS = 12
MAX_NAMED = 100
MAX_PARTS = 8  # files that the text names
LOOK_AT = 1000  # samples whose headers are read for markers: on a slow disk a million would take too long
DRI = 0xDD


@dataclass(frozen=True)
class Spread:
    """Minimum, mean, median and maximum of some numbers."""

    least: float
    mean: float
    median: float
    most: float

    @classmethod
    def of(cls, values: np.ndarray, text: str = ".1f") -> Spread:
        """text: the format to which the figures are rounded."""
        with np.errstate(all="ignore"):  # labels of a corrupt file may be anything
            figures = [float(f(values)) for f in (np.min, np.mean, np.median, np.max)]
        return cls(*(float(format(figure, text)) for figure in figures))


@dataclass(frozen=True)
class Histogram:
    """How many values are in [edges[k], edges[k + 1])."""

    edges: list[int]
    counts: list[int]

    @classmethod
    def of(cls, values: np.ndarray) -> Histogram:
        low, high = int(values.min()), int(values.max())
        width = next(
            w
            for w in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
            if (high - low) / w < BINS
        )
        # Bins such as 451 to 500, not 500 to 549: the size to which images were shrunk is the last value of its bin.
        edges = np.arange((low - 1) // width * width + 1, high + width + 1, width)
        return cls(edges.tolist(), np.histogram(values, edges)[0].tolist())


@dataclass(frozen=True)
class Balance:
    """Samples of each class."""

    classes: int
    spread: Spread
    empty: int
    """Classes without a sample."""
    empty_classes: list[str]
    """Their names if the sidecar has them, else labels; the first hundred."""
    of_no_class: int
    """Samples whose label is negative or larger than that of any class."""


@dataclass(frozen=True)
class Markers:
    """Restart markers, without which a crop decodes the complete image; counts of the samples that were looked at."""

    looked_at: int
    jpegs: int
    with_markers: int
    with_tile_table: int


@dataclass(frozen=True)
class Survey:
    """All figures of one file."""

    path: str
    packer: str
    settings: dict[str, Any]
    fields: list[str]
    """All fields of the file with their types, in its order."""
    image_field: str
    label_field: str
    samples: int
    raw: int
    """Samples that are stored as raw RGB."""
    file_bytes: int
    payload_bytes: int
    page_bytes: int
    bytes_an_image: Spread
    longest_side_px: Histogram
    shortest_side_px: Histogram
    balance: Balance | None
    """None if labels are numbers."""
    labels: Spread | None
    """None if they are classes."""
    markers: Markers
    converted: dict[str, int]
    skipped: int
    corrupt: int | None
    """Images that were packed although their decoder warned of them; None if the sidecar does not have the number."""

    parts: dict[str, int]
    """Of several files, how many samples each has; empty for one."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def survey(beton: Beton) -> Survey:
    """Read the metadata of all samples, and the headers of up to ``LOOK_AT`` of them, evenly spread.

    Raises:
        BetonError: the file was changed since it was opened.
    """
    with beton.unchanged:
        return _survey(beton)


def _survey(beton: Beton) -> Survey:
    sidecar = beton.sidecar or {}
    packer = sidecar.get("packer")
    width, height = beton.images["width"].astype(int), beton.images["height"].astype(int)
    return Survey(
        path=str(beton.path),
        packer=packer if isinstance(packer, str) else "an unknown packer: no sidecar names it",
        settings=facts(sidecar, "settings"),
        fields=list(map(str, beton.fields)),
        image_field=beton.image_field,
        label_field=beton.label_field,
        samples=beton.num_samples,
        raw=int((beton.images["mode"] == fmt.RAW).sum()),
        file_bytes=beton.num_bytes,
        payload_bytes=int(beton.sizes.sum()),
        page_bytes=beton.page_size,
        bytes_an_image=Spread.of(beton.sizes),
        longest_side_px=Histogram.of(np.maximum(width, height)),
        shortest_side_px=Histogram.of(np.minimum(width, height)),
        balance=_balance(beton) if beton.target_field == INT else None,
        labels=None if beton.target_field == INT else Spread.of(beton.labels, ".6g"),
        markers=_markers(beton),
        converted=facts(sidecar.get("counts"), "converted"),
        skipped=len(names(sidecar, "skipped")),
        corrupt=len(facts(sidecar, "corrupt")) if isinstance(sidecar.get("corrupt"), dict) else None,
        parts=_parts(beton),
    )


def _parts(beton: Beton) -> dict[str, int]:
    if not isinstance(beton, BetonSet):
        return {}
    return {str(part.path): part.num_samples for part in beton.parts}


def _balance(beton: Beton) -> Balance:
    labels, counts = np.unique(beton.labels, return_counts=True)
    # Without names there is a class for each label up to the largest, within a limit: a corrupt file may have any label.
    classes = class_names(beton, beton.sidecar) or [str(k) for k in range(min(int(labels[-1]) + 1, 1 << 20))]
    known = (labels >= 0) & (labels < len(classes))
    samples = np.zeros(len(classes), np.int64)
    samples[labels[known]] = counts[known]
    empty = [classes[k] for k in np.flatnonzero(samples == 0)[:MAX_NAMED].tolist()]
    spread = Spread.of(samples if len(samples) else counts)
    return Balance(len(classes), spread, int((samples == 0).sum()), empty, int(counts[~known].sum()))


def evenly(beton: Beton, count: int) -> list[int]:
    """Up to ``count`` samples, evenly spread over the file."""
    return np.unique(
        np.linspace(0, beton.num_samples - 1, min(count, beton.num_samples)).astype(int)
    ).tolist()


def class_name(beton: Beton, index: int) -> str:
    """The name of a sample's class; without names, its label."""
    if beton.target_field != INT:
        return " ".join(f"{number:g}" for number in np.ravel(beton.labels[index]).tolist())
    classes = class_names(beton, beton.sidecar)
    label = int(beton.labels[index])
    return str(classes[label]) if 0 <= label < len(classes) else f"label {label}"


def text(found: Survey) -> str:
    """The survey as text for a terminal; text from the file's json is escaped."""
    mb, size, balance, markers = found.file_bytes / 1e6, found.bytes_an_image, found.balance, found.markers
    of_classes = f" of {balance.classes:,} classes" if balance else ""
    lines = [
        f"{found.path}: {found.samples:,} samples{of_classes}, packed by {printable(found.packer)}",
        f"  settings      {_listed(f'{key} = {value}' for key, value in found.settings.items()) or 'unknown'}",
        *([f"  parts         {_shown_parts(found.parts)}"] if found.parts else []),
        *([_fields(found)] if len(found.fields) > 2 else []),
        f"  file          {mb:,.1f} MB in pages of {found.page_bytes >> 20} MiB, {found.payload_bytes / 1e6:,.1f} MB of it images"
        + (f", {found.raw:,} of them raw" if found.raw else ""),
        f"  an image      {size.least / 1e3:,.1f} to {size.most / 1e3:,.1f} kB, mean {size.mean / 1e3:,.1f}, median {size.median / 1e3:,.1f}",
        _labels(balance, found.labels),
        f"  tiles         {_tiles(markers)}",
    ]
    if found.converted or found.skipped or found.corrupt:
        kinds = _listed(f"{count} {kind}" for kind, count in found.converted.items())
        lines.append(
            f"  sources       converted: {kinds or 'none'}; skipped as unreadable: {found.skipped:,}"
            + (f"; corrupt: {found.corrupt:,}" if found.corrupt else "")
        )
    for name, histogram in (
        ("longest side", found.longest_side_px),
        ("shortest side", found.shortest_side_px),
    ):
        lines.append(f"  {name}")
        most = max(histogram.counts)
        for low, high, count in zip(histogram.edges, histogram.edges[1:], histogram.counts):
            lines.append(
                f"    {low:>6} to {high - 1:<6} px {count:>10,} {'█' * round(40 * count / most)}".rstrip()
            )
    return "\n".join(lines)


def _labels(balance: Balance | None, labels: Spread | None) -> str:
    if labels is not None:
        return f"  a label       {labels.least:g} to {labels.most:g}, mean {labels.mean:g}, median {labels.median:g}"
    assert balance is not None
    named = ", ".join(printable(name, 60) for name in balance.empty_classes[:8])
    named += " ..." if balance.empty > 8 else ""
    empty = f"; {balance.empty:,} empty: {named}" if balance.empty else "; none empty"
    empty += f"; {balance.of_no_class:,} samples of no class" if balance.of_no_class else ""
    spread = balance.spread
    return f"  a class       {spread.least:,.0f} to {spread.most:,.0f} samples, median {spread.median:,.0f}{empty}"


def _shown_parts(parts: dict[str, int]) -> str:
    shown = [f"{printable(Path(path).name)} ({count:,})" for path, count in parts.items()]
    more = f" and {len(shown) - MAX_PARTS:,} more" if len(shown) > MAX_PARTS else ""
    return f"{len(shown)} files: {', '.join(shown[:MAX_PARTS])}{more}"


def _fields(found: Survey) -> str:
    names = f"{found.image_field!r} is the image and {found.label_field!r} the label"
    return f"  fields        {names}, of {', '.join(found.fields)}"


def _listed(parts: Iterable[str]) -> str:
    return ", ".join(printable(part) for part in parts)


def _tiles(markers: Markers) -> str:
    looked = f"of {markers.jpegs:,} JPEGs looked at"
    if not markers.jpegs:
        return "no JPEGs: a crop of raw pixels needs none"
    if not markers.with_markers:
        return (
            f"none {looked}: every crop decodes its complete image; pack with restart markers to decode less"
        )
    return f"{markers.with_markers:,} {looked} have restart markers, {markers.with_tile_table:,} a tile table"


def _markers(beton: Beton) -> Markers:
    chosen = evenly(beton, LOOK_AT)
    jpegs = marked = tabled = 0
    for index in chosen:
        if beton.images["mode"][index] != fmt.JPEG:
            continue
        jpegs += 1
        jpeg = beton.payload(index)[: 1 << 17].tobytes()
        found = {marker: jpeg[start:end] for marker, start, end in segments(jpeg)}
        marked += any(found.get(DRI, b""))
        tabled += found.get(fmt.TILE_MARKER, b"").startswith(fmt.TILE_MAGIC)
    return Markers(len(chosen), jpegs, marked, tabled)
