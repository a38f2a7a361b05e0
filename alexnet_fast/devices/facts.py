"""Facts about each kind of device that need no torch: for the doctor, the messages and the exit records."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceFacts:
    """One kind of device; a field that does not apply is empty.

    kind: torch's name of it, and the recipe's.
    vendor: the card's maker, as the doctor names it for a card on the bus.
    package: the package that torch needs in addition to use it.
    tool: the command that shows such devices and whether they are healthy.
    visible_variable: the environment variable that hides some of them.
    backends: torch.distributed's names of its collective backends, its own first.
    collective_error: a regular expression that finds its collective backend's name in an error.
    """

    kind: str
    vendor: str
    package: str
    tool: str
    visible_variable: str
    backends: tuple[str, ...]
    collective_error: str


CPU = DeviceFacts("cpu", "", "", "", "", ("gloo",), r"\bgloo\b")
CUDA = DeviceFacts("cuda", "NVIDIA", "", "nvidia-smi", "CUDA_VISIBLE_DEVICES", ("nccl", "gloo"), r"\bnccl\b")
NPU = DeviceFacts(
    "npu", "Huawei", "torch_npu", "npu-smi info", "ASCEND_RT_VISIBLE_DEVICES", ("hccl",), r"\bhccl\b"
)

FACTS = {facts.kind: facts for facts in (CPU, CUDA, NPU)}
"""Every kind by its name."""

COLLECTIVE_ERROR = re.compile(
    "|".join(
        (
            *(facts.collective_error for facts in FACTS.values()),
            "connection (closed|reset|refused)",
            "broken pipe",
        )
    ),
    re.IGNORECASE,
)
"""Matches the text of a RuntimeError of a failed collective."""
