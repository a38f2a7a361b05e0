"""O0, O1 and O2: which tensors are half, who holds the float32 weights, and the loss scale.

O0 computes in float32.  O1 is torch's autocast.  O2 is apex's: the model's weights in half precision except
norm layers (apex kept batch norms alone), inputs in half, logits in float32, float32 master weights that the optimizer steps and
that are copied back, float32 in every saved state.  Half is what the device wants (float16, or bfloat16 on
a CPU) or what precision.half names.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ..devices.device import Device
from ..errors import UserError
from . import optimizers, sgd
from .ema import WeightAverage
from .loss_scale import LossScale
from .norms import is_norm, keep_in_float32, statistics, undecayed

Level = Literal["O0", "O1", "O2"]
LossScaleChoice = float | Literal["auto", "dynamic", "none"]


class Reducer(Protocol):
    """Averages gradients over the ranks (distributed/flat_gradients.py)."""

    def finish(self) -> None: ...
    def no_sync(self) -> AbstractContextManager[None]: ...


class Update(Protocol):
    """The part of a step behind the gradients, all in one: in place of casts, optimizer and the copy back (engine/triton_sgd.py)."""

    def __call__(self) -> None: ...
    def gradients(self) -> list[Tensor]: ...


class Precision:
    """A model and its optimizer at one level: `forward`, `backward`, `step` at the `learning_rate` that was set.

    The model is moved to the device, laid out in its memory format and, at O2, halved in place.

    make_optimizer: called with the float32 parameters that are to be stepped, or groups of them, returns torch's SGD or AdamW.
        What it keeps of each (momenta) is zeros from the start.
    loss_scale: "dynamic" starts at 2^16, doubles after 2,000 clean steps up to 2^24, halves and skips the
        step on overflow; a number stays as it is, and an overflow skips the step; "none" does not scale;
        "auto" is dynamic for float16 and none otherwise.  At O0 nothing is scaled.
    title: the network's name, for messages.
    replicate: wraps the model that is trained, so that its gradients are averaged over the ranks: they are
        then the same on each, and so are overflows, skipped steps and the loss scale.
    reduce: makes, of the model's parameters, what averages them in place of `replicate`.
    over_ranks: sums a tensor over the ranks, in place, where there are several.
    sync_statistics: replaces tensors by rank 0's, in place, where there are several ranks: batch norms' running statistics, after
        each step, so that every rank evaluates what rank 0 saves.
    decays_all: whether norm layers and biases have weight decay too.
    clip_norm: the largest norm of all gradients together; longer ones are scaled down to it.  0 = they are left as they are.
    ema: the decay of the weights' moving average (`average`); 0 = there is none.
    update: what steps in place of the optimizer, if it is set; it reads the optimizer's state.
    """

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[[Any], torch.optim.Optimizer],
        *,
        level: Level,
        device: Device,
        loss_scale: LossScaleChoice = "auto",
        title: str = "this network",
        replicate: Callable[[nn.Module], nn.Module] | None = None,
        reduce: Callable[[Sequence[nn.Parameter]], Reducer] | None = None,
        over_ranks: Callable[[Tensor], object] | None = None,
        sync_statistics: Callable[[Sequence[Tensor]], object] | None = None,
        decays_all: bool = True,
        clip_norm: float = 0.0,
        ema: float = 0.0,
    ) -> None:
        self.level = level
        self.device = device
        self.title = title
        self.dtype = device.half_dtype if level == "O2" else torch.float32
        self.model = model.to(device.torch_device, memory_format=device.memory_format)  # type: ignore[call-overload]
        self._params = list(self.model.parameters())
        self._masters = (
            self._params if level != "O2" else [nn.Parameter(p.detach().clone()) for p in self._params]
        )
        if level == "O2":
            cast_to_half(self.model, self.dtype)
            self._master_grads = [torch.zeros_like(master) for master in self._masters]
            for master, grad in zip(self._masters, self._master_grads, strict=True):
                master.grad = grad
        self._replica = self.model if replicate is None else replicate(self.model)
        self._reducer = None if reduce is None else reduce(self._params)
        self._sync_statistics = sync_statistics
        self._statistics = statistics(self.model)
        names = [name for name, _ in self.model.named_parameters()]
        self.optimizer = make_optimizer(
            optimizers.groups(self._masters, names, set() if decays_all else undecayed(self.model))
        )
        self.clip_norm = clip_norm
        self.average = WeightAverage(self.model, self._masters, ema) if ema else None
        self.update: Update | None = None
        self.keeps_gradients = False
        self._learning_rate = float(self.optimizer.param_groups[0]["lr"])
        self.load_slots(())

        if loss_scale == "auto":
            loss_scale = "dynamic" if device.half_needs_loss_scale else "none"
        self.scaler = LossScale(
            "none" if level == "O0" else loss_scale,
            device.torch_device,
            over_ranks if device.saturates else None,
        )
        self.skipped = self.scaler.skipped
        self._skips_on_device = sgd.skips_on_device(self.optimizer)
        if self.scaler.is_enabled() and self._skips_on_device:
            self.optimizer.found_inf = self.scaler.found_inf  # type: ignore[attr-defined]

    def forward(self, images: Tensor) -> Tensor:
        """Float32 logits (B, C) of images (B, 3, H, W) in `self.dtype`."""
        model = self._replica if self.model.training else self.model
        with self.device.autocast(self.level == "O1"):
            logits: Tensor = model(images)
        return logits.float()

    def backward(self, loss: Tensor, *, first: bool = True, last: bool = True) -> None:
        """Leave the gradients of the scaled loss, averaged over the ranks, in the model's parameters.

        first, last: of several losses whose gradients are summed: run all but the last one, and their forward passes, within `no_sync`.
        """
        if first:
            self._drop_gradients()
        self.scaler.scaled(loss).backward()
        if self._reducer is not None:
            self._reducer.finish()
        if last and self._statistics and self._sync_statistics is not None:
            self._sync_statistics(self._statistics)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes inside leave each rank its own gradients: for whoever measures what summing them costs."""
        alone = getattr(self._replica if self._reducer is None else self._reducer, "no_sync", nullcontext)
        with alone():
            yield

    def step(self) -> None:
        """Step the float32 weights; skip and count the step if a gradient overflowed.

        Waits for nothing, but for an optimizer that is neither torch's fused one nor MaskedSGD: that reads first whether there
        was an overflow.
        """
        if self.update is not None:
            self.update()
        else:
            if self.level == "O2":
                # Into buffers that stay: fresh float32 copies cost more in page faults than in casting.
                torch._foreach_copy_(self._master_grads, [_gradient(param) for param in self._params])
                self._drop_gradients()
            gradients = [master.grad for master in self._masters if master.grad is not None]
            self.scaler.unscale(gradients)
            if self.clip_norm:
                clip(gradients, self.clip_norm)
            if self._skips_on_device or not self.scaler.is_enabled() or not self.scaler.found_inf.item():
                self.optimizer.step()
            if self.level == "O2":
                self._weights_from_masters()
        if self.average is not None:
            self.average.update(self.scaler.found_inf if self.scaler.is_enabled() else None)
        self.scaler.update()
        if not self.keeps_gradients:
            self._drop_gradients()

    def gradients(self) -> list[Tensor]:
        """Float32 copies of the gradients that the last step used, unscaled: for the proof of the fast paths.  Set
        `keeps_gradients` before that step."""
        if self.update is not None:
            return self.update.gradients()
        return [_gradient(master).detach().clone() for master in self._masters]

    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's group of each parameter, in the model's order."""
        groups = optimizers.group_of(self.optimizer)
        return [groups[id(master)] for master in self._masters]

    @property
    def has_reducer(self) -> bool:
        """Whether gradients are averaged by `reduce`'s maker, not by a wrapped model."""
        return self._reducer is not None

    def update_with(self, make: Callable[..., Update]) -> None:
        """Step by what `make` returns for weights, masters, optimizer and loss scale."""
        self.update = make(self._params, self._masters, self.optimizer, self.scaler)

    def forget_gradients(self) -> None:
        """Drop what `keeps_gradients` kept."""
        self._drop_gradients()

    def tensors(self) -> dict[str, Tensor]:
        """All that a step changes, by name: weights, buffers, masters, momenta, loss scale, the average of the weights."""
        found = dict(self.model.state_dict(keep_vars=True))
        for (name, _), master in zip(self.model.named_parameters(), self._masters, strict=True):
            found[f"master of {name}"] = master
            for slot, title in optimizers.slots(self.optimizer).items():
                found[f"{title} of {name}"] = self.optimizer.state[master][slot]
        if self.average is not None:
            found |= self.average.tensors()
        names = ("loss scale", "clean steps", "overflow", "skipped steps")
        return found | dict(zip(names, self.scaler.tensors(), strict=True))

    @property
    def learning_rate(self) -> float:
        """That of the next step, and until it is set again of the last."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        if rate == self._learning_rate:
            return
        self._learning_rate = rate
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def optimizer_state(self) -> dict[str, Any]:
        """The optimizer's state_dict, its learning rate a number; parameters are numbered as the model has them, in any groups."""
        state = self.optimizer.state_dict()
        places = {id(master): place for place, master in enumerate(self._masters)}
        number = [places[id(param)] for group in self.optimizer.param_groups for param in group["params"]]
        groups = [
            {**group, "lr": self._learning_rate, "params": [number[k] for k in group["params"]]}
            for group in state["param_groups"]
        ]
        return {"state": {number[k]: each for k, each in state["state"].items()}, "param_groups": groups}

    def figures(self) -> dict[str, float]:
        """Learning rate, loss scale and skipped steps, for the log.  Waits for the device."""
        return {"lr": self.learning_rate, "loss_scale": self.scale, "skipped_steps": int(self.skipped)}

    @property
    def scale(self) -> float:
        """The loss scale now; 1 where nothing is scaled.  Waits for the device."""
        return self.scaler.get_scale()

    def state_dict(self) -> dict[str, Tensor]:
        """The model's state on the CPU, in float32, contiguous, under the model's own keys."""
        state = dict(self.model.state_dict())
        if self.level == "O2":
            state.update(zip((name for name, _ in self.model.named_parameters()), self._masters, strict=True))
        return {
            key: tensor.detach()
            .to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype)
            .contiguous()
            for key, tensor in state.items()
        }

    def fingerprint(self) -> str:
        """A checksum of the state, to see that ranks begin alike."""
        checksum = 0
        for tensor in self.state_dict().values():
            checksum = zlib.crc32(tensor.numpy().data, checksum)
        return f"{checksum:08x}"

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Set weights and masters from a float32 state, with which their average begins; raises UserError where it is another model's."""
        check_fits(state, self.model, self.title)
        self.model.load_state_dict(state)
        if self.level == "O2":
            with torch.no_grad():
                for (name, _), master in zip(self.model.named_parameters(), self._masters, strict=True):
                    master.copy_(state[name])
        if self.average is not None:
            self.average.start()

    def load_slots(self, saved: Sequence[Any]) -> bool:
        """Set what the optimizer keeps (optimizers.slots), a mapping for each parameter in the model's order; zeros unless these fit.

        Returns whether they fit: as many, and of the right shapes.  They are laid out as the parameters, as fused
        kernels want it: the CPU's reads another layout as if it were this one.
        Zeros give a first step the same bits as no momenta would.  Fused SGD makes its own of uninitialised memory, and
        where its first step overflows it goes on with what lay there: 1p with He's weights ended after 49 steps of NaN (H100).
        """
        wanted = list(optimizers.slots(self.optimizer))
        fit = len(saved) == len(self._masters) and all(
            isinstance(given, Mapping)
            and isinstance(given.get(slot), Tensor)
            and given[slot].shape == (torch.Size() if slot == "step" else master.shape)
            for given, master in zip(saved, self._masters, strict=True)
            for slot in wanted
        )
        for at, master in enumerate(self._masters):
            state = self.optimizer.state[master] if wanted else {}
            for slot in wanted:
                if not isinstance(state.get(slot), Tensor):
                    state[slot] = optimizers.fresh(self.optimizer, slot, master)
                with torch.no_grad():  # in place: a captured step knows it by its address
                    if fit:
                        state[slot].copy_(saved[at][slot].contiguous())
                    else:
                        state[slot].zero_()
        return fit

    def load_scale(self, saved: Mapping[str, Any]) -> None:
        """Set a dynamic loss scale to a saved GradScaler's, if that was not disabled; one that is a number stays it."""
        self.scaler.resume(saved)

    def _weights_from_masters(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self._params, self._masters)

    def _drop_gradients(self) -> None:
        for param in self._params:
            param.grad = None


def _gradient(param: Tensor) -> Tensor:
    """Zeros for a parameter that no loss has reached."""
    return torch.zeros_like(param) if param.grad is None else param.grad


def cast_to_half(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast weights and floating buffers to `dtype` in place, but for norm layers, which compute in float32."""
    for module in model.modules():
        if is_norm(module):
            keep_in_float32(module, dtype)
            continue
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)


def clip(gradients: Sequence[Tensor], most: float) -> None:
    """Scale gradients down, in place, so that their norm together is at most `most` (Pascanu et al. 2013, arXiv:1211.5063).

    As torch's clip_grad_norm_, which reads nothing on the host either, of a list of gradients.  Where one is not finite, the step is
    skipped, or the run ends, with them as without.
    """
    norm = torch.stack(torch._foreach_norm(list(gradients))).norm()  # type: ignore[arg-type]
    torch._foreach_mul_(list(gradients), (most / (norm + 1e-6)).clamp_(max=1.0))


def check_fits(state: dict[str, Tensor], model: nn.Module, title: str) -> None:
    """Raise UserError, naming the first difference, unless `state` has the model's keys and shapes.

    title: the model's name.
    """
    own = model.state_dict()
    if missing := sorted(own.keys() - state.keys()):
        raise UserError(
            f"the weights lack {missing[0]!r} ({len(missing)} of {len(own)} keys): they are not those of {title}"
        )
    if foreign := sorted(state.keys() - own.keys()):
        raise UserError(f"the weights hold {foreign[0]!r}, which {title} has not: they are another model's")
    for key, tensor in own.items():
        if state[key].shape != tensor.shape:
            raise UserError(
                f"the weights' {key!r} has shape {tuple(state[key].shape)}, but the model's is "
                f"{tuple(tensor.shape)}: see that model.num_classes is what they were trained with"
            )
