"""A verdict on a beton: every sample decodes, matches its checksum and its source, or is listed with what is wrong."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_fast.beton.reader import Beton, BetonError, FieldError
from alexnet_fast.errors import UserError
from alexnet_fast.inspection.coefficients import geometry
from alexnet_fast.inspection.verify import Fault, Verdict, betons_at, verify
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.errors import OutputExists
from alexnet_fast.packing.lossless import JpegtranMissing, jpegtran
from alexnet_fast.packing.writer import scan_folder, write_beton
from betons import jpeg, picture, write
from folders import fill

Edit = Callable[[Path], None]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of two classes, one grey, one a PNG."""
    root = fill(tmp_path_factory.mktemp("images") / "train", {"ant": 4, "bee": 4})
    picture(60, 40).convert("L").save(root / "ant/grey.JPEG")
    picture(60, 40).save(root / "bee/png.JPEG", "PNG")
    return root


@pytest.fixture
def packed(images: Path, tmp_path: Path) -> Path:
    return write_beton(scan_folder(images), tmp_path / "a.beton", Encoding(max_resolution=64), workers=1).path


def listed(verdict: Verdict) -> list[str]:
    return [str(fault) for fault in verdict.faults]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_intact_file_has_no_fault(images: Path, packed: Path, workers: int) -> None:
    reported: list[tuple[int, int]] = []
    verdict = verify(packed, images, workers=workers, progress=lambda *done: reported.append(done))
    assert verdict.samples == 10 and listed(verdict) == [] and verdict.unchecked == []
    assert str(verdict).endswith(
        "10 samples, no fault: every sample decodes completely, matches its checksum and equals its source encoded again"
    )
    assert reported == [(done, 10) for done in range(1, 11)]


@pytest.mark.parametrize("mode", ["raw", "lossless"])
def test_the_other_modes_are_compared_with_their_source_too(images: Path, tmp_path: Path, mode: Any) -> None:
    if mode == "lossless":
        try:
            jpegtran()
        except JpegtranMissing as error:
            pytest.skip(str(error))
    encoding = Encoding(mode=mode, max_resolution=0)
    path = write_beton(scan_folder(images), tmp_path / "a.beton", encoding, workers=1).path
    verdict = verify(path, images, workers=1)
    assert listed(verdict) == [] and ("coefficients" in str(verdict)) == (mode == "lossless")
    _swap_source(images, tmp_path / "other")
    verdict = verify(path, tmp_path / "other", workers=1)
    what = (
        "its coefficients are not its source's"
        if mode == "lossless"
        else "its pixels are not its source's, encoded again"
    )
    assert listed(verdict) == [f"sample 1 (ant/ant_1.JPEG): {what}"]


def _swap_source(images: Path, copy: Path) -> None:
    """The same folder with the smallest change of one image's pixels: another quality."""
    shutil.copytree(images, copy)
    (copy / "ant/ant_1.JPEG").write_bytes(jpeg(picture(90, 70, 1), quality=91))


def test_every_flipped_byte_of_a_payload_is_found_and_named(packed: Path) -> None:
    """In the entropy-coded data a decoder may not detect it; the checksum does."""
    content = bytearray(packed.read_bytes())
    with Beton(packed) as beton:
        start, size = int(beton.images["data_ptr"][6]), int(beton.sizes[6])
    for at in (0, size // 2, size - 1):
        corrupt = bytearray(content)
        corrupt[start + at] ^= 1
        packed.write_bytes(corrupt)
        verdict = verify(packed, workers=1)
        assert {fault.index for fault in verdict.faults} == {6}
        assert f"sample 6 (bee/bee_1.JPEG): its {size} bytes have the CRC-32 " in listed(verdict)[0]


def test_a_sample_that_does_not_decode_is_found_without_a_checksum(tmp_path: Path) -> None:
    """A file by another packer: what cannot be checked is reported."""
    good = jpeg(picture(90, 70))
    path = write(tmp_path / "a.beton", [good, good, good])
    with Beton(path) as beton:
        at = int(beton.images["data_ptr"][1])
    content = bytearray(path.read_bytes())
    content[at + len(good) * 2 // 3 : at + len(good)] = bytes(len(good) - len(good) * 2 // 3)
    path.write_bytes(content)
    verdict = verify(path, workers=1)
    assert listed(verdict) == ["sample 1: it does not decode: libjpeg-turbo found its data corrupt"]
    assert verdict.unchecked == ["checksums: a.beton.json is missing", "its source: no --source was given"]
    with pytest.raises(UserError, match="cannot be compared with .*; verify it without --source"):
        verify(path, tmp_path, workers=1)


CHANGES: dict[str, Callable[[Path], object]] = {
    "shortened": lambda path: os.truncate(path, 0),
    "written over": os.utime,
    "replaced": lambda path: os.replace(shutil.copy(path, path.with_name("other")), path),
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("what", CHANGES)
def test_a_file_that_is_changed_meanwhile_has_no_verdict(packed: Path, what: str, workers: int) -> None:
    """A lost page of it does not end a worker either; each worker opens the file by its name."""

    def change(done: int, total: int) -> None:
        if done == 1:
            CHANGES[what](packed)

    with pytest.raises(BetonError, match=f"^{packed} was {what}"):
        verify(packed, workers=workers, progress=change)


def test_corruption_far_from_any_crop_is_found(tmp_path: Path) -> None:
    """Every tile of the image is decoded, the last too."""
    path = write_beton(
        scan_folder(fill(tmp_path / "images", {"ant": 1})), tmp_path / "a.beton", Encoding(), workers=1
    ).path
    (tmp_path / "a.beton.json").unlink()
    with Beton(path) as beton:
        end = int(beton.images["data_ptr"][0]) + int(beton.sizes[0])
    content = bytearray(path.read_bytes())
    content[end - 12 : end - 2] = bytes(10)
    path.write_bytes(content)
    assert [fault.index for fault in verify(path, workers=1).faults] == [0]


def _drop(root: Path) -> None:
    (root / "ant/ant_0.JPEG").unlink()


def _add(root: Path) -> None:
    (root / "bee/new.JPEG").write_bytes(jpeg(picture(40, 30)))


def _add_class(root: Path) -> None:
    (root / "wasp").mkdir()
    (root / "wasp/new.JPEG").write_bytes(jpeg(picture(40, 30)))


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (_drop, "sample 0 (ant/ant_0.JPEG): its source: cannot read the image"),
        (_add, "bee/new.JPEG is not in the file"),
        (_add_class, "has the class 'wasp', which the training split does not have"),
    ],
)
def test_a_folder_with_other_images_is_a_fault(
    images: Path, packed: Path, tmp_path: Path, edit: Edit, expected: str
) -> None:
    shutil.copytree(images, tmp_path / "copy")
    edit(tmp_path / "copy")
    faults = listed(verify(packed, tmp_path / "copy", workers=1))
    assert len(faults) == 1 and expected in faults[0]


def test_a_folder_that_the_packer_would_call_changed_is_a_fault_although_every_sample_equals_its_source(
    images: Path, tmp_path: Path
) -> None:
    """As version 0.1 left it if an image was replaced after it was planned and before it was read."""
    shutil.copytree(images, tmp_path / "copy")
    split = scan_folder(tmp_path / "copy").shuffled(3).limited(8)
    settings = {"shuffle_seed": 3, "limit": 8}
    path = tmp_path / "a.beton"
    write_beton(split, path, Encoding(max_resolution=64), workers=1, settings=settings)
    assert listed(verify(path, tmp_path / "copy", workers=1)) == []
    with open(tmp_path / "copy" / split.paths[2], "ab") as file:
        file.write(b"after its end")  # of another size, with the same pixels
    with pytest.raises(OutputExists, match="images have another size or order"):
        os.utime(tmp_path / "copy" / split.paths[2], ns=(0, 0))
        write_beton(split, path, Encoding(max_resolution=64), workers=1, settings=settings)
    assert listed(verify(path, tmp_path / "copy", workers=1)) == [
        f"the images of {tmp_path}/copy have other sizes or another order than when they were packed; "
        "pack again with --fresh"
    ]


def test_a_source_that_is_not_a_file_any_more_is_a_fault_and_never_blocks(
    images: Path, tmp_path: Path
) -> None:
    for mode in ("reencode", "lossless"):
        copy, path = tmp_path / mode, tmp_path / f"{mode}.beton"
        shutil.copytree(images, copy)
        try:
            write_beton(scan_folder(copy), path, Encoding(mode=mode, max_resolution=0), workers=1)  # type: ignore[arg-type]
        except JpegtranMissing as error:
            pytest.skip(str(error))
        (copy / "ant/ant_1.JPEG").unlink()
        os.mkfifo(copy / "ant/ant_1.JPEG")
        faults = listed(verify(path, copy, workers=1))
        assert len(faults) == 1 and "sample 1 (ant/ant_1.JPEG): its source: " in faults[0]
        assert "it is a pipe" in faults[0]


def test_a_label_of_another_class_is_a_fault(images: Path, packed: Path) -> None:
    with Beton(packed) as beton:
        at = beton.images.ctypes.data - beton.map.ctypes.data + 16
    content = bytearray(packed.read_bytes())
    content[at : at + 8] = np.int64(1).tobytes()
    packed.write_bytes(content)
    sidecar = packed.with_name("a.beton.json")
    document = json.loads(sidecar.read_text())
    del document["file"]  # it has a checksum of the file's metadata
    sidecar.write_text(json.dumps(document))
    assert listed(verify(packed, images, workers=1)) == [
        "sample 0 (ant/ant_0.JPEG): its label 1 is bee, its folder ant"
    ]


def test_another_encoder_than_the_packers_is_reported_and_bytes_are_not_compared(
    images: Path, packed: Path
) -> None:
    sidecar = packed.with_name("a.beton.json")
    sidecar.write_text(sidecar.read_text().replace('"pillow": "', '"pillow": "1.'))
    verdict = verify(packed, images, workers=1)
    assert listed(verdict) == [] and "packed with {'pillow': '1." in verdict.unchecked[0]
    assert "and has its source's size" in str(verdict)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"converted": 5}, "its converted images are 5, expected an object"),
        (
            {"settings": {"quality": "x\n"}},
            r"its setting quality is 'x\n', expected a whole number from 1 to 100",
        ),
        ({"settings": {"quality": 101}}, "its setting quality is 101, expected"),
        (
            {"settings": {"max_resolution": True}},
            "its setting max_resolution is True, expected a whole number",
        ),
        ({"settings": {"mode": []}}, "its setting mode is a list, expected reencode, raw, lossless"),
        ({"settings": {"optimize": 1}}, "its setting optimize is 1, expected true or false"),
        ({"settings": {"mode": "lossless", "min_side": 3}}, "mode lossless keeps every image's own size"),
        ({"settings": {"split": "../train"}}, "'../train' is not a path below the folder that was packed"),
        (
            {"paths": ["ant/../../outside.JPEG"] * 10},
            "'ant/../../outside.JPEG' is not a path below the folder",
        ),
        ({"paths": ["/outside.JPEG"] * 10}, "'/outside.JPEG' is not a path below the folder"),
    ],
)
def test_a_json_with_an_impossible_value_is_refused_by_name(
    images: Path, packed: Path, changed: dict[str, Any], expected: str
) -> None:
    sidecar = packed.with_name("a.beton.json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **changed}))
    with pytest.raises(UserError) as caught:
        verify(packed, images, workers=1)
    assert str(caught.value).startswith(f"{sidecar}: ") and expected in str(caught.value)
    assert str(caught.value).isprintable() and str(caught.value).endswith("or verify without --source")


def test_a_fault_is_one_line_whatever_the_json_calls_the_sample() -> None:
    fault = Fault("its label is no\nclass", 3, "ant/\x1b[2J.JPEG")
    assert str(fault) == r"sample 3 (ant/\x1b[2J.JPEG): its label is no\nclass"


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_the_geometry_of_another_format_is_not_read(kind: str) -> None:
    other = io.BytesIO()
    picture(40, 30).save(other, kind)
    with pytest.raises(OSError, match="cannot identify"):
        geometry(other.getvalue())


def test_a_file_that_cannot_even_be_opened_has_one_fault(packed: Path) -> None:
    packed.write_bytes(packed.read_bytes()[:-100])
    verdict = verify(packed, workers=1)
    assert len(verdict.faults) == 1 and verdict.faults[0].index is None
    with pytest.raises(UserError, match="does not exist"):
        verify(packed.with_name("none.beton"), workers=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_of_several_ints_is_verified_once_the_label_is_named(tmp_path: Path, workers: int) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(90, 70))] * 3, more=[("fine", [0, 0, 1])])
    with pytest.raises(FieldError, match="has 2 int fields"):  # which is no fault of the file
        verify(path, workers=workers)
    verdict = verify(path, workers=workers, image_field="image", label_field="fine")
    assert verdict.opened and verdict.faults == []


def test_a_file_without_a_label_is_a_fault_of_the_file(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "a.beton", [jpeg(picture(90, 70))] * 3).read_bytes())
    content[24 + 1041] = 3  # the label's type: bytes
    (tmp_path / "a.beton").write_bytes(content)
    (fault,) = listed(verify(tmp_path / "a.beton", workers=1))
    assert "needs one RGB image field and one int field" in fault and "'label' (bytes)" in fault


def test_a_folder_of_betons_that_cannot_be_listed_is_not_an_empty_one(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert betons_at(packed.parent) == [packed]

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("alexnet_fast.packing.sources.listing.os.scandir", refuse)
    with pytest.raises(UserError, match=f"cannot list {packed.parent}: Permission denied"):
        betons_at(packed.parent)
