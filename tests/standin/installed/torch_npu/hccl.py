"""The collective backend "hccl", over gloo on the raw tensors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from . import native
from .tensor import unwrap


def register() -> None:
    dist.Backend.register_backend("hccl", Hccl, devices=["npu"])


class Done(dist._Work):
    def __init__(self, result: Any) -> None:
        super().__init__()
        self.future: torch.futures.Future[Any] = torch.futures.Future()
        self.future.set_result(result)

    def wait(self, timeout: Any = None) -> bool:
        return True

    def get_future(self) -> torch.futures.Future[Any]:
        return self.future


class Hccl(dist.ProcessGroup):
    """Blocks the host until the stream is done and the others are there, which the real one does not."""

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        self.gloo = dist.ProcessGroupGloo(store, rank, size, timeout)

    def allreduce(self, tensors: list[torch.Tensor], options: Any = None) -> Done:
        raw, how = unwrap(tensors), options or dist.AllreduceOptions()
        if native.capture is not None:
            native.launch(native.COMPUTE, lambda: self.gloo.allreduce(raw, how).wait(), "allreduce")
            return Done(tensors)
        native.wait_quietly()
        self.gloo.allreduce(raw, how).wait()
        return Done(tensors)

    def broadcast(self, tensors: list[torch.Tensor], options: Any = None) -> Done:
        native.wait_quietly()
        self.gloo.broadcast(unwrap(tensors), options or dist.BroadcastOptions()).wait()
        return Done(tensors)

    def allgather(
        self, outputs: list[list[torch.Tensor]], inputs: list[torch.Tensor], options: Any = None
    ) -> Done:
        native.wait_quietly()
        self.gloo.allgather(unwrap(outputs), unwrap(inputs)).wait()
        return Done(outputs)

    def barrier(self, options: Any = None) -> Done:
        self.gloo.barrier().wait()
        return Done(None)

    def getBackendName(self) -> str:  # noqa: N802 (torch's name)
        return "hccl"
