"""A list file is packed, resumed and verified as a folder is; what it does not say clearly is refused by its line."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.beton.reader import Beton
from alexnet_fast.beton.target_fields import FLOAT, INT
from alexnet_fast.errors import exit_code
from alexnet_fast.inspection.survey import class_name, survey, text
from alexnet_fast.pack import main
from alexnet_fast.packing.partial_file import PartialFile
from alexnet_fast.packing.sources.label_numbers import are_numbers, classes_of
from alexnet_fast.packing.sources.list_file import ListDataset
from alexnet_fast.packing.sources.listing import FolderError
from folders import fill


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = fill(tmp_path_factory.mktemp("listed") / "images", {"ant": 4, "bee": 3})
    (root / "bee/bee_0.JPEG").rename(root / "bee/with a space.JPEG")
    return root


def paths(images: Path) -> list[str]:
    return sorted(str(path.relative_to(images)) for path in images.rglob("*.JPEG"))


def write_list(file: Path, rows: Sequence[tuple[str, object]], header: bool = False) -> Path:
    text = "".join(f"{path},{label}\n" if header else f"{path} {label}\n" for path, label in rows)
    file.write_text(("path,label\n" if header else "") + text)
    return file


def run(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = exit_code(lambda: main([*map(str, arguments), "--workers", "1"]))
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def labels_by_path(beton: Path) -> dict[str, str]:
    with Beton(beton) as opened:
        assert opened.sidecar is not None
        classes = opened.sidecar["classes"]
        return {str(opened.source_path(i)): classes[opened.labels[i]] for i in range(len(opened))}


@pytest.mark.parametrize("header", [False, True])
def test_a_list_packs_the_images_it_names_with_the_labels_it_gives(
    images: Path, tmp_path: Path, header: bool
) -> None:
    rows = [(path, "large" if k % 2 else "small") for k, path in enumerate(paths(images)[1:])]
    file = write_list(tmp_path / "train.txt", rows, header)
    code, out, err = run("--list", file, "--data", images, "--out", tmp_path)
    assert code == 0, err
    assert f"{tmp_path}/train.beton: 6 images of 2 classes" in out
    assert labels_by_path(tmp_path / "train.beton") == dict(rows)
    code, out, _ = run("--verify", tmp_path / "train.beton", "--list", file, "--source", images)
    assert code == 0 and "no fault" in out and "equals its source encoded again" in out


def test_a_list_without_a_folder_is_relative_to_its_own(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "copy")
    file = write_list(tmp_path / "copy/few.txt", [("./ant/ant_1.JPEG", "ant"), ("bee/bee_1.JPEG", "bee")])
    assert run("--list", file, "--out", tmp_path)[0] == 0
    assert labels_by_path(tmp_path / "few.beton") == {"ant/ant_1.JPEG": "ant", "bee/bee_1.JPEG": "bee"}


def test_a_list_of_what_a_folder_holds_gives_the_folders_beton(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "data/train")
    file = write_list(tmp_path / "train.txt", [(path, path.split("/")[0]) for path in paths(images)])
    assert run("--data", tmp_path / "data", "--out", tmp_path / "a")[0] == 0
    assert run("--list", file, "--data", images, "--out", tmp_path / "b")[0] == 0
    assert (tmp_path / "a/train.beton").read_bytes() == (tmp_path / "b/train.beton").read_bytes()
    ours, theirs = (json.loads((tmp_path / name / "train.beton.json").read_text()) for name in "ab")
    assert "source" not in ours["settings"] and theirs["settings"].pop("source") == "list"
    assert ours == theirs


def test_numbers_stay_the_labels_that_they_are(images: Path, tmp_path: Path) -> None:
    """Sorted as names "10" would come before "2", and in a list without 1 all later labels would move."""
    numbers = [10, 2, 0, 2, 10, 11, 0]
    file = write_list(tmp_path / "train.txt", list(zip(paths(images), numbers)))
    code, out, _ = run("--list", file, "--data", images, "--out", tmp_path)
    assert code == 0 and "of 12 classes" in out and "no image of '1' and 7 more" in out
    with Beton(tmp_path / "train.beton") as beton:
        assert {str(beton.source_path(i)): int(beton.labels[i]) for i in range(7)} == dict(
            zip(paths(images), numbers)
        )
    assert classes_of(["2", "0"]) == ["0", "1", "2"]
    assert classes_of(["02", "0"]) == ["0", "02"] and classes_of(["-1", "1"]) == ["-1", "1"]


def test_a_list_is_numbered_as_the_training_split_that_is_packed(images: Path, tmp_path: Path) -> None:
    found = paths(images)
    train = write_list(tmp_path / "train.txt", [(path, path.split("/")[0]) for path in found])
    val = write_list(tmp_path / "val.txt", [(found[-1], "bee")])
    assert run("--list", train, "--data", images, "--out", tmp_path)[0] == 0
    code, out, _ = run("--list", val, "--data", images, "--out", tmp_path)
    assert code == 0 and f"{val} is not the split train: labels are numbered as in" in out
    with Beton(tmp_path / "val.beton") as beton:
        assert beton.labels.tolist() == [1]
    code, out, _ = run("--verify", tmp_path / "val.beton", "--list", val, "--source", images)
    assert code == 0, out
    write_list(val, [(found[-1], "wasp")])
    code, _, err = run("--list", val, "--data", images, "--out", tmp_path, "--fresh")
    assert code == 2 and "val.txt has the class 'wasp', which" in err


def test_a_list_with_other_labels_than_the_file_is_a_fault(images: Path, tmp_path: Path) -> None:
    rows = [(path, path.split("/")[0]) for path in paths(images)]
    file = write_list(tmp_path / "train.txt", rows)
    assert run("--list", file, "--data", images, "--out", tmp_path)[0] == 0
    write_list(file, [(rows[0][0], "bee"), *rows[1:-1]])
    code, out, _ = run("--verify", tmp_path / "train.beton", "--list", file, "--source", images)
    assert code == 1
    assert (
        "its label 0 is ant, its source bee" in out
        and "its label 1 is bee, its source has no such image" in out
    )
    write_list(file, [*rows, ("ant/more.JPEG", "ant")])
    code, out, _ = run("--verify", tmp_path / "train.beton", "--list", file, "--source", images)
    assert code == 1 and f"{images}/ant/more.JPEG is not in the file" in out


def test_what_was_packed_from_a_list_is_not_compared_with_a_folder(images: Path, tmp_path: Path) -> None:
    file = write_list(tmp_path / "train.txt", [(path, "all") for path in paths(images)])
    assert run("--list", file, "--data", images, "--out", tmp_path)[0] == 0
    code, _, err = run("--verify", tmp_path / "train.beton", "--source", images)
    assert (
        code == 2
        and "was packed from a list, not from a folder; verify it with --list FILE and --source DIR" in err
    )
    assert run("--data", images.parent, "--split", "images", "--out", tmp_path / "b")[0] == 0
    code, _, err = run("--verify", tmp_path / "b/images.beton", "--list", file, "--source", images)
    assert code == 2 and "was packed from a folder, not from a list; verify it without --list" in err


def test_a_finished_list_is_found_again_and_another_is_refused(images: Path, tmp_path: Path) -> None:
    rows = [(path, path.split("/")[0]) for path in paths(images)]
    file = write_list(tmp_path / "train.txt", rows)
    command = ("--list", file, "--data", images, "--out", tmp_path)
    assert run(*command)[0] == 0
    assert "packed before" in run(*command)[1]
    write_list(file, rows[:-1])
    code, _, err = run(*command)
    assert code == 2 and f"{file} is not what it was packed from: 1 image" in err and "removed" in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "names no image; expected a line"),
        ("path,label\n", "names no image; expected a line"),
        ("ant/a.JPEG 0\nalone\n", "line 2: 'alone'; expected a line 'relative/path label'"),
        ("/ant/a.JPEG 0\n", "line 1: '/ant/a.JPEG' is not the path of a file below the folder"),
        ("../a.JPEG 0\n", "line 1: '../a.JPEG' is not the path of a file below the folder"),
        ("a/../../b.JPEG 0\n", "line 1: 'a/../../b.JPEG' is not the path"),
        ("a.JPEG 0\nb.JPEG 0\n./a.JPEG 1\n", "line 3: './a.JPEG' is in line 1 too; list each image once"),
        ("path,label\na.JPEG,\n", "line 2: 'a.JPEG' has no label"),
        ("path,label\na.JPEG,1,2\n", "line 2: 3 columns, expected 2: path,label"),
        ("picture,kind\na.JPEG,1\n", "line 1: 'picture,kind'; expected a line"),
        ("a\x00b 1\n", "line 1: 'a\\x00b' is not the path"),
        ("a\x1b[31m\n", "line 1: 'a\\x1b[31m'; expected"),
    ],
)
def test_a_list_that_is_not_clear_is_refused_by_its_line(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(FolderError) as caught:
        ListDataset(tmp_path, tmp_path / "list.txt").open("list")
    assert expected in str(caught.value) and str(caught.value).isprintable()


def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"cannot read .*none\.txt: No such file"):
        ListDataset(tmp_path, tmp_path / "none.txt").class_names("none")
    with pytest.raises(FolderError, match="cannot read .*: it is a folder; expected a line"):
        ListDataset(tmp_path, tmp_path).class_names("none")
    (tmp_path / "latin").write_bytes(b"caf\xe9 1\n")
    with pytest.raises(FolderError, match="cannot read .*latin.* expected a line"):
        ListDataset(tmp_path, tmp_path / "latin").class_names("latin")


def test_quotes_of_csv_and_ends_of_lines_of_windows_are_read(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b'\xef\xbb\xbfpath,label\r\n"a, b.JPEG",ant\r\n\r\nc.JPEG,bee\r\n')
    split = ListDataset(tmp_path, tmp_path / "list.csv").open("list")
    assert (split.keys, split.labels, split.classes) == (["a, b.JPEG", "c.JPEG"], [0, 1], ["ant", "bee"])


def test_the_flags_of_a_list_are_checked(images: Path, tmp_path: Path) -> None:
    file = write_list(tmp_path / "train.txt", [("a.JPEG", 0)])
    assert "packing needs --data and --out" in run("--list", file)[2]
    assert "--list goes with --source" in run("--verify", tmp_path, "--list", file)[2]


@pytest.mark.parametrize("source", ["tar", 3, {"list": 1}, None])
def test_a_json_that_names_no_source_there_is_is_refused(
    images: Path, tmp_path: Path, source: object
) -> None:
    file = write_list(tmp_path / "train.txt", [(path, "all") for path in paths(images)])
    assert run("--list", file, "--data", images, "--out", tmp_path)[0] == 0
    sidecar = tmp_path / "train.beton.json"
    told = json.loads(sidecar.read_text())
    told["settings"]["source"] = source
    sidecar.write_text(json.dumps(told))
    code, out, err = run("--verify", tmp_path / "train.beton", "--list", file, "--source", images)
    assert code == 2 and "its source is " in (out + err) and "expected folder or list" in (out + err)


NUMBERS = [0.5, -1.25, 3, 1e-3, 2.0, 7, 0.1]


def test_labels_that_are_all_numbers_with_a_decimal_point_are_stored_as_floats(
    images: Path, tmp_path: Path
) -> None:
    rows = list(zip(paths(images), NUMBERS))
    file = write_list(tmp_path / "train.txt", rows)
    command = ("--list", file, "--data", images, "--out", tmp_path)
    code, out, err = run(*command)
    assert code == 0 and "7 images with labels -1.25 to 7" in out, err
    with Beton(tmp_path / "train.beton") as beton:
        assert beton.target_field is FLOAT and beton.sidecar is not None
        assert {str(beton.source_path(i)): float(beton.labels[i]) for i in range(7)} == dict(rows)
        assert beton.sidecar["classes"] == [] and beton.sidecar["settings"]["label"] == "float"
    assert "packed before" in run(*command)[1]
    verifying = ("--verify", tmp_path / "train.beton", "--list", file, "--source", images)
    code, out, _ = run(*verifying)
    assert code == 0 and "no fault" in out and "equals its source encoded again" in out
    write_list(file, [(rows[0][0], 0.75), *rows[1:]])
    code, out, _ = run(*verifying)
    assert code == 1 and "its label is 0.5, its source 0.75" in out
    code, _, err = run(*command)
    assert code == 2 and "is not what it was packed from" in err


@pytest.mark.parametrize(
    ("labels", "are"),
    [
        (["0.5", "1"], True), (["1e3", "2"], True), (["-.5", "+2."], True), (["0.5", "nan"], True),
        (["0", "1"], False), (["-1", "1"], False), (["007", "1"], False), (["0.5", "cat"], False),
        (["nan", "inf"], False), (["1.2.3", "1.0"], False), (["٣.٥"], False), (["0x1.8p1", "1.0"], False), (["1_0.5"], False),
    ],
)  # fmt: skip
def test_what_looks_like_numbers(labels: list[str], are: bool) -> None:
    assert are_numbers(labels) is are


def test_the_flag_says_what_labels_are_if_their_form_does_not(images: Path, tmp_path: Path) -> None:
    whole = write_list(tmp_path / "whole.txt", [(path, k) for k, path in enumerate(paths(images))])
    named = write_list(
        tmp_path / "named.txt", [(path, f"{1 + k % 2}.0") for k, path in enumerate(paths(images))]
    )
    for file, flag, field, labels in (
        (whole, "float", FLOAT, {0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0}),
        (named, "class", INT, {0, 1}),
    ):
        given = ("--list", file, "--data", images, "--out", tmp_path / flag, "--label-type", flag)
        assert run(*given)[0] == 0
        with Beton(tmp_path / flag / f"{file.stem}.beton") as beton:
            assert beton.target_field is field and set(beton.labels.tolist()) == labels
        verifying = ("--verify", tmp_path / flag / f"{file.stem}.beton", "--list", file, "--source", images)
        code, out, _ = run(*verifying)
        assert code == 0 and "no fault" in out, out
    assert (
        "--label-type says what the labels of a list are: give it with --list"
        in run("--data", images, "--out", tmp_path, "--label-type", "float")[2]
    )


@pytest.mark.parametrize("label", ["cat", "nan", "-inf", "1e999"])
def test_the_error_for_a_label_among_numbers_that_is_not_finite_names_its_image(
    images: Path, tmp_path: Path, label: str
) -> None:
    file = write_list(tmp_path / "train.txt", [("a.JPEG", 0.5), ("b.JPEG", label)])
    code, _, err = run("--list", file, "--data", images, "--out", tmp_path, "--label-type", "float")
    assert code == 2 and f"train.txt: the label '{label}' of 'b.JPEG' is not a finite number" in err


def test_a_list_next_to_a_packed_training_split_has_labels_of_its_type(images: Path, tmp_path: Path) -> None:
    found = paths(images)
    train = write_list(tmp_path / "train.txt", list(zip(found, NUMBERS)))
    val = write_list(tmp_path / "val.txt", [(path, k) for k, path in enumerate(found)])
    assert run("--list", train, "--data", images, "--out", tmp_path / "a")[0] == 0
    code, out, _ = run("--list", val, "--data", images, "--out", tmp_path / "a")
    assert code == 0 and f"labels are numbers as in {tmp_path}/a/train.beton" in out
    with Beton(tmp_path / "a/val.beton") as beton:
        assert beton.target_field is FLOAT
    assert run("--list", val, "--data", images, "--out", tmp_path / "b")[0] == 0
    (tmp_path / "b/val.beton").rename(tmp_path / "b/train.beton")
    (tmp_path / "b/val.beton.json").rename(tmp_path / "b/train.beton.json")
    decimals = write_list(tmp_path / "decimals.txt", list(zip(found, NUMBERS)))
    given = ("--list", decimals, "--data", images, "--out", tmp_path / "b")
    code, _, err = run(*given)
    assert code == 2 and "decimals.txt has the class '-1.25', which the training split does not have" in err
    assert err.endswith("; remove or rename it, or, if labels are numbers, give --label-type float\n")
    assert "with labels -1.25 to 7" in run(*given, "--label-type", "float")[1]


def test_an_interrupted_packing_of_floats_resumes_to_the_same_bytes(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_list(tmp_path / "train.txt", list(zip(paths(images), NUMBERS)))
    assert run("--list", file, "--data", images, "--out", tmp_path / "whole")[0] == 0
    real, left = PartialFile.add, [4]

    def struck(self: PartialFile, *arguments: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        real(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PartialFile, "add", struck)
        assert run("--list", file, "--data", images, "--out", tmp_path / "again")[0] == 130
    code, out, _ = run("--list", file, "--data", images, "--out", tmp_path / "again")
    assert code == 0 and "of an interrupted packing" in out
    for name in ("train.beton", "train.beton.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_figures_of_a_file_of_floats_are_of_its_labels(images: Path, tmp_path: Path) -> None:
    file = write_list(tmp_path / "train.txt", list(zip(paths(images), NUMBERS)))
    assert run("--list", file, "--data", images, "--out", tmp_path)[0] == 0
    with Beton(tmp_path / "train.beton") as beton:
        found = survey(beton)
        assert found.balance is None and found.labels is not None
        assert (found.labels.least, found.labels.most, found.labels.median) == (-1.25, 7.0, 0.5)
        assert "7 samples, packed by" in text(found) and "a label       -1.25 to 7, mean " in text(found)
        assert {class_name(beton, k) for k in range(7)} == {f"{number:g}" for number in NUMBERS}


FORMS = {
    "csv": "split,file_name,label\n"
    + "".join(f"train,{{{k}}},{label}\n" for k, label in enumerate("aabbaab")),
    "tsv": "Label\tFile\n" + "".join(f"{label}\t{{{k}}}\n" for k, label in enumerate("aabbaab")),
    "quoted": 'image,"class"\n' + "".join(f'"{{{k}}}",{label}\n' for k, label in enumerate("aabbaab")),
    "plain": "".join(f"{{{k}}}\t{label}\n" for k, label in enumerate("aabbaab")),
}


@pytest.mark.parametrize("form", [*FORMS, "jsonl"])
def test_tables_and_json_lines_are_lists(images: Path, tmp_path: Path, form: str) -> None:
    found, file = paths(images), tmp_path / f"list.{form}"
    if form == "jsonl":
        rows = [{"file_name": path, "label": label, "box": [1, 2]} for path, label in zip(found, "aabbaab")]
        file.write_text("\n\n".join(map(json.dumps, rows)))
    else:
        file.write_text(FORMS[form].format(*found))
    split = ListDataset(images, file).open("list")
    assert split.keys == found and split.classes == ["a", "b"] and split.labels == [0, 0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("text", "labels", "classes"),
    [
        ('{"image": "a", "label": 2}\n{"image": "b", "label": 0}', [2, 0], ["0", "1", "2"]),
        ('{"image": "a", "label": 0.5}\n{"image": "b", "label": 1}', [0.5, 1.0], []),
        ('{"image": "a", "label": "x y"}\n{"image": "b", "label": "x"}', [1, 0], ["x", "x y"]),
        ("path,label\na,x y\nb,x\n", [1, 0], ["x", "x y"]),
    ],
)
def test_labels_of_json_and_tables_are_numbers_or_names(
    tmp_path: Path, text: str, labels: list[float], classes: list[str]
) -> None:
    (tmp_path / "list").write_text(text)
    split = ListDataset(tmp_path, tmp_path / "list").open("list")
    assert (split.keys, split.labels, split.classes) == (["a", "b"], labels, classes)


def test_columns_may_have_any_names_that_are_given(images: Path, tmp_path: Path) -> None:
    found, file = paths(images), tmp_path / "train.csv"
    file.write_text("species,id,label\n" + "".join(f"s{k % 2},{path},7\n" for k, path in enumerate(found)))
    given = ("--list", file, "--data", images, "--out", tmp_path)
    code, _, err = run(*given)
    assert code == 2 and "expected a line 'relative/path label' for each image" in err
    assert run(*given, "--columns", "id,species")[0] == 0
    assert labels_by_path(tmp_path / "train.beton") == {path: f"s{k % 2}" for k, path in enumerate(found)}
    verify = ("--verify", tmp_path / "train.beton", "--list", file, "--source", images)
    assert run(*verify, "--columns", "id,species")[0] == 0
    code, _, err = run(*given, "--columns", "id,kind")
    assert code == 2 and "has no column 'kind'; its columns are species, id, label: name two" in err
    assert "'id' does not name two columns; expected IMAGES,LABELS" in run(*given, "--columns", "id")[2]
    code, _, err = run("--data", images, "--out", tmp_path, "--columns", "id,kind")
    assert code == 2 and "--columns names columns of a list: give it with --list" in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "path,label,class\na,1,2\n",
            "has several columns that may be the labels; its columns are path, label, class",
        ),
        ('{"image": "a", "x": 1}\n', "has no column that may be the labels; its columns are image, x"),
        ('{"image": "a", "label": 1}\n[]\n', "line 2: []; expected an object, as in line 1"),
        ('{"image": "a", "label": 1}\n{"image"\n', "line 2: it is not JSON"),
        (
            '{"image": "a", "label": [1, 2]}\n',
            "line 1: its 'image' is 'a' and its 'label' is [1, 2]; expected the path",
        ),
        (
            '{"image": "a", "label": true}\n',
            "its 'label' is True; expected the path of an image, and a number or a name",
        ),
        ('{"image": "a", "label": null}\n', "line 1: 'a' has no label"),
        ('{"image": "a"}\n', "has no column that may be the labels"),
        ("file\tlabel\na.JPEG\t1\t2\n", "line 2: 3 columns, expected 2: file,label"),
    ],
)
def test_a_table_that_is_not_clear_is_refused_by_its_line(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(FolderError) as caught:
        ListDataset(tmp_path, tmp_path / "list.txt").open("list")
    assert expected in str(caught.value) and str(caught.value).isprintable()
