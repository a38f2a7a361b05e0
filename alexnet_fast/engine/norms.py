"""Norm layers: which ones they are, float32 among half weights, and which parameters do not decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BATCH_NORMS = nn.modules.batchnorm._BatchNorm


def is_norm(module: nn.Module) -> bool:
    """Whether it is a norm layer: torch's, or another package's that is called one (timm's RmsNorm, torchvision's FrozenBatchNorm2d).

    Only a module with tensors of its own: a block of others that is called a norm is none.
    """
    has_own = any(each is not None for each in (*module._parameters.values(), *module._buffers.values()))
    return has_own and "norm" in type(module).__name__.lower()


def keep_in_float32(module: nn.Module, dtype: torch.dtype) -> None:
    """Have a norm layer whose weights are float32 take and return `dtype`.

    Batch norms do it by themselves: their kernels read halves next to float32 weights.  Others want one dtype (on CUDA LayerNorm
    and GroupNorm refuse two), so their inputs are cast to float32, as autocast does, and their outputs back.
    """
    if isinstance(module, BATCH_NORMS):
        return

    def to_float32(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(_cast(each, dtype, torch.float32) for each in inputs)

    def to_half(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return _cast(output, torch.float32, dtype)

    module.register_forward_pre_hook(to_float32)
    module.register_forward_hook(to_half)


def _cast(value: Any, from_: torch.dtype, to: torch.dtype) -> Any:
    return value.to(to) if isinstance(value, Tensor) and value.dtype is from_ else value


def undecayed(model: nn.Module) -> set[str]:
    """Names of the parameters without weight decay, where norms and biases do not decay.

    All of norm layers, all of one dimension or none (biases, scales), and those that a timm network names itself (its position
    embeddings and class tokens).
    """
    of_norms = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if is_norm(module)
        for name in module._parameters
    }
    itself = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()  # type: ignore[operator]
    return {
        name
        for name, param in model.named_parameters()
        if name in of_norms or param.ndim <= 1 or name in itself
    }


def statistics(model: nn.Module) -> list[Tensor]:
    """The buffers that training changes: running means and variances of norm layers, and how many batches they have seen."""
    return [
        buffer for module in model.modules() if is_norm(module) for buffer in module.buffers(recurse=False)
    ]
