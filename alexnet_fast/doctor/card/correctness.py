"""What a training step must do on every card: agree with float64 on the CPU, survive an overflow, wait for nothing, resume to the bit."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...engine.train_state import TrainState
from ...profile import queueing, stepping
from ...run import checkpoint
from .bench import FEW, Bench, weights, with_values
from .row import Row, judged, skipped

HUGE_SCALE = 2.0**60  # at which every gradient is infinite in float16
STEPS = 2
LEAST_RATE = 1e-3


def overflow(bench: Bench) -> Row:
    """A first step whose gradients overflow: it is skipped, and the next one is taken."""
    name, expected = (
        "overflow in the first step",
        "weights and momenta stay, the step counts as skipped, the next trains",
    )
    recipe = bench.changed("precision", loss_scale="dynamic")
    if recipe.precision.level == "O0" or not bench.device.half_needs_loss_scale:
        return skipped(name, expected, "this precision needs no loss scale: nothing overflows before float32")
    state = bench.state(recipe)
    precision = state.precision
    step = stepping.step_on(bench.batch(FEW), state, bench.feed(state))
    before, momenta = weights(state), _momenta(state)
    first_scale = precision.scale
    precision.load_scale(precision.scaler.state_dict() | {"scale": HUGE_SCALE})
    state.lr = LEAST_RATE
    step()
    after, skipped_steps = weights(state), int(precision.skipped)
    faults = []
    if not _equal(before, after):
        faults.append("weights have changed")
    if not all(map(torch.equal, momenta, _momenta(state))):
        faults.append("momenta have changed")
    if skipped_steps != 1:
        faults.append(f"{skipped_steps} steps count as skipped")
    precision.load_scale(precision.scaler.state_dict() | {"scale": min(first_scale, 128.0)})
    step()
    trained = weights(state)
    if not all(tensor.isfinite().all() for tensor in trained.values()):
        faults.append("the next step makes weights that are not finite")
    elif _equal(trained, after):
        faults.append("the next step does not train")
    return judged(
        name,
        not faults,
        expected,
        ", ".join(faults) or "as expected",
        "do not train in half precision on this card, and send us this table",
        otherwise="fault",
    )


def waits_for_nothing(bench: Bench) -> Row:
    """A step is queued while the device is held by other work: a call that waits for the device is noticed."""
    name, expected = (
        "no synchronising call in a step",
        "the host queues a whole step while the device is still busy",
    )
    if bench.device.is_host:
        return skipped(name, expected, "a CPU computes a step when it is called")
    state = bench.state()
    step = stepping.step_on(bench.batch(bench.batch_size), state, bench.feed(state))
    for _ in range(stepping.WARM_UP_STEPS):
        step()
    bench.device.synchronize()
    host_ms = queueing.host_time(step, bench.device, bench.seconds / 2, bench.world).median
    device_ms = queueing.device_time(step, bench.device, host_ms, bench.seconds / 2, bench.world)
    seen = "as expected" if device_ms is not None else "the host waits for the device within a step"
    calls = _synchronising_calls(bench, step) if device_ms is None else []
    return judged(
        name,
        device_ms is not None,
        expected,
        seen + (f": {', '.join(calls)}" if calls else ""),
        "the host cannot run ahead of the device, and each step is later by that: send us this table",
    )


def resume(bench: Bench) -> Row:
    """N steps, a checkpoint, another N in a new state: the weights' bits are those of 2 N steps without a break."""
    name, expected = "resume", f"{STEPS} + {STEPS} steps from a checkpoint make the bits of {2 * STEPS} steps"
    with _deterministic():
        whole = _weights_after(bench, list(range(2 * STEPS)))
        file, state = io.BytesIO(), bench.state()
        _train(bench, state, list(range(STEPS)))
        progress = checkpoint.ResumeState({"epoch": 0, "step": STEPS}, [state.meter.state_dict()], None)
        torch.save(checkpoint.snapshot(state.precision, progress, {}), file)
        file.seek(0)
        resumed = bench.state(with_values(bench.recipe, "run", seed=bench.recipe.run.seed + 1))
        saved = torch.load(file, weights_only=True, map_location="cpu")
        checkpoint.restore(saved, resumed.precision, bench.device)
        _train(bench, resumed, list(range(STEPS, 2 * STEPS)))
        if _equal(weights(resumed), whole):
            return judged(name, True, expected, "the same bits")
        again = _weights_after(bench, list(range(2 * STEPS)))
    differs = f"the weights differ by {_difference(weights(resumed), whole):.1e}"
    if not _equal(again, whole):
        seen = f"{differs}; without a break, two runs differ by {_difference(again, whole):.1e}"
        return judged(
            name, False, expected, seen, "this card does not repeat its own bits: resume is exact up to that"
        )
    return judged(
        name,
        False,
        expected,
        differs,
        "do not rely on --resume here, and send us this table",
        otherwise="fault",
    )


def _weights_after(bench: Bench, numbers: list[int]) -> dict[str, Tensor]:
    state = bench.state()
    _train(bench, state, numbers)
    return weights(state)


def _train(bench: Bench, state: TrainState, numbers: list[int]) -> None:
    """Steps on the batches with these numbers."""
    feed = bench.feed(state)
    state.lr = LEAST_RATE
    for number in numbers:
        stepping.step_on(bench.batch(FEW, number), state, feed)()


@contextmanager
def _deterministic() -> Iterator[None]:
    """Kernels that make the same bits each time, where there is a choice."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def _synchronising_calls(bench: Bench, step: Callable[[], None]) -> list[str]:
    """Where a step waits, as far as the backend tells."""
    module: Any = torch.get_device_module(bench.device.torch_device)
    if not hasattr(module, "set_sync_debug_mode"):
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            module.set_sync_debug_mode("default")
    places = (f"{each.filename.rpartition('/')[2]}:{each.lineno}" for each in caught)
    return list(dict.fromkeys(places))[:3]


def _momenta(state: TrainState) -> list[Tensor]:
    states = state.precision.optimizer.state_dict()["state"].values()
    return [each["momentum_buffer"].cpu().clone() for each in states if "momentum_buffer" in each]


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def _difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest relative difference of a tensor, by its norm."""
    return max(
        float((one[key].double() - other[key].double()).norm() / (other[key].double().norm() + 1e-30))
        for key in one
    )
