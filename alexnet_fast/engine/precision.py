"""O0, O1 and O2: which tensors are half, who holds the float32 weights, and the loss scale.

O0 computes in float32.  O1 is torch's autocast.  O2 is apex's: the model's weights in half precision except
affine batch norms, inputs in half, logits in float32, float32 master weights that the optimizer steps and
that are copied back, float32 in every saved state.  Half is what the device wants: float16, or bfloat16 on
a CPU.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..devices.device import Device
from ..errors import UserError

Level = Literal["O0", "O1", "O2"]
LossScale = float | Literal["auto", "dynamic", "none"]

FIRST_SCALE, LARGEST_SCALE, STEPS_TO_DOUBLE = 2.0**16, 2.0**24, 2000  # apex's dynamic loss scale
NEVER = 2**31 - 1


class Precision:
    """A model and its optimizer at one level: `forward`, `backward`, `step` at the `learning_rate` that was set.

    The model is moved to the device, laid out in its memory format and, at O2, halved in place.

    make_optimizer: called with the float32 parameters that are to be stepped, returns torch's SGD.  Its momenta are zeros
        from the start.
    loss_scale: "dynamic" starts at 2^16, doubles after 2,000 clean steps up to 2^24, halves and skips the
        step on overflow; a number stays as it is, and an overflow skips the step; "none" does not scale;
        "auto" is dynamic for float16 and none otherwise.  At O0 nothing is scaled.
    title: the network's name, for messages.
    replicate: wraps the model that is trained, so that its gradients are averaged over the ranks: they are
        then the same on each, and so are overflows, skipped steps and the loss scale.
    """

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        *,
        level: Level,
        device: Device,
        loss_scale: LossScale = "auto",
        title: str = "this network",
        replicate: Callable[[nn.Module], nn.Module] | None = None,
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
        self.optimizer = make_optimizer(self._masters)
        self._learning_rate = float(self.optimizer.param_groups[0]["lr"])
        self.load_momenta(())

        if loss_scale == "auto":
            loss_scale = "dynamic" if device.half_needs_loss_scale else "none"
        self._static_scale = None if isinstance(loss_scale, str) else float(loss_scale)
        self.scaler = torch.amp.GradScaler(
            device.kind,
            init_scale=FIRST_SCALE if self._static_scale is None else self._static_scale,
            growth_interval=STEPS_TO_DOUBLE if self._static_scale is None else NEVER,
            enabled=level != "O0" and loss_scale != "none",
        )
        self._one = torch.ones((), device=device.torch_device)
        self.scaler.scale(self._one)  # it makes its tensors at first use, which must not be within a graph
        self.skipped = torch.zeros((), dtype=torch.int64, device=device.torch_device)

    def forward(self, images: Tensor) -> Tensor:
        """Float32 logits (B, C) of images (B, 3, H, W) in `self.dtype`."""
        model = self._replica if self.model.training else self.model
        with self.device.autocast(self.level == "O1"):
            logits: Tensor = model(images)
        return logits.float()

    def backward(self, loss: Tensor) -> None:
        """Leave the gradients of the scaled loss in the float32 parameters."""
        self.scaler.scale(loss).backward()
        if self.level == "O2":
            # Into buffers that stay: fresh float32 copies cost more in page faults than in casting.
            torch._foreach_copy_(self._master_grads, [p.grad for p in self._params if p.grad is not None])
            self._drop_gradients()

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes inside leave each rank its own gradients: for whoever measures what summing them costs."""
        alone = getattr(self._replica, "no_sync", nullcontext)
        with alone():
            yield

    def step(self) -> None:
        """Step the float32 weights; skip and count the step if a gradient overflowed.

        Waits for nothing where the optimizer's step is fused; any other reads first whether there was an overflow.
        """
        before = self.scaler.scale(self._one)
        self.scaler.step(self.optimizer)
        if self.scaler.is_enabled():
            self.scaler.update()
            after = self.scaler.scale(self._one)
            self.skipped += after < before
            # GradScaler knows no upper bound, and backs a static scale off as well.
            self.scaler.update(
                after.clamp(max=LARGEST_SCALE) if self._static_scale is None else self._static_scale
            )
        if self.level == "O2":
            self._weights_from_masters()
        else:
            self._drop_gradients()

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
        """The optimizer's state_dict, its learning rate a number."""
        state = self.optimizer.state_dict()
        for group in state["param_groups"]:
            group["lr"] = self._learning_rate
        return state

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
        """Set weights and masters from a float32 state; raises UserError where it is another model's."""
        check_fits(state, self.model, self.title)
        self.model.load_state_dict(state)
        if self.level == "O2":
            with torch.no_grad():
                for (name, _), master in zip(self.model.named_parameters(), self._masters, strict=True):
                    master.copy_(state[name])

    def load_momenta(self, momenta: Sequence[Tensor]) -> bool:
        """Set SGD's momenta, float32, one for each parameter in the optimizer's order; zeros unless these fit.

        Returns whether they fit: as many, and of the parameters' shapes.  They are laid out as the parameters, as fused
        kernels want it: the CPU's reads another layout as if it were this one.
        Zeros give a first step the same bits as no momenta would.  Fused SGD makes its own of uninitialised memory, and
        where its first step overflows it goes on with what lay there: 1p with He's weights ended after 49 steps of NaN (H100).
        """
        fit = [momentum.shape for momentum in momenta] == [master.shape for master in self._masters]
        self.optimizer.state.clear()
        for at, master in enumerate(self._masters if self.optimizer.defaults["momentum"] else ()):
            self.optimizer.state[master]["momentum_buffer"] = (
                torch.empty_like(master).copy_(momenta[at].contiguous()) if fit else torch.zeros_like(master)
            )
        return fit

    def load_scale(self, saved: Mapping[str, Any]) -> None:
        """Set a dynamic loss scale to a saved GradScaler's, if that was not disabled; one that is a number stays it."""
        if saved and self.scaler.is_enabled() and self._static_scale is None:
            own = self.scaler.state_dict()
            clean = saved["_growth_tracker"] if saved["growth_interval"] == own["growth_interval"] else 0
            self.scaler.load_state_dict(own | {"scale": saved["scale"], "_growth_tracker": clean})

    def _weights_from_masters(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self._params, self._masters)

    def _drop_gradients(self) -> None:
        for param in self._params:
            param.grad = None


def fused_or_foreach(
    optimizer: Callable[..., torch.optim.Optimizer], device: Device
) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    """`optimizer` with its fused step where the device has one, else with its foreach step.

    Found out by stepping one number: a backend may know the word and lack the kernel.  The fused step also
    skips an overflow on the device; the other has to read whether there was one, once a step.
    The fused step reads its learning rate from a tensor on the device, where its kernel is able to: float64 on a CPU, whose
    kernel makes a Python number of it, float32 elsewhere, as CUDA's wants it.  foreach would wait for such a tensor.
    """
    number = nn.Parameter(torch.zeros(1, device=device.torch_device))
    number.grad = torch.zeros_like(number)
    rate = optimizer([number]).defaults["lr"]

    def with_rate_on_device(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        dtype = torch.float64 if device.is_host else torch.float32
        return optimizer(params, fused=True, lr=torch.tensor(rate, dtype=dtype, device=device.torch_device))

    for fused in (with_rate_on_device, partial(optimizer, fused=True)):
        try:
            fused([number]).step()
        except RuntimeError:  # NotImplementedError is one
            continue
        return fused
    return partial(optimizer, foreach=True)


def cast_to_half(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast weights and floating buffers to `dtype` in place, but for affine batch norms (as apex does)."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            continue
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)


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
