"""``doctor --card`` on the stand-in NPU: run there by test_card.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alexnet_fast.devices.registry import resolve
from alexnet_fast.doctor.card import bench as card_bench
from alexnet_fast.doctor.card import collectives, command, correctness, fast_paths, training
from alexnet_fast.doctor.card import steps as card_steps
from alexnet_fast.doctor.card.bench import Bench
from alexnet_fast.doctor.card.row import Row
from alexnet_fast.engine.precision import Precision
from alexnet_fast.models import MODELS
from alexnet_fast.recipe_toml import validate

STANDIN = torch.npu.standin
SMALL: dict[str, Any] = {
    "data": {"size": 64, "global_batch_size": 8, "threads": 1},
    "model": {"num_classes": 10},
}


class Tiny(nn.Module):
    """A convolution, dropout and two linear layers."""

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 11, 4), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten())
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A small network; late(...): the stand-in's streams lag behind the host."""
    monkeypatch.setitem(MODELS, "alexnet", replace(MODELS["alexnet"], network=f"{__name__}:Tiny"))
    monkeypatch.setattr(card_steps, "BATCHES", (4, 8))
    monkeypatch.setattr(card_bench, "IMAGES", 16)
    torch.set_num_threads(1)
    yield STANDIN.be_late
    STANDIN.be_late()


def bench(**sections: Any) -> Bench:
    found = Bench(validate(SMALL | sections), resolve("npu"), lambda text: None)
    found.seconds = 0.5
    return found


def test_the_whole_command_finds_the_stand_in_as_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        "[data]\nsize = 64\nglobal_batch_size = 8\nthreads = 1\n[model]\nnum_classes = 10\n", encoding="utf-8"
    )
    code = command.main(["--card", str(recipe), "--seconds", "5", "--json", str(tmp_path / "card.json")])
    shown = capsys.readouterr().out
    print(shown)
    found = json.loads((tmp_path / "card.json").read_text())
    status = {row["name"]: row["status"] for row in found["rows"]}
    assert code == 0 and "fault" not in status.values(), shown
    exact = (
        "plain step",
        "our own decoder",
        "overflow in the first step",
        "no synchronising call in a step",
        "resume",
    )
    assert [status[name] for name in (*exact, "collectives, 1 rank")] == ["ok"] * 6
    assert "a stand-in in host memory" in shown and found["machine"]["kind"] == "npu"
    assert status["collectives, 2 ranks"] == "skipped", "it shows one card"
    figures = {row["name"]: row["figures"] for row in found["rows"]}
    assert figures["end to end"]["img_per_s"] > 0 and figures["host: queueing a step"]["alone_ms"] > 0
    assert "<svg" in (tmp_path / "card.svg").read_text()


Wrong = Callable[[pytest.MonkeyPatch], None]


def forgets_the_overflow(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Precision, "step", lambda self: [p.data.add_(1.0) for p in self._masters])


def reads_in_a_step(patch: pytest.MonkeyPatch) -> None:
    step = Precision.step

    def reading(precision: Precision) -> None:
        step(precision)
        precision.skipped.item()

    patch.setattr(Precision, "step", reading)


def loses_the_momenta(patch: pytest.MonkeyPatch) -> None:
    load = Precision.load_slots

    def without(precision: Precision, saved: Any) -> bool:
        zeros = [{slot: torch.zeros_like(each) for slot, each in kept.items()} for kept in saved]
        return load(precision, zeros)

    patch.setattr(Precision, "load_slots", without)


def trains_on_old_images(patch: pytest.MonkeyPatch) -> None:
    forward = Precision.forward
    first: list[Tensor] = []

    def old(precision: Precision, images: Tensor) -> Tensor:
        first.append(images)
        return forward(precision, first[0])

    patch.setattr(Precision, "forward", old)


def loses_the_momentum(patch: pytest.MonkeyPatch) -> None:
    made = Precision.__init__

    def without(self: Precision, model: Any, make_optimizer: Any, **options: Any) -> None:
        def make(parameters: Any) -> Any:
            optimizer = make_optimizer(parameters)
            optimizer.param_groups[0]["momentum"] = 0.0
            return optimizer

        made(self, model, make, **options)

    patch.setattr(Precision, "__init__", without)


@pytest.mark.parametrize(
    ("wrong", "check", "said"),
    [
        (forgets_the_overflow, correctness.overflow, "weights have changed"),
        (reads_in_a_step, correctness.waits_for_nothing, "the host waits for the device within a step"),
        (loses_the_momenta, correctness.resume, "the weights differ by"),
        (trains_on_old_images, fast_paths.fast_paths, "differs by"),
        (loses_the_momentum, fast_paths.fast_paths, "differs by"),
    ],
)
def test_what_is_wrong_on_purpose_is_seen(
    wrong: Wrong, check: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(monkeypatch)
    found = check(bench())
    row = found if isinstance(found, Row) else next(iter(found))
    assert row.status in ("fault", "warning") and said in row.seen and row.remedy, row


def test_a_host_that_is_slower_than_the_device_is_seen() -> None:
    rows = {row.name: row for row in training.training(bench())}
    assert rows["host: queueing a step"].status == "warning", (
        "the stand-in's launches are slow, its work is quick"
    )
    assert "engine.graph" in rows["host: queueing a step"].remedy


def test_a_backend_that_does_not_start_is_a_fault_and_ends_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALEXNET_FAST_STANDIN_SHIM", "/nowhere")
    row = collectives.one_rank(bench())
    assert row.status == "fault" and "rank 0 ended with code" in row.seen and "npu-smi" in row.remedy
