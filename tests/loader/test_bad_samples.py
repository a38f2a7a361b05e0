"""Broken samples: each is an error that names it, and its pixels are never another image's."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_fast import Loader, UserError
from alexnet_fast.decode.status import BrokenSample
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from betons import Entry, jpeg, jpegtran, loaded, marks, picture, segments, without_segment, write

SIZE = (256, 192)  # 16 x 12 MCUs: 4 tiles of 4 in each row
PLACE = 3


def tiled() -> bytes:
    return encode_jpeg(picture(*SIZE), Encoding(restart_mcus=4))


def untabled() -> bytes:
    return without_segment(tiled(), 0xEA)


def unmarked() -> bytes:
    return encode_jpeg(picture(*SIZE), Encoding(restart_mcus=0))


def zeroed(payload: bytes, share: float = 0.5, length: int = 800) -> bytes:
    at = int(len(payload) * share)
    return payload[:at] + bytes(length) + payload[at + length :]


def with_entries(payload: bytes, change: Callable[[np.ndarray], object]) -> bytes:
    """The JPEG with a tile table that was changed in place."""
    at, content = segments(payload)[0xEA]
    entries = np.frombuffer(content[8:], "<u2").copy()
    change(entries)
    return payload[: at + 12] + entries.tobytes() + payload[at + 4 + len(content) :]


def with_marker(payload: bytes, k: int, code: int) -> bytes:
    """The JPEG with its k-th RST marker replaced."""
    at, scan = segments(payload)[0]
    place = at + marks(scan)[k] - 1
    return payload[:place] + bytes([code]) + payload[place + 1 :]


def swapped_tiles(payload: bytes) -> bytes:
    """Two complete rows of tiles of different lengths swapped, and the table unchanged."""
    at, scan = segments(payload)[0]
    ends = [0, *marks(scan)]
    rows = [scan[ends[k] : ends[k + 4]] for k in range(0, len(ends) - 1, 4)]
    rows[4], rows[5] = rows[5], rows[4]
    return payload[:at] + b"".join(rows)


def one_more(payload: bytes) -> bytes:
    at, content = segments(payload)[0xEA]
    longer = content + b"\x00\x00"
    return (
        payload[:at]
        + b"\xff\xea"
        + (len(longer) + 2).to_bytes(2, "big")
        + longer
        + payload[at + 4 + len(content) :]
    )


def of_mode(mode: str) -> bytes:
    return jpeg(picture(*SIZE).convert(mode))


def stored_rgb() -> bytes:
    return jpeg(picture(*SIZE), keep_rgb=True)


def png() -> bytes:
    buffer = io.BytesIO()
    picture(*SIZE).save(buffer, "PNG")
    return buffer.getvalue()


def progressive() -> bytes:
    buffer = io.BytesIO()
    picture(*SIZE).save(buffer, "JPEG", progressive=True)
    return buffer.getvalue()


def without_later_tables(payload: bytes) -> bytes:
    """The JPEG without the DHT segments between its scans."""
    while (at := payload.rindex(b"\xff\xc4")) > payload.index(b"\xff\xda"):
        payload = payload[:at] + payload[at + 2 + int.from_bytes(payload[at + 2 : at + 4], "big") :]
    return payload


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty header": (lambda: b"\xff\xd8\xff\xd9", "its bytes are no JPEG"),
    "text": (lambda: b"this is no image" * 50, "its bytes are no JPEG"),
    "one byte": (lambda: b"\xff", "its bytes are no JPEG"),
    "PNG": (png, "its bytes are no JPEG"),
    "cut in the header": (lambda: tiled()[:200], "its bytes are no JPEG"),
    "cut in the scan, table": (lambda: tiled()[: len(tiled()) // 2], "its tile table disagrees"),
    "cut in the scan, no table": (lambda: untabled()[: len(tiled()) // 2], "its restart markers are missing"),
    "cut in the scan, no markers": (
        lambda: unmarked()[: len(unmarked()) // 2],
        "libjpeg-turbo found its data corrupt",
    ),
    "without its last byte": (lambda: tiled()[:-1], "its tile table disagrees"),
    "a byte too much": (lambda: tiled() + b"x", "its tile table disagrees"),
    "zeroed bytes, table": (lambda: zeroed(tiled()), "restart markers are missing or out of order"),
    "zeroed bytes, no table": (lambda: zeroed(untabled()), "restart markers are missing or out of order"),
    "zeroed bytes, no markers": (lambda: zeroed(unmarked()), "libjpeg-turbo found its data corrupt"),
    "marker out of order": (
        lambda: with_marker(tiled(), 20, 0xD0),
        "restart markers are missing or out of order",
    ),
    "marker gone": (lambda: with_marker(tiled(), 20, 0x00), "restart markers are missing or out of order"),
    "rows of tiles swapped": (lambda: swapped_tiles(tiled()), "restart markers are missing or out of order"),
    "table all zero": (lambda: with_entries(tiled(), lambda e: e.fill(0)), "its tile table disagrees"),
    "table all large": (lambda: with_entries(tiled(), lambda e: e.fill(65535)), "its tile table disagrees"),
    "table one byte off": (
        lambda: with_entries(tiled(), lambda e: e.__setitem__(5, e[5] + 1)),
        "its tile table disagrees",
    ),
    "table backwards": (
        lambda: with_entries(tiled(), lambda e: e.__setitem__(slice(None), e[::-1].copy())),
        "restart markers",
    ),
    "table of another image": (
        lambda: with_entries(tiled(), np.random.default_rng(0).shuffle),
        "restart markers",
    ),
    "table one entry too long": (lambda: one_more(tiled()), "its tile table disagrees"),
    # A decoder that has just decoded another image would take that image's.
    "no quantisation table": (lambda: without_segment(unmarked(), 0xDB), "lacks a quantisation or Huffman"),
    "no Huffman table": (lambda: without_segment(unmarked(), 0xC4), "lacks a quantisation or Huffman"),
    "tiles, no Huffman table": (lambda: without_segment(tiled(), 0xC4), "lacks a quantisation or Huffman"),
    "progressive, the later scans' tables gone": (
        lambda: without_later_tables(progressive()),
        "lacks a quantisation or Huffman",
    ),
    "CMYK": (lambda: of_mode("CMYK"), "cannot be decoded to YCbCr"),
    "stored RGB": (stored_rgb, "cannot be decoded to YCbCr"),
    "stored RGB told by its component names": (
        lambda: without_segment(stored_rgb(), 0xEE),
        "cannot be decoded to YCbCr",
    ),
    "another image's bytes": (
        lambda: encode_jpeg(picture(200, 150), Encoding()),
        "another size than the file's metadata says",
    ),
    "the image turned": (
        lambda: encode_jpeg(picture(*SIZE[::-1]), Encoding()),
        "another size than the file's metadata says",
    ),
}


def beton_of(folder: Path, broken: Entry) -> Path:
    """A beton of eight samples, the one at PLACE broken, and a sidecar that knows their sources."""
    entries: list[Entry] = [Entry.of(encode_jpeg(picture(*SIZE, seed), Encoding())) for seed in range(8)]
    entries[PLACE] = broken
    path = write(folder / "a.beton", entries)
    path.with_name("a.beton.json").write_text(json.dumps({"paths": [f"class/{k}.JPEG" for k in range(8)]}))
    return path


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("train", [False, True])
def test_a_broken_sample_is_an_error_that_names_it(tmp_path: Path, what: str, train: bool) -> None:
    make, expected = BROKEN[what]
    path = beton_of(tmp_path, Entry(make(), *SIZE))
    with Loader(path, 2, train=train, shuffle=False, scale=(1.0, 1.0), threads=2) as loader:
        delivered = []
        with pytest.raises(BrokenSample) as caught:
            for batch in loader:
                delivered += batch.labels.tolist()
        message = str(caught.value)
        assert delivered == [0, 1], "the batch before it came, its own did not"
        assert (
            message.startswith(f"sample {PLACE} (class/{PLACE}.JPEG) of {path} cannot be decoded: ")
            and "\n" not in message
        )
        assert expected in message
        assert isinstance(caught.value, UserError)


@pytest.mark.parametrize("size", [(60_000, 60_000), (65_535, 65_535), (20_000, 10_000), (255, 192)])
def test_metadata_that_lies_about_the_size_is_an_error_that_names_the_sample(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = beton_of(tmp_path, Entry(tiled(), *size))
    with Loader(path, 2, train=True, shuffle=False) as loader:
        for _ in range(2):
            with pytest.raises(BrokenSample, match=rf"sample {PLACE} \(class/{PLACE}\.JPEG\)"):
                list(loader)


def test_the_other_batches_of_the_epoch_can_still_be_had(tmp_path: Path) -> None:
    path = beton_of(tmp_path, Entry(b"no jpeg at all", *SIZE))
    whole = loaded(
        write(tmp_path / "whole.beton", [encode_jpeg(picture(*SIZE, seed), Encoding()) for seed in range(8)])
    )
    with Loader(path, 2, train=False) as loader:
        with pytest.raises(BrokenSample):
            list(loader)
        loader.set_epoch(0, 2)
        rest = {int(label): image.numpy() for batch in loader for image, label in zip(*batch)}
    assert sorted(rest) == [4, 5, 6, 7]
    assert all(np.array_equal(image, whole[index]) for index, image in rest.items())


def test_a_crop_of_the_intact_part_of_a_truncated_image_is_its_true_pixels_or_an_error(
    tmp_path: Path,
) -> None:
    """Where the tiles it touches are there, a crop needs nothing of the rest; nothing is ever invented."""
    path = write(tmp_path / "cut.beton", [Entry(untabled()[: len(untabled()) * 3 // 4], *SIZE)] * 60)
    true = loaded(write(tmp_path / "whole.beton", [untabled()] * 60), train=True)
    found = outcomes(path, 60)
    assert all(outcome is None or np.array_equal(outcome, true[k]) for k, outcome in enumerate(found))
    assert 5 < sum(outcome is None for outcome in found) < 55


def outcomes(path: Path, count: int) -> list[np.ndarray | None]:
    """Each sample's training crop in epoch 0, or None where it is broken."""
    found: list[np.ndarray | None] = []
    with Loader(path, 1, train=True, shuffle=False, drop_last=False, threads=1) as loader:
        while len(found) < count:
            loader.set_epoch(0, len(found))
            try:
                for batch in loader:
                    found.append(batch.images[0].numpy().copy())
            except BrokenSample:
                found.append(None)
    return found


def test_a_table_that_lies_anywhere_gives_true_pixels_or_an_error(tmp_path: Path) -> None:
    """Two neighbouring entries wrong by the same bytes, so that the sum is right: a tile starts or ends in the wrong place."""
    lies = []
    for k in range(47):
        for shift in (1, -1, 2, -3, 40):

            def lie(entries: np.ndarray, k: int = k, shift: int = shift) -> None:
                entries[k : k + 2] = [int(entries[k]) + shift, int(entries[k + 1]) - shift]

            lies.append(Entry(with_entries(tiled(), lie), *SIZE))
    true = loaded(write(tmp_path / "whole.beton", [tiled()] * len(lies)), train=True)
    found = outcomes(write(tmp_path / "lies.beton", lies), len(lies))
    assert [
        k for k, outcome in enumerate(found) if outcome is not None and not np.array_equal(outcome, true[k])
    ] == []
    assert sum(outcome is None for outcome in found) > 100


def test_random_corruption_never_crashes_and_the_intact_are_decoded(tmp_path: Path) -> None:
    """Whatever the bytes are, a decode ends in pixels or in an error; headers are corrupted as often as scans."""
    rng = np.random.default_rng(0)
    sources = [
        tiled(), untabled(), unmarked(), of_mode("L"), jpegtran(tiled(), "-progressive"), jpegtran(tiled(), "-restart", "2")
    ]  # fmt: skip
    entries = []
    for k in range(600):
        corrupt = bytearray(sources[k % len(sources)])
        last = len(corrupt) if k % 2 else 700
        for _ in range(rng.integers(1, 6)):
            corrupt[rng.integers(2, last)] = rng.choice(
                [0, 1, 17, 34, 0xC0, 0xD3, 0xDA, 255, rng.integers(256)]
            )
        entries.append(Entry(bytes(corrupt), *SIZE))
    found = outcomes(write(tmp_path / "a.beton", entries), len(entries))
    assert sum(outcome is None for outcome in found) > 100
    assert all(outcome.shape == (3, 224, 224) for outcome in found if outcome is not None)
