"""A run with everything that an optimizer may be asked for: it resumes to the bit, and reports both figures."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import betons
from alexnet_fast import trainer
from alexnet_fast.engine.meter import Meter
from alexnet_fast.errors import StoppedBySignal, UserError
from alexnet_fast.loader.loader import Loader
from alexnet_fast.models import MODELS
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from alexnet_fast.prediction.trained import load_trained
from alexnet_fast.recipe import Recipe
from alexnet_fast.recipe_toml import validate
from alexnet_fast.run import checkpoint
from alexnet_fast.run.checkpoint import LAST
from tiny_model import TINY

Make = Callable[..., Recipe]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """make(name, **{"optim.lr": ...}): three epochs of three steps of four, images of 16 px, then of 24, then of 32."""
    monkeypatch.setitem(MODELS, "alexnet", TINY)
    jpegs = [encode_jpeg(betons.picture(72, 64, k), Encoding()) for k in range(12)]
    for split, count in (("train", 12), ("val", 6)):
        betons.write(tmp_path / f"{split}.beton", jpegs[:count], [k % 3 for k in range(count)])

    def recipe(name: str, **changes: Any) -> Recipe:
        table: dict[str, Any] = {
            "run": {"name": name, "out": str(tmp_path), "device": "cpu"},
            "data": {
                "train": str(tmp_path / "train.beton"), "val": str(tmp_path / "val.beton"),
                "size": [[0, 16], [1, 24], [2, 32]], "global_batch_size": 4, "threads": 1,
            },
            "model": {"num_classes": 3},
            "optim": {
                "name": "adamw", "lr": 0.01, "ema": 0.9, "clip_norm": 0.5, "decay_norms_and_biases": False,
            },
            "precision": {"half": "float16"},
            "schedule": {"epochs": 3, "accumulate": 2},
            "log": {"print_freq": 1},
        }  # fmt: skip
        for key, value in changes.items():
            section, _, name = key.partition(".")
            table[section][name] = value
        return validate(table)

    return recipe


def saved(recipe: Recipe) -> dict[str, Any]:
    return checkpoint.load(recipe.folder / LAST)


def assert_same_bits(one: Recipe, other: Recipe) -> None:
    first, second = saved(one), saved(other)
    assert first["ema"]["steps"] == second["ema"]["steps"] == 9 - second["skipped"]
    for states in (
        (first["state_dict"], second["state_dict"]),
        (first["ema"]["state_dict"], second["ema"]["state_dict"]),
    ):
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert first["scaler"] == second["scaler"]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sides of the images of every training step."""
    seen: list[int] = []
    step = trainer.TrainState.train_step

    def watched(state: Any, images: torch.Tensor, targets: torch.Tensor) -> None:
        seen.append(images.shape[-1])
        step(state, images, targets)

    monkeypatch.setattr(trainer.TrainState, "train_step", watched)
    return seen


def stopped_after(steps: int, monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    add, left = Meter.add, [steps]

    def struck(meter: Meter, *figures: Any) -> None:
        add(meter, *figures)
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Meter, "add", struck)
        with pytest.raises(StoppedBySignal):
            trainer.train(recipe)
    torch.manual_seed(99)  # what happens between the two must not matter


def test_a_run_with_everything_resumes_to_the_bit_at_the_size_of_its_epoch(
    make: Make, sizes: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, stopped = make("whole"), make("stopped")
    report = trainer.train(whole)
    said = capsys.readouterr().out
    assert sizes == [16] * 3 + [24] * 3 + [32] * 3
    assert (
        "16 px, 24 px from epoch 1 on, 32 px from epoch 2 on" in said
        and "images of 24 px from here on" in said
    )
    sizes.clear()
    stopped_after(5, monkeypatch, stopped)
    again = trainer.train(stopped, "auto")
    assert sizes == [16] * 3 + [24] * 3 + [32] * 3
    assert_same_bits(whole, stopped)
    assert report.evaluation == again.evaluation


def test_both_figures_are_in_the_log_the_records_and_the_report(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make("both")
    evaluation = trainer.train(recipe).evaluation
    assert evaluation is not None and evaluation.averaged is not None
    assert evaluation.averaged.samples == 6 and evaluation.averaged.loss != evaluation.loss
    assert capsys.readouterr().out.count("with the average of the weights (optim.ema): Acc@1") == 3
    report = json.loads((recipe.folder / "report.json").read_text())
    assert (report["ema_acc1"], report["ema_val_loss"]) == (
        evaluation.averaged.metrics["acc1"],
        evaluation.averaged.loss,
    )
    lines = [json.loads(line) for line in (recipe.folder / "metrics.jsonl").read_text().splitlines()]
    assert all("ema_acc1" in line and "acc1" in line for line in lines if line["kind"] == "epoch")
    trainer.evaluate_only(recipe)
    found = json.loads((recipe.folder / "eval.json").read_text())
    assert found["ema"]["samples"] == 6 and found["ema"]["loss"] != found["loss"]


def test_a_signal_while_the_average_is_evaluated_saves_the_weights_themselves(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At O0, where the weights that the average replaces are the ones that are saved."""
    whole, stopped = (make(name, **{"precision.level": "O0"}) for name in ("whole", "stopped"))
    trainer.train(whole)
    validate_, calls = trainer.validate, []

    def struck(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return validate_(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "validate", struck)
        with pytest.raises(StoppedBySignal):
            trainer.train(stopped)
    assert saved(stopped)["cursor"] == {"epoch": 0, "step": 3}
    trainer.train(stopped, "auto")
    assert_same_bits(whole, stopped)


def test_the_average_is_used_where_it_is_asked_for(make: Make) -> None:
    recipe, without = make("with"), make("without", **{"optim.ema": 0.0})
    for each in (recipe, without):
        trainer.train(each)
    plain, averaged = (
        load_trained(recipe.folder / LAST, device="cpu", averaged=each).precision for each in (False, True)
    )
    held = saved(recipe)
    for precision, state in ((plain, held["state_dict"]), (averaged, held["ema"]["state_dict"])):
        assert all(torch.equal(state[key], value) for key, value in precision.state_dict().items())
    with pytest.raises(UserError, match="holds no average of the weights: train with optim.ema"):
        load_trained(without.folder / LAST, device="cpu", averaged=True)


def test_another_optimizer_cannot_resume_and_an_average_may_begin_later(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.train(make("r", **{"optim.ema": 0.0, "schedule.epochs": 1}))
    with pytest.raises(UserError, match="is of no use to optim.name = 'sgd'; restore optim.name"):
        trainer.train(make("r", **{"optim.name": "sgd"}), "auto")
    capsys.readouterr()
    trainer.train(make("r"), "auto")
    assert (
        "optim.ema: the average of the weights begins with those of the checkpoint" in capsys.readouterr().out
    )


def test_fast_paths_are_proven_again_for_each_size(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    proven: list[int] = []
    use = trainer.fast_paths

    def watched(*arguments: Any) -> Any:
        proven.append(arguments[-1])
        return use(*arguments)

    monkeypatch.setattr(trainer, "fast_paths", watched)
    trainer.train(make("sizes"))
    assert proven == [16, 24, 32]


def test_the_loader_is_of_the_size_of_the_epoch_that_a_run_resumes_in(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.train(make("r", **{"schedule.epochs": 1}))
    given: list[int] = []
    size = Loader.size

    def watched(loader: Loader, side: int) -> None:
        given.append(side)
        assert size.fset is not None
        size.fset(loader, side)

    monkeypatch.setattr(Loader, "size", property(size.fget, watched))
    trainer.train(make("r"), "auto")
    assert given == [24, 32]
