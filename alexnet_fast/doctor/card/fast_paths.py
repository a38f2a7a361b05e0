"""Fast paths of the step, each against the plain one: the one place where the doctor knows which there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ... import build
from ...engine import fast_paths as engine
from ...engine.train_state import TrainState
from ...models import spec_of
from ...profile import stepping
from .bench import FEW, Bench, weights, with_values
from .row import Row, Status, judged

STEPS, RATE = 2, 1e-3
TOLERANCE = 0.05
"""Of what the steps change, relatively and per tensor: TF32's convolutions round to 10 bits, and a pool then takes another of two pixels."""
ROUNDINGS = 2  # of a float32 weight, one a step, that are allowed on top


class Proof(NamedTuple):
    """How one path compares.

    difference: the largest, relatively and per tensor.  remedy, otherwise: what to do if it does not agree, and how bad that is.
    why: in what it differs, or why it does not run.
    """

    name: str
    expected: str
    agrees: bool
    difference: float
    remedy: str
    otherwise: Status
    why: str = ""


def proofs(bench: Bench) -> Iterator[Proof]:
    """The plain step against float64 on the CPU, each fast path of the engine against the plain step, our decoder against libjpeg-turbo.

    A fast path of the step is connected here, in `switch_on` and in `options`, and nowhere else.
    """
    yield plain_step(bench)
    for name in switchable(bench):
        state = bench.state()
        (verdict,) = engine.prove(
            state, [name], bench.batch_size, bench.recipe.data.largest_size, bench.recipe.model.num_classes
        )
        remedy = f"training leaves engine.{name} off; send us this table"
        expected = "the plain step's gradients and weights, within the number format"
        yield Proof(f"engine.{name}", expected, verdict.agrees, verdict.worst, remedy, "warning", verdict.why)
    yield own_decoder(bench)


def switchable(bench: Bench) -> list[str]:
    """The fast paths that this device may run, whether or not the recipe asks for them; not compiling for a CPU, which takes minutes."""
    state = bench.state()
    names = [name for name in engine.NAMES if not engine.WHY_NOT[name](state, bench.world)]
    return [name for name in names if not (bench.device.is_host and name == "compile")]


def switch_on(bench: Bench, state: TrainState) -> None:
    """Switch on what training by the bench's recipe would use."""
    build.fast_paths(bench.recipe, state, bench.world, bench.say)


def options(bench: Bench) -> Mapping[str, Callable[[TrainState], None]]:
    """For each fast path of the step, by its name, what switches it on."""
    batch = bench.batch(bench.batch_size)
    return {name: partial(_switch, name, batch) for name in switchable(bench)}


def _switch(name: str, batch: tuple[Tensor, Tensor], state: TrainState) -> None:
    engine.switch(state, name, True, batch)


def fast_paths(bench: Bench) -> Iterator[Row]:
    """A row for each path."""
    for proof in proofs(bench):
        yield judged(
            proof.name,
            proof.agrees,
            proof.expected,
            f"differs by {100 * proof.difference:.2g} %" + (f": {proof.why}" if proof.why else ""),
            proof.remedy,
            otherwise=proof.otherwise,
            difference=proof.difference,
        )


def own_decoder(bench: Bench) -> Proof:
    """A batch of training images by our own decoder, and the same by libjpeg-turbo."""
    found = []
    for decoder in ("auto", "libjpeg"):
        with bench.loader(decoder) as loader:
            found.append(next(iter(loader)).images.numpy().copy())
    differs = float((found[0] != found[1]).mean())
    expected, remedy = (
        "libjpeg-turbo's pixels, to the bit",
        'set data.decoder = "libjpeg", and send us this table',
    )
    return Proof("our own decoder", expected, differs == 0, differs, remedy, "fault")


def plain_step(bench: Bench) -> Proof:
    """Two steps in float32 without dropout on the device, and the same in float64 on the CPU."""
    # He's weights have gradients of one size in all layers; by torch's, those of the first are hardly more than a rounding.
    recipe = with_values(bench.changed("precision", level="O0"), "model", dropout=0.0, init="he")
    state = bench.state(recipe)
    before = weights(state)
    reference = spec_of(recipe.model.name).build(recipe.model.num_classes, 0.0).double()
    reference.load_state_dict(before)
    optim = recipe.optim
    sgd = torch.optim.SGD(
        reference.parameters(),
        lr=RATE,
        momentum=optim.momentum,
        nesterov=optim.nesterov,
        weight_decay=optim.weight_decay,
    )
    feed, state.lr = bench.feed(state), RATE
    for number in range(STEPS):
        images, targets = bench.batch(FEW, number)
        stepping.step_on((images, targets), state, feed)()
        loss = state.task.loss(reference(_normalised(images.cpu().double())), targets.cpu())
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    wanted = reference.state_dict()
    off = {key: _change_differs(tensor, wanted[key], before[key]) for key, tensor in _floats(state)}
    worst = max(off, key=lambda key: off[key])
    agrees = off[worst] <= TOLERANCE
    expected = f"what float64 on the CPU computes, within {100 * TOLERANCE:.0f} %"
    remedy = "this device computes something else: do not train on it, and send us this table"
    return Proof("plain step", expected, agrees, off[worst], remedy, "fault", "" if agrees else worst)


def _floats(state: TrainState) -> list[tuple[str, Tensor]]:
    return [(key, tensor) for key, tensor in weights(state).items() if tensor.is_floating_point()]


def _normalised(images: Tensor) -> Tensor:
    """As torchvision's reference transforms do."""
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    return (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def _change_differs(found: Tensor, wanted: Tensor, before: Tensor) -> float:
    """The difference of two changes of a tensor, by the norm of the second; TOLERANCE where it is as large as what is allowed."""
    change = wanted - before.double()
    rounding = ROUNDINGS * torch.finfo(torch.float32).eps * before.double().norm()
    difference = float((found.double() - wanted).norm() / (change.norm() + rounding / TOLERANCE + 1e-30))
    return difference if difference == difference else float("inf")
