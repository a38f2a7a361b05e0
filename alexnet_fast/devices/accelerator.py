"""What torch offers for every accelerator: the part that cuda and npu share."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..errors import UserError
from .device import Device
from .facts import FACTS


@dataclass(frozen=True)
class Accelerator(Device):
    """A card with its own memory, streams and random generator; half precision is float16."""

    is_host: ClassVar[bool] = False
    graph_class: ClassVar[str]
    capture_options: ClassVar[dict[str, Any]] = {}
    torch_device: torch.device
    half_dtype: torch.dtype
    memory_format: torch.memory_format
    pin_memory: bool
    casts_while_computing: bool

    @classmethod
    @abstractmethod
    def of(cls, torch_device: torch.device) -> Accelerator:
        """The device, with this kind's dtype and memory format."""

    @classmethod
    @abstractmethod
    def why_missing(cls) -> str:
        """One sentence: why this machine has no usable device of this kind, and what to do."""

    @classmethod
    def open(cls, name: str, index: int) -> Accelerator:
        kind = cls.facts.kind
        if usable_kind() != kind:
            raise UserError(cls.why_missing())
        count = torch.accelerator.device_count()
        if index >= count:
            raise UserError(
                f"run.device = {name!r} asks for {kind}:{index}, but this machine shows {count} {kind} device(s): "
                f"start fewer ranks, or check that {cls.facts.visible_variable} does not hide some of them"
            )
        return cls.of(torch.device(kind, index))

    @property
    def name(self) -> str:
        module = self._module
        return (
            str(module.get_device_name(self.torch_device))
            if hasattr(module, "get_device_name")
            else self.kind
        )

    @property
    def _module(self) -> Any:
        return torch.get_device_module(self.torch_device)

    def use(self, threads: int | None = None) -> None:
        try:
            torch.accelerator.set_device_index(self.torch_device.index or 0)
            torch.zeros((), device=self.torch_device).item()  # a broken driver fails only at the first use
        except RuntimeError as error:
            raise UserError(
                f"{self.torch_device} does not start ({first_line(error)}): check with {self.facts.tool} that it is "
                "healthy, free, and has a driver that fits this torch, or use run.device = 'cpu'"
            ) from error

    def synchronize(self) -> None:
        torch.accelerator.synchronize(self.torch_device)

    @property
    def saturates(self) -> bool:
        return False

    @property
    def why_no_graph(self) -> str:
        if hasattr(self._module, self.graph_class):
            return ""
        return f"this torch has no torch.{self.kind}.{self.graph_class}"

    def capture(self, work: Callable[[], None], warm_ups: int) -> Callable[[], None]:
        module = self._module
        side = module.Stream()  # gradients are accumulated on the stream that their first step ran on
        side.wait_stream(module.current_stream())
        with module.stream(side):
            for _ in range(warm_ups):
                work()
        module.current_stream().wait_stream(side)
        graph = getattr(module, self.graph_class)()
        with module.graph(graph, **self.capture_options):
            work()
        replay: Callable[[], None] = graph.replay
        return replay

    def peak_memory_bytes(self) -> int | None:
        # torch_npu counts its memory in its own module before it does in torch.accelerator.
        for peak in (
            torch.accelerator.max_memory_allocated,
            getattr(self._module, "max_memory_allocated", None),
        ):
            try:
                if peak is not None:
                    return int(peak(self.torch_device)) or None
            except (RuntimeError, NotImplementedError):
                continue
        return None

    def random_state(self) -> torch.Tensor | None:
        if not hasattr(self._module, "get_rng_state"):
            return None
        return self._module.get_rng_state(self.torch_device).cpu()

    def set_random_state(self, state: torch.Tensor | None) -> None:
        if state is not None:
            self._module.set_rng_state(state, self.torch_device)


def usable_kind() -> str | None:
    """The kind of this machine's accelerator, if it is usable and supported; else None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver that fails warns; why_missing, or the log, reports it
        try:
            accelerator = (
                torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            )
        except RuntimeError:
            return None
    return accelerator.type if accelerator is not None and accelerator.type in FACTS else None


def why_unusable(kind: str) -> str:
    """The backend's own error or warning, in brackets; "" if this torch has no such backend, or it reports nothing."""
    if not hasattr(torch, kind):
        return ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            torch.zeros((), device=kind)
        except (RuntimeError, AssertionError) as error:
            return f" ({first_line(error)})"
    return f" ({first_line(caught[-1].message)})" if caught else ""


def first_line(error: object) -> str:
    """An error's first line, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__
