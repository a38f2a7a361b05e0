"""Vectors by the command: several labels for each image, and vectors of numbers, packed from code, learned, resumed and evaluated on two
ranks."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_fast import pack_dataset
from alexnet_fast import train as command
from alexnet_fast.engine.meter import Meter
from alexnet_fast.models import MODELS
from alexnet_fast.run import checkpoint
from alexnet_fast.run.checkpoint import BEST, LAST
from command_line import Finished
from components import ROOT
from stress.narrow_model import NARROW

EPOCHS, STEPS, VAL = 10, 6, 15
NARROW_COMMAND = (
    "tests/stress/narrow_model.py"  # the command with a model whose sums of gradients take no time
)
LEVELS = (0.25, 0.45, 0.65)
TASKS = {"multilabel": "f1", "regression": "mse"}


@pytest.fixture(scope="module", autouse=True)
def narrow() -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(MODELS, "alexnet", NARROW)
        yield


def quiet(done: int) -> None:
    """Shows no progress."""


def graded(count: int, seed: int) -> list[tuple[np.ndarray, list[int], list[float]]]:
    """Images of noise from dark to bright; which of three levels their brightness passes, and numbers that follow from it, 0 to 1."""
    generator, items = np.random.default_rng(seed), []
    for k in range(count):
        pixels = generator.normal(20 + 200 * k / count, 15, (72, 80, 3)).clip(0, 255).astype(np.uint8)
        bright = float(pixels.mean()) / 255
        items.append((pixels, [int(bright > level) for level in LEVELS], [bright, 1 - bright, bright / 2]))
    return items


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.beton of 48 images and val.beton of 15; the label has three labels, the field level three numbers."""
    folder = tmp_path_factory.mktemp("graded")
    fields = {"label": "uint8[3]", "level": "float32[3]"}
    for seed, (split, count) in enumerate((("train", 8 * STEPS), ("val", VAL))):
        pack_dataset(graded(count, seed), folder / f"{split}.beton", fields, workers=1, progress=quiet)
    return folder


def arguments(sets: Path, out: Path, task: str, *changes: str) -> list[str]:
    keys = {
        "run.name": task, "run.out": str(out), "run.device": "cpu", "data.train": str(sets / "train.beton"),
        "data.val": str(sets / "val.beton"), "data.size": 64, "data.scale": [0.5, 1.0], "data.global_batch_size": 8,
        "data.label_field": "label" if task == "multilabel" else "level", "model.task": task, "model.num_classes": 3,
        "model.dropout": 0.0, "model.init": "he", "precision.level": "O0", "optim.lr": 0.005 if task == "multilabel" else 0.002,
        "schedule.epochs": EPOCHS, "log.print_freq": 1, "eval.global_batch_size": 4,
    }  # fmt: skip
    settings = [*(f"{key}={json.dumps(value)}" for key, value in keys.items()), *changes]
    return [str(ROOT / "recipes/tiny.toml"), *(word for each in settings for word in ("--set", each))]


@pytest.fixture(scope="module", params=TASKS)
def let_alone(request: pytest.FixtureRequest, sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of each task that was never stopped."""
    folder = tmp_path_factory.mktemp("let_alone")
    assert command.main(arguments(sets, folder, request.param)) == 0
    return folder / request.param


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = checkpoint.load(path)["state_dict"]
    return state


def test_it_learns_and_its_best_is_in_the_report_and_in_the_checkpoint(let_alone: Path) -> None:
    report, epochs = json.loads((let_alone / "report.json").read_text()), lines(let_alone, "epoch")
    if let_alone.name == "multilabel":
        # To say yes to every label, half of which are there, has an F1 of 69 and an accuracy of 53.
        assert report["f1"] > 80 and report["label_acc"] > 75
    else:
        numbers = np.array([numbers for _, _, numbers in graded(VAL, 1)])
        assert report["mse"] < 0.7 * numbers.var(0).mean(), "the mean of all labels would have this variance"
    metric, best = TASKS[let_alone.name], max if let_alone.name == "multilabel" else min
    figures = [line[metric] for line in epochs]
    assert len(figures) == EPOCHS and report[f"best_{metric}"] == best(figures)
    assert checkpoint.load(let_alone / BEST)[f"best_{metric}"] == best(figures)


def test_its_metrics_are_on_the_console_and_in_every_file(sets: Path, tmp_path: Path, capsys: Any) -> None:
    assert command.main(arguments(sets, tmp_path, "multilabel", "schedule.epochs=1")) == 0
    out, folder = capsys.readouterr().out, tmp_path / "multilabel"
    report, (epoch,), steps = (
        json.loads((folder / "report.json").read_text()),
        lines(folder, "epoch"),
        lines(folder, "step"),
    )
    assert "AlexNet, 3 labels, O0" in out
    assert f"[AVG-F1] * F1 {report['f1']:.3f} LabelAcc {report['label_acc']:.3f}\n" in out
    assert f"\nFinal Train F1 : {report['f1']:.3f}" in out
    names = {"f1", "label_acc", "train_f1", "train_label_acc"}
    assert names <= set(epoch) and {"train_f1", "train_label_acc"} <= set(steps[0])
    assert {"f1", "label_acc", "best_f1"} <= set(report) and "acc1" not in report


@pytest.mark.parametrize("task", TASKS)
def test_stopped_in_a_step_and_resumed_it_ends_with_the_same_bits(
    task: str, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = Meter.add, [STEPS + 2]

    def struck(meter: Meter, *figures: Any) -> None:
        real(meter, *figures)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    short = "schedule.epochs=2"
    assert command.main(arguments(sets, tmp_path / "alone", task, short)) == 0
    with monkeypatch.context() as patched:
        patched.setattr(Meter, "add", struck)
        assert command.main(arguments(sets, tmp_path, task, short)) == 128 + signal.SIGTERM
    assert command.main([*arguments(sets, tmp_path, task, short), "--resume", "auto"]) == 0
    keys = ("step", "loss", "epoch_loss", f"train_{TASKS[task]}", TASKS[task], "val_loss")
    for kind in ("step", "epoch"):
        mine, theirs = (
            [[line.get(key) for key in keys] for line in lines(each / task, kind)]
            for each in (tmp_path, tmp_path / "alone")
        )
        assert mine == theirs
    mine_, theirs_ = weights(tmp_path / task / LAST), weights(tmp_path / "alone" / task / LAST)
    assert all(torch.equal(mine_[key], tensor) for key, tensor in theirs_.items())


@pytest.mark.long  # starts the command on two ranks
def test_two_ranks_evaluate_to_the_bits_of_one(
    let_alone: Path, sets: Path, tmp_path: Path, run_cli: Callable[..., Finished]
) -> None:
    task, given = let_alone.name, ["--eval", "--resume", str(let_alone / LAST)]
    assert command.main([*arguments(sets, tmp_path / "1", task), *given]) == 0
    # Four samples a rank, as alone: a network's own sums depend on the size of its batch.
    two_ranks = arguments(sets, tmp_path / "2", task, "distributed.nproc=2", "eval.global_batch_size=8")
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = run_cli(NARROW_COMMAND, *two_ranks, *given, env={"PYTHONPATH": path})
    assert done.code == 0, done.stderr
    one, two = (json.loads((tmp_path / nproc / task / "eval.json").read_text()) for nproc in "12")
    assert two["samples"] == VAL
    for name in one.keys() - {"checkpoint", "loss"}:
        assert two[name] == one[name]
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)
    if task == "multilabel":
        names = ("true_positives", "false_positives", "false_negatives", "true_negatives")
        assert sum(one[name] for name in names) == 3 * VAL


@pytest.mark.parametrize(
    ("task", "change", "sentence"),
    [
        (
            "multilabel", "model.num_classes=1000",
            "train.beton has 3 numbers for each image, but model.num_classes = 1000 gives 1000 outputs: set model.num_classes = 3",
        ),
        (
            "multilabel", 'model.task="classification"',
            "train.beton has a label field 'label' of type vector, but model.task = \"classification\" learns from type int: set "
            'model.task = "multilabel"',
        ),
    ],
)  # fmt: skip
def test_a_task_that_the_vectors_do_not_fit_is_one_sentence(
    task: str, change: str, sentence: str, sets: Path, tmp_path: Path, capsys: Any
) -> None:
    assert command.main(arguments(sets, tmp_path, task, change)) == 2
    error = str(capsys.readouterr().err)
    assert sentence in error and error.count("\n") == 1


@pytest.mark.long  # makes the images first
def test_synthetic_images_have_vectors_too(sets: Path, tmp_path: Path) -> None:
    for task in TASKS:
        changes = ("data.synthetic=true", "schedule.epochs=1", "schedule.steps_per_epoch=2", "eval.every=0")
        assert command.main(arguments(sets, tmp_path, task, *changes, 'data.label_field=""')) == 0
