"""What the card itself can do: its two ceilings, arithmetic and memory, and its link to the host."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ...devices.device_timer import DeviceTimer
from ...profile import copying
from ...profile.stats import Stat
from .bench import Bench
from .row import Row, judged, skipped

LARGEST_SIDE = 8192
LONG_MS = 30.0  # a product that takes longer is large enough
COPY_BYTES = 1 << 30
ROUNDS = 5
BEHIND_BYTES = 64 << 20


def products(bench: Bench) -> Row:
    """Products of square matrices, in the half precision of the device and in float32."""
    half, single = (
        _product_rate(bench, dtype, bench.seconds / 2) for dtype in (bench.device.half_dtype, torch.float32)
    )
    name = str(bench.device.half_dtype).removeprefix("torch.")
    bench.found["flop_per_s"] = half.median
    return judged(
        "matrix product",
        half.median > single.median,
        f"{name} is faster than float32",
        f"{half.median / 1e12:,.2f} TFLOP/s in {name}, {single.median / 1e12:,.2f} in float32",
        'this device has no fast unit for half precision: precision.level = "O0" may be as fast',
        half_tflop_per_s=half.median / 1e12,
        float32_tflop_per_s=single.median / 1e12,
    )


def device_copy(bench: Bench) -> Row:
    """A copy within the device's memory; what is read and what is written both count."""
    size = COPY_BYTES
    if bench.device.is_host:
        size //= 4
    source = torch.zeros(size, dtype=torch.uint8, device=bench.device.torch_device)
    target = torch.empty_like(source)
    rate = _rate(bench, lambda: target.copy_(source), 2 * size, bench.seconds)
    bench.found["copy_bytes_per_s"] = rate.median
    return judged(
        "copy within the device",
        rate.median > 0 and rate.min > 0.8 * rate.max,
        "the same in each round, within 20 %",
        f"{rate.median / 1e9:,.0f} GB/s ({rate.min / 1e9:,.0f} to {rate.max / 1e9:,.0f})",
        "something else uses the device, or its clock changes: look with its own tool, and measure again",
        gb_per_s=rate.median / 1e9,
    )


def link(bench: Bench) -> list[Row]:
    """Batches from page-locked and from ordinary memory, and whether the host is free meanwhile."""
    names = "link, page-locked", "page-locked copies beside the host"
    if bench.device.is_host:
        return [skipped(name, "nothing is copied on a CPU", "nothing to measure") for name in names]
    found = copying.measure(
        bench.device, bench.batch_size, bench.recipe.data.largest_size, bench.seconds, bench.world
    )
    assert found is not None
    pinned, pageable = found.pinned_bytes_per_s.median, found.pageable_bytes_per_s.median
    bench.found["copy"] = found.img_per_s
    called_s, took_s = _copy_beside_the_host(bench)
    return [
        judged(
            names[0],
            pinned > 1.1 * pageable,
            "faster than from ordinary memory",
            f"{pinned / 1e9:,.2f} GB/s ({found.img_per_s:,.0f} img/s), from ordinary memory {pageable / 1e9:,.2f}",
            "check that the card has a slot of full width and that this process runs on its NUMA node (python -m alexnet_fast.doctor)",
            pinned_gb_per_s=pinned / 1e9,
            pageable_gb_per_s=pageable / 1e9,
            img_per_s=found.img_per_s,
        ),
        judged(
            names[1],
            called_s < 0.5 * took_s,
            "the host goes on before the copy is done",
            f"the call took {1e3 * called_s:,.2f} ms, the copy of {BEHIND_BYTES >> 20} MiB {1e3 * took_s:,.2f}",
            "the driver copies while the host waits, so that copies do not run next to the steps: check the driver's version",
            otherwise="fault",
            call_ms=1e3 * called_s,
            copy_ms=1e3 * took_s,
        ),
    ]


def _copy_beside_the_host(bench: Bench) -> tuple[float, float]:
    """Seconds of the call, and until the copy is done."""
    source = torch.zeros(BEHIND_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=bench.device.torch_device)
    target.copy_(source, non_blocking=True)
    found = []
    for _ in range(ROUNDS):
        bench.device.synchronize()
        began_s = time.perf_counter()
        target.copy_(source, non_blocking=True)
        called_s = time.perf_counter() - began_s
        bench.device.synchronize()
        found.append((called_s, time.perf_counter() - began_s))
    return min(found)


def _product_rate(bench: Bench, dtype: torch.dtype, seconds: float) -> Stat:
    """FLOP/s of the largest products that take no longer than a part of the time."""
    side = 512
    while True:
        factor = torch.ones(side, side, dtype=dtype, device=bench.device.torch_device)
        product = torch.empty_like(factor)

        def work(factor: torch.Tensor = factor, product: torch.Tensor = product) -> None:
            torch.mm(factor, factor, out=product)

        work()
        work()
        once_s = _seconds(bench, work, 1)
        if side == LARGEST_SIDE or once_s * 1e3 > LONG_MS:
            return _rate(bench, work, 2 * side**3, seconds)
        side *= 2


def _rate(bench: Bench, work: Callable[[], object], units: float, seconds: float) -> Stat:
    """Units a second of work that the device does back to back, in ROUNDS rounds."""
    work()
    once_s = _seconds(bench, work, 1)
    count = max(1, min(1000, int(seconds / (ROUNDS + 1) / max(once_s, 1e-6))))
    return Stat.of([units * count / _seconds(bench, work, count) for _ in range(ROUNDS)])


def _seconds(bench: Bench, work: Callable[[], object], count: int) -> float:
    timer = DeviceTimer(bench.device)
    begin = timer.stamp()
    for _ in range(count):
        work()
    end = timer.stamp()
    bench.device.synchronize()
    return max(1e-9, timer.when(end) - timer.when(begin))
