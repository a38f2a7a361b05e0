"""Bottlenecks planted one by one, each of which the profile has to name: run on the stand-in NPU by test_planted.py.

The model is a few sums, so that a step takes only the time by which the stand-in is late, and no core that decodes.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alexnet_fast.common import page_cache
from alexnet_fast.decode.decoder import Decoder
from alexnet_fast.decode.kernel import SAMPLE_DTYPE, sample_table
from alexnet_fast.models import MODELS
from alexnet_fast.profile import decoding as decoding
from alexnet_fast.profile import profiler
from alexnet_fast.profile.result import Profile
from alexnet_fast.profile.verdict import WORDS
from alexnet_fast.recipe import Recipe
from alexnet_fast.recipe_toml import validate

STANDIN = torch.npu.standin
LAUNCHES = 400
SECONDS = float(os.environ.get("ALEXNET_FAST_PROFILE_SECONDS", 1))


class FewSums(nn.Module):
    """A model whose steps take almost no time."""

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.classifier = nn.Linear(3, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images[:, :, 0, 0])


class ManyLaunches(FewSums):
    """A model of many tiny operations: queueing each takes longer than computing it."""

    def forward(self, images: Tensor) -> Tensor:
        values = super().forward(images)
        for _ in range(LAUNCHES):
            values = values + 0.0
        return values


@pytest.fixture(autouse=True)
def late(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """late(copies_s=..., compute_s=...): from now on the stand-in's streams are later than the host."""
    monkeypatch.setitem(MODELS, "alexnet", replace(MODELS["alexnet"], network=f"{__name__}:FewSums"))
    torch.set_num_threads(1)
    yield STANDIN.be_late
    STANDIN.be_late()


class SlowDisk:
    """A disk that gives N bytes a second to one reader at a time, and a page cache of a few samples for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bytes_per_s: float, cached_samples: int) -> None:
        self.bytes_per_s, self.cached_samples = bytes_per_s, cached_samples
        self.cached: OrderedDict[int, None] = OrderedDict()
        self.lock, self.taking, self.unread = threading.Lock(), threading.Lock(), count(4, 4)
        decode = Decoder.decode

        def read_and_decode(
            decoder: Decoder,
            file: Any,
            samples: Any,
            boxes: Any,
            images: Any,
            statuses: Any,
            progress: Any = None,
        ) -> np.ndarray:
            done = []
            progress = np.zeros(2, np.int64) if progress is None else progress  # as Decoder.decode
            while (q := self.take(progress)) < len(samples):
                one = slice(q, q + 1)
                self.read(samples[one])
                decode(decoder, file, samples[one], boxes[..., one], images[..., one, :, :, :], statuses[one])
                done.append(q)
            return np.array(done, np.int64)

        monkeypatch.setattr(Decoder, "decode", read_and_decode)
        monkeypatch.setattr(decoding, "touch", lambda beton, places: self.read(sample_table(beton)[places]))
        monkeypatch.setattr(page_cache, "resident_share", lambda path: 0.0)
        monkeypatch.setattr(page_cache, "disk_rate", lambda path: page_cache.Rate(self.rate(), 1))

    def take(self, progress: np.ndarray) -> int:
        """The place of a sample of a batch that no other thread has."""
        with self.taking:
            progress[0] += 1
            return int(progress[0]) - 1

    def read(self, samples: np.ndarray) -> None:
        with self.lock:
            for sample in samples:
                if int(sample["ptr"]) not in self.cached:
                    time.sleep(int(sample["size"]) / self.bytes_per_s)
                self.cached[int(sample["ptr"])] = None
                self.cached.move_to_end(int(sample["ptr"]))
                if len(self.cached) > self.cached_samples:
                    self.cached.popitem(last=False)

    def rate(self) -> float:
        samples = np.zeros(4, SAMPLE_DTYPE)
        samples["size"], samples["ptr"] = 100_000, -next(self.unread) - np.arange(4)
        started = time.perf_counter()
        self.read(samples)
        return 400_000 / (time.perf_counter() - started)


def profile(all_photos_beton: Path, folder: Path, name: str, **data: Any) -> Profile:
    """Profile a small recipe on the stand-in; prints what was predicted and what was measured."""
    table = {
        "run": {"name": name, "out": str(folder), "device": "npu"},
        "data": {"train": str(all_photos_beton), "size": 64, "global_batch_size": 32, **data},
        "precision": {"level": "O0"},
    }
    found = profiler.profile(recipe := validate(table), SECONDS)
    verdict, whole = found.verdict, found.stages.whole
    print(
        f"{name}: binding {verdict.binding}, predicted {verdict.predicted_img_per_s:.1f}, measured "
        f"{whole.img_per_s.median:.1f} img/s, {100 * verdict.share_of_ceiling:.1f} %, data wait {whole.data_wait_share:.2f}"
    )
    check_files(recipe)
    return found


def check_files(recipe: Recipe) -> None:
    """The profile's files, and no others."""
    names = {path.name for path in recipe.folder.iterdir()}
    assert names == {"throughput.json", "timeline.json"}
    document = json.loads((recipe.folder / "throughput.json").read_text())
    assert WORDS[document["verdict"]["binding"]] in document["verdict"]["text"].lower()
    assert (
        0.5 < document["verdict"]["share_of_ceiling"] < 2
    )  # tools/bench_profile.py measures how close it is


def test_a_slow_reader_is_named(
    all_photos_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SlowDisk(monkeypatch, bytes_per_s=8e6, cached_samples=250)
    found = profile(all_photos_beton, tmp_path, "slow-reader", batches_ahead=1)
    assert found.verdict.binding == "read"
    assert "MB/s" in found.verdict.text and found.stages.whole.data_wait_share > 0.2


def test_a_decoder_held_to_one_thread_is_named(all_photos_beton: Path, tmp_path: Path) -> None:
    found = profile(
        all_photos_beton,
        tmp_path,
        "one-thread",
        threads=1,
        size=96,
        global_batch_size=384,
        scale=(1.0, 1.0),
        decoder="libjpeg",  # slower, and the host's queueing is no limit even on a busy machine
    )
    assert found.verdict.binding == "decode" and found.stages.whole.data_wait_share > 0.2
    assert " cores in place of " in found.verdict.text and "--max-resolution 256" in found.verdict.text


def test_a_slow_copy_is_named(all_photos_beton: Path, tmp_path: Path, late: Any) -> None:
    late(copies_s=0.2)  # one copy a batch: much longer than a step takes, also on a busy machine
    found = profile(all_photos_beton, tmp_path, "slow-copy")
    assert found.verdict.binding == "copy" and "page-locked" in found.verdict.text


def test_a_slow_step_is_named(all_photos_beton: Path, tmp_path: Path, late: Any) -> None:
    late(compute_s=0.002)
    found = profile(all_photos_beton, tmp_path, "slow-step")
    assert found.verdict.binding == "step" and found.stages.whole.data_wait_share < 0.1
    assert "optimizer" in found.verdict.text


def test_a_host_that_queues_many_tiny_launches_next_to_decoding_is_named(
    all_photos_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(MODELS["alexnet"], network=f"{__name__}:ManyLaunches")
    monkeypatch.setitem(MODELS, "alexnet", model)
    found = profile(all_photos_beton, tmp_path, "many-launches")
    whole, queue = found.stages.whole, found.stages.queue
    assert found.verdict.binding == "queue" and "engine.graph = true" in found.verdict.text
    assert " cores in place of " not in found.verdict.text
    assert queue is not None and queue.device_ms is not None
    assert queue.device_ms.median < queue.alone_ms.median
    assert whole.idle_share > 0.1 and whole.queue_share > 0.7
