"""Work that is queued while the device is held by other work: run on the stand-in NPU by test_queueing.py."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from alexnet_fast.devices.registry import resolve
from alexnet_fast.distributed.world import World
from alexnet_fast.profile.queueing import device_time

STANDIN = torch.npu.standin
LATE_S = 0.002
OPERATIONS = 20


@pytest.fixture(autouse=True)
def late() -> Iterator[None]:
    """Every operation begins LATE_S later than its stream could."""
    torch.set_num_threads(1)
    STANDIN.be_late(compute_s=LATE_S)
    yield
    STANDIN.be_late()


def test_a_host_that_is_slower_than_the_device_does_not_lengthen_what_the_device_computes() -> None:
    device = resolve("npu")
    number = torch.zeros((), device=device.torch_device)

    def work() -> None:
        for _ in range(OPERATIONS):
            number.add_(1)
            time.sleep(3 * LATE_S)  # the host's own time: the device would be idle

    found = device_time(work, device, OPERATIONS * 3e3 * LATE_S, 0.5, World())
    assert found is not None and OPERATIONS * LATE_S * 1e3 <= found.median < 3 * OPERATIONS * LATE_S * 1e3


def test_work_that_waits_for_the_device_cannot_be_queued_ahead() -> None:
    device = resolve("npu")
    number = torch.zeros((), device=device.torch_device)

    def work() -> None:
        number.add_(1)
        number.item()

    assert device_time(work, device, 1.0, 0.5, World()) is None
