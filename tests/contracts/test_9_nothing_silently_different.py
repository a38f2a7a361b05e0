"""Promise 9: nothing is silently different from what the user meant: labels, classes, fields, files that are not packed, settings. Each is right, an error, or a listed warning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_fast import Loader, UserError
from alexnet_fast import train as command
from alexnet_fast.models import MODELS
from alexnet_fast.pack import main as pack
from betons import jpeg, picture, write
from components import ROOT
from folders import fill
from stress.narrow_model import NARROW

SIZES = [(64, 48), (48, 64), (65, 33), (100, 100)]


def delivered(path: Path, **fields: str) -> tuple[list[np.ndarray], list[int]]:
    """The pixels and labels of a file in its order, as the Loader delivers them."""
    with Loader(path, 3, train=False, size=32, threads=1, **fields) as loader:  # type: ignore[arg-type]
        pairs = [(image.numpy().copy(), int(label)) for batch in loader for image, label in zip(*batch)]
    return [image for image, _ in pairs], [label for _, label in pairs]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., tuple[int, str]]:
    """train({"data.train": ...}, "--eval", ...): runs a small training; returns its exit code and all output."""
    monkeypatch.setitem(MODELS, "alexnet", NARROW)

    def run(changes: dict[str, object], *arguments: str) -> tuple[int, str]:
        keys = {
            "run.name": "run", "run.out": str(tmp_path), "run.device": "cpu", "data.size": 64, "data.global_batch_size": 2,
            "precision.level": "O0", "model.num_classes": 3, "schedule.epochs": 1, "schedule.steps_per_epoch": 2, **changes,
        }  # fmt: skip
        sets = [part for key, value in keys.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        code = command.main([str(ROOT / "recipes/1p.toml"), *sets, *arguments])
        return code, "".join(capsys.readouterr())

    return run


@pytest.fixture
def of_two_labels(tmp_path: Path, require: Callable[[str], Any]) -> Path:
    """{image, fine, coarse}, written by FFCV."""
    require("ffcv")
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # the progress bar of its writer would leave a thread running
    samples = [(picture(*size), fine, fine // 2) for fine, size in enumerate(SIZES)]
    fields = {"image": RGBImageField(write_mode="jpg"), "fine": IntField(), "coarse": IntField()}
    DatasetWriter(str(tmp_path / "theirs.beton"), fields, num_workers=1).from_indexed_dataset(samples)
    return tmp_path / "theirs.beton"


def test_labels_come_from_the_named_field_and_never_from_the_first_of_several(of_two_labels: Path) -> None:
    with pytest.raises(
        UserError, match=r"'fine' \(int\), 'coarse' \(int\); give label_field = 'fine' or 'coarse'"
    ):
        Loader(of_two_labels, 3, train=False)
    images, fine = delivered(of_two_labels, label_field="fine")
    same, coarse = delivered(of_two_labels, label_field="coarse")
    assert (fine, coarse) == ([0, 1, 2, 3], [0, 0, 1, 1])
    assert all(np.array_equal(one, other) for one, other in zip(images, same, strict=True))


def test_a_missing_field_is_an_error_that_lists_the_files_fields(of_two_labels: Path) -> None:
    for wrong in (
        {"label_field": "label"},
        {"label_field": "image"},
        {"image_field": "fine", "label_field": "fine"},
    ):
        with pytest.raises(UserError, match=r"'image' \(RGB image\), 'fine' \(int\), 'coarse' \(int\)"):
            delivered(of_two_labels, **wrong)


def test_a_run_trains_and_evaluates_on_the_label_that_its_recipe_names(
    of_two_labels: Path, train: Callable[..., tuple[int, str]]
) -> None:
    files = {"data.train": str(of_two_labels), "data.val": str(of_two_labels)}
    code, told = train(files)
    assert code == 2 and told.count("\n") == 1 and "data.label_field" in told
    code, told = train({**files, "data.label_field": "fine"})
    assert code == 2 and "has a label 3, but model.num_classes = 3" in told
    code, told = train({**files, "data.label_field": "coarse", "model.num_classes": 2})
    assert code == 0 and "4 training samples, 4 to evaluate on" in told


def test_a_val_set_has_the_learnt_classes_or_is_not_evaluated(
    tmp_path: Path, train: Callable[..., tuple[int, str]], capsys: Any
) -> None:
    """Packed alone with one class missing, it gave 50 % in place of 100 %."""
    fill(tmp_path / "data/train", {"ant": 2, "bee": 2, "cat": 2})
    fill(tmp_path / "alone/val", {"ant": 2, "cat": 2})
    for data, out in (("data", "packed"), ("alone", "packed-alone"), ("alone", "packed")):
        assert pack(["--data", str(tmp_path / data), "--out", str(tmp_path / out), "--workers", "1"]) == 0
    assert "labels are numbered as in" in capsys.readouterr().out
    files = {
        "data.train": str(tmp_path / "packed/train.beton"),
        "data.val": str(tmp_path / "packed/val.beton"),
    }
    wrong = {**files, "data.val": str(tmp_path / "packed-alone/val.beton")}

    code, told = train(wrong)
    assert code == 2 and "label 1 is 'cat' in" in told and "but 'bee' in" in told and "Acc@1" not in told
    assert train(files)[0] == 0
    code, told = train(wrong, "--eval")  # without its training set: compared with the checkpoint
    assert code == 2 and "but 'bee' in the checkpoint" in told and "Acc@1" not in told
    (tmp_path / "packed-alone/val.beton.json").unlink()
    code, told = train(wrong, "--eval")  # without class names, but with one class too few
    assert (
        code == 0 and "warning: " in told and "no class names show whether the labels mean the same" in told
    )
    code, told = train(files, "--eval")
    assert code == 0 and "warning" not in told


def test_files_that_a_packing_ignores_are_reported_and_listed(tmp_path: Path, capsys: Any) -> None:
    folder = fill(tmp_path / "data/train", {"ant": 2, "bee": 1})
    (folder / "ant/photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "bee/notes.txt").write_text("not an image")
    (folder / "lost+found").mkdir()
    assert pack(["--data", str(tmp_path / "data"), "--out", str(tmp_path / "packed"), "--workers", "1"]) == 0
    assert "not packed: " in (told := capsys.readouterr().out) and "1 .heic" in told and "1 .txt" in told
    sidecar = json.loads((tmp_path / "packed/train.beton.json").read_text())
    assert sidecar["ignored"]["paths"] == ["ant/photo.heic", "bee/notes.txt", "lost+found"]
    assert sidecar["classes"] == ["ant", "bee"] and sidecar["counts"]["samples"] == 3


@pytest.mark.parametrize(
    "name", ["seed", "train", "shuffle", "order", "drop_last", "sise", "dataset", "num_workers"]
)
def test_setting_an_attribute_without_effect_is_an_error(tmp_path: Path, name: str) -> None:
    with (
        Loader(
            write(tmp_path / "a.beton", [jpeg(picture(64, 48))] * 4), 2, train=True, size=32, threads=1
        ) as loader,
        pytest.raises(UserError, match=rf"Loader\.{name} = .* cannot be set"),
    ):
        setattr(loader, name, 7)
