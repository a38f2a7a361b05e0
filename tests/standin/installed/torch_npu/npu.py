"""The device module `torch.npu`, and its registration with torch."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import torch

from . import graph, native
from .tensor import generator, run

_home = os.getpid()
_libraries = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")


class NpuModule:
    """What torch.get_device_module("npu") gives, and the tests' questions beside it."""

    standin = native
    Stream = torch.Stream
    Event = torch.Event
    NPUGraph = graph.NPUGraph
    graph = graph.graph

    class utils:  # noqa: N801 (torch_npu's name)
        @staticmethod
        def is_support_inf_nan() -> bool:
            return not native.saturates

    def stream(self, stream: torch.Stream) -> torch.Stream:
        return stream  # a context manager

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return native.visible_devices() > 0

    def device_count(self) -> int:
        return native.visible_devices()

    def current_device(self) -> int:
        return torch.accelerator.current_device_index()

    def set_device(self, device: Any) -> None:
        torch.accelerator.set_device_index(device)

    def get_device_name(self, device: Any = None) -> str:
        return "a stand-in in host memory"

    def synchronize(self, device: Any = None) -> None:
        torch.accelerator.synchronize(device)

    def current_stream(self, device: Any = None) -> torch.Stream:
        return torch.accelerator.current_stream(device)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16, torch.float32]

    def _is_in_bad_fork(self) -> bool:
        return os.getpid() != _home

    def manual_seed_all(self, seed: int) -> None:
        native._library.standin_drain()  # what was drawn before belongs to the old seed
        generator.manual_seed(seed)

    manual_seed = manual_seed_all

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        native.wait_to("random state")
        return generator.get_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        native.wait_to("random state")
        generator.set_state(state)


def register() -> None:
    torch.utils.rename_privateuse1_backend("npu")
    torch._register_device_module("npu", NpuModule())
    torch.utils.generate_methods_for_privateuse1_backend()
    _libraries[0].fallback(run, "PrivateUse1")
    for overload in ("default", "start", "start_step"):  # torch's own makes an empty tensor and resizes it
        op = getattr(torch.ops.aten.arange, overload)
        _libraries[1].impl(op.name().removesuffix(".default"), partial(run, op), "PrivateUse1")
    torch.serialization.register_package(0, lambda storage: None, _refuse_to_load)


def _refuse_to_load(storage: Any, location: str) -> None:
    if location.startswith("npu"):
        raise RuntimeError('torch.load(map_location="npu") does not work on the npu: load to "cpu" and copy')
