"""Tables are read by what their schema says; what is cut off, has no class or is not clear is refused by its name."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.errors import UserError, exit_code
from alexnet_fast.pack import main
from alexnet_fast.packing.sources import Choices, kind_of_folder
from alexnet_fast.packing.sources.listing import FolderError
from alexnet_fast.packing.sources.parquet import ParquetDataset
from betons import jpeg, picture

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGES = [jpeg(picture(60, 40, k)) for k in range(7)]


def run(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = exit_code(lambda: main([*map(str, arguments), "--workers", "1"]))
    return code, out.getvalue(), err.getvalue()


def table(columns: dict[str, Any], features: dict[str, Any] | None = None) -> Any:
    made = pa.table(columns)
    told = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    return made.replace_schema_metadata(told)


def structs(names: bool = True) -> list[dict[str, Any]]:
    return [{"bytes": image, "path": f"x/{k}.jpg" if names else None} for k, image in enumerate(IMAGES)]


def write(path: Path, made: Any, form: str = "parquet") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "parquet":
        pq.write_table(made, path, row_group_size=3)
        return path
    new = {"stream": pa.ipc.new_stream, "file": pa.ipc.new_file}[form]
    with pa.OSFile(str(path), "wb") as file, new(file, made.schema) as writer:
        writer.write_table(made, max_chunksize=3)
    return path


LABELLED = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["zebra", "ant", "bee"]}}


@pytest.mark.parametrize("form", ["parquet", "stream", "file"])
def test_classes_are_those_of_the_schema_in_its_order(tmp_path: Path, form: str) -> None:
    made = table({"image": structs(), "label": [0, 1, 2, 0, 1, 2, 2]}, LABELLED)
    path = write(tmp_path / f"train.{'parquet' if form == 'parquet' else 'arrow'}", made, form)
    found = ParquetDataset(path).open("train")
    assert found.classes == ["zebra", "ant", "bee"] and found.labels == [0, 1, 2, 0, 1, 2, 2]
    assert found.keys == [f"{path.name}/{k}/{k}.jpg" for k in range(7)]
    assert [found.reader.read(key).image for key in found.keys] == IMAGES
    assert [found.reader.label(key) for key in found.keys[:3]] == ["zebra", "ant", "bee"]
    assert list(found.groups) == [0, 0, 0, 1, 1, 1, 2]
    assert ParquetDataset(path).described("train")["classes_from"] == "the ClassLabel in the schema"


@pytest.mark.parametrize(
    ("columns", "features", "given", "classes", "labels"),
    [
        ({"image": IMAGES, "label": [2, 0, 0, 0, 0, 0, 0]}, None, None, ["0", "1", "2"], [2, 0, 0, 0, 0, 0, 0]),
        ({"img": IMAGES, "class": list("babaaaa")}, None, None, ["a", "b"], [1, 0, 1, 0, 0, 0, 0]),
        ({"image": IMAGES, "label": [0.5] * 7}, None, None, [], [0.5] * 7),
        (
            {"img": structs(), "fine_label": [1] * 7, "coarse_label": [0] * 7},
            {
                "img": {"_type": "Image"},
                "fine_label": {"_type": "ClassLabel", "names": ["x", "y"]},
                "coarse_label": {"_type": "ClassLabel", "names": ["z"]},
            },
            ("img", "fine_label"),
            ["x", "y"],
            [1] * 7,
        ),
        ({"image": structs(), "label": [1] * 7}, {**LABELLED, "label": {"_type": "ClassLabel", "names": ["x", "x"]}}, None, ["x (0)", "x (1)"], [1] * 7),
        ({"photo": structs(), "label": [1] * 7}, {"photo": {"_type": "Image"}, "label": {"_type": "Value"}}, None, ["0", "1"], [1] * 7),
    ],
)  # fmt: skip
def test_columns_are_found_by_the_schema_by_usual_names_or_as_given(
    tmp_path: Path,
    columns: dict[str, Any],
    features: dict[str, Any] | None,
    given: tuple[str, str] | None,
    classes: list[str],
    labels: list[float],
) -> None:
    path = write(tmp_path / "train.parquet", table(columns, features))
    found = ParquetDataset(path, Choices(columns=given)).open("train")
    assert (found.classes, found.labels) == (classes, labels)
    assert found.reader.read(found.keys[6]).image == IMAGES[6]


def test_images_without_names_have_the_numbers_of_their_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", table({"image": structs(names=False), "label": [0] * 7}))
    assert ParquetDataset(path).open("train").keys == [f"train.parquet/{k}" for k in range(7)]
    code, out, err = run("--data", tmp_path, "--out", tmp_path / "out")
    assert code == 0 and "7 images of 1 classes" in out, err


@pytest.mark.parametrize(
    ("columns", "features", "expected"),
    [
        ({"image": structs(), "label": [0] * 6 + [-1]}, LABELLED, "row 6 has the label -1, which is none of the 3 classes of the schema"),
        ({"image": structs(), "label": [0] * 6 + [None]}, LABELLED, "row 6 has the label None"),
        ({"image": IMAGES, "label": ["a"] * 6 + [""]}, None, "row 6 has the label ''; expected a number or a name"),
        ({"image": IMAGES, "label": [[1]] * 7}, None, "row 0 has the label [1]; expected"),
        ({"image": IMAGES, "label": [1] * 7, "class": [1] * 7}, None, "several columns that may be the labels; its columns are image, label, class"),
        ({"image": IMAGES, "x": [1] * 7}, None, "no column that may be the labels; its columns are image, x: name two"),
        ({"image": ["a"] * 7, "label": [1] * 7}, None, "its column 'image' is of the type string; expected bytes of images"),
        ({"image": IMAGES[:0], "label": pa.array([], pa.int64())}, None, "of the type null"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, None, "the other tables have no row"),
    ],
)  # fmt: skip
def test_a_table_that_is_not_clear_is_refused(
    tmp_path: Path, columns: dict[str, Any], features: dict[str, Any] | None, expected: str
) -> None:
    path = write(tmp_path / "train.parquet", table(columns, features))
    with pytest.raises(UserError) as caught:
        ParquetDataset(path).open("train")
    assert (
        expected in str(caught.value) and str(path) in str(caught.value) and str(caught.value).isprintable()
    )


def test_tables_of_two_sets_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", table({"image": structs(), "label": [0] * 7}, LABELLED))
    other = {**LABELLED, "label": {"_type": "ClassLabel", "names": ["dog"]}}
    write(tmp_path / "train-1.parquet", table({"image": structs(), "label": [0] * 7}, other))
    with pytest.raises(
        FolderError, match=r"train-1\.parquet has other columns or classes than .*train-0\.parquet"
    ):
        ParquetDataset(tmp_path).open("train")


@pytest.mark.parametrize(("form", "suffix"), [("parquet", "parquet"), ("stream", "arrow"), ("file", "arrow")])
def test_a_table_that_is_cut_off_is_named(tmp_path: Path, form: str, suffix: str) -> None:
    path = write(tmp_path / f"train.{suffix}", table({"image": structs(), "label": [0] * 7}, LABELLED), form)
    content = path.read_bytes()
    for end in (0, 3, 100, len(content) // 2, len(content) - 20, len(content) - 1):
        path.write_bytes(content[:end])
        code, _, err = run("--data", tmp_path, "--out", tmp_path / "out")
        assert code == 2 and f"cannot read {path}: " in err and "download or copy it again" in err, (end, err)
    assert not (tmp_path / "out").exists()


def test_a_row_group_that_is_corrupt_is_named_with_its_image(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    made = table({"image": structs(), "label": [0] * 7}, LABELLED)
    pq.write_table(made, path, row_group_size=3, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    first = pq.ParquetFile(path).metadata.row_group(1).column(0)
    assert first.path_in_schema == "image.bytes"
    start = first.data_page_offset
    content[start : start + first.total_compressed_size] = bytes(first.total_compressed_size)
    path.write_bytes(content)
    code, _, err = run("--data", tmp_path, "--out", tmp_path / "out")
    assert code == 2 and f"cannot read the image {path}/" in err and "--on-error skip" in err, err
    code, out, err = run("--data", tmp_path, "--out", tmp_path / "out", "--on-error", "skip", "--fresh")
    assert code == 0 and "4 images of" in out and "skipped as unreadable: 3" in out, out + err


def test_folders_of_tables_are_recognised(tmp_path: Path) -> None:
    made = table({"image": structs(), "label": [0] * 7}, LABELLED)
    write(tmp_path / "a/x.parquet", made)
    write(tmp_path / "b/data/train-0.parquet", made)
    write(tmp_path / "c/train/data-00000-of-00001.arrow", made, "stream")
    (tmp_path / "d/train/ant").mkdir(parents=True)
    assert [kind_of_folder(tmp_path / name) for name in "abcd"] == ["parquet"] * 3 + ["folder"]


def test_without_pyarrow_the_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "train.parquet", table({"image": structs(), "label": [0] * 7}, LABELLED))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    code, _, err = run("--data", tmp_path, "--out", tmp_path / "out")
    assert code == 2 and "needs pyarrow, which is not installed" in err and "alexnet_fast[parquet]" in err
