"""Gradients averaged over the ranks in a few flat buffers: in place of DDP where the step is captured as a graph.

DDP's own reducer is not made for a graph that its user captures: it rebuilds its buckets after the first step and looks for
unused parameters on the host.  Here the buckets never change.  96 % of AlexNet's bytes are the three dense layers', whose
gradients are ready first, so their sums run concurrently with the backward pass of the convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .world import World

BUCKET_BYTES = 4 << 20  # a bucket is closed once it is as large; smaller ones cost a collective each


class _Bucket:
    """Some parameters, whose gradients are neighbours in one buffer of their dtype."""

    def __init__(self, params: list[nn.Parameter], in_float32: bool) -> None:
        self.params = params
        self.flat = torch.zeros(
            sum(p.numel() for p in params), dtype=params[0].dtype, device=params[0].device
        )
        self.views: list[Tensor] = []
        start = 0
        for param in params:  # laid out as the parameter is, which is dense
            self.views.append(self.flat.as_strided(param.size(), param.stride(), start))
            start += param.numel()
        needs_cast = in_float32 and self.flat.dtype is not torch.float32
        self.summed = torch.zeros_like(self.flat, dtype=torch.float32) if needs_cast else self.flat
        self.missing = len(params)
        self.work: Any = None


class FlatGradients:
    """Averages the gradients of `params` over the ranks: sums begin during the backward pass, `finish` waits for them.

    Each parameter's gradient is then a view of a buffer that stays where it is.

    reduce: "half" sums gradients in their own precision; "float32" sums halves in float32, at twice the traffic.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], world: World, reduce: Literal["half", "float32"]
    ) -> None:
        self._world = world
        self._buckets = [_Bucket(each, reduce == "float32") for each in _split(list(params))]
        self._is_on = True
        for bucket in self._buckets:
            for param in bucket.params:
                param.register_post_accumulate_grad_hook(partial(self._is_ready, bucket))

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes inside leave each rank its own gradients."""
        self._is_on = False
        try:
            yield
        finally:
            self._is_on = True

    @torch.no_grad()
    def _is_ready(self, bucket: _Bucket, _: Tensor) -> None:
        bucket.missing -= 1
        if bucket.missing == 0 and self._is_on:
            self._sum(bucket)

    def _sum(self, bucket: _Bucket) -> None:
        gradients = [
            param.grad if param.grad is not None else torch.zeros_like(param) for param in bucket.params
        ]
        torch._foreach_copy_(bucket.views, gradients)
        for param in bucket.params:
            param.grad = None
        if bucket.summed is not bucket.flat:
            bucket.summed.copy_(bucket.flat)
        bucket.summed.div_(self._world.world_size)
        bucket.work = dist.all_reduce(bucket.summed, async_op=True)

    @torch.no_grad()
    def finish(self) -> None:
        """Wait, on the device where it is able to, until every gradient is averaged."""
        for bucket in self._buckets:
            if self._is_on:
                if bucket.work is None:  # a parameter had no gradient
                    self._sum(bucket)
                bucket.work.wait()
                if bucket.summed is not bucket.flat:
                    bucket.flat.copy_(bucket.summed)
                for param, view in zip(bucket.params, bucket.views, strict=True):
                    param.grad = view
            bucket.missing, bucket.work = len(bucket.params), None


def _split(params: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one dtype each, the last first, as their gradients get ready."""
    for dtype in dict.fromkeys(param.dtype for param in params):
        bucket: list[nn.Parameter] = []
        for param in reversed([each for each in params if each.dtype is dtype]):
            bucket.append(param)
            if sum(each.nbytes for each in bucket) >= BUCKET_BYTES:
                yield bucket
                bucket = []
        if bucket:
            yield bucket
