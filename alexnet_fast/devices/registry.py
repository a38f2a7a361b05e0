"""Devices by name."""

from __future__ import annotations

from ..errors import UserError
from .accelerator import usable_kind
from .cpu import Cpu
from .cuda import Cuda
from .device import Device
from .npu import Npu

DEVICES: dict[str, type[Device]] = {"cpu": Cpu, "cuda": Cuda, "npu": Npu}


def resolve(name: str, local_rank: int = 0) -> Device:
    """The device called `name`: "auto" (an accelerator if there is one, else the CPU), "cpu", "cuda", "npu".

    An index may follow ("npu:1"); without one the index is `local_rank`.
    Raises UserError for an unknown name, or for a device that this machine does not have, with what to install.
    """
    kind, _, given_index = name.partition(":")
    if kind == "auto" and not given_index:
        kind = usable_kind() or "cpu"
    if kind not in DEVICES or (given_index and not given_index.isdecimal()):
        *some, last = DEVICES
        raise UserError(
            f"run.device = {name!r} is not a device: give auto, {', '.join(some)} or {last}, or one with its index as npu:0"
        )
    return DEVICES[kind].open(name, int(given_index) if given_index else local_rank)
