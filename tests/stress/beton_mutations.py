"""Betons laid out by hand, byte by byte, and mutations that know which part of the format they corrupt."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .jpeg_mutations import SIDES, Random, damaged, frame_size, seeds

FIELDS = struct.pack("<B16s1024x", 2, b"image") + struct.pack("<B16s1024x", 1, b"label")
RECORDS_AT = 24 + len(FIELDS)
RECORD = struct.Struct("<BHHQ3xq")  # mode, width, height, pointer, label
ENTRY = struct.Struct("<QQQ")  # sample, pointer, size
PAGE_BYTES = 1 << 21
COUNT = 6  # samples of a file
WORDS = (0, 1, 2, 23, 24, 255, 1 << 15, (1 << 16) - 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 60, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One sample as it is written to the file; its metadata may be wrong."""

    payload: bytes
    width: int
    height: int
    mode: int = 0

    @staticmethod
    def of(jpeg: bytes) -> Sample:
        return Sample(jpeg, *frame_size(jpeg))


def laid_out(samples: list[Sample]) -> bytearray:
    """The file, without the padding between its regions that no reader needs."""
    at = RECORDS_AT + RECORD.size * len(samples)
    records, table = b"", b""
    for k, sample in enumerate(samples):
        records += RECORD.pack(sample.mode, sample.width, sample.height, at, k)
        table += ENTRY.pack(k, at, len(sample.payload))
        at += len(sample.payload)
    head = struct.pack("<HHIQQ", 2, 2, PAGE_BYTES, len(samples), at) + FIELDS
    return bytearray(b"".join([head, records, *(sample.payload for sample in samples), table]))


def with_damaged_samples(rng: Random, samples: list[Sample], jpegs: list[bytes]) -> list[Sample]:
    """Corrupt some of the samples' payloads or their metadata; mostly the metadata is changed to agree with the JPEG."""
    found = list(samples)
    for k in rng.integers(0, len(found), int(rng.integers(1, 4))):
        sample = found[k]
        if sample.mode and rng.random() < 0.9:
            continue  # a wrong size of raw pixels is always noticed
        if sample.mode == 0 and rng.random() < 0.9:
            payload = damaged(rng, sample.payload, jpegs[int(rng.integers(len(jpegs)))])
            sample = replace(sample, payload=payload or b"\xff")
            if rng.random() < 0.9:
                width, height = frame_size(payload)
                sample = replace(sample, width=width or 1, height=height or 1)
        else:
            side = str(rng.choice(["width", "height"]))
            sample = replace(sample, **{side: int(rng.choice(SIDES))})
        if rng.random() < 0.01:
            sample = replace(sample, mode=int(rng.choice([0, 1, 2, 255])))
        found[int(k)] = sample
    return found


def damage_file(rng: Random, file: bytearray, count: int) -> None:
    """Change, in place, the header and the tables of the file."""
    table_at = len(file) - ENTRY.size * count
    for _ in range(int(rng.integers(1, 4))):
        k, j = (int(x) for x in rng.integers(0, count, 2))
        record, entry = RECORDS_AT + RECORD.size * k, table_at + ENTRY.size * k
        match int(rng.integers(8)):
            case 0:  # header
                at, size = [(0, 2), (2, 2), (4, 4), (8, 8), (16, 8)][int(rng.integers(5))]
                old = int.from_bytes(file[at : at + size], "little")
                new = int(
                    rng.choice(np.array([*WORDS, old - 1, old + 1, old + 24, old - 24, RECORDS_AT], object))
                )
                file[at : at + size] = (new % (1 << 8 * size)).to_bytes(size, "little")
            case 1:  # descriptor
                at = 24 + 1041 * int(rng.integers(2)) + int(rng.choice([0, 0, 1, 5, 17]))
                file[at] = int(rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 27, 200, 255]))
            case 2:  # size in pixels
                at = record + int(rng.choice([1, 3]))
                file[at : at + 2] = struct.pack("<H", int(rng.choice(SIDES)))
            case 3:  # pointer, in the record, or in both places so that they agree
                old = int.from_bytes(file[record + 5 : record + 13], "little")
                pointer = struct.pack("<Q", (old + _offset(rng, len(file))) % (1 << 64))
                file[record + 5 : record + 13] = pointer
                if rng.random() < 0.7:
                    file[entry + 8 : entry + 16] = pointer
            case 4:  # size in bytes
                old = int.from_bytes(file[entry + 16 : entry + 24], "little")
                file[entry + 16 : entry + 24] = struct.pack("<Q", (old + _offset(rng, len(file))) % (1 << 64))
            case 5:  # two samples' pointers changed round, or one for both
                other = RECORDS_AT + RECORD.size * j + 5
                pointer = bytes(file[record + 5 : record + 13])
                if rng.random() < 0.5:
                    file[record + 5 : record + 13] = file[other : other + 8]
                file[other : other + 8] = pointer
            case 6:  # two entries of the table changed round
                other = table_at + ENTRY.size * j
                mine = bytes(file[entry : entry + 24])
                file[entry : entry + 24], file[other : other + 24] = file[other : other + 24], mine
            case _:  # any byte that is no payload
                at = int(
                    rng.choice(
                        [
                            rng.integers(RECORDS_AT),
                            rng.integers(RECORDS_AT, record + 24),
                            rng.integers(table_at, len(file)),
                        ]
                    )
                )
                file[at] = int(rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))]))


def beyond_its_page(rng: Random, file: bytearray, count: int) -> bytearray:
    """A large file with one payload whose stated size is a page or more: it is inside the file, but in none of its pages."""
    at, k = len(file) - ENTRY.size * count, int(rng.integers(count))
    size = PAGE_BYTES + int(rng.choice([-1, 0, 1, 1 << 12, 1 << 20]))
    found = file[:at] + bytes(2 * PAGE_BYTES) + file[at:]
    struct.pack_into("<Q", found, 16, at + 2 * PAGE_BYTES)
    struct.pack_into("<Q", found, at + 2 * PAGE_BYTES + ENTRY.size * k + 16, size)
    return found


def _offset(rng: Random, length: int) -> int:
    return int(rng.choice(np.array([*WORDS, -1, 1, -2, 24, -24, length, -length], object)))


def resized(rng: Random, file: bytearray) -> bytearray:
    """The file cut short, or longer than it should be."""
    if rng.random() < 0.7:
        at = rng.choice(
            [
                rng.integers(0, 24),
                rng.integers(0, RECORDS_AT + 200),
                rng.integers(0, len(file)),
                len(file) - rng.integers(1, 60),
            ]
        )
        return file[: int(at)]
    return file + bytes(int(rng.choice([1, 23, 24, 48, 4096])))


def a_sidecar(rng: Random, count: int) -> bytes:
    """A corrupt JSON sidecar next to the file."""
    paths = [f"class/{k}.JPEG" for k in range(count)]
    document: Any = [
        {"paths": paths}, {"paths": paths[:-1]}, {"paths": [["x"]] * count}, {"paths": ["a\nb\x1b[2J"] * count}, {"paths": {"0": 1}},
        {"paths": [None] * count}, {"file": {"bytes": 1}, "paths": paths}, [1], 3, None, {"paths": ["\ud800"] * count}, {"classes": 3, "settings": 4},
    ][int(rng.integers(12))]  # fmt: skip
    if rng.random() < 0.8:
        document = told_by_the_packer(paths)
        for _ in range(int(rng.integers(1, 3))):
            replace_one(rng, document)
        return json.dumps(document).encode()
    text = json.dumps(document).encode()
    match int(rng.integers(8)):
        case 0:
            return text[: int(rng.integers(len(text)))]
        case 1:
            return b"[" * 100_000
        case 2:
            return b'{"a":' * 50_000
        case 3:
            return b'{"paths": ' + b"9" * 5000 + b"}"
        case 4:
            return text + b"\xff\xfe\x00"
        case 5:
            return b'{"paths": NaN, "paths": 1e999}'
        case _:
            return text


def told_by_the_packer(paths: list[str]) -> dict[str, Any]:
    """A sidecar as the packer writes it, without what is checked against the file itself."""
    return {
        "packer": "alexnet_fast 1",
        "encoder": {"pillow": "1"},
        "settings": {
            "mode": "reencode", "max_resolution": 0, "min_side": 0, "quality": 90, "restart_mcus": 2, "optimize": False,
            "split": "train", "shuffle_seed": 0, "limit": None,
        },
        "counts": {"samples": len(paths), "converted": {"L JPEG": 1}},
        "classes": ["class"],
        "converted": {},
        "skipped": [],
        "paths": paths,
    }  # fmt: skip


def replace_one(rng: Random, document: Any) -> None:
    """Replace, in place, one value of a document, at any depth."""
    nested: Any = 1
    for _ in range(400):
        nested = [nested]
    others: tuple[Any, ...] = (
        5, 0, -1, 101, 1.5, float("inf"), 1 << 70, True, None, "", "a\nb\x1b[2J", "x" * 20_000, "\ud800\u202e", "lossless", "raw",
        [], {}, ["x"], {"a": [1]}, "..", "class/../../../etc/hostname", "/etc/hostname", "class/\0", nested,
    )  # fmt: skip
    while True:
        keys = list(document) if isinstance(document, dict) else range(len(document))
        key = keys[int(rng.integers(len(keys)))]
        if not isinstance(document[key], (dict, list)) or not document[key] or rng.random() < 0.3:
            document[key] = others[int(rng.integers(len(others)))]
            return
        document = document[key]


class Files:
    """Corrupt betons by number."""

    def __init__(self, photos: Path, seed: int, folder: Path, *, with_ffcv: bool) -> None:
        self.seed = seed
        self.jpegs = list(seeds(photos).values())
        raw = np.random.default_rng(0).integers(0, 256, (33, 47, 3), np.uint8)
        self.raw = Sample(raw.tobytes(), 47, 33, 1)
        self.ffcv = written_by_ffcv(folder, self.jpegs) if with_ffcv else None

    def make(self, number: int) -> tuple[bytes, bytes | None]:
        """The bytes of a file and of its sidecar, if it has one."""
        rng = np.random.default_rng([self.seed, number])
        if rng.random() < 0.03 and self.ffcv:
            file = bytearray(self.ffcv)
            for at in rng.integers(0, len(file), 3):
                file[at if rng.random() < 0.3 else at % 24] = rng.integers(256)
            return bytes(file), None
        chosen = [self.jpegs[int(k)] for k in rng.integers(0, len(self.jpegs), COUNT - 1)]
        samples = [*map(Sample.of, chosen), self.raw]
        kind = rng.random()
        if kind < 0.8:
            samples = with_damaged_samples(rng, samples, self.jpegs)
        file = laid_out(samples)
        if kind > 0.75:
            damage_file(rng, file, len(samples))
        if kind > 0.95:
            file = resized(rng, file)
        elif kind < 0.02:
            file = beyond_its_page(rng, file, len(samples))
        return bytes(file), a_sidecar(rng, len(samples)) if rng.random() < 0.2 else None


def written_by_ffcv(folder: Path, payloads: list[bytes]) -> bytes | None:
    """A beton from FFCV's own writer, if FFCV is installed."""
    try:
        from ffcv.fields import IntField, RGBImageField
        from ffcv.writer import DatasetWriter
    except ImportError:
        return None
    from tqdm import tqdm  # type: ignore[import-untyped]

    tqdm.monitor_interval = 0
    path = folder / "ffcv.beton"
    fields = {"label": IntField(), "image": RGBImageField(write_mode="jpg")}
    images = [(k, Image.open(io.BytesIO(payloads[k])).convert("RGB")) for k in range(3)]
    with open(os.devnull, "w") as nowhere:
        shown, sys.stderr = sys.stderr, nowhere
        try:
            DatasetWriter(str(path), fields, page_size=1 << 21, num_workers=1).from_indexed_dataset(images)
        finally:
            sys.stderr = shown
    return path.read_bytes()
