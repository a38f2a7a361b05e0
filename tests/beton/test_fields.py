"""Which field is the image and which the label, in files laid out by hand: never the first of several."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from alexnet_fast.beton.reader import Beton, BetonError, FieldError
from betons import PAGE, jpeg, picture, write

IMAGES = [jpeg(picture(64, 48, seed)) for seed in range(3)]
MORE = [("coarse", [0, 0, 1]), ("index", [1000, 1001, 1002])]
LISTED = "it has 'image' (RGB image), 'label' (int), 'coarse' (int), 'index' (int)"


def refusal(path: Path, **names: str) -> str:
    """What opening the file says, which must be one printable sentence that names the file."""
    with pytest.raises(FieldError) as caught:
        Beton(path, **names)
    message = str(caught.value)
    assert str(path) in message and message.isprintable()
    return message


def renamed(path: Path, place: int, name: bytes) -> Path:
    """The file with another name in one of its descriptors."""
    content = bytearray(path.read_bytes())
    struct.pack_into("<16s", content, 24 + 1041 * place + 1, name)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("name", "labels"), [("label", [4, 5, 6]), *MORE])
def test_each_of_several_ints_can_be_the_label(tmp_path: Path, name: str, labels: list[int]) -> None:
    path = write(tmp_path / "a.beton", IMAGES, [4, 5, 6], MORE)
    with Beton(path, label_field=name) as beton:
        assert beton.labels.tolist() == labels and (beton.image_field, beton.label_field) == ("image", name)
        assert [beton.payload(i).tobytes() for i in range(3)] == IMAGES


def test_what_is_not_said_is_an_error_that_lists_the_fields_and_says_what_to_pass(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "a.beton", IMAGES, more=MORE), image_field="image")
    assert (
        f"has 3 int fields, and one of them is the label: {LISTED}; give label_field = 'label' or 'coarse' or 'index' "
        in message
    )
    assert "in a recipe data.label_field, to the tools --label-field" in message


def test_a_name_that_is_not_there_or_of_another_type_is_an_error_that_lists_the_fields(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.beton", IMAGES, more=MORE)
    assert f"has no field 'lable' to be the label: {LISTED}; give label_field = 'label' or" in refusal(
        path, label_field="lable"
    )
    assert (
        f"has 'image' (RGB image), which cannot be the label: that is of type int or float or ndarray or tensor, and {LISTED}"
        in refusal(path, label_field="image")
    )
    assert "has 'index' (int), which cannot be the image: that is of type RGB image" in refusal(
        path, label_field="label", image_field="index"
    )


def test_a_name_that_is_not_there_is_refused_where_the_file_has_only_one_field_of_the_type(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.beton", IMAGES)
    assert "has no field 'fine' to be the label: it has 'image' (RGB image), 'label' (int)" in refusal(
        path, label_field="fine"
    )
    with Beton(path, "image", "label") as beton:
        assert beton.labels.tolist() == [0, 1, 2]


def test_two_fields_of_one_name_are_told_apart_by_nobody(tmp_path: Path) -> None:
    path = renamed(write(tmp_path / "a.beton", IMAGES, more=MORE[:1]), 2, b"label")
    assert "has 2 int fields" in refusal(path)
    assert "has 2 fields of the name 'label', which nobody can tell apart: it has" in refusal(
        path, label_field="label"
    )
    of_two_types = renamed(write(tmp_path / "b.beton", IMAGES), 0, b"label")
    assert "has 2 fields of the name 'label'" in refusal(of_two_types, label_field="label")
    with Beton(of_two_types) as beton:  # its only int, whatever it is called
        assert beton.labels.tolist() == [0, 1, 2]


def test_names_that_a_terminal_would_obey_are_shown_as_text(tmp_path: Path) -> None:
    path = renamed(write(tmp_path / "a.beton", IMAGES, more=MORE), 3, b"\x1b[2J\n\xff")
    assert "'\\x1b[2J\\n\ufffd' (int)" in refusal(path)
    assert "no field 'a\\nb'" in refusal(path, label_field="a\nb")


def test_64_fields_are_still_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", IMAGES, more=[(f"{k:02}" + "\x1b" * 14, [0] * 3) for k in range(62)])
    message = refusal(path)
    assert len(message) < 4000 and "has 63 int fields" in message and " and 44 more; give" in message
    with Beton(path, label_field="label") as beton:
        assert len(beton.fields) == 64


def test_one_payload_of_two_sizes_is_refused(tmp_path: Path) -> None:
    """Which of them was taken hung on the table's order."""
    path = write(tmp_path / "a.beton", IMAGES)
    content = path.read_bytes()
    first = struct.unpack_from("<QQQ", content, 2 * PAGE)
    path.write_bytes(content + struct.pack("<QQQ", first[0], first[1], first[2] - 1))
    with pytest.raises(
        BetonError, match="the allocation table gives one payload two sizes; the file is corrupt"
    ):
        Beton(path)
