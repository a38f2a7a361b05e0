"""Fast paths of a training step: which are tried, and the proof that each makes the plain step's results where it runs.

A path is used only once it is proven.  `prove` runs the plain step and the fast one over the same three steps, with other images and
another learning rate each, one of them an overflow, and compares:

    losses, gradients, buffers     with the plain step's, each tensor by its norm: within the number format's tolerance
    momenta, masters, half weights with what SGD makes of the fast step's own gradients: within float32's rounding
    overflow, scale, skipped steps equal

Each of the three begins with the same weights and with momenta that are 0.01 of the weights, so that weight decay, momentum and
learning rate show in every tensor, however small its gradient is.  Dropout's masks are the plain step's, since the random generators
begin alike and compiled code draws by torch's own operations.  Afterwards all state is what it was.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..beton.target_fields import TARGETS
from ..distributed.world import World
from ..models.space_to_depth import blocked_convolution
from .precision import Precision
from .step_graph import Captured
from .train_state import TrainState

Choice = bool | Literal["auto"]

RATES = (0.5, 0.25, 0.125)  # of the three steps: large, so that a step shows in every weight
OVERFLOWS = 1  # which of them overflows
SAFE_SCALE = 128.0  # at which a step of fresh weights does not overflow
INDUCTOR_CACHE = "TORCHINDUCTOR_CACHE_DIR"
MOMENTUM_SHARE = 0.01
A_TIE = 0.1  # more than the loss a gradient may differ by: where a pool takes the other of two pixels that differ by rounding alone,
# the gradient moves to it (features.0.weight by 3.6 % in one of 12 trials in float32, batch 8, 66 px)
ROUNDINGS = 8  # of float32, that the optimizer's arithmetic may differ by


@dataclass(frozen=True)
class Choices:
    """What the recipe asks for (engine.*): true, false, or "auto", which is where it is known to pay."""

    space_to_depth: Choice = False
    compile: Choice = False
    fused_optimizer: Choice = False
    graph: Choice = False


NAMES = tuple(each.name for each in fields(Choices))
"""In the order in which they are switched on."""


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
class FastPath:
    """A path of this run.  why: why it is off; "" where it is on."""

    name: str
    on: bool
    why: str = ""


@dataclass(frozen=True)
class FastPaths:
    """The paths of a run, by name.  notes: one sentence for each that was asked for or tried, and is off."""

    paths: Mapping[str, FastPath] = field(default_factory=dict)
    notes: Sequence[str] = ()
    verdicts: Sequence[Verdict] = ()

    @property
    def on(self) -> list[str]:
        return [name for name, path in self.paths.items() if path.on]

    @property
    def summary(self) -> str:
        """What is on, in a line; "" where nothing is."""
        found = [f"{each.name} ({_percent(each.worst)})" for each in self.verdicts if each.agrees]
        if not found:
            return ""
        return f"fast paths, and how far a gradient is from the plain step's at most: {', '.join(found)}"


def planned(choices: Choices, state: TrainState, world: World | None = None) -> dict[str, FastPath]:
    """Which paths are tried on this device, before anything is proven."""
    return {name: _planned(name, getattr(choices, name), state, world or World()) for name in NAMES}


def _planned(name: str, choice: Choice, state: TrainState, world: World) -> FastPath:
    if choice is False:
        return FastPath(name, False, "it is set to false")
    if why := WHY_NOT[name](state, world):
        return FastPath(name, False, why)
    if choice == "auto" and not state.precision.device.trusts_fast_paths:
        return FastPath(name, False, f"auto is off on {state.precision.device.kind}")
    return FastPath(name, True)


def _why_no_space_to_depth(state: TrainState, world: World) -> str:
    has_one = blocked_convolution(state.precision.model) is not None
    return "" if has_one else f"{state.precision.title} has no convolution for it"


def _why_no_compile(state: TrainState, world: World) -> str:
    compilers = (os.environ.get("CC"), os.environ.get("CXX"), "cc", "gcc", "clang", "g++", "c++")
    if not any(name and shutil.which(name) for name in compilers):
        return "torch.compile needs a C compiler: install gcc"
    if not state.precision.device.is_host and importlib.util.find_spec("triton") is None:
        return "torch.compile needs triton, which is not installed"
    return _why_not_with_ddp(state, world)


def _why_no_fused_optimizer(state: TrainState, world: World) -> str:
    precision = state.precision
    if not precision.device.runs_triton:
        return f"it is a Triton kernel, which {precision.device.kind} does not run"
    if importlib.util.find_spec("triton") is None:
        return "it is a Triton kernel, and triton is not installed"
    groups = precision.optimizer.param_groups
    if precision.level != "O2" or not groups[0]["momentum"]:
        return "it is made for precision.level O2 with momentum"
    return "" if isinstance(groups[0]["lr"], Tensor) else "the learning rate is not on the device"


def _why_no_graph(state: TrainState, world: World) -> str:
    precision = state.precision
    if not isinstance(precision.optimizer.param_groups[0]["lr"], Tensor):
        return precision.device.why_no_graph or "the optimizer reads its learning rate on the host"
    return precision.device.why_no_graph or _why_not_with_ddp(state, world)


def _why_not_with_ddp(state: TrainState, world: World) -> str:
    if world.world_size > 1 and not state.precision.has_reducer:
        return "gradients are averaged by DDP, which is neither captured nor compiled here"
    return ""


WHY_NOT: Mapping[str, Callable[[TrainState, World], str]] = {
    "space_to_depth": _why_no_space_to_depth,
    "compile": _why_no_compile,
    "fused_optimizer": _why_no_fused_optimizer,
    "graph": _why_no_graph,
}


# ---------------------------------------------------------------- switching


def switch(state: TrainState, name: str, on: bool, batch: tuple[Tensor, Tensor]) -> None:
    """Switch a path on or off for batches like `batch`, uint8 images and targets on the device.

    Switching the graph on takes steps: restore the state afterwards.
    """
    SWITCHES[name](state, on, batch)


def _switch_space_to_depth(state: TrainState, on: bool, batch: tuple[Tensor, Tensor]) -> None:
    convolution = blocked_convolution(state.precision.model)
    assert convolution is not None
    convolution.over_blocks = on
    state.normalize.layout = convolution.blocks if on else None


def _switch_compile(state: TrainState, on: bool, batch: tuple[Tensor, Tensor]) -> None:
    _keep_compiled_code()
    # Dropout's masks by torch's own operations: the plain step's, from one seed.
    options: dict[str, Any] = {"fallback_random": True}
    state.compile_for(batch[0], torch.compile(state.traced, dynamic=False, options=options) if on else None)


def _keep_compiled_code() -> None:
    """Have torch.compile keep its code next to other caches of the user, unless it was told where: its own place is below /tmp."""
    from torch._inductor.runtime import cache_dir_utils

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet_fast" / "inductor"
    # torch sets the variable to its own place, when parts of it are imported.
    if os.environ.get(INDUCTOR_CACHE) in (None, cache_dir_utils.default_cache_dir()):
        with suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            os.environ[INDUCTOR_CACHE] = str(cache)


def _switch_fused_optimizer(state: TrainState, on: bool, batch: tuple[Tensor, Tensor]) -> None:
    state.precision.update = None
    if on:
        from .triton_sgd import TritonUpdate

        state.precision.update_with(TritonUpdate)


def _switch_graph(state: TrainState, on: bool, batch: tuple[Tensor, Tensor]) -> None:
    state.graph = None
    if on:
        state.graph = Captured(state.precision.device, state.eager_step, *batch)


SWITCHES: dict[str, Callable[[TrainState, bool, tuple[Tensor, Tensor]], None]] = {
    "space_to_depth": _switch_space_to_depth,
    "compile": _switch_compile,
    "fused_optimizer": _switch_fused_optimizer,
    "graph": _switch_graph,
}


# ---------------------------------------------------------------- the proof


def use(
    state: TrainState,
    choices: Choices,
    batch_size: int,
    size: int,
    num_outputs: int,
    world: World | None = None,
    say: Callable[[str], None] = lambda text: None,
    evaluation: tuple[int, int] | None = None,
) -> FastPaths:
    """Prove the paths that are asked for, and leave those on that agree; every rank has to call this.

    batch_size, size: of the batches that they are made for, images a rank and pixels.
    say: shows a line before what takes long.
    evaluation: batch size and size of an evaluation's batches; with the graph its forward pass is captured too.
    """
    world = world or World()
    paths = planned(choices, state, world)
    tried = [name for name, path in paths.items() if path.on]
    verdicts = prove(state, tried, batch_size, size, num_outputs, world, say) if tried else []
    for verdict in verdicts:
        paths[verdict.name] = FastPath(verdict.name, verdict.agrees, verdict.why)
    of_evaluation = []
    if paths["graph"].on and evaluation is not None:
        verdict = prove_evaluation(state, *evaluation)
        if not verdict.agrees:
            of_evaluation = [f"engine.graph is off in evaluations: {verdict.why}"]
    notes = [
        f"engine.{name} is off: {path.why}"
        for name, path in paths.items()
        if not path.on and (name in tried or getattr(choices, name) is True)
    ]
    return FastPaths(paths, [*notes, *of_evaluation], verdicts)


def prove(
    state: TrainState,
    names: Sequence[str],
    batch_size: int,
    size: int,
    num_outputs: int,
    world: World | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Verdict]:
    """Switch the paths on, one after another, and compare each with the plain step; those that differ, or do not run, are off
    afterwards.  Nothing else is changed.  Every rank has to call this."""
    world, verdicts = world or World(), []
    with _same_afterwards(state) as start:
        trial = _Trial(state, start, batch_size, size, num_outputs)
        plain = list(trial.run(state.eager_step))
        for name in names:
            say(f"engine.{name}: compared with the plain step" + (NOTES.get(name, "")))
            try:
                switch(state, name, True, trial.batches[0])
                verdict = trial.compare(name, plain, trial.run(state.train_step))
            # Whatever a compiler, a driver or a library raises: the plain step does not need them.
            except Exception as error:
                verdict = Verdict(name, False, f"it does not run ({_in_short(error)})")
            if world.all_reduce_max(float(not verdict.agrees)) and verdict.agrees:
                verdict = Verdict(name, False, "it failed on another rank")
            if not verdict.agrees:
                switch(state, name, False, trial.batches[0])
            verdicts.append(verdict)
    return verdicts


def prove_evaluation(state: TrainState, batch_size: int, size: int) -> Verdict:
    """Capture the forward pass of an evaluation, and compare its outputs for two batches with the plain ones; it is used if they agree."""
    precision, worst = state.precision, 0.0
    training, state.evaluation_graph = precision.model.training, None
    generator = torch.Generator().manual_seed(0)
    device, shape = precision.device.torch_device, (2, batch_size, 3, size, size)
    images = [
        state.normalize(each.to(device))
        for each in torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    ]
    precision.model.eval()
    try:
        with torch.no_grad():
            plain = [precision.forward(each).clone() for each in images]
            state.evaluation_graph = Captured(precision.device, precision.forward, images[0])
            worst = max(_differ(state.evaluate(each), one) for each, one in zip(images, plain, strict=True))
        why = (
            ""
            if worst <= tolerance_of(_computes_in(precision))
            else f"its outputs differ by {_percent(worst)}"
        )
    except Exception as error:  # whatever a driver or a library raises
        why = f"it does not run ({_in_short(error)})"
    finally:
        precision.model.train(training)
    if why:
        state.evaluation_graph = None
    return Verdict("graph", not why, why, worst, "the outputs")


def _computes_in(precision: Precision) -> torch.dtype:
    """The number format of the forward pass."""
    return torch.float32 if precision.level == "O0" else precision.device.half_dtype


NOTES = {"compile": "; compiling takes some 30 s where it was not done before"}


@dataclass(frozen=True)
class _Outcome:
    """What one step made.  faults: of its momenta, masters and half weights, against its own gradients."""

    gradients: list[Tensor]
    loss: float
    buffers: dict[str, Tensor]
    overflowed: bool
    skipped: int
    faults: list[str]


class _Trial:
    """Three steps from one state, with any path on.  start: copies of all that a step changes."""

    def __init__(
        self, state: TrainState, start: dict[str, Tensor], batch_size: int, size: int, num_outputs: int
    ) -> None:
        self.state, self.precision, self._start = state, state.precision, start
        self._generators = torch.get_rng_state(), self.precision.device.random_state()
        self._names = [name for name, _ in self.precision.model.named_parameters()]
        generator = torch.Generator().manual_seed(0)
        device, target = self.precision.device.torch_device, TARGETS[state.task.name]
        self.batches = []
        for number in range(len(RATES)):
            images = torch.randint(
                0, 256, (batch_size, 3, size, size), dtype=torch.uint8, generator=generator
            )
            targets = torch.from_numpy(target.examples(batch_size + number, num_outputs)[number:].copy())
            self.batches.append((images.to(device), targets.to(device)))

    def run(self, step: Callable[[Tensor, Tensor], None]) -> Iterator[_Outcome]:
        """Each step when it is asked for: of AlexNet's, an outcome has 244 MB of gradients."""
        return (self._outcome(step, number) for number in range(len(RATES)))

    def _outcome(self, step: Callable[[Tensor, Tensor], None], number: int) -> _Outcome:
        state, precision, scaler = self.state, self.precision, self.precision.scaler
        tensors = state.tensors()
        copy_all(self._start, tensors)
        with torch.no_grad():
            for name in self._names:
                if (momentum := tensors.get(f"momentum of {name}")) is not None:
                    momentum.copy_(self._first_momentum(name))
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
        return _Outcome(
            gradients,
            float(tensors["last loss"]),
            {name: value.detach().clone() for name, value in precision.model.named_buffers()},
            overflowed,
            int(scaler.skipped - self._start["skipped steps"]),
            faults,
        )

    def _first_momentum(self, name: str) -> Tensor:
        return self._start[f"master of {name}"] * MOMENTUM_SHARE

    @torch.no_grad()
    def _faults(
        self,
        after: Mapping[str, Tensor],
        gradients: list[Tensor],
        rate: float,
        overflowed: bool,
    ) -> Iterator[str]:
        """What SGD would not have made of these gradients."""
        (group,) = self.precision.optimizer.param_groups
        share, few = group["momentum"], ROUNDINGS * torch.finfo(torch.float32).eps
        for name, gradient in zip(self._names, gradients, strict=True):
            old, new = self._start[f"master of {name}"], after[f"master of {name}"]
            momentum = after.get(f"momentum of {name}")
            if not torch.equal(after[name], new.to(after[name].dtype)):
                yield f"the weights of {name} are not its masters, rounded"
            first = self._first_momentum(name)
            if overflowed:
                if not (torch.equal(old, new) and (momentum is None or torch.equal(first, momentum))):
                    yield f"{name} is changed by a step that overflows"
                continue
            update = gradient + group["weight_decay"] * old
            if momentum is not None:
                moved = share * first + update
                if (off := _differ(momentum, moved)) > few:
                    yield f"the momentum of {name} is {_percent(off)} off"
                update = update + share * moved if group["nesterov"] else moved
            # Of the change, and of the weights that it was rounded with.
            off = float((new - (old - rate * update)).norm())
            if not off <= few * float(old.norm() + rate * update.norm()):
                yield f"{name} is {_percent(off / float((rate * update).norm() + 1e-38))} of its step off"

    def compare(self, name: str, plain: list[_Outcome], fast: Iterator[_Outcome]) -> Verdict:
        worst, of, why = 0.0, "", ""
        tolerance = tolerance_of(_computes_in(self.precision))
        for number, (one, other) in enumerate(zip(plain, fast, strict=True)):
            wrong = [*one.faults[:1], *other.faults]
            if (one.overflowed, one.skipped) != (other.overflowed, other.skipped):
                wrong.append("one of the two overflows, and the other does not")
            if one.overflowed and number != OVERFLOWS:
                wrong.append("the plain step overflows there, so nothing is compared")
            if not one.overflowed:
                off = {
                    parameter: _differ(mine, theirs)
                    for parameter, mine, theirs in zip(
                        self._names, other.gradients, one.gradients, strict=True
                    )
                }
                off |= {
                    buffer: _differ(other.buffers[buffer], value) for buffer, value in one.buffers.items()
                }
                at = max(off, key=lambda each: off[each])
                worst, of = max((worst, of), (off[at], at))
                loss = abs(other.loss - one.loss) / max(abs(one.loss), 1e-38)
                limits = (
                    (f"the gradient of {at}", off[at], tolerance + A_TIE),
                    ("the loss", loss, tolerance),
                )
                wrong += [
                    f"{what} differs by {_percent(by)}, where {_percent(most)} is allowed"
                    for what, by, most in limits
                    if not by <= most
                ]
            if wrong and not why:  # the other steps are taken all the same: other ranks take them too
                why = f"its step {number + 1} is not the plain step's: {wrong[0]}"
        return Verdict(name, not why, why, worst, of)


def tolerance_of(dtype: torch.dtype) -> float:
    """By how much a loss may differ, relatively, whose sums have another order: the square root of the format's spacing, which is
    0.03 % in float32, 3 % in float16 and 9 % in bfloat16."""
    return float(torch.finfo(dtype).eps ** 0.5)


@contextmanager
def _same_afterwards(state: TrainState) -> Iterator[dict[str, Tensor]]:
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


def _differ(one: Tensor, other: Tensor) -> float:
    """The norm of the difference, relative to the other's."""
    if not other.is_floating_point():
        return float(not torch.equal(one, other))
    off = float((one - other).float().norm())
    if math.isnan(off):  # which no comparison would find
        return math.inf
    return off / max(float(other.float().norm()), 1e-38) if off else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _in_short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.:')[:160]}" if lines else type(error).__name__
