"""Samples that two betons share: those that were planted are found, and none where there is none."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from alexnet_fast.beton.reader import Beton
from alexnet_fast.errors import exit_code
from alexnet_fast.inspect_beton import main
from alexnet_fast.inspection import duplicates
from alexnet_fast.inspection.duplicates import Comparison, Pair, compare
from betons import Entry, jpeg, photo_paths, picture, write


def inspect(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = exit_code(lambda: main(list(map(str, arguments))))
        except SystemExit as ended:  # the parser's
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()


def compared(first: Path, second: Path, **options: int) -> Comparison:
    with Beton(first) as one, Beton(second) as other:
        return compare(one, other, **options)  # type: ignore[arg-type]


def resized(image: Image.Image, share: float) -> Image.Image:
    return image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.BICUBIC)


SAME: dict[str, Callable[[Image.Image], bytes]] = {
    "quality 30": lambda image: jpeg(image, quality=30),
    "a half": lambda image: jpeg(resized(image, 0.5)),
    "a quarter": lambda image: jpeg(resized(image, 0.25)),
    "twice": lambda image: jpeg(resized(image, 2.0)),
    "4:4:4, progressive": lambda image: jpeg(image, subsampling=0, progressive=True),
    "gray": lambda image: jpeg(image.convert("L").convert("RGB")),
}


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """40 ImageNet images of 40 classes."""
    return [Image.open(path).convert("RGB") for path in photo_paths(40)]


@pytest.fixture(scope="module")
def first(photos: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("first") / "train.beton", [jpeg(image) for image in photos[:30]])


def test_planted_copies_are_found_however_they_were_encoded(
    photos: list[Image.Image], first: Path, tmp_path: Path
) -> None:
    planted = [make(photos[2 * k]) for k, make in enumerate(SAME.values())]
    raw = Entry.raw(resized(photos[25], 0.6))
    val = write(tmp_path / "val.beton", [*planted, jpeg(photos[20]), raw, *map(jpeg, photos[30:])])
    found = compared(first, val)
    places = [(pair.first, pair.second) for pair in found.pairs]
    assert places == [*((2 * k, k) for k in range(len(SAME))), (20, 6), (25, 7)]
    assert (found.same_bytes, found.same_picture) == (1, 7)
    assert found.pairs[6] == Pair(20, 6, -1, True), "labels are the places: 20 there, 6 here"
    assert all(0 <= pair.bits <= 4 for pair in found.pairs if pair.second != 6)


def test_none_is_found_where_none_is(photos: list[Image.Image], first: Path, tmp_path: Path) -> None:
    mirrored = [jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for image in photos[:10]]
    val = write(tmp_path / "val.beton", [*map(jpeg, photos[30:]), *mirrored])
    found = compared(first, val, distance=duplicates.MAX_DISTANCE)
    assert found.pairs == [] and found.same_bytes == found.same_picture == found.other_class == 0


def test_different_images_with_near_hashes_are_not_taken_for_one(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: list[Image.Image]
) -> None:
    """As if all hashes were equal: what decides then is the pictures."""
    monkeypatch.setattr(duplicates, "perceptual_hashes", lambda grays: [0] * len(grays))
    monkeypatch.setattr(duplicates, "TRIED", 30)
    val = write(tmp_path / "val.beton", [jpeg(resized(photos[3], 0.5)), *map(jpeg, photos[30:])])
    assert [(pair.first, pair.second) for pair in compared(first, val).pairs] == [(3, 0)]


def test_samples_of_one_colour_and_those_that_do_not_decode_are_compared_by_bytes_alone(
    tmp_path: Path,
) -> None:
    white, gray = Image.new("RGB", (64, 48), "white"), Image.new("RGB", (64, 48), "gray")
    broken = replace(Entry.of(jpeg(picture())), payload=b"\xff\xd8 no jpeg")
    one = write(tmp_path / "one.beton", [jpeg(white), broken, jpeg(picture())])
    other = write(tmp_path / "other.beton", [jpeg(gray), broken, jpeg(white, quality=20), jpeg(white)])
    found = compared(one, other)
    assert [(pair.first, pair.second, pair.bits) for pair in found.pairs] == [(1, 1, -1), (0, 3, -1)]
    assert (found.second.unreadable, found.second.one_colour) == (1, 3)


def test_the_command_shows_a_table_the_copies_and_a_picture_of_them(
    photos: list[Image.Image], first: Path, tmp_path: Path
) -> None:
    val = write(
        tmp_path / "val.beton", [jpeg(photos[30]), jpeg(resized(photos[1], 0.5)), jpeg(photos[2])], [0, 1, 9]
    )
    code, out, err = inspect("--compare", first, val, "--out", tmp_path / "out")
    assert code == 0
    assert "2 of B's 3 samples are in A: 1 with the same bytes, 1 re-encoded or resized" in out
    assert "1 of them are labelled differently" in out
    assert "sample 1 of B is sample 1 of A: same picture, " in out
    assert "sample 2 of B is sample 2 of A: same bytes, labelled differently" in out
    assert "val.beton has 10 classes and " in out
    assert err.endswith(f"pictures: {tmp_path / 'out/duplicates.png'}\n")
    with Image.open(tmp_path / "out/duplicates.png") as sheet:
        assert sheet.width == 1004
    code, out, _ = inspect("--compare", first, val, "--json")
    assert code == 0 and json.loads(out)["pairs"][1] == {
        "first": 2,
        "second": 2,
        "bits": -1,
        "other_class": True,
    }


def test_files_without_common_samples_are_said_to_have_none(
    photos: list[Image.Image], first: Path, tmp_path: Path
) -> None:
    val = write(tmp_path / "val.beton", [jpeg(photos[30])])
    code, out, _ = inspect("--compare", first, val, "--out", tmp_path / "out")
    assert code == 0 and "none of B's 1 samples is in A" in out and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "give one file, or two with --compare A B"),
        (("a.beton", "--compare", "a.beton", "b.beton"), "give one file, or two with --compare A B"),
        (("a.beton", "--distance", "3"), "--distance: it goes with --compare A B"),
        (
            ("--compare", "a.beton", "b.beton", "--distance", "13"),
            "--distance: 13 is out of range, expected 0 to 12",
        ),
        (("--compare", "a.beton", "b.beton", "--augmented", "--out", "x"), "it draws the crops of one file"),
        (("--compare", "no/a.beton", "no/b.beton"), "no/a.beton does not exist"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    code, out, err = inspect(*arguments)
    assert (code, out) == (2, "") and sentence in err and err.count("\n") == 1
