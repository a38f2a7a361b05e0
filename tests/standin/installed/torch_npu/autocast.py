"""torch.autocast("npu"): a backend brings its own lists of what is cast."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map

HALF = ("conv2d", "linear", "matmul", "addmm", "mm", "bmm")
FLOAT32 = ("nll_loss", "log_softmax.int", "softmax.int", "sum", "sum.dim_IntList")

_libraries = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)


def register() -> None:
    _libraries[0].fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for names, dtype in ((HALF, None), (FLOAT32, torch.float32)):
        for name in names:
            _libraries[1].impl(name, _casting(name, dtype), "AutocastPrivateUse1")


def _casting(name: str, dtype: torch.dtype | None) -> Any:
    packet, _, overload = name.partition(".")
    op = getattr(getattr(torch.ops.aten, packet), overload or "default")

    def kernel(*args: Any, **kwargs: Any) -> Any:
        to = dtype or torch.get_autocast_dtype("npu")

        def cast(x: Any) -> Any:
            floating = isinstance(x, torch.Tensor) and x.is_floating_point() and x.dtype != torch.float64
            return x.to(to) if floating else x

        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            args, kwargs = tree_map(cast, (args, kwargs))
            return op(*args, **kwargs)

    return kernel
