"""The proof that a fast path makes the plain step's results where it runs.

The plain step and the fast one run over the same three steps, with other images and
another learning rate each, one of them an overflow.  Compared are

    losses, gradients, buffers     with the plain step's, each tensor by its norm: within the number format's tolerance
    momenta, masters, half weights with what the optimizer makes of the fast step's own gradients: within float32's rounding
    overflow, scale, skipped steps equal

Each of the three begins with the same weights and with momenta that are 0.01 of the weights (AdamW's second moments: their squares),
so that weight decay, momentum and learning rate show in every tensor, however small its gradient is.  Dropout's masks are the plain step's, since the random generators
begin alike and compiled code draws by torch's own operations.  Afterwards all state is what it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..beton.target_fields import TARGETS
from ..common.sizes import Size, sides
from .optimizers import expected, slots
from .precision import Precision
from .train_state import TrainState

RATES = (0.5, 0.25, 0.125)  # of the three steps: large, so that a step shows in every weight
OVERFLOWS = 1  # which of them overflows
SAFE_SCALE = 128.0  # at which a step of fresh weights does not overflow
MOMENTUM_SHARE = 0.01
A_TIE = 0.1  # more than the loss a gradient may differ by: where a pool takes the other of two pixels that differ by rounding alone,
# the gradient moves to it (features.0.weight by 3.6 % in one of 12 trials in float32, batch 8, 66 px)
ROUNDINGS = 8  # of float32, that the optimizer's arithmetic may differ by


@dataclass(frozen=True)
class Verdict:
    """What the proof of one path found.

    worst: the largest relative difference of a gradient from the plain step's, and `of` which parameter.
    why: in what it differs, or why it does not run; "" where it agrees.
    """

    name: str
    agrees: bool
    why: str = ""
    worst: float = 0.0
    of: str = ""


@dataclass(frozen=True)
class Outcome:
    """What one step made.  faults: of its momenta, masters and half weights, against its own gradients."""

    gradients: list[Tensor]
    loss: float
    buffers: dict[str, Tensor]
    overflowed: bool
    skipped: int
    faults: list[str]


class Trial:
    """Three steps from one state, with any path on.  start: copies of all that a step changes."""

    def __init__(
        self, state: TrainState, start: dict[str, Tensor], batch_size: int, size: Size, num_outputs: int
    ) -> None:
        self.state, self.precision, self._start = state, state.precision, start
        self._generators = torch.get_rng_state(), self.precision.device.random_state()
        self._names = [name for name, _ in self.precision.model.named_parameters()]
        self._slots = slots(self.precision.optimizer)
        generator = torch.Generator().manual_seed(0)
        device, target = self.precision.device.torch_device, TARGETS[state.task.name]
        self.batches = []
        for number in range(len(RATES)):
            images = torch.randint(
                0, 256, (batch_size, 3, *sides(size)), dtype=torch.uint8, generator=generator
            )
            targets = torch.from_numpy(target.examples(batch_size + number, num_outputs)[number:].copy())
            self.batches.append((images.to(device), targets.to(device)))

    def run(self, step: Callable[[Tensor, Tensor], None]) -> Iterator[Outcome]:
        """Each step when it is asked for: of AlexNet's, an outcome has 244 MB of gradients."""
        return (self._outcome(step, number) for number in range(len(RATES)))

    def _outcome(self, step: Callable[[Tensor, Tensor], None], number: int) -> Outcome:
        state, precision, scaler = self.state, self.precision, self.precision.scaler
        tensors = state.tensors()
        copy_all(self._start, tensors)
        with torch.no_grad():
            for name in self._names:
                for slot, value in self._first(name).items():
                    tensors[f"{self._slots[slot]} of {name}"].copy_(value)
        overflows = scaler.is_enabled() and number == OVERFLOWS
        if scaler.is_enabled():
            scaler.load_state_dict({"scale": float("inf") if overflows else SAFE_SCALE, "_growth_tracker": 0})
        torch.set_rng_state(self._generators[0])
        precision.device.set_random_state(self._generators[1])
        state.lr = RATES[number]
        step(*self.batches[number])
        overflowed = bool(scaler.found_inf > 0)
        gradients = precision.gradients()
        faults = list(self._faults(tensors, gradients, RATES[number], overflowed))
        if overflows and not overflowed:
            faults.append("it does not notice that a gradient overflows")
        counted = (tensors["counts"] - self._start["counts"])[:2].tolist()
        if counted != [1, len(self.batches[number][1])]:
            faults.append(f"the meter counts {counted[0]} steps of {counted[1]} samples")
        return Outcome(
            gradients,
            float(tensors["last loss"]),
            {name: value.detach().clone() for name, value in precision.model.named_buffers()},
            overflowed,
            int(scaler.skipped - self._start["skipped steps"]),
            faults,
        )

    def _first(self, name: str) -> dict[str, Tensor]:
        """What the optimizer keeps of a parameter when a step begins."""
        momentum = self._start[f"master of {name}"] * MOMENTUM_SHARE
        return {
            slot: self._start[f"{title} of {name}"]
            if slot == "step"
            else momentum.square()
            if slot == "exp_avg_sq"
            else momentum
            for slot, title in self._slots.items()
        }

    @torch.no_grad()
    def _faults(
        self,
        after: Mapping[str, Tensor],
        gradients: list[Tensor],
        rate: float,
        overflowed: bool,
    ) -> Iterator[str]:
        """What the optimizer would not have made of these gradients."""
        optimizer, few = self.precision.optimizer, ROUNDINGS * torch.finfo(torch.float32).eps
        for name, gradient, group in zip(self._names, gradients, self.precision.groups(), strict=True):
            old, new = self._start[f"master of {name}"], after[f"master of {name}"]
            kept = {slot: after[f"{title} of {name}"] for slot, title in self._slots.items()}
            if not torch.equal(after[name], new.to(after[name].dtype)):
                yield f"the weights of {name} are not its masters, rounded"
            first = self._first(name)
            if overflowed:
                if not torch.equal(old, new) or not all(map(torch.equal, first.values(), kept.values())):
                    yield f"{name} is changed by a step that overflows"
                continue
            change, moved = expected(optimizer, group, old, gradient, first, rate)
            for slot, value in moved.items():
                if (off := differ(kept[slot], value)) > few:
                    yield f"the {self._slots[slot]} of {name} is {percent(off)} off"
            # Of the change, and of the weights that it was rounded with.
            off = float((new - (old - change)).norm())
            if not off <= few * float(old.norm() + change.norm()):
                yield f"{name} is {percent(off / float(change.norm() + 1e-38))} of its step off"

    def compare(self, name: str, plain: list[Outcome], fast: Iterator[Outcome]) -> Verdict:
        worst, of, why = 0.0, "", ""
        tolerance = tolerance_of(computes_in(self.precision))
        for number, (one, other) in enumerate(zip(plain, fast, strict=True)):
            wrong = [*one.faults[:1], *other.faults]
            if (one.overflowed, one.skipped) != (other.overflowed, other.skipped):
                wrong.append("one of the two overflows, and the other does not")
            if one.overflowed and number != OVERFLOWS:
                wrong.append("the plain step overflows there, so nothing is compared")
            if not one.overflowed:
                off = {
                    parameter: differ(mine, theirs)
                    for parameter, mine, theirs in zip(
                        self._names, other.gradients, one.gradients, strict=True
                    )
                }
                off |= {buffer: differ(other.buffers[buffer], value) for buffer, value in one.buffers.items()}
                at = max(off, key=lambda each: off[each])
                worst, of = max((worst, of), (off[at], at))
                loss = abs(other.loss - one.loss) / max(abs(one.loss), 1e-38)
                limits = (
                    (f"the gradient of {at}", off[at], tolerance + A_TIE),
                    ("the loss", loss, tolerance),
                )
                wrong += [
                    f"{what} differs by {percent(by)}, where {percent(most)} is allowed"
                    for what, by, most in limits
                    if not by <= most
                ]
            if wrong and not why:  # the other steps are taken all the same: other ranks take them too
                why = f"its step {number + 1} is not the plain step's: {wrong[0]}"
        return Verdict(name, not why, why, worst, of)


def computes_in(precision: Precision) -> torch.dtype:
    """The number format of the forward pass."""
    return torch.float32 if precision.level == "O0" else precision.device.half_dtype


def tolerance_of(dtype: torch.dtype) -> float:
    """By how much a loss may differ, relatively, whose sums have another order: the square root of the format's spacing, which is
    0.03 % in float32, 3 % in float16 and 9 % in bfloat16."""
    return float(torch.finfo(dtype).eps ** 0.5)


@contextmanager
def same_afterwards(state: TrainState) -> Iterator[dict[str, Tensor]]:
    """Whatever the body does, weights, sums, rate and random generators are afterwards what they were.  Yields copies of the tensors."""
    precision = state.precision
    before = {name: tensor.detach().clone() for name, tensor in state.tensors().items()}
    generators = torch.get_rng_state(), precision.device.random_state()
    rate, training = state.lr, precision.model.training
    precision.model.train()
    precision.keeps_gradients = True
    try:
        yield before
    finally:
        copy_all(before, state.tensors())
        torch.set_rng_state(generators[0])
        precision.device.set_random_state(generators[1])
        state.lr = rate
        precision.model.train(training)
        precision.keeps_gradients = False
        precision.forget_gradients()


@torch.no_grad()
def copy_all(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])


def differ(one: Tensor, other: Tensor) -> float:
    """The norm of the difference, relative to the other's."""
    if not other.is_floating_point():
        return float(not torch.equal(one, other))
    off = float((one - other).float().norm())
    if math.isnan(off):  # which no comparison would find
        return math.inf
    return off / max(float(other.float().norm()), 1e-38) if off else 0.0


def percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def in_short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.:')[:160]}" if lines else type(error).__name__
