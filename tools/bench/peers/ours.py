"""alexnet_fast.Loader, on any beton.

Its threads continue into the next epoch by design, so a loader that only paused would start a round with
batches ready, and would work during the other contestants' rounds. So each round has its own loader,
made before the clock starts (its threads do nothing before the first iteration) and closed after it.
"""

from __future__ import annotations

import numba
import torch

import alexnet_fast
from alexnet_fast.decode import turbojpeg
from alexnet_fast.loader.loader import Loader
from bench.peer import FLIP, RATIO, SCALE, SIZE_PX, Peer, Tally, Task


class Ours(Peer):
    def __init__(self, task: Task) -> None:
        self.task = task

    def prepare(self, first_epoch: int) -> None:
        self.loader = Loader(
            self.task.input,
            self.task.batch_size,
            train=True,
            size=SIZE_PX,
            threads=self.task.threads,
            scale=SCALE,
            ratio=RATIO,
            flip=FLIP,
        )
        self.loader.set_epoch(first_epoch)

    def run(self, epochs: int) -> Tally:
        tally = Tally()
        for _ in range(epochs):
            tally.count(self.loader)
        return tally

    def rest(self) -> None:
        self.loader.close()


def open_peer(task: Task) -> Peer:
    return Ours(task)


def versions() -> dict[str, str]:
    return {
        "alexnet_fast": alexnet_fast.__version__,
        "numba": numba.__version__,
        "torch": torch.__version__,
        "libturbojpeg": turbojpeg.load(),
    }
