"""A source of images -> a beton file and its sidecar, by worker processes: complete or not at all, despite any interruption."""

from __future__ import annotations

import errno
import os
import time
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from ..beton.sidecar import facts
from ..common.libturbojpeg import MISSING
from ..errors import UserError
from .encode import Encoding, Sample, encode_item
from .errors import CorruptImage, InputUnreadable, OutputUnwritable, UnreadableImage, WorkerDied
from .existing_file import finished
from .journal import Note, progress_sentence, remove_stale_journal
from .lossless import jpegtran
from .manifest import Image, Manifest, changed_meanwhile
from .partial_file import PartialFile
from .sidecar_writer import looks_for_corrupt
from .sources import Reader, SendsImages, Sent, Source
from .sources.image_folder import FolderError, ImageFolder, scan_folder
from .worker_pool import ordered_map

__all__ = ["FolderError", "ImageFolder", "PackResult", "check_place", "scan_folder", "write_beton"]

MAX_KINDS_SHOWN = 6  # kinds of files that are not packed: each name such as scan.0001 has its own kind
Outcome = tuple[Sample, int] | UnreadableImage
"""An encoded image and the CRC-32 of its payload, or why there is none."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class PackResult:
    """The result of a finished packing."""

    path: Path
    samples: int = 0
    resumed: int = 0
    """Images that an earlier, interrupted packing had done."""
    payload_bytes: int = 0
    file_bytes: int = 0
    seconds: float = 0.0
    converted: dict[str, str] = field(default_factory=dict)
    """Path of each image that was converted -> what it was (``Sample.converted_from``)."""
    skipped: list[str] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    """What else the folder contains: kind -> count (``listing.Ignored``)."""
    in_several_classes: int = 0
    """Images that are in more than one class through links."""
    corrupt: dict[str, str] = field(default_factory=dict)
    """Path of each image that was packed although its decoder warns of it -> the warning (``Sample.corrupt``)."""
    looked_for_corrupt: bool = True
    """Whether corrupt images were looked for: see ``sidecar_writer.looks_for_corrupt``."""
    scaled: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Path of each image of more than 8 bits -> the values that became black and white."""


def left_aside(packed: PackResult) -> list[str]:
    """One line on what the folder contains and the file does not, and one on images in several classes; no line for nothing."""
    listed, lines = f"listed in {packed.path}.json", []
    if packed.ignored:
        rest = len(packed.ignored) - MAX_KINDS_SHOWN
        kinds = sorted(packed.ignored.items(), key=lambda kind: (-kind[1], kind[0]))[:MAX_KINDS_SHOWN]
        shown = ", ".join(f"{count:,} {kind}" for kind, count in kinds)
        more = f" and {rest:,} other kinds" if rest > 0 else ""
        lines.append(f"not packed: {shown}{more}; {listed}")
    if packed.in_several_classes:
        lines.append(f"in several classes by links: {packed.in_several_classes:,} images; {listed}")
    return lines


def check_place(
    split: Source,
    path: Path,
    encoding: Encoding,
    settings: Mapping[str, object],
    on_corrupt: Literal["pack", "error"] = "pack",
) -> None:
    """Check that ``write_beton`` with the same arguments would replace no finished file; for callers that pack several files.

    Raises:
        OutputExists: it would.
    """
    if os.path.exists(path):  # else skip the plan, which takes a stat of every image
        finished(path, Manifest.of(split, encoding, _settings(settings, on_corrupt)), split.reader.place)


def write_beton(
    split: Source,
    path: Path,
    encoding: Encoding,
    *,
    workers: int,
    on_error: Literal["raise", "skip"] = "raise",
    on_corrupt: Literal["pack", "error"] = "pack",
    settings: Mapping[str, object] | None = None,
    fresh: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> PackResult:
    """Encode every image of ``split`` and write them, in its order, to ``path`` and its sidecar.

    The bytes depend only on the split and the encoding: not on the number of workers, and not on interruptions.
    Until it is complete the file is called ``<name>.partial``.  An interruption, even SIGKILL, leaves that and
    ``<name>.journal``, and the next call with the same arguments resumes there.  If the file is finished already, nothing is
    done; another file at ``path`` is replaced only with ``fresh``.

    Args:
        workers: processes that decode and encode.
        on_error: what an unreadable image does: "raise" ends the packing, "skip" lists it in the sidecar.
        on_corrupt: what happens to an image that its decoder reads with a warning: "pack" packs it and lists it in the sidecar,
            "error" treats it as unreadable.
        settings: more settings to record in the sidecar.
        fresh: start from scratch, even if a packing was interrupted or finished there.
        progress: called with the number of images done so far; a packing that resumes first calls it with what was done before.

    Raises:
        UnreadableImage: names the file, with on_error "raise"; a CorruptImage with on_corrupt "error".
        OutputExists: another finished file, or one of unknown origin, is at ``path``.
        InputChanged: the packing interrupted at ``path`` had other settings or images, or an image changed while the folder was
            packed.
        OutputLocked: another process is packing into ``path``.
        OutputUnwritable: the disk is full or not writable.
        InputUnreadable: the images' disk or network failed.
        WorkerDied: names the process, what ended it and its image.
        PackingError: an image takes more than the largest page (``format.MAX_PAGE_SIZE``).
        UserError: no image was readable, or on_corrupt is "error" and corrupt images cannot be detected here.
        JpegtranMissing: mode lossless without the program that it needs.
    """
    started = time.perf_counter()
    if encoding.mode == "lossless":
        jpegtran()  # before anything is written
    looked = looks_for_corrupt({"mode": encoding.mode})
    if on_corrupt == "error" and not looked:
        raise UserError(f"corrupt JPEGs can be an error only if they can be detected: {MISSING}")
    if path.is_dir():
        raise OutputUnwritable(f"cannot write {path}: it is a folder", "choose another --out")
    plan = Manifest.of(split, encoding, _settings(settings or {}, on_corrupt))
    if not fresh and (packed := _finished_before(path, plan, split.reader.place)):
        progress(packed.resumed)
        return packed
    unfinished = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with PartialFile(path, plan, split.reader, fresh=fresh) as unfinished:
            _encode_all(split, encoding, unfinished, workers, on_error, on_corrupt, progress)
            if not unfinished.kept:
                unfinished.forget()
                raise UserError(
                    f"none of the {len(split.keys)} images below {split.reader.place} could be read; nothing was written"
                )
            done, file_bytes = unfinished.finish()
    except OSError as error:
        raise _cannot_write(path, error, unfinished) from error
    except (InputUnreadable, WorkerDied) as error:
        raise type(error)(
            f"{error.what}; {progress_sentence(path, len(split.keys))}", error.remedy
        ) from error
    sizes = done.entries["size"]
    notes = {plan.paths[i]: note for i, note in sorted(done.notes.items()) if sizes[i]}
    return PackResult(
        path,
        samples=unfinished.kept,
        resumed=unfinished.resumed,
        payload_bytes=unfinished.payload_bytes,
        file_bytes=file_bytes,
        seconds=time.perf_counter() - started,
        converted={image: note.text for image, note in notes.items() if note.text},
        skipped=[plan.paths[i] for i in np.flatnonzero(sizes == 0).tolist()],
        ignored=dict(plan.ignored.counts),
        in_several_classes=len(plan.in_several_classes),
        corrupt={image: note.corrupt for image, note in notes.items() if note.corrupt},
        looked_for_corrupt=looked,
        scaled={image: note.scaled for image, note in notes.items() if note.scaled},
    )


def _settings(settings: Mapping[str, object], on_corrupt: str) -> Mapping[str, object]:
    """The settings, with on_corrupt only if it changes the bytes: else as in version 0.1, so that its packings resume."""
    return settings if on_corrupt == "pack" else {**settings, "on_corrupt": on_corrupt}


def _finished_before(path: Path, plan: Manifest, source: str) -> PackResult | None:
    """The result of an earlier packing that finished the same file; None if there is none, or another was interrupted since."""
    if (sidecar := finished(path, plan, source)) is None:
        return None
    remove_stale_journal(path)
    return PackResult(
        path,
        samples=sidecar["counts"]["samples"],
        resumed=len(plan.paths),
        payload_bytes=sidecar["counts"]["payload_bytes"],
        file_bytes=path.stat().st_size,
        converted=sidecar["converted"],
        skipped=sidecar["skipped"],
        ignored=dict(plan.ignored.counts),
        in_several_classes=len(plan.in_several_classes),
        corrupt=facts(sidecar, "corrupt"),
        looked_for_corrupt=isinstance(sidecar.get("corrupt"), dict),
        scaled=scaled if isinstance(scaled := sidecar.get("scaled"), dict) else {},
    )


def _encode_all(
    split: Source,
    encoding: Encoding,
    unfinished: PartialFile,
    workers: int,
    on_error: Literal["raise", "skip"],
    on_corrupt: Literal["pack", "error"],
    progress: Callable[[int], None],
) -> None:
    """Encode the images that are not in the file yet."""
    if on_error == "raise" and (skipped := unfinished.left_out()):
        raise UnreadableImage(next(iter(skipped.values())))
    if unfinished.count:
        progress(unfinished.count)
    with closing(_outcomes(split, unfinished.rest(), encoding, on_corrupt, workers)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, UnreadableImage):
                if on_error == "raise":
                    raise outcome
                unfinished.add((0, 0, 0, 0, 0), b"", Note(outcome.what))
            else:
                sample, checksum = outcome
                size = len(sample.payload)
                entry = (size, checksum, sample.width, sample.height, sample.mode)
                unfinished.add(
                    entry, sample.payload, Note(sample.converted_from, sample.corrupt, sample.scaled)
                )
            progress(unfinished.count)


def _outcomes(
    split: Source,
    rest: list[Image],
    encoding: Encoding,
    on_corrupt: Literal["pack", "error"],
    workers: int,
) -> Generator[Outcome, None, None]:
    """What each image is encoded to, in order."""
    reader = split.reader

    def doing(image: Image | Sent) -> str:
        return f"encoding {reader.name(image.key)}"

    if isinstance(split, SendsImages):
        sends = partial(encode_sent, encoding, on_corrupt)
        return ordered_map(sends, split.sent(rest), workers, doing=doing, are_large=True)
    return ordered_map(partial(encode_entry, reader, encoding, on_corrupt), rest, workers, doing=doing)


def encode_sent(encoding: Encoding, on_corrupt: Literal["pack", "error"], sent: Sent) -> Outcome:
    """``encode_entry`` of an image that another process has read."""
    return encode_entry(sent.reader, encoding, on_corrupt, sent.image)


def encode_entry(
    reader: Reader, encoding: Encoding, on_corrupt: Literal["pack", "error"], image: Image
) -> Outcome:
    """One image of a source, encoded, and the CRC-32 of its payload.

    Raises:
        InputChanged: the image is not the one of the plan any more.
    """
    outcome: Outcome
    try:
        sample = encode_item(reader, image.key, encoding)
        outcome = sample, zlib.crc32(sample.payload)
        if sample.corrupt and on_corrupt == "error":
            outcome = CorruptImage(f"the image {reader.name(image.key)} is corrupt: {sample.corrupt}")
    except UnreadableImage as error:
        outcome = error
    if reader.identity(image.key) != image.identity:  # checked after the read, so it was the same before it
        raise changed_meanwhile(reader.place, [image.key])
    return outcome


def _cannot_write(path: Path, error: OSError, unfinished: PartialFile | None) -> OutputUnwritable:
    why = error.strerror or str(error)
    if unfinished is None or error.errno not in FULL:
        return OutputUnwritable(f"cannot write {path}: {why}", "choose another --out or make room")
    needed = unfinished.bytes_missing()
    return OutputUnwritable(
        f"cannot write {path}: {why}, about {needed / 1e6:,.1f} MB more are needed; {progress_sentence(path, unfinished.total)}",
        "make room first",
    )
