"""Columns of a list file as fields, by the command: packed, verified against the list, and refused where a cell is of another type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_fast import pack
from alexnet_fast.beton.reader import Beton
from alexnet_fast.beton.several import open_beton
from betons import jpeg, picture
from folders import listed

COUNT = 5
LIST = '''path,label,attrs,note,weight,text
0.jpg,cat,0 0.5 1,"{""k"": [0]}",0.25,"a, b"
1.jpg,ant,"[1, 0, 2.5]",null,-1e3,
2.jpg,cat,3 3 3,7,0.5,é
3.jpg,bee,4 4 4,"""x""",1,d
4.jpg,bee,5 5 5,true,2,e
'''
FIELDS = "attrs:float32[3],note:json,weight:float,text:bytes"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(COUNT):
        (tmp_path / f"{k}.jpg").write_bytes(jpeg(picture(40, 30, k)))
    (tmp_path / "train.csv").write_text(LIST)
    return tmp_path


def command(folder: Path, *arguments: str) -> int:
    given = ["--list", str(folder / "train.csv"), "--workers", "1", *arguments]
    return pack.main(given)


def pack_into(folder: Path, *arguments: str) -> Path:
    assert command(folder, "--out", str(folder / "out"), *arguments) == 0
    return folder / "out/train.beton"


def refused(folder: Path, capsys: Any, *arguments: str) -> str:
    with pytest.raises((pack.UserError, SystemExit)) as caught:
        command(folder, "--out", str(folder / "out"), *arguments)
    assert listed(folder / "out") == []
    return f"{caught.value} {capsys.readouterr().err}"


def test_columns_become_fields_in_the_order_of_the_samples(folder: Path) -> None:
    with Beton(pack_into(folder, "--fields", FIELDS)) as beton:
        place = {beton.source_path(k): k for k in range(COUNT)}
        order = np.array([place[f"{k}.jpg"] for k in range(COUNT)])
        assert order.tolist() != list(range(COUNT)), "the packer shuffles"
        assert beton.labels[order].tolist() == [2, 0, 2, 1, 1]
        attrs = beton.column("attrs").take(order)
        assert np.array_equal(attrs, [[0, 0.5, 1], [1, 0, 2.5], [3] * 3, [4] * 3, [5] * 3])
        assert beton.column("note").take(order) == [{"k": [0]}, None, 7, "x", True]
        assert np.array_equal(beton.column("weight").take(order), [0.25, -1000, 0.5, 1, 2])
        assert beton.column("text").take(order) == [b"a, b", b"", "é".encode(), b"d", b"e"]


def test_columns_that_are_not_named_are_reported(folder: Path, capsys: Any) -> None:
    path = pack_into(folder, "--fields", "attrs:float32[3]")
    assert "not packed: 3 columns of the list; listed in" in capsys.readouterr().out
    ignored = json.loads(Path(f"{path}.json").read_text())["ignored"]
    assert ignored["paths"] == ["column note", "column text", "column weight"]


def test_without_names_no_further_column_is_packed_and_all_are_reported(folder: Path, capsys: Any) -> None:
    with Beton(pack_into(folder)) as beton:
        assert [field.name for field in beton.fields] == ["image", "label"]
    assert "not packed: 4 columns of the list" in capsys.readouterr().out


def test_json_lines_give_the_same_fields_as_csv(folder: Path) -> None:
    with Beton(pack_into(folder, "--fields", FIELDS)) as beton:
        of_csv = [beton.column(name).take(slice(None)) for name in ("attrs", "note", "weight", "text")]
    notes, texts = [{"k": [0]}, None, 7, "x", True], ["a, b", "", "é", "d", "e"]
    attrs, weights = [[0, 0.5, 1], [1, 0, 2.5], [3] * 3, [4] * 3, [5] * 3], [0.25, -1000, 0.5, 1, 2]
    rows = zip(["cat", "ant", "cat", "bee", "bee"], attrs, notes, weights, texts)
    (folder / "train.csv").write_text(
        "".join(
            json.dumps(
                {
                    "file_name": f"{k}.jpg",
                    "label": label,
                    "attrs": attr,
                    "note": note,
                    "weight": weight,
                    "text": text,
                }
            )
            + "\n"
            for k, (label, attr, note, weight, text) in enumerate(rows)
        )
    )
    with Beton(pack_into(folder, "--fields", FIELDS, "--fresh")) as beton:
        for name, expected in zip(("attrs", "note", "weight", "text"), of_csv):
            found = beton.column(name).take(slice(None))
            assert found == expected if isinstance(expected, list) else np.array_equal(found, expected)


@pytest.mark.parametrize("fields", [FIELDS, "label:float32[2]"])
def test_parts_have_the_fields_of_one_file(folder: Path, fields: str) -> None:
    if fields.startswith("label"):
        rows = "".join(f"{k}.jpg,{k} {k + 0.5}\n" for k in range(COUNT))
        (folder / "train.csv").write_text(f"path,label\n{rows}")
    one = pack_into(folder, "--fields", fields)
    assert command(folder, "--out", str(folder / "out"), "--fields", fields, "--shards", "2") == 0
    names = [pair.partition(":")[0] for pair in fields.split(",") if pair[-1] != "]" or ":" in pair]
    with open_beton(folder / "out/train.index.json") as parts, Beton(one) as beton:
        assert len(parts) == COUNT and np.array_equal(parts.labels, beton.labels)
        for name in names:
            found, expected = (each.column(name).take(slice(None)) for each in (parts, beton))
            assert found == expected if isinstance(found, list) else np.array_equal(found, expected)


def test_the_label_may_be_a_vector(folder: Path, capsys: Any) -> None:
    (folder / "train.csv").write_text(
        "".join(f"{'path,label' if k < 0 else f'{k}.jpg,{k} 0 1'}\n" for k in range(-1, COUNT))
    )
    with Beton(path := pack_into(folder, "--fields", "label:float32[3]")) as beton:
        assert beton.target_field.name == "vector"
        assert sorted(beton.labels.tolist()) == [[k, 0, 1] for k in range(COUNT)]
    assert "5 images with vectors as labels" in capsys.readouterr().out
    assert command(folder, "--verify", str(path), "--source", str(folder)) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fields", "atrs:int"), "has no column 'atrs', which --fields names; its columns are path, label, attrs, note"),
        (("--fields", "attrs:float32[2]"), "the field 'attrs' of '0.jpg' is '0 0.5 1', and no float32[2]: "),
        (("--fields", "weight:int"), "the field 'weight' of '0.jpg' is '0.25', and no int: "),
        (("--fields", "text:json"), "the field 'text' of '0.jpg' is 'a, b', and no json: "),
        (("--fields", "label:int"), "makes the label of"),
        (("--fields", "attrs"), "expected name:type,name:type"),
        (("--fields", "attrs:int,attrs:int"), "expected name:type,name:type"),
        (("--fields", "attrs:text"), "'text' is not the type of a field"),
        (("--fields", "class:int"), "names a field 'class'"),
        (("--fields", "label:float32[1]", "--label-type", "float"), "both say what the label is: give one"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_written(
    folder: Path, capsys: Any, arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(folder, capsys, *arguments)


def test_a_row_of_another_length_and_a_name_that_comes_twice_are_named_with_their_line(
    folder: Path, capsys: Any
) -> None:
    (folder / "train.csv").write_text("path,label,a\n0.jpg,x,1\n1.jpg,x\n")
    assert "line 3: 2 columns, expected 3: path,label,a" in refused(folder, capsys, "--fields", "a:int")
    (folder / "train.csv").write_text("path,label,a,a\n0.jpg,x,1,2\n")
    assert "the column 'a' has no name, or one that comes twice" in refused(
        folder, capsys, "--fields", "a:int"
    )


def test_a_folder_has_no_columns(folder: Path, capsys: Any) -> None:
    with pytest.raises(pack.UserError, match="--fields names columns of a list: give it with --list"):
        pack.main(["--data", str(folder), "--out", str(folder / "out"), "--fields", "a:int"])


def test_an_interrupted_packing_resumes_only_with_the_same_values(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = pack_into(folder, "--fields", FIELDS).read_bytes()
    for file in (folder / "out").iterdir():
        file.unlink()
    real = pack.write_beton

    def stops(*arguments: Any, progress: Any, **named: Any) -> Any:
        def interrupts(done: int) -> None:
            if done == 3:
                raise KeyboardInterrupt

        return real(*arguments, progress=interrupts, **named)

    with monkeypatch.context() as patched, pytest.raises(pack.StoppedBySignal):
        patched.setattr(pack, "write_beton", stops)
        command(folder, "--out", str(folder / "out"), "--fields", FIELDS)
    (folder / "train.csv").write_text(LIST.replace("5 5 5", "5 5 6"))
    with pytest.raises(pack.UserError, match="was interrupted: the values of 'attrs' differ"):
        command(folder, "--out", str(folder / "out"), "--fields", FIELDS)
    with pytest.raises(pack.UserError, match="started with other settings: fields was"):
        command(folder, "--out", str(folder / "out"), "--fields", "attrs:float32[3]")
    (folder / "train.csv").write_text(LIST)
    assert pack_into(folder, "--fields", FIELDS).read_bytes() == alone


def test_verify_compares_the_fields_with_their_checksums_and_with_the_list(folder: Path, capsys: Any) -> None:
    path = pack_into(folder, "--fields", FIELDS)
    assert command(folder, "--verify", str(path), "--source", str(folder)) == 0, "the json knows the fields"
    whole = path.read_bytes()
    stored = np.float32([3, 3, 3]).tobytes()
    assert whole.count(stored) == 1
    path.write_bytes(whole.replace(stored, np.float32([3, 3, 2]).tobytes()))
    assert command(folder, "--verify", str(path), "--source", str(folder)) == 1
    assert "(2.jpg): its fields have the CRC-32" in capsys.readouterr().out
    path.write_bytes(whole)
    (folder / "train.csv").write_text(LIST.replace("3 3 3", "3 3 2"))
    assert command(folder, "--verify", str(path), "--source", str(folder)) == 1
    assert "have other sizes, fields or another order than when they were packed" in capsys.readouterr().out
