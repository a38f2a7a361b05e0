"""Predictions: an evaluation's own outputs, for betons and for files."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import torch

from alexnet_fast import predict
from alexnet_fast.errors import UserError
from alexnet_fast.prediction.trained import load_trained
from alexnet_fast.train import main as train
from prediction.conftest import CLASSES, Run


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


OBLONG = ["--set", "eval.size=[72, 96]", "--set", "data.interpolation=bicubic"]


@pytest.mark.parametrize("more", [[], OBLONG], ids=["as trained", "72 x 96 px, bicubic"])
def test_predictions_of_a_beton_are_the_evaluations(
    more: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([str(run.recipe), "--eval", *more]) == 0
    evaluation = json.loads((run.folder / "eval.json").read_text())
    capsys.readouterr()
    assert predict.main([str(run.folder), str(run.val), "--batch", "3", *more]) == 0
    lines = table(capsys.readouterr().out)
    assert [line["path"] for line in lines] == sorted(
        str(path.relative_to(run.images)) for path in run.images.rglob("*.png")
    )
    assert [line["label"] for line in lines] == [line["path"].split("/")[0] for line in lines]
    assert sum(line["label"] == line["class"] for line in lines) == evaluation["top1"]


@pytest.mark.parametrize("more", [[], OBLONG], ids=["as trained", "72 x 96 px, bicubic"])
def test_a_folder_of_images_gets_the_predictions_of_the_beton_of_its_pixels(
    more: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([str(run.folder), str(run.val), "--batch", "7", *more]) == 0
    of_beton = [(line["path"], line["class"], line["probability"]) for line in table(capsys.readouterr().out)]
    assert predict.main([str(run.folder), str(run.images), "--batch", "7", *more]) == 0
    of_files = [(line["path"], line["class"], line["probability"]) for line in table(capsys.readouterr().out)]
    assert of_files == of_beton


def test_one_image_gets_one_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    image = next(run.images.rglob("*.png"))
    assert predict.main([str(run.folder), str(image)]) == 0
    (line,) = table(capsys.readouterr().out)
    assert line["path"] == image.name and line["class"] in CLASSES


def test_the_most_likely_classes_come_in_order_and_their_probabilities_add_up(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([str(run.folder), str(run.images), "--top", "9"]) == 0
    for line in table(capsys.readouterr().out):
        shares = [float(line[f"probability_{k}"]) for k in (1, 2, 3)]
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1, abs=1e-5)
        assert sorted(line[f"class_{k}"] for k in (1, 2, 3)) == CLASSES


def test_a_file_that_is_no_image_is_named_and_the_others_are_judged(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(run.images / "fine", folder / "b")
    for name in ("a.jpg", "z.png"):
        (folder / name).write_bytes(b"no image")
    assert predict.main([str(run.folder), str(folder), "--batch", "1"]) == 1
    printed = capsys.readouterr()
    lines = table(printed.out)
    assert lines[0]["path"] == "a.jpg" and lines[-1]["path"] == "z.png"
    assert lines[0]["class"] == lines[-1]["class"] == "" and all(line["class"] for line in lines[1:-1])
    assert f"{folder}/a.jpg" in printed.err and f"2 of {len(lines)} images cannot be read" in printed.err


def test_the_table_appears_when_it_is_complete(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "predictions.csv"
    assert predict.main([str(run.folder), str(run.images), "--out", str(out)]) == 0
    assert len(table(out.read_text())) == 7 and list(tmp_path.iterdir()) == [out]
    with pytest.raises(UserError, match="cannot write .*: give another --out|give another --out"):
        predict.main([str(run.folder), str(run.images), "--out", str(tmp_path / "missing" / "table.csv")])


def test_outputs_are_the_networks(run: Run) -> None:
    model = load_trained(run.folder, device="cpu")
    saved = torch.load(run.folder / "checkpoint_best.pt", weights_only=True)["state_dict"]
    plain = model.plain().state_dict()
    assert list(plain) == list(saved) and all(torch.equal(plain[key], saved[key]) for key in saved)
    assert model.classes == tuple(CLASSES)


def test_weights_alone_need_a_recipe(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(torch.load(run.folder / "checkpoint_best.pt", weights_only=True)["state_dict"], weights)
    with pytest.raises(UserError, match="holds weights alone.*give --recipe FILE"):
        predict.main([str(weights), str(run.images)])
    assert predict.main([str(weights), str(run.images), "--recipe", str(run.recipe)]) == 0
    assert {line["class"] for line in table(capsys.readouterr().out)} <= {"0", "1", "2"}


@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        ("images", "images", "has no checkpoint_best.pt and no checkpoint_last.pt"),
        ("folder", "nothing", "is no folder, no image and no .beton"),
        ("folder", "empty", "contains no image"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(
    run: Run, tmp_path: Path, model: str, images: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    given = {
        "images": run.images,
        "folder": run.folder,
        "nothing": tmp_path / "x",
        "empty": tmp_path / "empty",
    }
    with pytest.raises(UserError, match=message):
        predict.main([str(given[model]), str(given[images])])
