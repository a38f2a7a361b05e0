"""A busy main thread beside a loader: the process of one contestant of ``tools/bench_contention.py``.

    python -m bench.contention '{"peer": "ours", "beton": "train.beton", "size_px": 64, "batch_size": 128, "steps": 150}'

It answers a line {"calls": N, "threads": T, "burn_ms": B} with the figures of some steps.  A step makes N tiny torch calls, as queueing
kernels does, and takes one batch.  {"calibrate_ms": MS} is answered with how many calls take so long.  Loaders are open while they are measured only.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bench.peer import FLIP, RATIO, SCALE
from bench.proc import cpu_s, tree

ALONE, LOCK_FREE, OURS, FFCV, DATALOADER = PEERS = ("alone", "lock-free", "ours", "ffcv", "dataloader")
WARM_UP_STEPS = 12
CALIBRATION_CALLS = 5000
FIELDS = 16  # int64 on two cache lines

Next = Callable[[], Any]


class Task(TypedDict):
    """What a contestant is measured on."""

    peer: str
    beton: str
    size_px: int
    batch_size: int
    steps: int


class Asked(TypedDict):
    """One measurement: tiny calls a step, and the contestant's threads; a lock-free neighbour burns ``burn_ms`` of CPU time in each ``step_ms``."""

    calls: int
    threads: int
    burn_ms: float
    step_ms: float


@contextmanager
def alone(task: Task, asked: Asked) -> Iterator[Next]:
    """No neighbour, no batch."""
    yield lambda: None


@contextmanager
def lock_free(task: Task, asked: Asked) -> Iterator[Next]:
    """Threads that burn as much CPU time as asked, in one compiled call each: none of them ever takes the interpreter's lock."""
    from bench.neighbour import burn, clocks

    state = np.zeros(FIELDS, np.int64)
    share_ns = asked["burn_ms"] * 1e6 / asked["threads"]
    arguments = (state, int(asked["step_ms"] * 1e6), int(share_ns))
    burn(np.ones(FIELDS, np.int64), 1, 0, clocks())  # compile
    threads = [
        threading.Thread(target=burn, args=(*arguments, clocks()), daemon=True)
        for _ in range(asked["threads"])
    ]
    for thread in threads:
        thread.start()
    try:
        yield lambda: None
    finally:
        state[0] = 1
        for thread in threads:
            thread.join()


@contextmanager
def ours(task: Task, asked: Asked) -> Iterator[Next]:
    """alexnet_fast.Loader, one epoch after another."""
    from alexnet_fast import Loader

    with Loader(
        task["beton"],
        task["batch_size"],
        train=True,
        size=task["size_px"],
        threads=asked["threads"],
        scale=SCALE,
        ratio=RATIO,
        flip=FLIP,
    ) as loader:

        def forever() -> Generator[Any, None, None]:
            while True:
                yield from loader

        batches = forever()
        try:
            yield lambda: next(batches)
        finally:
            batches.close()


_ffcv_loaders: dict[int, Any] = {}  # FFCV compiles its pipeline for each loader


@contextmanager
def ffcv(task: Task, asked: Asked) -> Iterator[Next]:
    """FFCV's Loader with its own decoder, in one epoch that is long enough."""
    from ffcv.fields import rgb_image
    from ffcv.fields.basics import IntDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor

    threads, size = asked["threads"], task["size_px"]
    if threads not in _ffcv_loaders:
        wanted = (task["steps"] + WARM_UP_STEPS + 8) * task["batch_size"]
        samples = sample_count(task)
        _ffcv_loaders[threads] = Loader(
            task["beton"],
            batch_size=task["batch_size"],
            num_workers=threads,
            order=OrderOption.RANDOM,
            os_cache=True,
            indices=np.tile(np.arange(samples), -(-wanted // samples)),
            pipelines={
                "image": [
                    rgb_image.RandomResizedCropRGBImageDecoder((size, size), SCALE, RATIO),
                    RandomHorizontalFlip(FLIP),
                    ToTensor(),
                ],
                "label": [IntDecoder(), ToTensor(), Squeeze()],
            },
        )
    batches = iter(_ffcv_loaders[threads])
    torch.set_num_threads(1)  # FFCV sets it to its own threads
    try:
        yield lambda: next(batches)
    finally:
        batches.close()
        batches.join()


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """The images of a beton by Pillow: a random-resized crop, flipped or not, as uint8."""

    def __init__(self, path: str, size_px: int) -> None:
        from alexnet_fast.beton.reader import Beton

        self.beton, self.size_px = Beton(path), size_px

    def __len__(self) -> int:
        return self.beton.num_samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        with Image.open(io.BytesIO(self.beton.payload(index).tobytes())) as image:
            share = (SCALE[0] + torch.rand(()).item() * (SCALE[1] - SCALE[0])) ** 0.5
            width, height = image.width * share, image.height * share
            left, top = (
                torch.rand(()).item() * (image.width - width),
                torch.rand(()).item() * (image.height - height),
            )
            crop = image.convert("RGB").resize(
                (self.size_px, self.size_px),
                Image.Resampling.BILINEAR,
                (left, top, left + width, top + height),
            )
        if torch.rand(()).item() < FLIP:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(crop)).permute(2, 0, 1), int(self.beton.labels[index])


@contextmanager
def dataloader(task: Task, asked: Asked) -> Iterator[Next]:
    """torch's DataLoader with worker processes, in one epoch that is long enough."""
    wanted = (task["steps"] + WARM_UP_STEPS + 2 * asked["threads"] + 8) * task["batch_size"]
    pictures = Pictures(task["beton"], task["size_px"])
    sampler = torch.utils.data.RandomSampler(pictures, replacement=True, num_samples=wanted)
    loader = DataLoader(
        pictures, task["batch_size"], sampler=sampler, num_workers=asked["threads"], drop_last=True
    )
    try:
        yield iter(loader).__next__  # when it is freed, the workers end
    finally:
        pictures.beton.close()


OPEN = dict(zip(PEERS, (alone, lock_free, ours, ffcv, dataloader), strict=True))


def sample_count(task: Task) -> int:
    from alexnet_fast.beton.reader import Beton

    with Beton(task["beton"]) as beton:
        return beton.num_samples


def tiny_calls() -> Callable[[int], None]:
    """A function that makes N torch calls of about a microsecond each."""
    numbers = torch.zeros(16)

    def work(calls: int) -> None:
        for _ in range(calls):
            numbers.add_(1)

    return work


def calibrate(work: Callable[[int], None], wanted_ms: float) -> int:
    """How many calls take so many milliseconds: by the fastest of several tries, since others may use the core."""
    best_s = float("inf")
    for _ in range(15):
        started = time.perf_counter()
        work(CALIBRATION_CALLS)
        best_s = min(best_s, time.perf_counter() - started)
    return max(1, round(wanted_ms / 1e3 / best_s * CALIBRATION_CALLS))


def measure(task: Task, asked: Asked, work: Callable[[int], None]) -> dict[str, float]:
    """The figures of one step, on average over ``steps`` of them."""
    with OPEN[task["peer"]](task, asked) as take:
        for _ in range(WARM_UP_STEPS):
            take()
            work(asked["calls"])
        processes = tree(os.getpid())  # to look for them takes time, and so it is done before
        # rusage counts threads that have ended, which /proc/self/task forgets.
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        of_main = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        main_cpu_s, used_s, taking_s = time.thread_time(), cpu_s(processes), 0.0
        started = time.perf_counter()
        for _ in range(task["steps"]):
            asked_at = time.perf_counter()
            take()
            taking_s += time.perf_counter() - asked_at
            work(asked["calls"])
        took_s = time.perf_counter() - started
        used_s, main_cpu_s = cpu_s(processes) - used_s, time.thread_time() - main_cpu_s
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - switches
        of_main = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - of_main
    steps = task["steps"]
    return {
        "step_ms": took_s / steps * 1e3,
        "next_ms": taking_s / steps * 1e3,
        "switches": switches / steps,
        "main_switches": of_main / steps,
        "cores": used_s / took_s,
        "neighbour_cpu_ms": (used_s - main_cpu_s) / steps * 1e3,
    }


def main(task: Task) -> None:
    torch.set_num_threads(1)
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        if task["peer"] == FFCV:
            import ffcv as library

            print(library.__file__, file=sys.stderr)
    except ImportError as error:
        print(json.dumps({"absent": str(error)}), file=reply, flush=True)
        return
    work = tiny_calls()
    work(CALIBRATION_CALLS)
    print(json.dumps({"ready": True}), file=reply, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "calibrate_ms" in asked:
            answer: dict[str, Any] = {"calls": calibrate(work, asked["calibrate_ms"])}
        else:
            answer = dict(measure(task, asked, work))
        print(json.dumps(answer), file=reply, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
