"""Everything in which npu, cuda and cpu differ.

The rest of the engine asks a `Device`; ranks.py alone names kinds, to check the backend that is asked for.  The facts
about the NPU are from the sources of torch_npu 2.13: half precision is float16, `channels_last` does not exist, the collective
backend is hccl, a fused SGD kernel does.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ..common.cpus import allowed_cores
from ..errors import UserError

KINDS = ("npu", "cuda", "cpu")
POLL_S = 1e-4  # between two looks at an event: far less than a step, far more than a look costs


@dataclass(frozen=True)
class Device:
    """One rank's device and what has to be known of it.

    kind: "cpu", "cuda" or "npu".
    half_dtype: what O1 and O2 compute in; float16 needs a loss scale, bfloat16 does not.
    memory_format: how the model's weights and its images are laid out.
    pin_memory: whether the loader's host slots are page-locked, so that copies run beside the step.
    casts_while_computing: whether one kernel may read bytes and float32 and write halves.
    collective_backend: torch.distributed's name for this kind's collectives.
    """

    torch_device: torch.device
    kind: str
    half_dtype: torch.dtype
    memory_format: torch.memory_format
    pin_memory: bool
    casts_while_computing: bool
    collective_backend: str

    @property
    def is_host(self) -> bool:
        """True where batches already lie where the model computes, so nothing is copied."""
        return self.kind == "cpu"

    @property
    def half_needs_loss_scale(self) -> bool:
        return self.half_dtype is torch.float16

    @property
    def name(self) -> str:
        """The product's name, for reports."""
        if self.is_host:
            return processor_name()
        return (
            str(self._module.get_device_name(self.torch_device))
            if hasattr(self._module, "get_device_name")
            else self.kind
        )

    @property
    def _module(self) -> Any:
        return torch.get_device_module(self.torch_device)

    def use(self, threads: int | None = None) -> None:
        """Make this the process's device; on a CPU, compute on `threads` cores (default: those allowed).

        Raises UserError where the device does not start.
        """
        if self.is_host:
            torch.set_num_threads(threads or allowed_cores())
            keep_freed_memory()
            return
        try:
            torch.accelerator.set_device_index(self.torch_device.index or 0)
            torch.zeros((), device=self.torch_device).item()  # a driver fails at the first use, not before
        except RuntimeError as error:
            raise UserError(
                f"{self.torch_device} does not start ({_first_line(error)}): see with {_TOOL[self.kind]} that it is "
                "healthy, free, and served by a driver that fits this torch, or use run.device = 'cpu'"
            ) from error

    def synchronize(self) -> None:
        """Return when everything queued on the device is done."""
        if not self.is_host:
            torch.accelerator.synchronize(self.torch_device)

    # Streams and events are torch's generic ones throughout: a backend's own events take no generic streams.

    def stream(self) -> torch.Stream:
        """A new stream beside the current one; as a context, work goes there.  Not to be asked of a CPU."""
        return torch.Stream(self.torch_device)

    def current_stream(self) -> torch.Stream:
        """The stream that work goes to now, where nothing else is said."""
        return torch.accelerator.current_stream(self.torch_device)

    def event(self) -> torch.Event:
        """A new event: record(stream), and wait(stream) so that what is queued there from now on comes after it."""
        return torch.Event(self.torch_device, enable_timing=False)

    def wait_for(self, event: torch.Event) -> None:
        """Return when the host knows that `event` is done.

        Asleep, since the cores decode: `event.synchronize()` spins on one of them for as long as the device is
        the limit (CUDA by default, torch_npu while its task queue is behind).
        """
        while not event.query():
            time.sleep(POLL_S)

    def autocast(self, enabled: bool = True) -> AbstractContextManager[Any]:
        """O1's region; `half_dtype` inside where `enabled`."""
        return torch.autocast(self.kind, dtype=self.half_dtype) if enabled else nullcontext()

    def peak_memory_bytes(self) -> int | None:
        """The most memory that tensors held so far on the device, or None where it is not counted."""
        if self.is_host:
            return None
        try:
            return int(torch.accelerator.max_memory_allocated(self.torch_device)) or None
        except (RuntimeError, NotImplementedError):
            return None

    def random_state(self) -> torch.Tensor | None:
        """The state of the device's own generator (the CPU's is saved apart); None where there is none."""
        if self.is_host or not hasattr(self._module, "get_rng_state"):
            return None
        return self._module.get_rng_state(self.torch_device).cpu()

    def set_random_state(self, state: torch.Tensor | None) -> None:
        if state is not None and not self.is_host:
            self._module.set_rng_state(state, self.torch_device)


def resolve(name: str, local_rank: int = 0) -> Device:
    """The device called `name`: "auto" (an accelerator if there is one, else the CPU), "cpu", "cuda", "npu".

    An index may follow ("npu:1"); without one it is the rank's own, `local_rank`.
    Raises UserError for a name that is none, or a device that is not there, with what to install.
    """
    kind, _, given_index = name.partition(":")
    if kind == "auto" and not given_index:
        kind = _accelerator() or "cpu"
    if kind not in KINDS or (given_index and not given_index.isdecimal()):
        raise UserError(
            f"run.device = {name!r} is no device: give auto, cpu, cuda or npu, or one with its index as npu:0"
        )
    if kind == "cpu":
        return Device(torch.device("cpu"), "cpu", torch.bfloat16, torch.channels_last, False, True, "gloo")

    _need(kind)
    index = int(given_index) if given_index else local_rank
    count = torch.accelerator.device_count()
    if index >= count:
        raise UserError(
            f"run.device = {name!r} asks for {kind}:{index}, but this machine shows {count} {kind} device(s): "
            f"start fewer ranks, or see that {_VISIBLE[kind]} leaves enough of them"
        )
    device = torch.device(kind, index)
    if kind == "cuda":
        return Device(device, "cuda", torch.float16, torch.channels_last, True, True, "nccl")
    # channels_last on the NPU: "Only c10::MemoryFormat::Contiguous is supported"
    return Device(device, "npu", torch.float16, torch.contiguous_format, True, False, "hccl")


_TOOL = {"cuda": "nvidia-smi", "npu": "npu-smi info"}
_VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "npu": "ASCEND_RT_VISIBLE_DEVICES"}


def _accelerator() -> str | None:
    """The kind of this machine's accelerator, if it is usable and one of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # a driver that fails warns; _need, or the device's name in the log, says it
        try:
            accelerator = (
                torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            )
        except RuntimeError:
            return None
    return accelerator.type if accelerator is not None and accelerator.type in KINDS else None


def _need(kind: str) -> None:
    """Raise the one sentence that says why there is no `kind` here."""
    if _accelerator() == kind:
        return
    if kind == "cuda" and torch.version.cuda is None:
        raise UserError(
            f"run.device = 'cuda', but this torch ({torch.__version__}) is built without CUDA: install a "
            "CUDA build of torch, or use run.device = 'cpu'"
        )
    if kind == "cuda":
        raise UserError(
            f"run.device = 'cuda', but torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable GPU"
            f"{_why_unusable('cuda')}: check nvidia-smi and the driver's version, or use run.device = 'cpu'"
        )
    if importlib.util.find_spec("torch_npu") is None:
        raise UserError(
            "run.device = 'npu', but torch_npu is not installed: install torch-npu "
            f"{torch.__version__.split('+')[0]} and Huawei's CANN, or use run.device = 'cpu'"
        )
    raise UserError(
        f"run.device = 'npu' and torch_npu is installed, but it finds no usable NPU{_why_unusable('npu')}: check "
        "npu-smi info, source CANN's set_env.sh, and see that TORCH_DEVICE_BACKEND_AUTOLOAD is not 0"
    )


def _why_unusable(kind: str) -> str:
    """What the backend itself says, in brackets, as far as it is there to say anything."""
    if not hasattr(torch, kind):
        return ""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            torch.zeros((), device=kind)
        except (RuntimeError, AssertionError) as error:
            return f" ({_first_line(error)})"
    return f" ({_first_line(said[-1].message)})" if said else ""


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__


def keep_freed_memory() -> bool:
    """Have glibc keep freed blocks instead of returning each to the system; False where it is not glibc.

    A step frees and asks again for the same 100 MB gradients and activations.  By default each becomes a
    mapping of its own and every page is faulted in anew: at 224 px and batch 64, 180,000 faults a step in
    float32 and 40,000 at O2.  Kept blocks fault in the first three steps and never again.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(m_mmap_max, 0) and mallopt(m_trim_threshold, 2**31 - 1))


def processor_name() -> str:
    """The processor's product name, or its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
