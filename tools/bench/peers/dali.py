"""NVIDIA DALI on the CPU: fused decode and random crop, antialiased resize, flip.

Its executor runs batches ahead across epochs; so a round schedules exactly its own batches, which leaves
no batch for the next round and no work while others run (only its reader holds the bytes of one batch
ready, which is to its advantage). The first ``schedule_run`` fills the complete queue, later ones add one batch.
"""

from __future__ import annotations

import os
from importlib.metadata import distributions, version
from typing import Any

import numpy as np
import nvidia.dali as dali
from nvidia.dali import fn, types

from bench.peer import FLIP, RATIO, SCALE, SIZE_PX, Peer, Tally, Task

AHEAD = 2  # batches; DALI's default prefetch_queue_depth


@dali.pipeline_def
def random_resized_crops(folder: str) -> Any:
    jpegs, labels = fn.readers.file(file_root=folder, shuffle_after_epoch=True, name="files")
    images = fn.decoders.image_random_crop(
        jpegs, device="cpu", output_type=types.RGB, random_area=list(SCALE), random_aspect_ratio=list(RATIO)
    )
    images = fn.resize(images, size=(SIZE_PX, SIZE_PX), interp_type=types.INTERP_LINEAR, antialias=True)
    return fn.flip(images, horizontal=fn.random.coin_flip(probability=FLIP)), labels


class Dali(Peer):
    def __init__(self, task: Task) -> None:
        # The bench cuts the set to complete batches.
        self.steps = sum(len(files) for _, _, files in os.walk(task.input)) // task.batch_size
        self.ahead = min(AHEAD, self.steps)
        self.fresh = True
        self.pipeline = random_resized_crops(
            folder=task.input,
            batch_size=task.batch_size,
            num_threads=task.threads,
            device_id=None,
            prefetch_queue_depth=self.ahead,
        )
        self.pipeline.build()

    def run(self, epochs: int) -> Tally:
        tally = Tally()
        steps = epochs * self.steps
        scheduled = 0
        for step in range(steps):
            while scheduled < min(step + self.ahead, steps):
                scheduled += self._schedule()
            images, labels = self.pipeline.share_outputs()
            tally.add(np.asarray(images.as_tensor()), int(np.asarray(labels.as_tensor()).sum()))  # no copies
            self.pipeline.release_outputs()
        return tally

    def _schedule(self) -> int:
        """Have DALI make more batches. -> how many"""
        self.pipeline.schedule_run()
        batches, self.fresh = (self.ahead if self.fresh else 1), False
        return batches


def open_peer(task: Task) -> Peer:
    return Dali(task)


def versions() -> dict[str, str]:
    wheels = sorted(
        {d.metadata["Name"] for d in distributions() if d.metadata["Name"].startswith("nvidia-dali")}
    )
    return {name: version(name) for name in wheels}
