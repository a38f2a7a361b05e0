"""Tensors of the stand-in NPU, and what an operation on them does.

An NpuTensor is a wrapper: its shape is known at once, its values lie in `raw`, a CPU tensor that is filled when
the stream comes to it.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch.utils._pytree import tree_map

from . import native

aten = torch.ops.aten
CPU, META = torch.device("cpu"), torch.device("meta")
# What the host cannot go on without.
READS = {
    aten._local_scalar_dense.default: "item",
    aten.equal.default: "equal",
    aten.nonzero.default: "nonzero",
}
# What torch_npu 2.9 to 2.12 have no kernel of: a boxed fallback copies all to the CPU, computes there, and copies all back.
LACKING = {aten._fused_sgd_.default, aten._fused_sgd_.tensor_lr}
CHECK = aten._amp_foreach_non_finite_check_and_unscale_.default
POOLS = {aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d_backward.default}

generator = torch.Generator()


class NpuTensor(torch.Tensor):
    raw: torch.Tensor
    made_in_a_capture: bool

    @staticmethod
    def __new__(cls, raw: torch.Tensor, device: torch.device) -> NpuTensor:
        tensor: NpuTensor = torch.Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=device
        )  # fmt: skip
        tensor.raw = raw
        tensor.made_in_a_capture = native.capture is not None
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(op, *args, **(kwargs or {}))

    @property
    def data(self) -> Any:
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, new: NpuTensor) -> None:  # Module.half() assigns param.data: the raw tensor comes along
        torch.Tensor.data.__set__(self, new)
        self.raw = new.raw

    def tolist(self) -> Any:  # torch's own refuses every subclass
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"npu({tuple(self.shape)}, {self.dtype})"


def run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """What torch calls for every operation that has an NpuTensor, or makes one."""
    refuse(op, args, kwargs)
    if op is aten.record_stream.default:
        return None
    if native.capture is not None:
        native.capture.saw([each for each in tensors_in((args, kwargs)) if isinstance(each, NpuTensor)])
    if op in LACKING:
        native.wait_to(f"fallback of {op} to the CPU")
    if op in (aten.copy_.default, aten._copy_from.default):
        target, source = args[:2] if op is aten.copy_.default else (args[1], args[0])
        waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        return copy(target, source, waits)
    if op in READS:
        native.wait_to(READS[op])
        return op(*unwrap(args), **unwrap(kwargs))
    if op is aten._to_copy.default and kwargs.get("device") == CPU:
        native.wait_to("copy to the host")
        return op(*unwrap(args), **kwargs)

    device = device_of(args, kwargs)
    on_cpu = {**kwargs, "device": CPU} if kwargs.get("device") is not None else kwargs
    on_cpu = {name: value for name, value in unwrap(on_cpu).items() if name != "pin_memory"}
    if any(argument.name == "generator" for argument in op._schema.arguments):
        on_cpu["generator"] = generator
    written = written_arguments(op, args, kwargs)
    if written:
        if "out" in kwargs and kwargs["out"].numel() == 0:
            raise NotImplementedError(f"{op} would resize its out on the stand-in NPU")
        raw = unwrap(args)
        if op is CHECK and native.saturates:
            native.launch(native.COMPUTE, lambda: check_flag(*raw), op)
        else:
            # Not `written` itself: a record that held it would keep a tensor alive that the caller has freed.
            results = unwrap(written)
            native.launch(native.COMPUTE, lambda: (op(*raw, **on_cpu), saturate(results)), op)
        if not op._schema.returns:
            return None
        return written[0] if len(op._schema.returns) == 1 else tuple(written)
    if not tensors_in((args, kwargs)) or any(returned.alias_info for returned in op._schema.returns):
        # The host allocates memory, and makes views of it, at once.
        raw_args = unwrap(args)
        out = op(*raw_args, **on_cpu)
        if not tensors_in((args, kwargs)):
            native.allocations += 1
            if native.capture is not None and isinstance(
                out, torch.Tensor
            ):  # its values too are made at each replay
                native.launch(native.COMPUTE, lambda: out.copy_(op(*raw_args, **on_cpu)), op)
        return tree_map(lambda raw: NpuTensor(raw, device) if isinstance(raw, torch.Tensor) else raw, out)
    return compute(op, args, on_cpu, device)


def compute(op: Any, args: Any, kwargs: Any, device: torch.device) -> Any:
    """Queue an operation that makes new tensors; hand them back empty."""
    meta = tree_map(lambda x: like(x, META) if isinstance(x, torch.Tensor) else x, (args, kwargs))
    shapes = op(*meta[0], **{**meta[1], **({"device": META} if "device" in meta[1] else {})})
    out = tree_map(lambda x: NpuTensor(like(x, CPU), device) if isinstance(x, torch.Tensor) else x, shapes)
    raw_args, raw_kwargs = unwrap((args, kwargs))
    empty = unwrap(out)
    native.allocations += 1

    def work() -> None:
        run_it = dropout if op is aten.native_dropout.default else op
        made = run_it(*widen(raw_args), **widen(raw_kwargs))
        for target, value in zip(tensors_in(empty), tensors_in(made), strict=True):
            saturate([value])
            target.copy_(value)
            saturate([target])

    native.launch(native.COMPUTE, work, op)
    return out


def copy(target: torch.Tensor, source: torch.Tensor, waits: bool) -> torch.Tensor:
    """`target.copy_(source)`, from, to or within the device."""
    if isinstance(target, NpuTensor) and isinstance(source, NpuTensor):
        to, origin = target.raw, source.raw
        native.launch(native.COMPUTE, lambda: to.copy_(origin))
        return target
    if not isinstance(target, NpuTensor):
        native.wait_to("copy to the host")
        target.copy_(unwrap(source))
        return target
    if not source.is_contiguous():
        raise RuntimeError("a host source that is not contiguous would be copied to unpinned memory first")
    to, size = target.raw, source.numel() * source.element_size()
    same_bytes = to.is_contiguous() and to.dtype == source.dtype and to.shape == source.shape
    if native.is_block(source.data_ptr()) and same_bytes and not waits:
        address = source.data_ptr()  # held by its address alone: whoever lent the memory must wait
        native.launch(native.COPY, lambda: ctypes.memmove(to.data_ptr(), address, size))
        return target
    kind = "pageable" if not source.is_pinned() else "pinned"
    offset = "an offset of " if kind == "pinned" and not native.is_block(source.data_ptr()) else ""
    native.wait_to(f"copy from {offset}{kind} memory")
    to.copy_(source)
    return target


def saturate(tensors: Any) -> None:
    """Where the card does, make what overflowed the largest number, and set the card's flag."""
    for tensor in tensors_in(tensors) if native.saturates else ():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            native.overflowed = True
            tensor.nan_to_num_(nan=0.0)


def check_flag(gradients: list[torch.Tensor], found_inf: torch.Tensor, inverse: torch.Tensor) -> None:
    """The check of gradients on a card that saturates: they are all finite, so its flag is what tells."""
    found_inf.fill_(max(float(found_inf), float(native.overflowed)))
    native.overflowed = False
    for gradient in gradients:
        gradient.mul_(inverse)


def refuse(op: Any, args: Any, kwargs: Any) -> None:
    """What the real device does not do."""
    if kwargs.get("memory_format") not in (None, torch.contiguous_format, torch.preserve_format):
        raise RuntimeError("Only c10::MemoryFormat::Contiguous is supported for creating a npu tensor")
    if op in POOLS and args[0].dtype is torch.bfloat16:
        raise RuntimeError("AdaptiveAvgPool2d supports float16 and float32 on the npu, not bfloat16")


def dropout(x: torch.Tensor, probability: float, train: bool | None) -> tuple[torch.Tensor, torch.Tensor]:
    """native_dropout, its mask drawn from the device's own generator."""
    if train is False or probability == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    mask = torch.empty(x.shape, dtype=torch.bool).bernoulli_(1 - probability, generator=generator)
    return x * mask * (1 / (1 - probability)), mask


def widen(tree: Any) -> Any:
    """Halves as floats, so that an operation rounds once."""
    half = torch.float16
    return tree_map(lambda x: x.float() if isinstance(x, torch.Tensor) and x.dtype is half else x, tree)


def unwrap(tree: Any) -> Any:
    return tree_map(lambda x: x.raw if isinstance(x, NpuTensor) else x, tree)


def like(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=device)


def tensors_in(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def device_of(args: Any, kwargs: Any) -> torch.device:
    for tensor in tensors_in((args, kwargs)):
        if isinstance(tensor, NpuTensor):
            return tensor.device
    device = kwargs.get("device")
    index = None if device is None else device.index
    return torch.device("npu", torch.accelerator.current_device_index() if index is None else index)


def written_arguments(op: Any, args: Any, kwargs: Any) -> list[Any]:
    return [
        args[place] if place < len(args) else kwargs[argument.name]
        for place, argument in enumerate(op._schema.arguments)
        if argument.is_write and (place < len(args) or argument.name in kwargs)
    ]
