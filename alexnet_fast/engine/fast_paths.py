"""Fast paths of a training step: which are tried, how each is switched on, and that it is proven before it is used (``proof``)."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..common.sizes import Size, sides
from ..distributed.world import World
from ..models.space_to_depth import blocked_convolution
from .proof import Trial, Verdict, computes_in, differ, in_short, percent, same_afterwards, tolerance_of
from .step_graph import Captured
from .train_state import TrainState

Choice = bool | Literal["auto"]

INDUCTOR_CACHE = "TORCHINDUCTOR_CACHE_DIR"
NOTES = {"compile": "; compiling takes some 30 s where it was not done before"}


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
        found = [f"{each.name} ({percent(each.worst)})" for each in self.verdicts if each.agrees]
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
    if precision.level != "O2" or "momentum" not in groups[0] or not groups[0]["momentum"]:
        return "it is made for precision.level O2 and SGD with momentum"
    if precision.clip_norm:
        return "it does not clip gradients"
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


def switch_off(state: TrainState) -> None:
    """Leave the plain step alone."""
    state.compiled = state.graph = state.evaluation_graph = state.precision.update = None
    if (convolution := blocked_convolution(state.precision.model)) is not None:
        convolution.over_blocks, state.normalize.layout = False, None


def use(
    state: TrainState,
    choices: Choices,
    batch_size: int,
    size: Size,
    num_outputs: int,
    world: World | None = None,
    say: Callable[[str], None] = lambda text: None,
    evaluation: tuple[int, Size] | None = None,
) -> FastPaths:
    """Prove the paths that are asked for, and leave those on that agree; every rank has to call this.

    batch_size, size: of the batches that they are made for, images a rank and pixels.
    say: shows a line before what takes long.
    evaluation: batch size and size of an evaluation's batches; with the graph its forward pass is captured too.
    """
    world = world or World()
    if state.images_of is not None:  # those of another size are of no use
        switch_off(state)
    state.images_of = size
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
    size: Size,
    num_outputs: int,
    world: World | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Verdict]:
    """Switch the paths on, one after another, and compare each with the plain step; those that differ, or do not run, are off
    afterwards.  Nothing else is changed.  Every rank has to call this."""
    world, verdicts = world or World(), []
    with same_afterwards(state) as start:
        trial = Trial(state, start, batch_size, size, num_outputs)
        plain = list(trial.run(state.eager_step))
        for name in names:
            say(f"engine.{name}: compared with the plain step" + (NOTES.get(name, "")))
            try:
                switch(state, name, True, trial.batches[0])
                verdict = trial.compare(name, plain, trial.run(state.train_step))
            # Whatever a compiler, a driver or a library raises: the plain step does not need them.
            except Exception as error:
                verdict = Verdict(name, False, f"it does not run ({in_short(error)})")
            if world.all_reduce_max(float(not verdict.agrees)) and verdict.agrees:
                verdict = Verdict(name, False, "it failed on another rank")
            if not verdict.agrees:
                switch(state, name, False, trial.batches[0])
            verdicts.append(verdict)
    return verdicts


def prove_evaluation(state: TrainState, batch_size: int, size: Size) -> Verdict:
    """Capture the forward pass of an evaluation, and compare its outputs for two batches with the plain ones; it is used if they agree."""
    precision, worst = state.precision, 0.0
    training, state.evaluation_graph = precision.model.training, None
    generator = torch.Generator().manual_seed(0)
    device, shape = precision.device.torch_device, (2, batch_size, 3, *sides(size))
    images = [
        state.normalize(each.to(device))
        for each in torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    ]
    precision.model.eval()
    try:
        with torch.no_grad():
            plain = [precision.forward(each).clone() for each in images]
            state.evaluation_graph = Captured(precision.device, precision.forward, images[0])
            worst = max(differ(state.evaluate(each), one) for each, one in zip(images, plain, strict=True))
        why = (
            "" if worst <= tolerance_of(computes_in(precision)) else f"its outputs differ by {percent(worst)}"
        )
    except Exception as error:  # whatever a driver or a library raises
        why = f"it does not run ({in_short(error)})"
    finally:
        precision.model.train(training)
    if why:
        state.evaluation_graph = None
    return Verdict("graph", not why, why, worst, "the outputs")
