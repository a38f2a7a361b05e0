"""Small JPEGs of real images in every layout that the loader takes, and mutations that know which part they corrupt."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_fast.errors import UserError
from alexnet_fast.packing.encode import with_tile_table

Random = np.random.Generator
SOI, EOI, SOS, DRI, TABLE = 0xD8, 0xD9, 0xDA, 0xDD, 0xEA
FRAMES = (0xC0, 0xC1, 0xC2)
SIDES = (0, 1, 7, 8, 9, 16, 17, 255, 256, 4096, 16_384, 65_499, 65_500, 65_501, 65_535)
SIZES_PX = ((150, 110), (96, 96), (61, 45), (17, 130))


def seeds(photos: Path) -> dict[str, bytes]:
    """JPEGs made from the images under a folder, by layout and size.

    Raises:
        UserError: the folder has too few.
    """
    found = sorted(photos.rglob("*.JPEG"))[: len(SIZES_PX)]
    if len(found) < len(SIZES_PX):
        raise UserError(
            f"{photos} has {len(found)} *.JPEG files, expected {len(SIZES_PX)}; name another folder"
        )
    made = {}
    for path, size in zip(found, SIZES_PX):
        with Image.open(path) as photo:
            image = photo.convert("RGB").resize(size)
        across = -(-size[0] // 16)
        layouts: dict[str, dict[str, object]] = {
            "tiles of one MCU": {"restart_marker_blocks": 1},
            "a tile a row": {"restart_marker_blocks": across},
            "two rows a tile": {"restart_marker_blocks": 2 * across},
            "markers across rows": {"restart_marker_blocks": across + 1},
            "no markers": {},
            "4:4:4": {"subsampling": 0, "restart_marker_blocks": 1},
            "4:2:2": {"subsampling": 1, "restart_marker_blocks": across, "optimize": True},
            "grey": {"restart_marker_blocks": 2},
            "progressive": {"progressive": True},
        }
        for name, options in layouts.items():
            buffer = io.BytesIO()
            (image.convert("L") if name == "grey" else image).save(buffer, "JPEG", quality=60, **options)  # type: ignore[arg-type]
            jpeg = buffer.getvalue()
            made[f"{name}, {size}"] = jpeg
            if "restart_marker_blocks" in options:
                made[f"{name}, table, {size}"] = with_tile_table(jpeg)
    return made


def parts(jpeg: bytes) -> list[bytes]:
    """The segments of a JPEG up to its first scan, SOI first, and the rest; joined they are the JPEG. Stops early where the segments do."""
    found, at = [jpeg[:2]], 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        found.append(jpeg[at:end])
        at = min(end, len(jpeg))
        if found[-1][1] == SOS:
            break
    return [*found, jpeg[at:]]


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def frame_at(jpeg: bytes) -> int:
    """Offset of the first frame header, or 0."""
    at = 0
    for part in parts(jpeg)[:-1]:
        if len(part) >= 13 and part[1] in FRAMES:
            return at
        at += len(part)
    return 0


def frame_size(jpeg: bytes) -> tuple[int, int]:
    """(width, height) in a JPEG's first frame header, or (0, 0)."""
    at = frame_at(jpeg)
    return (
        (int.from_bytes(jpeg[at + 7 : at + 9], "big"), int.from_bytes(jpeg[at + 5 : at + 7], "big"))
        if at
        else (0, 0)
    )


def marks(scan: bytes) -> list[int]:
    """Offsets of the RST markers in entropy-coded data."""
    return [k for k in range(len(scan) - 1) if scan[k] == 0xFF and 0xD0 <= scan[k + 1] <= 0xD7]


def replaced(jpeg: bytes, at: int, new: bytes) -> bytes:
    return jpeg[:at] + new + jpeg[at + len(new) :]


def bytes_anywhere(rng: Random, jpeg: bytes, other: bytes) -> bytes:
    changed = bytearray(jpeg)
    last = len(jpeg) if rng.random() < 0.5 else min(len(jpeg), 700)
    for at in rng.integers(0, last, rng.integers(1, 6)):
        changed[at] = rng.choice(
            [0, 1, 2, 17, 34, 0x41, 127, 128, 0xC0, 0xD0, 0xD9, 0xDA, 255, int(rng.integers(256))]
        )
    return bytes(changed)


def a_length(rng: Random, jpeg: bytes, other: bytes) -> bytes:
    found = parts(jpeg)
    k = int(rng.integers(1, max(2, len(found) - 1)))
    at = sum(map(len, found[:k]))
    told = int.from_bytes(jpeg[at + 2 : at + 4], "big")
    new = int(
        rng.choice([0, 1, 2, 3, told - 1, told + 1, told + 2, len(jpeg) - at - 2, len(jpeg) - at - 1, 0xFFFF])
    )
    return replaced(jpeg, at + 2, struct.pack(">H", new & 0xFFFF))


def segments_moved(rng: Random, jpeg: bytes, other: bytes) -> bytes:
    found, theirs = parts(jpeg), parts(other)
    a, b = (int(k) for k in rng.integers(1, max(2, len(found)), 2))
    match int(rng.integers(5)):
        case 0:
            del found[a : a + 1]
        case 1:
            found.insert(a, found[min(b, len(found) - 1)])
        case 2:
            found[a % len(found)], found[b % len(found)] = found[b % len(found)], found[a % len(found)]
        case 3:
            found.insert(a, theirs[int(rng.integers(1, len(theirs)))])
        case _:
            found[-1] = theirs[-1]
    return b"".join(found)


def a_marker_put_in(rng: Random, jpeg: bytes, other: bytes) -> bytes:
    found = parts(jpeg)
    new = [
        b"\xff\x01", b"\xff\x00", b"\xff\xff", b"\xff\xd0", b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\x00", bytes(40), b"\xff\xdc\x00\x04\x00\x10",
        segment(DRI, struct.pack(">H", int(rng.choice([0, 1, 2, 65_535])))), segment(0xFE, b"comment"), segment(TABLE, b"TILES\x00\x01\x02"),
    ][int(rng.integers(13))]  # fmt: skip
    if rng.random() < 0.5:
        found.insert(int(rng.integers(1, len(found))), new)
        return b"".join(found)
    places = [sum(map(len, found[:-1])) + k for k in marks(found[-1])] or [len(jpeg) - 2]
    at = int(rng.choice(places)) if rng.random() < 0.7 else int(rng.integers(2, len(jpeg)))
    return jpeg[:at] + new + jpeg[at:]


def the_interval(rng: Random, jpeg: bytes, other: bytes) -> bytes:
    at = jpeg.find(b"\xff\xdd\x00\x04")
    new = struct.pack(">H", int(rng.choice([0, 1, 2, 3, 5, 10, 20, 100, 65_535])))
    return replaced(jpeg, at + 4, new) if at > 0 else jpeg[:2] + segment(DRI, new) + jpeg[2:]


def restart_markers(rng: Random, jpeg: bytes, other: bytes) -> bytes:
    found = parts(jpeg)
    scan, places = found[-1], marks(found[-1])
    if len(places) < 3:
        return bytes_anywhere(rng, jpeg, other)
    k = int(rng.integers(len(places) - 2))
    at, behind, last = places[k], places[k + 1], places[k + 2]
    match int(rng.integers(4)):
        case 0:
            scan = replaced(scan, at + 1, bytes([0xD0 + int(rng.integers(10))]))
        case 1:
            scan = scan[:at] + scan[at + 2 :]
        case 2:
            scan = scan[:at] + scan[behind:last] + scan[at:behind] + scan[last:]
        case _:
            scan = scan[:behind] + scan[at:]
    return b"".join([*found[:-1], scan])


def the_table(rng: Random, jpeg: bytes, other: bytes) -> bytes:
    found = parts(jpeg)
    k = next((k for k, part in enumerate(found) if part[1:2] == bytes([TABLE]) and len(part) > 14), 0)
    if not k:
        return segments_moved(rng, jpeg, other)
    entries = np.frombuffer(found[k][12 : 12 + (len(found[k]) - 12) // 2 * 2], "<u2").copy()
    a, b = (int(x) for x in rng.integers(0, len(entries), 2))
    shift = int(rng.choice([1, -1, 2, -2, 3, 100, 4000]))
    match int(rng.integers(6)):
        case 0:
            entries[a] = rng.choice([0, 1, 2, 65_535])
        case 1:
            entries[a], entries[b] = entries[b], entries[a]
        case 2:
            entries[a], entries[b] = (int(entries[a]) + shift) & 0xFFFF, (int(entries[b]) - shift) & 0xFFFF
        case 3:
            entries = np.append(entries, entries[a])
        case 4:
            entries = np.delete(entries, a)
        case _:
            rng.shuffle(entries)
    found[k] = segment(TABLE, found[k][4:12] + entries.tobytes())
    return b"".join(found)


def the_frame(rng: Random, jpeg: bytes, other: bytes) -> bytes:
    at = frame_at(jpeg)
    if not at:
        return bytes_anywhere(rng, jpeg, other)
    width, height = frame_size(jpeg)
    match int(rng.integers(5)):
        case 0 | 1:
            side, old = ((5, height), (7, width))[int(rng.integers(2))]
            new = int(rng.choice([*SIDES, old - 1, old + 1, old + 16, 2 * old])) & 0xFFFF
            return replaced(jpeg, at + side, struct.pack(">H", new))
        case 2:
            place = at + int(rng.choice([11, 14, 17]))
            return replaced(
                jpeg,
                place,
                rng.choice([0, 0x11, 0x12, 0x14, 0x21, 0x22, 0x41, 0x42, 0x44, 0xFF], 1)
                .astype(np.uint8)
                .tobytes(),
            )
        case 3:
            return replaced(jpeg, at + 9, bytes([int(rng.choice([0, 1, 2, 3, 4, 255]))]))
        case _:
            return replaced(jpeg, at + 1, bytes([int(rng.choice([0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA]))]))


def cut_off(rng: Random, jpeg: bytes, other: bytes) -> bytes:
    return (
        jpeg[: int(rng.integers(0, len(jpeg)))]
        + [b"", b"\xff", b"\xff\xd9", b"\xff\xda"][int(rng.integers(4))]
    )


def a_hidden_frame(rng: Random, jpeg: bytes, other: bytes) -> bytes:
    """Reads as one JPEG if a marker without a length is taken for a segment, and as another if not."""
    marker = int(rng.choice([0x01, 0xD0, 0xD7, 0x00, 0x02, 0xBF, 0xDC]))
    start = (
        bytes([0xFF, SOI, 0xFF, marker]) + segment(0xFE, b"")[:2]
    )  # FF FE: a length of 65,534, or a comment
    hidden = (start + b"\x00\x02" + other[2:])[: 4 + 0xFFFE]
    return hidden + bytes(4 + 0xFFFE - len(hidden)) + jpeg[2:]


DAMAGES: list[Callable[[Random, bytes, bytes], bytes]] = [
    bytes_anywhere, a_length, segments_moved, a_marker_put_in, the_interval, restart_markers, the_table, the_frame, cut_off, a_hidden_frame,
]  # fmt: skip


def damaged(rng: Random, jpeg: bytes, other: bytes) -> bytes:
    """One to three mutations, one after another."""
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        if len(jpeg) > 4:
            jpeg = DAMAGES[int(rng.integers(len(DAMAGES)))](rng, jpeg, other)
    return jpeg


def damages(rng: Random, found: list[bytes]) -> Iterator[bytes]:
    """Corrupt JPEGs, endlessly."""
    while True:
        jpeg, other = (found[int(k)] for k in rng.integers(0, len(found), 2))
        yield damaged(rng, jpeg, other)
