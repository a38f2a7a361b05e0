"""A fast path proves itself: a right one is used, a wrong one is caught, and nothing is changed by the proof."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import components
from alexnet_fast.devices.cpu import Cpu
from alexnet_fast.distributed.world import World
from alexnet_fast.engine import fast_paths, proof
from alexnet_fast.engine.fast_paths import NAMES, Choices, planned, prove, use
from alexnet_fast.engine.meter import Meter
from alexnet_fast.engine.precision import Precision
from alexnet_fast.engine.sgd import fused_or_foreach
from alexnet_fast.engine.tasks import Regression
from alexnet_fast.engine.train_state import TrainState
from blocked_network import BATCH, CLASSES, CPU, SIZE, make, net


class Replay:
    """In place of a captured step: the eager one, with a mistake."""

    def __init__(self, state: TrainState, images: Tensor, targets: Tensor) -> None:
        self.state, self.first = state, (images.clone(), targets)

    def takes(self, images: Tensor, targets: Tensor) -> bool:
        return True

    def __call__(self, images: Tensor, targets: Tensor) -> None:
        self.state.eager_step(images, targets)


class ALayerNotUpdated(Replay):
    def __call__(self, images: Tensor, targets: Tensor) -> None:
        kept = {
            key: value.detach().clone() for key, value in self.state.tensors().items() if "6.weight" in key
        }
        self.state.eager_step(images, targets)
        with torch.no_grad():
            for key, value in kept.items():
                self.state.tensors()[key].copy_(value)


class OldImages(Replay):
    def __call__(self, images: Tensor, targets: Tensor) -> None:
        self.state.eager_step(self.first[0], targets)


class AnOldRate(Replay):
    def __call__(self, images: Tensor, targets: Tensor) -> None:
        self.state.lr = 0.5
        self.state.eager_step(images, targets)


class NoWeightDecay(Replay):
    def __call__(self, images: Tensor, targets: Tensor) -> None:
        (group,) = self.state.precision.optimizer.param_groups
        decay, group["weight_decay"] = group["weight_decay"], 0.0
        self.state.eager_step(images, targets)
        group["weight_decay"] = decay


class AnOverflowIgnored(Replay):
    def __call__(self, images: Tensor, targets: Tensor) -> None:
        optimizer: Any = self.state.precision.optimizer
        found, optimizer.found_inf = optimizer.found_inf, None
        self.state.eager_step(images, targets)
        optimizer.found_inf = found


class OldMasks(Replay):
    """Dropout's masks of another seed."""

    def __call__(self, images: Tensor, targets: Tensor) -> None:
        torch.manual_seed(5)
        self.state.eager_step(images, targets)


class NoHalfWeights(Replay):
    def __call__(self, images: Tensor, targets: Tensor) -> None:
        kept = [param.detach().clone() for param in self.state.precision.model.parameters()]
        self.state.eager_step(images, targets)
        with torch.no_grad():
            torch._foreach_copy_(list(self.state.precision.model.parameters()), kept)


class NotCounted(Replay):
    def __call__(self, images: Tensor, targets: Tensor) -> None:
        self.state.eager_step(images, targets)
        self.state.meter._counts.zero_()


class NotANumber(Replay):
    def __call__(self, images: Tensor, targets: Tensor) -> None:
        self.state.eager_step(images, targets)
        self.state.precision.model.get_buffer("1.running_mean").fill_(torch.nan)


WRONG = {
    NotANumber: "1.running_mean differs by inf %",
    ALayerNotUpdated: "the momentum of 6.weight is .* off|the weights of 6.weight are not",
    OldImages: "step [23] is not the plain step's: the gradient of .* differs by",
    AnOldRate: "is .* % of its step off",
    NoWeightDecay: "the momentum of .* is .* % off",
    AnOverflowIgnored: "is changed by a step that overflows|step 2 .*are not its masters, rounded",
    OldMasks: "the gradient of .* differs by",
    NoHalfWeights: "are not its masters, rounded",
    NotCounted: "the meter counts",
}


def replaced(monkeypatch: pytest.MonkeyPatch, kind: Callable[..., Any]) -> None:
    """engine.graph gives a replay of this kind."""

    def switch(state: TrainState, on: bool, batch: tuple[Tensor, Tensor]) -> None:
        state.graph = kind(state, *batch) if on else None

    monkeypatch.setitem(fast_paths.SWITCHES, "graph", switch)


@pytest.mark.parametrize("masked", [False, True], ids=["torch's fused SGD", "MaskedSGD"])
@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize("wrong", WRONG, ids=lambda kind: kind.__name__)
def test_a_step_that_is_wrong_on_purpose_is_caught_and_not_used(
    wrong: type[Replay], level: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong is NoHalfWeights and level != "O2":
        pytest.skip("O1's weights are its masters")
    replaced(monkeypatch, wrong)
    state = make(level, masked=masked)
    (verdict,) = prove(state, ["graph"], BATCH, SIZE, CLASSES)
    assert not verdict.agrees and state.graph is None
    assert re.search(WRONG[wrong], verdict.why), verdict.why


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
@pytest.mark.parametrize(
    "settings", [{}, {"nesterov": True}, {"momentum": 0.0}, {"weight_decay": 0.0}, {"masked": True}], ids=str
)
def test_a_step_that_is_right_agrees_to_the_bit_and_is_used(
    level: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced(monkeypatch, Replay)
    state = make(level, **settings)
    (verdict,) = prove(state, ["graph"], BATCH, SIZE, CLASSES)
    assert (verdict.agrees, verdict.why, verdict.worst) == (True, "", 0.0)
    assert isinstance(state.graph, Replay)


@pytest.mark.parametrize("kind", [Replay, NoWeightDecay, OldImages])
def test_a_proof_leaves_weights_sums_generators_and_rate_as_they_were(
    kind: type[Replay], monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced(monkeypatch, kind)
    state, other = make(), make()
    images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    targets = torch.arange(BATCH)
    for each in (state, other):
        torch.manual_seed(7)
        each.lr = 0.03
        each.train_step(images, targets)
    before = {name: tensor.detach().clone() for name, tensor in state.tensors().items()}
    where = {name: tensor.data_ptr() for name, tensor in state.tensors().items()}
    generator = torch.get_rng_state()
    state.precision.model.eval()
    prove(state, ["space_to_depth", "graph"], BATCH, SIZE, CLASSES)
    assert torch.equal(torch.get_rng_state(), generator)
    assert state.lr == 0.03 and not state.precision.model.training
    assert {name: tensor.data_ptr() for name, tensor in state.tensors().items()} == where
    for name, tensor in state.tensors().items():
        assert torch.equal(tensor, before[name]), name
    fast_paths.switch(state, "space_to_depth", False, (images, targets))
    state.graph = None
    for each in (state, other):
        each.precision.model.train()
        torch.manual_seed(8)
        each.train_step(images, targets)
    for name, tensor in state.tensors().items():
        assert torch.equal(tensor, other.tensors()[name]), f"the next step's {name}"


def test_a_path_that_does_not_run_is_one_sentence_and_training_goes_on_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmany lines")

    class Graphed(Cpu):
        why_no_graph = ""

    replaced(monkeypatch, fail)
    state = make(device=Graphed())
    paths = use(state, Choices(graph=True, space_to_depth=True), BATCH, SIZE, CLASSES)
    assert paths.on == ["space_to_depth"]
    assert paths.summary.startswith(
        "fast paths, and how far a gradient is from the plain step's at most: space_to_depth ("
    )
    assert paths.notes == [
        "engine.graph is off: it does not run (RuntimeError: CUDA error: operation not permitted when stream is capturing)"
    ]
    state.train_step(torch.zeros(BATCH, 3, SIZE, SIZE, dtype=torch.uint8), torch.arange(BATCH))
    assert state.meter.read().samples == BATCH


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
@pytest.mark.parametrize("size", [SIZE, SIZE + 1])
def test_space_to_depth_agrees_and_trains(level: str, size: int) -> None:
    state = make(level)
    verdicts = prove(state, ["space_to_depth"], BATCH, size, CLASSES)
    assert [verdict.agrees for verdict in verdicts] == [True], verdicts
    assert state.normalize.layout is not None
    state.train_step(torch.zeros(BATCH, 3, size, size, dtype=torch.uint8), torch.arange(BATCH))
    assert state.meter.read().samples == BATCH


@pytest.mark.long
def test_a_compiled_step_agrees_with_dropout_and_a_smaller_batch_runs_without(
    run_cli: Any, tmp_path: Path
) -> None:
    components.require("compiler")
    environment = {
        "PYTHONPATH": f"{components.ROOT}{os.pathsep}{components.ROOT / 'tests'}",
        "XDG_CACHE_HOME": str(tmp_path),
    }
    done = run_cli("tests/blocked_network.py", env=environment)
    assert done.code == 0, done.stderr
    assert any((tmp_path / "alexnet_fast/inductor").iterdir()), "the code is kept"


def test_where_the_plain_step_itself_overflows_nothing_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, Replay)
    monkeypatch.setattr(proof, "SAFE_SCALE", float("inf"))
    (verdict,) = prove(make(), ["graph"], BATCH, SIZE, CLASSES)
    assert not verdict.agrees and "the plain step overflows there" in verdict.why


def test_a_regression_is_proven_too(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, Replay)
    sgd = fused_or_foreach(partial(torch.optim.SGD, lr=0.01, momentum=0.9), CPU)
    precision = Precision(net(1), sgd, level="O0", device=CPU)
    state = TrainState(precision, Meter(CPU.torch_device, task=Regression()))
    assert [verdict.agrees for verdict in prove(state, ["graph"], BATCH, SIZE, 1)] == [True]


def test_auto_is_off_on_a_cpu_and_false_and_true_are_what_they_say() -> None:
    state = make()
    auto = planned(Choices(*["auto"] * 4), state)  # type: ignore[arg-type]
    assert list(auto) == list(NAMES) and not any(path.on for path in auto.values())
    assert auto["space_to_depth"].why == "auto is off on cpu"
    asked = planned(Choices(*[True] * 4), state)
    assert {name for name, path in asked.items() if path.on} == {"space_to_depth", "compile"}
    assert "a CPU has no graphs" in asked["graph"].why and "Triton" in asked["fused_optimizer"].why
    assert not any(path.on for path in planned(Choices(), state).values())
    paths = use(state, Choices(graph=True), BATCH, SIZE, CLASSES)
    assert (
        paths.on == []
        and len(paths.notes) == 1
        and paths.notes[0].startswith("engine.graph is off: a CPU has no")
    )
    assert use(state, Choices(*["auto"] * 4), BATCH, SIZE, CLASSES).notes == []  # type: ignore[arg-type]


def test_ranks_whose_gradients_ddp_averages_are_neither_captured_nor_compiled() -> None:
    asked = planned(Choices(compile=True), make(), World(world_size=2))
    assert not asked["compile"].on and "DDP" in asked["compile"].why


def test_a_path_that_fails_on_one_rank_is_off_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneOfTwo(World):
        def all_reduce_max(self, value: float) -> float:
            return 1.0

    replaced(monkeypatch, Replay)
    state = make()
    (verdict,) = prove(state, ["graph"], BATCH, SIZE, CLASSES, OneOfTwo())
    assert (verdict.agrees, verdict.why) == (False, "it failed on another rank") and state.graph is None
