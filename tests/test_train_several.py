"""Training on several files: the losses and weights of one file with the same samples, by a pattern, a list and an index."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast import Loader, UserError, train
from alexnet_fast.models import MODELS
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.join import join
from alexnet_fast.packing.parts import SourcePart, all_parts
from alexnet_fast.packing.writer import scan_folder, write_beton
from alexnet_fast.recipe_toml import load, validate
from alexnet_fast.run import checkpoint
from alexnet_fast.run.same_set import identity
from folders import fill
from stress.narrow_model import NARROW

SETTINGS = {
    "run.device": "cpu", "data.size": 64, "data.global_batch_size": 4, "model.num_classes": 3, "precision.level": "O0",
    "schedule.epochs": 1, "log.print_freq": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.beton of 13 images and val.beton of 7, and both in three parts, with an index of each."""
    root = tmp_path_factory.mktemp("sets")
    for split, counts in (("train", (5, 5, 3)), ("val", (3, 2, 2))):
        whole = scan_folder(fill(root / split, dict(zip("abc", counts)))).shuffled(0)
        write_beton(whole, root / f"{split}.beton", Encoding(), workers=1)
        paths = [part.path(root / f"{split}.beton") for part in all_parts(3)]
        for part, path in zip(all_parts(3), paths):
            write_beton(SourcePart.of(whole, part), path, Encoding(), workers=1)
        join(root / f"{split}.index.json", paths)
    return root


@pytest.fixture
def run(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """run("name", **{"data.train": ...}) trains the narrow AlexNet by the command; returns the run's folder."""
    monkeypatch.setitem(MODELS, "alexnet", NARROW)

    def trained(name: str, **changes: Any) -> Path:
        settings = {**SETTINGS, "run.name": name, "run.out": str(tmp_path), **changes}
        path = tmp_path / f"{name}.toml"
        path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items()))
        assert train.main([str(path)]) == 0
        return tmp_path / name

    return trained


def losses(folder: Path) -> list[tuple[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["kind"], line["loss"]) for line in lines if "loss" in line]


def test_a_run_by_a_pattern_and_an_index_is_the_run_on_one_file(
    sets: Path, run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one = run("one", **{"data.train": str(sets / "train.beton"), "data.val": str(sets / "val.beton")})
    pattern = str(sets / "train-*.beton")
    several = run("several", **{"data.train": pattern, "data.val": str(sets / "val.index.json")})
    assert "13 training samples (1 left over each epoch), 7 to evaluate on" in capsys.readouterr().out
    assert losses(one) == losses(several) and len(losses(one)) == 3
    weights = [checkpoint.load(folder / checkpoint.LAST)["state_dict"] for folder in (one, several)]
    assert all(torch.equal(weights[1][key], tensor) for key, tensor in weights[0].items())
    assert load(several / "recipe.toml").data.train == pattern


def test_a_run_mixes_a_list_by_weights(sets: Path, run: Callable[..., Path]) -> None:
    given = [str(sets / "train-1-of-3.beton"), str(sets / "train-[23]-of-3.beton")]
    folder = run(
        "mixed",
        **{
            "data.train": given,
            "data.weights": [1, 3],
            "data.val": str(sets / "val.beton"),
            "schedule.epochs": 1,
        },
    )
    kept = load(folder / "recipe.toml").data
    assert kept.train == tuple(given) and kept.weights == (1, 3)


def test_a_set_whose_part_is_missing_is_refused_before_anything_is_trained(
    sets: Path, run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("train.index.json", "train-1-of-3.beton", "train-3-of-3.beton"):
        shutil.copy(sets / name, copy)
    with pytest.raises(AssertionError):  # its exit code is not 0
        run("missing", **{"data.train": str(copy / "train.index.json"), "data.val": str(sets / "val.beton")})
    said = capsys.readouterr().err
    assert re.search(r"train-2-of-3\.beton, a part of .*train\.index\.json, does not exist", said)
    assert not (tmp_path / "missing").exists()


def test_a_checkpoints_set_is_the_same_in_one_file_and_in_several(sets: Path) -> None:
    found = []
    for path in (sets / "train.beton", sets / "train.index.json"):
        with Loader(path, 4, train=True, size=24, threads=1) as loader:
            found.append(identity(loader))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"train": []}, "an empty list"),
        ({"train": ["a", ""]}, "an empty path"),
        ({"val": [3]}, "expected text or a list of texts"),
        ({"weights": [-1]}, "expected a list of numbers"),
        ({"val": "a\0b"}, "no NUL"),
    ],
)
def test_a_recipe_says_what_it_expects_of_files(data: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        validate({"data": data})
