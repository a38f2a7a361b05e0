"""Writing the json beside a beton: what it was packed from, how, and the checksum of every sample."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from . import libjpeg
from .journal import PackedSoFar
from .listing import MAX_LISTED
from .manifest import Manifest

PARTIAL = ".partial"


@dataclass(frozen=True)
class File:
    """The finished beton, as its sidecar knows it again."""

    bytes: int
    index_crc32: int
    """Of all that is not payload: see ``Beton.index_checksum``."""


def compose(plan: Manifest, done: PackedSoFar, file: File) -> dict[str, Any]:
    """The sidecar of a packing that is done: a function of what was packed, not of how often it was interrupted."""
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
        # One string, eight hex digits a sample: a list of numbers takes half as much again, and seconds to read.
        "crc32": done.entries["checksum"][kept].astype(">u4").tobytes().hex(),
        "classes": plan.classes,
        "converted": converted,
        # What their decoders warn of; null where nobody looked.
        "corrupt": corrupt if corrupt or looks_for_corrupt(plan.settings) else None,
        # Of more than 8 bits: the values that became black and white.
        "scaled": {path: note.scaled for path, note in notes.items() if note.scaled},
        "skipped": [plan.paths[i] for i in np.flatnonzero(done.entries["size"] == 0).tolist()],
        **_left_aside(plan),
        "paths": [plan.paths[i] for i in kept],
    }


def _left_aside(plan: Manifest) -> dict[str, Any]:
    """What else the folder held, where it held anything: the files of ordinary folders are version 0.1's to the byte."""
    told: dict[str, Any] = {}
    if plan.ignored.counts:
        told["ignored"] = {
            "counts": dict(sorted(plan.ignored.counts.items())),
            "paths": sorted(plan.ignored.paths),
        }
    if plan.in_several_classes:
        told["in_several_classes"] = sorted(plan.in_several_classes)[:MAX_LISTED]
    return told


def looks_for_corrupt(settings: Mapping[str, Any]) -> bool:
    """Whether a packing here finds corrupt JPEGs: libturbojpeg tells of them, or, in mode lossless, jpegtran."""
    return settings.get("mode") == "lossless" or libjpeg.library() is not None


def write_whole(path: Path, document: Mapping[str, Any]) -> None:
    """Replace the sidecar at ``path``, at once or not at all."""
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
