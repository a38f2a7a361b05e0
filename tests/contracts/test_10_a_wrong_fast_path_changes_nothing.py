"""Promise 10: a fast path of a training step is compared with the plain step where it runs, before it is used; one that differs is
switched off with a sentence, and the run is the plain one to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import betons
from alexnet_fast import trainer
from alexnet_fast.devices.cpu import Cpu
from alexnet_fast.engine import fast_paths
from alexnet_fast.engine.train_state import TrainState
from alexnet_fast.models import MODELS
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from alexnet_fast.recipe_toml import validate
from alexnet_fast.run import checkpoint
from alexnet_fast.run.checkpoint import LAST
from stress.narrow_model import NARROW


class Replay:
    """In place of a captured step: the eager one."""

    used = 0

    def __init__(self, state: TrainState) -> None:
        self.state = state

    def takes(self, *inputs: Tensor) -> bool:
        return True

    def __call__(self, images: Tensor, targets: Tensor) -> None:
        Replay.used += 1
        self.state.eager_step(images, targets)


class ReplayOfOldImages(Replay):
    def __call__(self, images: Tensor, targets: Tensor) -> None:
        self.state.eager_step(torch.zeros_like(images), targets)


def run(folder: Path, name: str, **engine: Any) -> tuple[list[float], dict[str, Any]]:
    """A run's losses and its last checkpoint."""
    recipe = validate(
        {
            "run": {"name": name, "out": str(folder), "device": "cpu"},
            "data": {
                "train": str(folder / "train.beton"), "size": 64, "global_batch_size": 4, "threads": 1,
            },
            "model": {"num_classes": 3},
            "schedule": {"epochs": 2},
            "engine": engine,
            "eval": {"every": 0},
            "log": {"print_freq": 1},
        }
    )  # fmt: skip
    trainer.train(recipe)
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"], checkpoint.load(folder / name / LAST)


def test_a_right_one_is_used_and_a_wrong_one_leaves_the_plain_run_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jpegs = [encode_jpeg(betons.picture(90, 80, k), Encoding()) for k in range(10)]
    betons.write(tmp_path / "train.beton", jpegs, [k % 3 for k in range(10)])
    monkeypatch.setitem(MODELS, "alexnet", NARROW)
    monkeypatch.setattr(Cpu, "why_no_graph", "")
    plain, saved = run(tmp_path, "plain")
    assert saved["fast_paths"] == [] and "engine.graph" not in capsys.readouterr().out

    for kind, on in ((Replay, ["graph"]), (ReplayOfOldImages, [])):

        def switch(state: TrainState, on: bool, batch: Any, kind: Any = kind) -> None:
            state.graph = kind(state) if on else None

        with monkeypatch.context() as patched:
            patched.setitem(fast_paths.SWITCHES, "graph", switch)
            Replay.used = 0
            losses, kept = run(tmp_path, kind.__name__, graph=True)
        out = capsys.readouterr().out
        assert losses == plain and len(losses) == 4
        assert kept["fast_paths"] == on and (Replay.used == 3 + 4) == bool(on)
        assert ("engine.graph is off: its step 1 is not the plain step's: the gradient of" in out) == (not on)
        for key, tensor in saved["state_dict"].items():
            assert torch.equal(tensor, kept["state_dict"][key]), key


def test_every_fast_path_of_the_recipe_has_a_proof() -> None:
    assert set(validate({}).engine.model_dump()) == set(fast_paths.NAMES)
    assert set(fast_paths.SWITCHES) == set(fast_paths.WHY_NOT) == set(fast_paths.NAMES)
