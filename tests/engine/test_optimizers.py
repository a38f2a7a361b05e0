"""AdamW next to SGD: torch's own steps, overflows, groups, resumes, and the formula that proofs compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from alexnet_fast.devices.registry import resolve
from alexnet_fast.engine import fast_paths
from alexnet_fast.engine.fast_paths import Choices, use
from alexnet_fast.engine.meter import Meter
from alexnet_fast.engine.optimizers import adamw, expected, slots
from alexnet_fast.engine.precision import Precision, clip
from alexnet_fast.engine.sgd import MaskedSGD, fused_or_foreach, skips_on_device
from alexnet_fast.engine.train_state import TrainState
from alexnet_fast.run import checkpoint
from alexnet_fast.run.checkpoint import ResumeState
from blocked_network import BATCH, CLASSES, SIZE, net
from small_network import small_batch, small_net

CPU = resolve("cpu")
NO_KERNEL = replace(CPU, torch_device=torch.device("meta"))  # a device without torch's fused kernel
SETTINGS: tuple[Any, ...] = (1e-3, (0.9, 0.99), 1e-8, 0.05)
PROGRESS = ResumeState({"epoch": 0, "step": 3}, [{}], None)
MAKERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "fused": adamw(CPU, *SETTINGS),
    "foreach": adamw(NO_KERNEL, *SETTINGS),
}


def make(how: str = "fused", level: Any = "O2", **options: Any) -> Precision:
    return Precision(small_net(), MAKERS[how], level=level, device=CPU, **options)


def step(precision: Precision, factor: float = 1.0, rate: float = 2e-3) -> None:
    images, labels = small_batch()
    loss = functional.cross_entropy(precision.forward(images.to(precision.dtype)), labels)
    precision.backward(loss * factor)
    precision.learning_rate = rate
    precision.step()


def kept(precision: Precision) -> list[Tensor]:
    names = slots(precision.optimizer)
    return [precision.optimizer.state[each][name] for each in precision._masters for name in names]


@pytest.mark.parametrize("how", MAKERS)
def test_adamw_at_o0_is_torchs_own_to_the_bit(how: str) -> None:
    net = small_net().to(memory_format=torch.channels_last)
    torchs = partial(torch.optim.AdamW, lr=2e-3, betas=(0.9, 0.99), weight_decay=0.05)
    optimizer = (
        torchs(net.parameters(), fused=True) if how == "fused" else torchs(net.parameters(), foreach=True)
    )
    precision, (images, labels) = make(how, "O0"), small_batch()
    for _ in range(4):
        optimizer.zero_grad()
        functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        step(precision)
    assert skips_on_device(precision.optimizer) == (how == "fused")
    assert all(torch.equal(precision.state_dict()[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("how", MAKERS)
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_an_overflow_leaves_adamws_weights_moments_and_counts_as_they_are(how: str, level: str) -> None:
    one, other = make(how, level, loss_scale="dynamic"), make(how, level, loss_scale=2.0**15)
    step(one, torch.inf)
    assert int(one.skipped) == 1 and not any(each.any() for each in kept(one))
    for _ in range(3):
        step(one)
        step(other)
    assert all(map(torch.equal, kept(one), kept(other))) and all(
        map(torch.equal, one._masters, other._masters)
    )


@pytest.mark.parametrize("how", MAKERS)
@pytest.mark.parametrize("decays_all", [True, False])
def test_adamw_resumes_to_the_bit(how: str, decays_all: bool, tmp_path: Path) -> None:
    whole, first, second = (make(how, decays_all=decays_all, loss_scale="dynamic") for _ in range(3))
    for _ in range(3):
        step(whole)
        step(first)
    saved = checkpoint.snapshot(first, PROGRESS, {})
    assert saved is not None
    checkpoint.save(tmp_path / "last.pt", saved)
    where = {name: tensor.data_ptr() for name, tensor in second.tensors().items()}
    step(second)
    checkpoint.restore(checkpoint.load(tmp_path / "last.pt"), second, CPU)
    assert {name: tensor.data_ptr() for name, tensor in second.tensors().items()} == where
    for _ in range(3):
        step(whole)
        step(second)
    assert all(map(torch.equal, kept(whole), kept(second)))
    assert all(map(torch.equal, whole._masters, second._masters))


def test_a_saved_state_is_numbered_as_the_model_has_its_parameters_whatever_the_groups() -> None:
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.1, fused=True)
    one, two = (
        Precision(small_net(), sgd, level="O2", device=CPU, decays_all=each) for each in (True, False)
    )
    step(two)
    saved = two.optimizer_state()
    assert sorted(saved["state"]) == list(range(len(two._masters)))
    for place, master in enumerate(two._masters):
        assert saved["state"][place]["momentum_buffer"].shape == master.shape
    assert [group["params"] for group in saved["param_groups"]] == [[0, 4], [1, 2, 3, 5]]
    assert one.load_slots(checkpoint.slots_of(saved))
    assert all(map(torch.equal, kept(one), kept(two)))
    assert one.optimizer_state()["param_groups"][0]["params"] == list(range(len(one._masters)))


def test_masked_sgd_steps_groups_as_torchs() -> None:
    lacking = partial(MaskedSGD, momentum=0.9, nesterov=True, weight_decay=0.1)
    torchs = partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1, foreach=True)
    one, other = (
        Precision(small_net(), each, level="O0", device=CPU, decays_all=False)
        for each in (partial(lacking, lr=0.05), torchs)
    )
    for _ in range(3):
        step(one, rate=0.03)
        step(other, rate=0.03)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(one._masters, other._masters, strict=True))


@pytest.mark.parametrize(
    "make_optimizer",
    [
        *MAKERS.values(),
        fused_or_foreach(
            partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1), CPU
        ),
    ],
)
@pytest.mark.parametrize("decays_all", [True, False])
def test_the_formula_that_proofs_compare_with_is_what_the_optimizer_does(
    make_optimizer: Any, decays_all: bool
) -> None:
    precision = Precision(small_net(), make_optimizer, level="O0", device=CPU, decays_all=decays_all)
    precision.keeps_gradients = True
    names = slots(precision.optimizer)
    for _ in range(3):
        olds = [each.detach().clone() for each in precision._masters]
        states = [
            {name: precision.optimizer.state[each][name].clone() for name in names}
            for each in precision._masters
        ]
        step(precision, rate=0.01)
        after = zip(precision.gradients(), precision.groups(), precision._masters, olds, states, strict=True)
        for gradient, group, new, old, state in after:
            change, moved = expected(precision.optimizer, group, old, gradient, state, 0.01)
            assert torch.allclose(new, old - change, atol=1e-6)
            for name, value in moved.items():
                assert torch.allclose(value, precision.optimizer.state[new][name], atol=1e-6), name


def adamws() -> TrainState:
    """AdamW with clipping, an average, parts and groups: on a network whose first convolution may compute over blocks."""
    options: dict[str, Any] = {"loss_scale": "dynamic", "clip_norm": 0.5, "ema": 0.99, "decays_all": False}
    precision = Precision(net(CLASSES), MAKERS["fused"], level="O2", device=CPU, **options)
    return TrainState(precision, Meter(CPU.torch_device), accumulate=3)


def test_a_fast_path_of_an_adamw_step_is_proven_and_changes_nothing() -> None:
    state = adamws()
    before = {name: each.clone() for name, each in state.tensors().items()}
    paths = use(state, Choices(space_to_depth=True, fused_optimizer=True), BATCH, SIZE, CLASSES)
    assert paths.on == ["space_to_depth"], paths.notes
    assert all(torch.equal(before[name], each) for name, each in state.tensors().items())


class WithoutDecay:
    """In place of a captured step: the eager one without its weight decay."""

    def __init__(self, state: TrainState) -> None:
        self.state = state

    def takes(self, images: Tensor, targets: Tensor) -> bool:
        return True

    def __call__(self, images: Tensor, targets: Tensor) -> None:
        group = self.state.precision.optimizer.param_groups[0]
        decay, group["weight_decay"] = group["weight_decay"], 0.0
        self.state.eager_step(images, targets)
        group["weight_decay"] = decay


def test_a_fast_path_that_forgets_adamws_decay_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def switch(state: TrainState, on: bool, batch: Any) -> None:
        state.graph = WithoutDecay(state) if on else None  # type: ignore[assignment]

    monkeypatch.setitem(fast_paths.SWITCHES, "graph", switch)
    state = adamws()
    (verdict,) = fast_paths.prove(state, ["graph"], BATCH, SIZE, CLASSES)
    assert not verdict.agrees and "of its step off" in verdict.why and state.graph is None


def test_the_fused_kernel_is_for_sgd_without_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(CPU), "runs_triton", True)
    monkeypatch.setattr(fast_paths.importlib.util, "find_spec", lambda name: name)
    sgd = fused_or_foreach(partial(torch.optim.SGD, lr=0.1, momentum=0.9), CPU)
    for make_optimizer, options, why in (
        (MAKERS["fused"], {}, "SGD with momentum"),
        (sgd, {"clip_norm": 1.0}, "it does not clip gradients"),
        (sgd, {}, ""),
    ):
        precision = Precision(net(CLASSES), make_optimizer, level="O2", device=CPU, **options)  # type: ignore[arg-type]
        planned = fast_paths.planned(
            Choices(fused_optimizer=True), TrainState(precision, Meter(CPU.torch_device))
        )
        assert why in planned["fused_optimizer"].why and planned["fused_optimizer"].on == (not why)


# -- clipping


@pytest.mark.parametrize("most", [0.01, 1e6])
def test_clipping_is_torchs(most: float) -> None:
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(7))]
    for param in params:
        param.grad = torch.randn_like(param)
    ours = [param.grad.clone() for param in params if param.grad is not None]
    torch.nn.utils.clip_grad_norm_(params, most)
    clip(ours, most)
    assert all(
        torch.allclose(param.grad, each, rtol=1e-6)
        for param, each in zip(params, ours, strict=True)
        if param.grad is not None
    )


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
def test_gradients_are_clipped_behind_the_unscaling(level: str) -> None:
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, fused=True)
    scaled, plain = (
        Precision(small_net(), sgd, level=level, device=CPU, loss_scale=scale, clip_norm=0.1)  # type: ignore[arg-type]
        for scale in (2.0**12, "none")
    )
    for precision in (scaled, plain):
        precision.keeps_gradients = True
        step(precision)
        norm = torch.stack([each.norm() for each in precision.gradients()]).norm()
        assert norm == pytest.approx(0.1, rel=1e-3)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(scaled._masters, plain._masters, strict=True))


def test_an_overflow_is_skipped_with_clipping_too() -> None:
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, fused=True)
    precision = Precision(small_net(), sgd, level="O2", device=CPU, loss_scale="dynamic", clip_norm=0.1)
    before = [each.detach().clone() for each in precision._masters]
    step(precision, torch.inf)
    assert int(precision.skipped) == 1 and all(map(torch.equal, before, precision._masters))
    step(precision)
    assert not torch.equal(before[0], precision._masters[0]) and precision._masters[0].isfinite().all()
