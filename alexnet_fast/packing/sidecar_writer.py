"""Writes the json next to a beton: what it was packed from, how, and the checksum of every sample."""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..beton.sidecar import FIELDS_CRC32
from . import libjpeg
from .journal import PackedSoFar
from .layout import following
from .manifest import Manifest
from .sources.listing import MAX_LISTED

PARTIAL = ".partial"


@dataclass(frozen=True)
class File:
    """The facts by which a sidecar recognises its beton."""

    bytes: int
    index_crc32: int
    """CRC-32 of everything except the payloads: see ``Beton.index_checksum``."""


def compose(plan: Manifest, done: PackedSoFar, file: File) -> dict[str, Any]:
    """The sidecar of a finished packing; it depends on what was packed, not on interruptions."""
    kept = np.flatnonzero(done.entries["size"]).tolist()
    notes = {plan.paths[i]: done.notes[i] for i in kept if i in done.notes}
    converted = {path: note.text for path, note in notes.items() if note.text}
    corrupt = {path: note.corrupt for path, note in notes.items() if note.corrupt}
    per_class = (
        np.bincount(np.asarray(plan.labels)[kept], minlength=len(plan.classes))
        if plan.classes
        else np.zeros(0, int)
    )
    return {
        "packer": f"alexnet_fast {__version__}",
        "encoder": plan.encoder,
        "file": {"bytes": file.bytes, "index_crc32": f"{file.index_crc32:08x}"},
        "source_digest": plan.source_digest(),
        "settings": plan.settings,
        "counts": {
            "samples": len(kept),
            "payload_bytes": int(done.entries["size"].sum(dtype=np.uint64)),
            "per_class": dict(zip(plan.classes, per_class.tolist())),
            "converted": dict(sorted(Counter(converted.values()).items())),
        },
        # One string, eight hex digits a sample: a list of numbers would be half as large again, and take seconds to read.
        "crc32": done.entries["checksum"][kept].astype(">u4").tobytes().hex(),
        **_checksums_of_fields(plan, kept),
        "classes": plan.classes,
        "converted": converted,
        # Their decoders' warnings; null if they were not looked for.
        "corrupt": corrupt if corrupt or looks_for_corrupt(plan.settings) else None,
        # Images of more than 8 bits: the values that became black and white.
        "scaled": {path: note.scaled for path, note in notes.items() if note.scaled},
        "skipped": [plan.paths[i] for i in np.flatnonzero(done.entries["size"] == 0).tolist()],
        **_left_aside(plan),
        "paths": [plan.paths[i] for i in kept],
    }


def _checksums_of_fields(plan: Manifest, kept: list[int]) -> dict[str, str]:
    """CRC-32 of what follows each image, as the images' own; no key if there are no fields with payloads."""
    if not any(not kind.is_number for _, kind in plan.types):
        return {}
    return {FIELDS_CRC32: "".join(f"{zlib.crc32(following(plan.values(i))):08x}" for i in kept)}


def _left_aside(plan: Manifest) -> dict[str, Any]:
    """What else the folder contained; without that no keys, so that the sidecars of ordinary folders equal version 0.1's to the byte."""
    found: dict[str, Any] = {}
    if plan.ignored.counts:
        found["ignored"] = {
            "counts": dict(sorted(plan.ignored.counts.items())),
            "paths": sorted(plan.ignored.paths),
        }
    if plan.in_several_classes:
        found["in_several_classes"] = sorted(plan.in_several_classes)[:MAX_LISTED]
    return found


def looks_for_corrupt(settings: Mapping[str, Any]) -> bool:
    """Whether a packing on this machine detects corrupt JPEGs: libturbojpeg reports them or, in mode lossless, jpegtran."""
    return settings.get("mode") == "lossless" or libjpeg.library() is not None


def write_whole(path: Path, document: Mapping[str, Any]) -> None:
    """Replace the sidecar at ``path`` by a complete one, or leave it unchanged."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        with open(partial, "w") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
