"""Break stored images in six ways and load them: each must be skipped and listed, or its crop must be the intact image's.

    PYTHONPATH=.:tests:tools python -m stress.broken_samples --beton train.beton [--epochs 2] [--seed 0] [--threads 2]

The file is one that write_beton.py packed, with restart markers.  For each way a copy is made in which every sample is
broken, each at a different place, and loaded for training with on_error = "skip".  Survived means: every sample of
every epoch was counted, either as skipped or as delivered with exactly the pixels of the intact file.
Prints a row of JSON for each way, and a sentence.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_fast import Beton, Loader
from alexnet_fast.beton import format as fmt
from alexnet_fast.beton.reader import sidecar_path
from alexnet_fast.common.cli import file_path
from alexnet_fast.errors import exit_code

PAGE = 4096
Stored = tuple[bytes, int, int]
"""A payload, and the width and height that the file's metadata gives for it."""


def truncated(stored: Stored, rng: np.random.Generator) -> Stored:
    """Cut short, in its header or its scan."""
    payload, width, height = stored
    return payload[: int(rng.integers(1, len(payload)))], width, height


def zeroed(stored: Stored, rng: np.random.Generator) -> Stored:
    """A page of its scan, or the rest of one, replaced by zeros: as after a crash before it was written."""
    payload, width, height = stored
    begin = int(rng.integers(scan_of(payload), len(payload) - 64))
    end = min(begin + PAGE, len(payload))
    return payload[:begin] + bytes(end - begin) + payload[end:], width, height


def of_another_size(stored: Stored, rng: np.random.Generator) -> Stored:
    """Its metadata gives a size that is not the JPEG's."""
    payload, width, height = stored
    off = int(rng.choice([-32, -1, 1, 300]))
    return (
        (payload, max(1, width + off), height)
        if rng.random() < 0.5
        else (payload, width, max(1, height + off))
    )


def not_a_jpeg(stored: Stored, rng: np.random.Generator) -> Stored:
    """Text, a PNG's first bytes, or noise instead of it."""
    payload, width, height = stored
    begin = [b"<html>not found</html>", b"\x89PNG\r\n\x1a\n", b""][int(rng.integers(3))]
    return begin + rng.bytes(len(payload) - len(begin)), width, height


def lying(stored: Stored, rng: np.random.Generator) -> Stored:
    """Its frame header gives another size or subsampling than its scan has, and the metadata agrees with the header."""
    payload, width, height = stored
    sof = segment(payload, 0xC0)
    header = bytearray(payload)
    kind = int(rng.integers(3))
    if kind == 0:
        header[sof + 11] = {0x22: 0x11, 0x11: 0x22}.get(header[sof + 11], 0x11)
    else:
        off = int(rng.choice([-64, 64, 320]))
        width, height = (max(1, width + off), height) if kind == 1 else (width, max(1, height + off))
        header[sof + 5 : sof + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(header), width, height


def out_of_order(stored: Stored, rng: np.random.Generator) -> Stored:
    """A restart marker with the wrong number, or two adjacent intervals swapped together with their markers."""
    payload, width, height = stored
    scan = scan_of(payload)
    ends = restart_ends(payload)
    k = int(rng.integers(1, len(ends) - 1))
    if rng.random() < 0.5:
        at = ends[k] - 1
        return payload[:at] + bytes([0xD0 + (payload[at] + 3) % 8]) + payload[at + 1 :], width, height
    begin = ends[k - 2] if k > 1 else scan
    one, other = payload[begin : ends[k - 1]], payload[ends[k - 1] : ends[k]]
    return payload[:begin] + other + one + payload[ends[k] :], width, height


WAYS: dict[str, Callable[[Stored, np.random.Generator], Stored]] = {
    "truncated": truncated,
    "zeroed scan": zeroed,
    "wrong size": of_another_size,
    "not a JPEG": not_a_jpeg,
    "lying header": lying,
    "bad marker order": out_of_order,
}


def segment(payload: bytes, marker: int) -> int:
    """Offset of the first segment of a kind."""
    at = 2
    while payload[at + 1] != marker:
        at += 2 + int.from_bytes(payload[at + 2 : at + 4], "big")
    return at


def scan_of(payload: bytes) -> int:
    """Offset of the first entropy-coded byte."""
    at = segment(payload, 0xDA)
    return at + 2 + int.from_bytes(payload[at + 2 : at + 4], "big")


def restart_ends(payload: bytes) -> list[int]:
    """Offsets of the first byte after each restart marker."""
    data = np.frombuffer(payload, np.uint8)
    at = scan_of(payload)
    found = np.flatnonzero((data[at:-1] == 0xFF) & (data[at + 1 :] >= 0xD0) & (data[at + 1 :] <= 0xD7))
    return (found + at + 2).tolist()


def damage(source: Path, path: Path, ways: Mapping[int, str], seed: int) -> Path:
    """A copy of a beton, with its sidecar, in which sample i is broken in ways[i], at places drawn from ``seed``."""
    shutil.copyfile(source, path)
    if (told := sidecar_path(source)).exists():
        document = json.loads(told.read_text())
        document.pop("file", None)  # by which it would not know the broken file again
        sidecar_path(path).write_text(json.dumps(document))
    file = np.memmap(path, np.uint8, "r+")
    header = file[: fmt.HEADER.itemsize].view(fmt.HEADER)[0]
    start = fmt.metadata_offset(int(header["num_fields"]))
    type_ids = file[fmt.HEADER.itemsize : start].view(fmt.FIELD)["type_id"].tolist()
    dtype = fmt.record_dtype(type_ids)
    records = file[start : start + int(header["num_samples"]) * dtype.itemsize].view(dtype)
    images = records[f"f{type_ids.index(fmt.RGB_IMAGE_ID)}"]
    table = file[int(header["alloc_table_ptr"]) :].view(fmt.ALLOCATION)
    for index, way in ways.items():
        ptr, width, height = (int(images[name][index]) for name in ("data_ptr", "width", "height"))
        (entry,) = np.flatnonzero(table["ptr"] == ptr)
        stored = file[ptr : ptr + int(table["size"][entry])].tobytes(), width, height
        payload, width, height = WAYS[way](stored, np.random.default_rng([seed, index]))
        file[ptr : ptr + len(payload)] = np.frombuffer(payload, np.uint8)
        table["size"][entry] = len(payload)
        images["width"][index], images["height"][index] = width, height
    file.flush()
    return path


def attack(source: Path, way: str, epochs: int, seed: int, threads: int | None = None) -> dict[str, Any]:
    """Break every sample in one way; returns what happened to their crops."""
    started, delivered, wrong = time.perf_counter(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        with Beton(source) as beton:
            count = beton.num_samples
        broken = damage(source, Path(folder) / "broken.beton", dict.fromkeys(range(count), way), seed)
        for epoch in range(epochs):
            if found := crops(broken, epoch, threads):
                intact = crops(source, epoch, threads)
                delivered += len(found)
                wrong += sum(not np.array_equal(image, intact[index]) for index, image in found.items())
    return {
        "fault": way, "tries": epochs * count, "left_out": epochs * count - delivered,
        "delivered_intact": delivered - wrong, "wrong": wrong, "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip


def crops(path: Path, epoch: int, threads: int | None) -> dict[int, np.ndarray]:
    """The training crops of an epoch that were delivered, by place in the file. (3, 224, 224) uint8 each

    Raises:
        AssertionError: a sample was neither delivered nor listed, or both.
    """
    with Loader(
        path, 100, train=True, shuffle=False, drop_last=False, threads=threads, on_error="skip"
    ) as loader:
        loader.set_epoch(epoch)
        images = [image.numpy().copy() for batch in loader for image in batch.images]
        left_out = {each.index for each in loader.skipped}
        places = [index for index in range(loader.num_samples) if index not in left_out]
        assert len(left_out) == loader.skipped_in_epoch and len(places) == len(images)
    return dict(zip(places, images))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 1 if a wrong pixel was delivered."""
    parser = argparse.ArgumentParser(description="Load images that are broken in six ways.")
    parser.add_argument("--beton", type=file_path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args(argv)

    def run() -> int:
        rows = [attack(options.beton, way, options.epochs, options.seed, options.threads) for way in WAYS]
        for row in rows:
            print(json.dumps(row))
        tries, wrong = (sum(row[name] for row in rows) for name in ("tries", "wrong"))
        print(
            f"{tries:,} crops of images broken in {len(rows)} ways: {wrong} delivered with a pixel that is not the "
            f"image's, {sum(row['left_out'] for row in rows):,} skipped and listed, the others intact"
        )
        return int(wrong > 0)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
