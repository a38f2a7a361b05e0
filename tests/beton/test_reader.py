"""The reader on files laid out by hand: what it reads, what it refuses, and with which sentence."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.beton import sigbus
from alexnet_fast.beton.reader import Beton, BetonError
from alexnet_fast.decode.kernel import sample_table
from alexnet_fast.errors import UserError
from betons import PAGE, Entry, jpeg, picture, write

FIELDS_AT = 24
RECORDS_AT = 24 + 2 * 1041


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a good file of four samples, one of them raw."""
    entries = [Entry.of(jpeg(picture(64, 48, seed))) for seed in range(3)] + [Entry.raw(picture(20, 30))]
    return write(tmp_path_factory.mktemp("good") / "good.beton", entries, labels=[7, 0, 7, 2]).read_bytes()


def refusal(tmp_path: Path, content: bytes) -> str:
    """The error of opening a file of these bytes, which must be one sentence that names the file."""
    path = tmp_path / "bad.beton"
    path.write_bytes(content)
    with pytest.raises(BetonError) as caught:
        Beton(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def patched(content: bytes, at: int, layout: str, *values: int) -> bytes:
    """The bytes with a few of them changed."""
    changed = bytearray(content)
    struct.pack_into(layout, changed, at, *values)
    return bytes(changed)


def record(k: int) -> int:
    return RECORDS_AT + 24 * k


def test_it_reads_what_the_specification_describes(tmp_path: Path) -> None:
    images = [jpeg(picture(64, 48, seed)) for seed in range(3)]
    path = write(tmp_path / "a.beton", [*images, Entry.raw(picture(20, 30))], labels=[7, 0, 7, 2])
    with Beton(path) as beton:
        assert beton.num_samples == len(beton) == 4
        assert beton.num_classes == 8
        assert beton.labels.tolist() == [7, 0, 7, 2] and beton.labels.dtype == np.int64
        assert beton.images["width"].tolist() == [64, 64, 64, 20]
        assert beton.images["height"].tolist() == [48, 48, 48, 30]
        assert beton.images["mode"].tolist() == [0, 0, 0, 1]
        assert [beton.payload(i).tobytes() for i in range(3)] == images
        assert beton.payload(3).tobytes() == picture(20, 30).tobytes()
        assert beton.sidecar is None


def test_payloads_survive_the_close_of_their_beton(tmp_path: Path) -> None:
    image = jpeg(picture(64, 48))
    beton = Beton(write(tmp_path / "a.beton", [image]))
    payload = beton.payload(0)
    beton.close()
    assert payload.tobytes() == image


def test_payloads_cannot_be_written(tmp_path: Path) -> None:
    payload = Beton(write(tmp_path / "a.beton", [jpeg(picture(64, 48))])).payload(0)
    with pytest.raises(ValueError):
        payload[0] = 0


def test_an_allocation_table_in_any_order_is_joined_by_pointer(tmp_path: Path, good: bytes) -> None:
    table = [good[len(good) - 24 * k : len(good) - 24 * (k - 1) or None] for k in range(1, 5)]
    path = tmp_path / "reversed.beton"
    path.write_bytes(good[: -4 * 24] + b"".join(table))
    with Beton(path) as beton:
        assert [beton.payload(i).tobytes()[:2] for i in range(3)] == [b"\xff\xd8"] * 3
        assert [beton.payload(i).tobytes()[-2:] for i in range(3)] == [b"\xff\xd9"] * 3
        assert len(beton.payload(3)) == 20 * 30 * 3


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BetonError, match=r"does not exist; pack one with python -m alexnet_fast\.pack"):
        Beton(tmp_path / "none.beton")


def test_a_folder_is_named_as_one(tmp_path: Path) -> None:
    with pytest.raises(BetonError, match="is not a beton: it is a folder"):
        Beton(tmp_path)


def test_an_empty_file_is_not_a_beton(tmp_path: Path) -> None:
    assert "is not a beton: it is empty" in refusal(tmp_path, b"")


@pytest.mark.parametrize(
    "content", [b"\x02", b"x" * 23, b"\x89PNG\r\n\x1a\n" + bytes(100), b"\xff" * 5000, bytes(5000)]
)
def test_other_files_are_not_betons(tmp_path: Path, content: bytes) -> None:
    assert "is not a beton" in refusal(tmp_path, content)


@pytest.mark.parametrize("version", [0, 1, 3, 0x0200])
def test_another_version_is_refused(tmp_path: Path, good: bytes, version: int) -> None:
    assert "is not a beton of version 2" in refusal(tmp_path, patched(good, 0, "<H", version))


def test_an_interrupted_write_of_ffcv_is_called_unfinished(tmp_path: Path, good: bytes) -> None:
    assert "is unfinished: its writer was interrupted" in refusal(tmp_path, patched(good, 16, "<Q", 0))


def test_a_file_without_samples_is_refused(tmp_path: Path, good: bytes) -> None:
    assert "contains no samples" in refusal(tmp_path, patched(good, 8, "<Q", 0))


def test_more_samples_than_the_file_can_hold_are_refused(tmp_path: Path, good: bytes) -> None:
    for count in (1 << 20, 1 << 40, (1 << 64) - 1):
        assert "is truncated" in refusal(tmp_path, patched(good, 8, "<Q", count))


@pytest.mark.parametrize("page_size", [0, 1, 4096, PAGE + 1, 3 * PAGE])
def test_an_impossible_page_size_is_refused(tmp_path: Path, good: bytes, page_size: int) -> None:
    assert "is not a beton" in refusal(tmp_path, patched(good, 4, "<I", page_size))


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, good: bytes) -> None:
    inside_payloads = [PAGE, PAGE + 1, PAGE + 1000, 2 * PAGE - 1]
    inside_table = [2 * PAGE + k for k in (0, 1, 23, 24, 25, 48, 72, 95)]
    for length in [
        24,
        25,
        1000,
        RECORDS_AT - 1,
        RECORDS_AT,
        RECORDS_AT + 95,
        RECORDS_AT + 96,
        *inside_payloads,
        *inside_table,
    ]:
        assert "truncated" in refusal(tmp_path, good[:length]), length


def test_bytes_after_the_allocation_table_are_refused(tmp_path: Path, good: bytes) -> None:
    assert "truncated" in refusal(tmp_path, good + b"x")


@pytest.mark.parametrize("pointer", [0, 24, RECORDS_AT, 1 << 40, (1 << 64) - 1])
def test_a_pointer_to_no_payload_is_refused(tmp_path: Path, good: bytes, pointer: int) -> None:
    assert "does not contain sample 1" in refusal(tmp_path, patched(good, record(1) + 5, "<Q", pointer))


@pytest.mark.parametrize("pointer", [0, 24, RECORDS_AT, 2 * PAGE + 1, 1 << 40, (1 << 64) - 1])
def test_a_pointer_outside_the_pages_is_refused_although_the_table_repeats_it(
    tmp_path: Path, good: bytes, pointer: int
) -> None:
    false = patched(patched(good, record(1) + 5, "<Q", pointer), 2 * PAGE + 24 + 8, "<Q", pointer)
    assert "sample 1 is impossible" in refusal(tmp_path, false)


@pytest.mark.parametrize("size", [0, PAGE + 1, (1 << 64) - 1, (1 << 64) - PAGE])
def test_a_payload_that_leaves_the_pages_or_is_empty_is_refused(
    tmp_path: Path, good: bytes, size: int
) -> None:
    assert "sample 2 is impossible" in refusal(tmp_path, patched(good, 2 * PAGE + 2 * 24 + 16, "<Q", size))


def test_a_payload_larger_than_a_page_is_refused_although_the_file_contains_it(tmp_path: Path) -> None:
    """Else one flipped bit in the table of a large file would mean gigabytes for one sample."""
    page_filler = Entry.raw(Image.new("RGB", (800, 800)))
    content = write(tmp_path / "a.beton", [jpeg(picture(64, 48)), page_filler, page_filler]).read_bytes()
    of_the_first = 3 * PAGE + 16
    message = refusal(tmp_path, patched(content, of_the_first, "<Q", PAGE + 1))
    assert "sample 0 is impossible" in message and f"in pages of {PAGE};" in message
    (tmp_path / "full.beton").write_bytes(patched(content, of_the_first, "<Q", PAGE))
    with Beton(tmp_path / "full.beton") as beton:
        assert beton.sizes[0] == beton.page_size == PAGE


@pytest.mark.parametrize(("at", "value"), [(1, 0), (3, 0)])
def test_an_image_of_no_width_or_height_is_refused(tmp_path: Path, good: bytes, at: int, value: int) -> None:
    assert "sample 1 is impossible" in refusal(tmp_path, patched(good, record(1) + at, "<H", value))


def test_an_unknown_image_mode_is_refused(tmp_path: Path, good: bytes) -> None:
    assert "sample 0 is impossible" in refusal(tmp_path, patched(good, record(0), "<B", 2))


def test_a_raw_image_of_other_bytes_than_its_pixels_is_refused(tmp_path: Path, good: bytes) -> None:
    assert "sample 3 is impossible" in refusal(tmp_path, patched(good, record(3) + 1, "<H", 21))


@pytest.mark.parametrize("kind", [7, 254, 255])
def test_a_field_of_an_unknown_kind_is_named(tmp_path: Path, good: bytes, kind: int) -> None:
    message = refusal(tmp_path, patched(good, FIELDS_AT + 1041, "<B", kind))
    assert f"'label' (type {kind})" in message and "field of an unknown type" in message


def test_the_error_for_a_file_without_an_image_field_lists_its_fields(tmp_path: Path, good: bytes) -> None:
    message = refusal(tmp_path, patched(good, FIELDS_AT, "<B", 0))
    assert "needs one RGB image field and one int field" in message and "'image' (float)" in message


def test_the_error_for_a_file_without_a_label_field_lists_its_fields(tmp_path: Path, good: bytes) -> None:
    assert "needs one RGB image field and one int field" in refusal(
        tmp_path, patched(good, FIELDS_AT + 1041, "<B", 3)
    )


def test_random_corruption_is_refused_or_harmless(tmp_path: Path, good: bytes) -> None:
    """Whatever the metadata says, an opened file's payloads are inside it."""
    rng = np.random.default_rng(0)
    path = tmp_path / "corrupt.beton"
    places = [*range(24), *range(RECORDS_AT, RECORDS_AT + 96), *range(2 * PAGE, 2 * PAGE + 96)]
    opened = 0
    for _ in range(100):
        corrupt = bytearray(good)
        for at in rng.choice(places, rng.integers(1, 4)):
            corrupt[at] = rng.choice([0, 1, 127, 128, 255])
        path.write_bytes(corrupt)
        try:
            beton = Beton(path)
        except BetonError:
            continue
        opened += 1
        start = beton.images["data_ptr"].astype(object)
        assert all(b > RECORDS_AT and b + int(size) <= len(good) for b, size in zip(start, beton.sizes))
        assert all(len(beton.payload(i)) for i in range(len(beton)))
    assert 0 < opened < 100


def test_a_sidecar_names_the_source_of_a_sample(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))] * 2)
    path.with_name("a.beton.json").write_text('{"paths": ["cat/1.JPEG", "dog/2.JPEG"]}')
    assert Beton(path).source(1) == f"sample 1 (dog/2.JPEG) of {path}"


@pytest.mark.parametrize("sidecar", ['{"paths": ["another/file.JPEG"]}', '{"paths": {}}', "{}"])
def test_a_sidecar_of_another_file_names_nothing(tmp_path: Path, sidecar: str) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))] * 2)
    path.with_name("a.beton.json").write_text(sidecar)
    assert Beton(path).source(1) == f"sample 1 of {path}"


@pytest.mark.parametrize("sidecar", ["", '{"paths": [', "[1, 2]", "12", "\udcff"])
def test_a_sidecar_that_is_no_json_object_is_refused_by_name(tmp_path: Path, sidecar: str) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))])
    path.with_name("a.beton.json").write_bytes(sidecar.encode("utf-8", "surrogateescape"))
    with pytest.raises(BetonError, match=r"cannot read .*a\.beton\.json: .*; delete it or pack again"):
        _ = Beton(path).sidecar


def test_a_sidecar_is_not_read_before_it_is_asked_for(tmp_path: Path) -> None:
    """That of 1.28 million samples takes 46 MB on disk and 120 MB in memory."""
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))])
    path.with_name("a.beton.json").write_text("{")
    with Beton(path) as beton:
        assert len(beton.payload(0)) and beton.num_classes == 1


@pytest.mark.parametrize("nested", ["[" * 100_000, '{"a":' * 100_000])
def test_a_sidecar_that_nests_too_deeply_is_refused(tmp_path: Path, nested: str) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))])
    path.with_name("a.beton.json").write_text(nested)
    with pytest.raises(BetonError, match=r"cannot read .*a\.beton\.json: it nests too deeply; delete it"):
        _ = Beton(path).sidecar


def test_a_sidecar_beyond_the_maximum_size_is_not_read(tmp_path: Path) -> None:
    """Ten gigabytes in a sparse file."""
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))])
    with open(path.with_name("a.beton.json"), "wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(BetonError, match="it has more than 16,778,240 bytes"):
        _ = Beton(path).sidecar


def test_a_sidecar_that_is_a_pipe_never_blocks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))])
    os.mkfifo(path.with_name("a.beton.json"))
    with pytest.raises(BetonError, match="it is a pipe"):
        _ = Beton(path).sidecar


@pytest.mark.parametrize(
    "sidecar", ["[", '{"paths": [3]}', '{"paths": [["x"]]}', '{"file": 1, "paths": ["x"]}']
)
def test_a_sample_has_a_name_whatever_its_sidecar_says(tmp_path: Path, sidecar: str) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))])
    path.with_name("a.beton.json").write_text(sidecar)
    assert Beton(path).source(0) == f"sample 0 of {path}"


def test_a_path_of_a_sidecar_is_shown_on_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))])
    path.with_name("a.beton.json").write_text('{"paths": ["a\\nb\\u001b[2J"]}')
    assert Beton(path).source(0) == f"sample 0 (a\\nb\\x1b[2J) of {path}"


@pytest.mark.parametrize("place", ["pipe", "/dev/zero", "/dev/null", "a\0b", "x" * 300])
def test_what_is_not_a_file_is_refused_at_once(tmp_path: Path, place: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        BetonError, match="is not a beton: it is a|is not a beton: (open: )?embedded null|too long"
    ):
        Beton(tmp_path / place)


def test_a_table_that_starts_too_early_is_refused_before_it_is_read(tmp_path: Path, good: bytes) -> None:
    """A table of all payloads of a large file would be gigabytes, sorted."""
    for early in (24, RECORDS_AT, RECORDS_AT + 24 * 3):
        at = early + (len(good) - early) % 24
        assert "allocation table cannot start" in refusal(tmp_path, patched(good, 16, "<Q", at))
    many = PAGE - PAGE % 24 + len(good) % 24
    assert "allocation table cannot start" in refusal(tmp_path, patched(good, 16, "<Q", many))


def test_a_file_that_is_shortened_while_it_is_open_is_distinguished_from_one_that_is_not(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))])
    length = path.stat().st_size
    with Beton(path) as beton:
        with beton.unchanged:
            assert len(beton.payload(0)) == beton.sizes[0]
        os.truncate(path, length - 1)
        with (
            pytest.raises(
                BetonError, match=f"was shortened while it was open, from {length} bytes to {length - 1}"
            ),
            beton.unchanged,
        ):
            pass


def test_a_file_that_is_replaced_while_it_is_open_stays_complete_for_its_readers(tmp_path: Path) -> None:
    first, second = jpeg(picture(64, 48, 0)), jpeg(picture(32, 24, 1))
    path = write(tmp_path / "a.beton", [first] * 3)
    with Beton(path) as beton:
        os.replace(write(tmp_path / "b.beton", [second]), path)
        with beton.unchanged:
            assert beton.payload(2).tobytes() == first


@pytest.mark.parametrize("given", [None, 3, b"a.beton", ""])
def test_what_is_not_a_path_is_refused_by_name(given: Any) -> None:
    with pytest.raises(UserError, match="^path = "):
        Beton(given)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("path", "open a new Beton with path="),
        ("labels", "it only reports what was opened"),
        ("num_classes", "it only reports what was opened"),
        ("lables", "there is no such attribute; did you mean labels?"),
    ],
)
def test_an_attribute_that_is_set_is_an_error(tmp_path: Path, name: str, sentence: str) -> None:
    beton = Beton(write(tmp_path / "a.beton", [jpeg(picture(64, 48))]))
    with pytest.raises(AttributeError, match=rf"Beton\.{name} = .* cannot be set: .*{sentence}") as caught:
        setattr(beton, name, [1])
    assert isinstance(caught.value, UserError) and beton.sidecar is None and beton.labels.tolist() == [0]


@pytest.mark.parametrize(
    "again",
    [lambda each: pickle.loads(pickle.dumps(each)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_a_pickled_or_copied_beton_is_its_file_opened_again(
    tmp_path: Path, again: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.beton", [jpeg(picture(64, 48)), jpeg(picture(48, 64))])
    monkeypatch.chdir(tmp_path)
    with Beton("a.beton") as beton:
        monkeypatch.chdir("/")
        with again(beton) as other:
            assert other.path == tmp_path / "a.beton"
            assert other.map is not beton.map and np.array_equal(other.map, beton.map)
            assert np.array_equal(other.payload(1), beton.payload(1))
        assert beton.__getstate__().keys() == inspect.signature(Beton).parameters.keys()


def test_a_file_that_is_written_while_it_is_opened_is_not_called_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))] * 3)
    read_header = Beton._header

    def header_of_a_file_that_is_cut(beton: Beton) -> Any:
        header = read_header(beton).copy()
        os.truncate(path, 0)  # its metadata is read next
        return header

    monkeypatch.setattr(Beton, "_header", header_of_a_file_that_is_cut)
    assert sigbus.install()
    with pytest.raises(BetonError, match="was shortened while it was open, from .* bytes to 0"):
        Beton(path)


def test_metadata_that_changed_since_it_was_checked_reaches_no_kernel(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))] * 3)
    with Beton(path) as beton:
        with open(path, "r+b") as file:
            file.seek(RECORDS_AT)
            file.write(b"\xff" * 72)
        with pytest.raises(BetonError, match="written over or touched while it was open"):
            sample_table(beton)
