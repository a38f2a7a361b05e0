"""A regression by the command: images packed with their brightness, learned, stopped, resumed and evaluated on two ranks."""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_fast import pack
from alexnet_fast import train as command
from alexnet_fast.beton.reader import Beton
from alexnet_fast.engine.meter import Meter
from alexnet_fast.models import MODELS
from alexnet_fast.run import checkpoint
from alexnet_fast.run.checkpoint import BEST, LAST
from betons import write
from command_line import Finished
from components import ROOT
from stress.narrow_model import NARROW

EPOCHS, STEPS, VAL = 6, 6, 15
NARROW_COMMAND = (
    "tests/stress/narrow_model.py"  # the command with a model whose sums of gradients take no time
)


@pytest.fixture(scope="module", autouse=True)
def narrow() -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(MODELS, "alexnet", NARROW)
        yield


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.beton of 48 images and val.beton of 15, each labelled with its mean brightness, 0 to 1."""
    folder = tmp_path_factory.mktemp("bright")
    generator = np.random.default_rng(0)
    for split, count in (("train", 8 * STEPS), ("val", VAL)):
        lines = []
        for k in range(count):
            level = 20 + 200 * k / count
            pixels = generator.normal(level, 15, (72, 80, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{split}_{k:02}.png")
            lines.append(f"{split}_{k:02}.png {pixels.mean() / 255:.4f}\n")
        (folder / f"{split}.txt").write_text("".join(lines))
        assert (
            pack.main(["--list", str(folder / f"{split}.txt"), "--out", str(folder), "--workers", "1"]) == 0
        )
    return folder


def arguments(sets: Path, out: Path, *changes: str) -> list[str]:
    keys = {
        "run.name": "bright", "run.out": str(out), "run.device": "cpu", "data.train": str(sets / "train.beton"),
        "data.val": str(sets / "val.beton"), "data.size": 64, "data.scale": [0.5, 1.0], "data.global_batch_size": 8,
        "model.task": "regression", "model.num_classes": 1, "model.dropout": 0.2, "precision.level": "O0", "optim.lr": 0.002,
        "schedule.epochs": EPOCHS, "log.print_freq": 1, "eval.global_batch_size": 4, "checkpoint.every_epochs": 1,
    }  # fmt: skip
    settings = [*(f"{key}={json.dumps(value)}" for key, value in keys.items()), *changes]
    return [str(ROOT / "recipes/tiny.toml"), *(word for each in settings for word in ("--set", each))]


@pytest.fixture(scope="module")
def let_alone(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("let_alone")
    assert command.main(arguments(sets, folder)) == 0
    return folder / "bright"


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = checkpoint.load(path)["state_dict"]
    return state


def test_it_learns_and_its_best_has_the_lowest_error(let_alone: Path, sets: Path) -> None:
    report, epochs = json.loads((let_alone / "report.json").read_text()), lines(let_alone, "epoch")
    with Beton(sets / "val.beton") as beton:
        by_the_mean = statistics.pvariance(beton.labels.tolist())
    assert report["mse"] < by_the_mean / 2, "the mean of all labels would be as good"
    errors = [line["mse"] for line in epochs]
    assert len(errors) == EPOCHS and report["best_mse"] == min(errors)
    assert checkpoint.load(let_alone / BEST)["best_mse"] == min(errors)
    assert checkpoint.load(let_alone / BEST)["cursor"]["epoch"] == 1 + errors.index(min(errors))


def test_its_own_metrics_and_no_accuracy_are_on_the_console_and_in_every_file(
    sets: Path, tmp_path: Path, capsys: Any
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert command.main(arguments(sets, tmp_path, "schedule.epochs=1", "log.tensorboard=true")) == 0
    out, folder = capsys.readouterr().out, tmp_path / "bright"
    report, (epoch,), steps = (
        json.loads((folder / "report.json").read_text()),
        lines(folder, "epoch"),
        lines(folder, "step"),
    )
    assert "AlexNet, 1 output, O0" in out and "acc" not in out.lower().replace("performance", "")
    assert out.count("  MSE ") == out.count("  MAE ") == STEPS + 1, "a line a step, and the table's head"
    assert f"[AVG-ERR] * MSE {report['mse']:.6g} MAE {report['mae']:.6g}\n" in out
    assert f"\nFinal Train MSE : {report['mse']:.6g}\n" in out and "train MSE" in out
    names = {"mse", "mae", "train_mse", "train_mae"}
    assert names <= set(epoch) and {"train_mse", "train_mae"} <= set(steps[0])
    assert {"mse", "mae", "train_mse", "best_mse"} <= set(report)
    assert not any("acc" in key for each in (report, epoch, steps[0]) for key in each)
    assert epoch["mse"] == pytest.approx(epoch["val_loss"], rel=1e-5)
    assert epoch["train_mse"] == pytest.approx(epoch["epoch_loss"], rel=1e-5)
    found = events.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    assert {f"epoch/{name}" for name in names} <= set(found.Tags()["scalars"])


@pytest.mark.parametrize("call", [3, STEPS, STEPS + 2])
def test_stopped_in_any_step_and_resumed_it_ends_with_the_same_bits(
    call: int, let_alone: Path, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = Meter.add, [call]

    def struck(meter: Meter, *figures: Any) -> None:
        real(meter, *figures)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Meter, "add", struck)
        assert command.main(arguments(sets, tmp_path)) == 128 + signal.SIGTERM
    torch.manual_seed(1000)  # anything that happens between the two must not matter
    assert command.main([*arguments(sets, tmp_path), "--resume", "auto"]) == 0
    keys = ("step", "loss", "epoch_loss", "train_mse", "train_mae", "mse", "mae", "val_loss")
    for kind in ("step", "epoch"):
        mine, theirs = (
            [[line.get(key) for key in keys] for line in lines(each, kind)]
            for each in (tmp_path / "bright", let_alone)
        )
        assert mine == theirs
    mine, theirs = weights(tmp_path / "bright" / LAST), weights(let_alone / LAST)
    assert all(torch.equal(mine[key], tensor) for key, tensor in theirs.items())


def test_two_ranks_evaluate_to_the_bits_of_one(
    let_alone: Path, sets: Path, tmp_path: Path, run_cli: Callable[..., Finished]
) -> None:
    given, full = ["--eval", "--resume", str(let_alone / LAST)], "eval.full_batches_of=4"
    assert command.main([*arguments(sets, tmp_path / "1", full), *given]) == 0
    # Four samples a rank, as alone: a network's own sums depend on the size of its batch.
    two_ranks = arguments(sets, tmp_path / "2", full, "distributed.nproc=2", "eval.global_batch_size=8")
    done = run_cli(
        NARROW_COMMAND,
        *two_ranks,
        *given,
        env={"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
    )
    assert done.code == 0, done.stderr
    one, two = (json.loads((tmp_path / nproc / "bright/eval.json").read_text()) for nproc in "12")
    assert list(one) == ["checkpoint", "mse", "mae", "samples", "loss", "full_batches"]
    assert two["samples"] == VAL and two["full_batches"]["samples"] == 12
    assert [two[name] for name in ("mse", "mae", "full_batches")] == [
        one[name] for name in ("mse", "mae", "full_batches")
    ]
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert one["mse"] == json.loads((let_alone / "report.json").read_text())["mse"]


def refused(capsys: Any, arguments: list[str]) -> str:
    """The one sentence that the command ends with."""
    assert command.main(arguments) == 2
    error = str(capsys.readouterr().err)
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            'model.task="classification"',
            "train.beton has a label field 'label' of type float, but model.task = \"classification\" learns from type int: "
            'set model.task = "regression"',
        ),
        (
            "model.num_classes=10",
            "one number for each image, but model.num_classes = 10 gives 10 outputs: set model.num_classes = 1",
        ),
        ('model.task="ranking"', 'model.task = "ranking" is not accepted'),
    ],
)
def test_a_task_that_the_set_does_not_fit_is_one_sentence(
    change: str, sentence: str, sets: Path, tmp_path: Path, capsys: Any
) -> None:
    assert sentence in refused(capsys, arguments(sets, tmp_path, change))


@pytest.mark.parametrize("which", ["data.train", "data.val"])
@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), 1e39])
def test_a_label_that_is_not_a_finite_float32_is_refused_before_the_first_step(
    which: str, bad: float, sets: Path, tmp_path: Path, capsys: Any
) -> None:
    with Beton(sets / "val.beton") as beton:
        images = [beton.payload(k).tobytes() for k in range(9)]
    path = write(tmp_path / "bad.beton", images, [0.5] * 8 + [bad])
    error = refused(capsys, arguments(sets, tmp_path, f"{which}={json.dumps(str(path))}"))
    assert f"bad.beton has a label {bad} (sample 8), but" in error


def test_an_int_set_is_refused_for_training_and_for_evaluation(
    sets: Path, tmp_path: Path, let_alone: Path, capsys: Any
) -> None:
    with Beton(sets / "val.beton") as beton:
        path = write(tmp_path / "ints.beton", [beton.payload(k).tobytes() for k in range(9)])
    sentence = "ints.beton has a label field 'label' of type int, but model.task = \"regression\" learns from type float"
    for change in (f"data.train={json.dumps(str(path))}", f"data.val={json.dumps(str(path))}"):
        assert sentence in refused(capsys, arguments(sets, tmp_path, change))
    evaluating = ["--eval", "--resume", str(let_alone / LAST)]
    assert sentence in refused(capsys, [*arguments(sets, tmp_path, change), *evaluating])


def test_a_checkpoint_of_another_task_is_not_resumed_nor_evaluated(
    sets: Path, tmp_path: Path, let_alone: Path, capsys: Any
) -> None:
    with Beton(sets / "val.beton") as beton:
        path = write(tmp_path / "ints.beton", [beton.payload(k).tobytes() for k in range(9)], [0] * 9)
    ints = [f"{key}={json.dumps(str(path))}" for key in ("data.train", "data.val")]
    given = arguments(sets, tmp_path, *ints, 'model.task="classification"')
    sentence = (
        f'{let_alone / LAST} has learned regression, but model.task = "classification": restore model.task'
    )
    for more in (["--resume", str(let_alone / LAST)], ["--eval", "--resume", str(let_alone / LAST)]):
        assert sentence in refused(capsys, [*given, *more])
    older = checkpoint.load(let_alone / LAST)
    del older["recipe"]["model"]["task"]  # as versions wrote it that had no other task
    checkpoint.save(tmp_path / "older.pt", older)
    error = refused(capsys, [*arguments(sets, tmp_path), "--resume", str(tmp_path / "older.pt")])
    assert 'older.pt has learned classification, but model.task = "regression"' in error
    assert (
        command.main([*arguments(sets, tmp_path, f"model.weights={json.dumps(str(let_alone / LAST))}")]) == 0
    )
