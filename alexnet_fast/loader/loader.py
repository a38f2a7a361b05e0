"""The public Loader: batches of a beton, decoded ahead by threads that live across epochs."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, ClassVar

import numpy as np

from ..beton.reader import Beton
from ..common.arguments import (
    check,
    choice,
    crop_ratio,
    crop_scale,
    flag,
    number,
    probability,
    seed_of,
    whole,
)
from ..common.cpus import allowed_cores
from ..common.settled import Settled
from ..decode import turbojpeg
from ..decode.counter_rng import occurrences
from ..decode.crop import CropOptions
from ..decode.kernel import sample_table
from ..errors import UserError
from .bad_samples import BadSampleFilter, OnError, SkippedSample
from .buffer_pool import Batch, BufferPool
from .decode_workers import DecodeWorkers
from .page_advice import bytes_of
from .planner import Planner, check_indices
from .sampler import DistributedBatchSampler
from .thread_stats import ThreadStats, TraceHook
from .watchdog import STALL_S, Watchdog


class Loader(Settled):
    """Batches of ``(images, labels)`` from a beton file.

    ``images`` is uint8 (B, 3, size, size), ``labels`` int64 (B,), both torch tensors in host memory.  Where the label is a
    float field, ``labels`` is float32: the file's float64, rounded, as a loss of float32 outputs takes it.
    The pixels of sample i in epoch e are a function of (seed, e, i) alone, and the order of (seed, e):
    neither threads, nor batch size, nor ranks, nor a resume change them.  A batch that you hold is
    yours; its memory is used again when your last reference to it is gone.

    Where ``indices`` repeats a sample, each of its copies has a crop and a flip of its own, which hang on which copy in
    that list it is; the first copy's are those of a sample that comes once.

    Pickled or copied, a Loader is its arguments, with the absolute path of its file, and where its next iteration begins:
    another one is opened from them, in whatever process.

    Args:
        path: a .beton file, packed by ``python -m alexnet_fast.pack`` or written by FFCV.
        batch_size: samples a batch, on each rank.
        train: random-resized crops, flips and a shuffled order; else the resized centre crop, in the file's order.
        size: side of the images, in pixels.
        seed: of the order, the crops and the flips.
        threads: decoding threads (default: the cores that this process may use).
        rank, world_size: this process's share of every epoch.
        indices: the samples to use, by their places in the file (default: all of them); one may come several times.
        shuffle: a new order every epoch (default: as ``train``).
        drop_last: leave out the rest that does not fill a batch on every rank (default: as ``train``).
        scale, ratio: of the random-resized crop, as torchvision's.
        flip: probability of a mirrored image.
        center_ratio: ``size`` over the shorter side before the centre crop: 224 / 256 is Resize(256) + CenterCrop(224).
        batches_ahead: batches that are being filled or wait, beside those that are held.
        read_ahead_bytes: how far beyond those batches the file is read into the page cache; 0 = only when touched.
        pin_memory: page-locked memory, so that an accelerator can copy batches asynchronously.
        on_error: what becomes of a sample that cannot be decoded: "raise" names the first in the epoch's order; "skip"
            leaves it out of its batch, which is shorter, and lists it in ``skipped``.  A batch of which nothing is left
            is passed over, or an error with ``drop_last``, where all ranks make as many steps.
        image_field, label_field: names of the fields to load, as the file stores them; needed only where it has several
            RGB images or several ints.  A float is the label where it is named, or where there is no int.
        stall_s: a wait of so many seconds in which no thread finishes anything is told on the log "alexnet_fast", with what
            each thread is doing; after five times that it is an error.

    Raises:
        UserError: an argument out of range or of a wrong type, a batch larger than the set with ``drop_last``; an attribute
            that is set later, where nobody would read it: only ``watch`` can be.
        BetonError: the file cannot be read, or has several fields that could be the image or the label; while iterating, it
            was written over in place or cut short since it was opened.
        TurboJpegMissing: libturbojpeg is not installed.
        BrokenSample: while iterating, for a sample that cannot be decoded, naming it.
        LoaderStalled: while iterating, or when it is closed and a thread does not end.
    """

    __slots__ = (
        "__weakref__",
        "_arguments",
        "_bad_samples",
        "_cursor",
        "_iteration",
        "_planner",
        "_pool",
        "_sampler",
        "_settled",
        "_wait_s",
        "_workers",
        "batch_size",
        "beton",
        "cropping",
        "num_samples",
        "seed",
        "size",
        "threads",
        "train",
    )
    _instead: ClassVar = {"epoch": "call set_epoch with it"}

    def __init__(
        self,
        path: str | os.PathLike[str],
        batch_size: int,
        *,
        train: bool,
        size: int = 224,
        seed: int = 0,
        threads: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        indices: Sequence[int] | np.ndarray | None = None,
        shuffle: bool | None = None,
        drop_last: bool | None = None,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        center_ratio: float = 224 / 256,
        batches_ahead: int = 3,
        read_ahead_bytes: int = 64 << 20,
        pin_memory: bool = False,
        on_error: OnError = "raise",
        stall_s: float = STALL_S,
        image_field: str | None = None,
        label_field: str | None = None,
    ) -> None:
        batch_size = whole("batch_size", batch_size, "at least 1", lambda n: n >= 1)
        train = flag("train", train)
        size = whole("size", size, "1 to 4096 pixels", lambda px: 1 <= px <= 4096)
        seed = seed_of("seed", seed)
        if threads is not None:
            threads = whole("threads", threads, "at least 1", lambda n: n >= 1)
        world_size = whole("world_size", world_size, "at least 1", lambda n: n >= 1)
        rank = whole(
            "rank",
            rank,
            f"0 to {world_size - 1}, since world_size is {world_size}",
            lambda n: 0 <= n < world_size,
        )
        shuffle = train if shuffle is None else flag("shuffle", shuffle)
        drop_last = train if drop_last is None else flag("drop_last", drop_last)
        scale = crop_scale("scale", scale)
        ratio = crop_ratio("ratio", ratio)
        flip = probability("flip", flip)
        center_ratio = number("center_ratio", center_ratio, "0 < center_ratio <= 1", lambda r: 0 < r <= 1)
        batches_ahead = whole("batches_ahead", batches_ahead, "at least 1", lambda n: n >= 1)
        read_ahead_bytes = whole("read_ahead_bytes", read_ahead_bytes, "at least 0", lambda n: n >= 0)
        pin_memory = flag("pin_memory", pin_memory)
        choice("on_error", on_error, ("raise", "skip"))
        stall_s = number("stall_s", stall_s, "more than 0 seconds", lambda s: s > 0)
        # There are no other variables yet: what another is opened with, where this is pickled.
        self._arguments = {name: given for name, given in locals().items() if name != "self"}
        turbojpeg.load()
        self.beton = Beton(path, image_field, label_field)
        self._arguments["path"] = os.path.abspath(self.beton.path)
        self.batch_size = batch_size
        self.train = train
        self.size = size
        self.seed = seed
        self._wait_s = 0.0
        samples = sample_table(self.beton)
        if indices is not None:
            places = check_indices(indices, self.beton)
            samples = samples[places]
            samples["occurrence"] = occurrences(places)
            # Not the list that was given, which may change and be large.
            self._arguments["indices"] = samples["index"]
        self.num_samples = len(samples)
        """Samples of an epoch, over all ranks."""
        self._sampler = DistributedBatchSampler(self.num_samples, batch_size, rank, world_size, drop_last)
        if self._sampler.steps == 0 and self._sampler.drop_last:
            raise UserError(
                f"{self.beton.path} has {self.num_samples} samples, fewer than one batch of {batch_size * world_size} "
                f"({batch_size} on each of {world_size} ranks), and drop_last leaves out what does not fill one; "
                f"give a batch of at most {self.num_samples // world_size} on each, or Loader drop_last=False"
            )
        self.cropping = CropOptions(
            train,
            size,
            round(size / center_ratio),
            np.uint64(seed),
            scale,
            ratio,
            flip,
        )
        self.threads = threads or allowed_cores()
        self._pool = BufferPool(
            batch_size,
            size,
            max_free=2 * batches_ahead + 2,
            pin_memory=pin_memory,
            label_dtype=self.beton.target_field.dtype,
        )
        if shuffle and read_ahead_bytes:
            self.beton.expect_random_access()
        # No further than an epoch: by then a file that small is in memory.
        read_ahead_bytes = min(read_ahead_bytes, bytes_of(samples) // world_size)
        self._bad_samples = BadSampleFilter(self.beton, on_error, may_be_empty=not self._sampler.drop_last)
        watchdog = Watchdog(stall_s)
        self._planner = Planner(self.beton, samples, self._sampler, seed, shuffle, read_ahead_bytes, watchdog)
        self._workers = DecodeWorkers(
            self.beton.map,
            self.cropping,
            self.threads,
            batches_ahead,
            self._planner,
            self._pool,
            around_each=self.beton.unchanged,
            watchdog=watchdog,
        )
        # None of these knows of the loader, so a loader that is dropped, even within the next lines, ends their threads.
        for end in (self._pool.close, self._planner.stop, self._workers.stop):
            weakref.finalize(self, end).atexit = False
        self._planner.start(self._workers.wake_workers)
        self._workers.start()
        self._cursor = (0, 0)
        self._iteration = 0
        self._settled = True

    @property
    def num_classes(self) -> int:
        """One more than the largest label in the file; raises FieldError where the label is a float."""
        return self.beton.num_classes

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration runs."""
        return self._cursor[0]

    @property
    def dropped(self) -> int:
        """Samples of each epoch that ``drop_last`` leaves out, over all ranks."""
        return self._sampler.dropped

    @property
    def skipped(self) -> list[SkippedSample]:
        """Each sample that ``on_error = "skip"`` left out so far on this rank, once, in the order in which they were met."""
        return self._bad_samples.skipped

    @property
    def skipped_in_epoch(self) -> int:
        """How many were left out of this rank's batches of the epoch in hand so far."""
        return self._bad_samples.skipped_in_epoch

    @property
    def wait_s(self) -> float:
        """Seconds that the consumer has waited for batches so far."""
        return self._wait_s

    @property
    def thread_stats(self) -> list[ThreadStats]:
        """What each decoding thread is doing and has done."""
        return self._workers.thread_stats

    @property
    def watch(self) -> TraceHook | None:
        """Told of every chunk of samples that a thread decoded and of every wait for work; None = nobody. Set it at any time."""
        return self._workers.watch

    @watch.setter
    def watch(self, watch: TraceHook | None) -> None:
        check("watch", watch, "something to call, or None", watch is None or callable(watch))
        self._workers.watch = watch

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Let the next iteration begin at batch ``step`` of ``epoch``; without it epochs follow each other from 0."""
        epoch = whole("epoch", epoch, "0 to 2^63 - 1", lambda n: 0 <= n < 1 << 63)
        batches = f"0 to {len(self)}, the batches of an epoch"
        self._cursor = (epoch, whole("step", step, batches, lambda n: 0 <= n <= len(self)))

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        return self._sampler.steps

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch's batches. Leaving early moves on to the next epoch all the same."""
        epoch, step = self._cursor
        self._cursor = (epoch + 1, 0)
        self._workers.seek((epoch, step))
        self._iteration += 1
        return self._batches(range(step, len(self)), self._iteration)

    def _batches(self, steps: range, iteration: int) -> Iterator[Batch]:
        for _ in steps:
            if iteration != self._iteration:
                raise RuntimeError(
                    "this iteration ended when another of the same loader began; use one loader for each"
                )
            if (batch := self._next_batch()) is not None:
                yield batch

    def _next_batch(self) -> Batch | None:
        """The next batch, or None where all its samples are broken and it is passed over."""
        started = time.perf_counter()
        task = self._workers.next_done()
        self._wait_s += time.perf_counter() - started
        count = self._bad_samples.apply(task)
        return self._pool.lend(task.buffer, count) if count else None

    def close(self) -> None:
        """Stop and join the threads. Batches that are held stay valid."""
        try:
            self._workers.close()
        finally:
            self._pool.close()
            self._planner.close()

    def __getstate__(self) -> dict[str, Any]:
        """What another Loader is opened from, with threads of its own; and what a derived class has added."""
        return {
            "arguments": self._arguments,
            "cursor": self._cursor,
            "added": getattr(self, "__dict__", {}),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        Loader.__init__(self, **state["arguments"])
        self._cursor = state["cursor"]
        if state["added"]:
            vars(self).update(state["added"])

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
