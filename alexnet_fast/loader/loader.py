"""The public Loader: batches of a beton, decoded ahead by threads that live across epochs."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from ..augment.augmenter import Augmenter
from ..beton.reader import Beton
from ..common.arguments import check, whole
from ..common.cpus import allowed_cores
from ..common.settled import Settled
from ..decode import turbojpeg
from ..decode.counter_rng import occurrences
from ..decode.decoder import DecodePaths
from ..decode.kernel import sample_table
from ..errors import UserError
from .bad_samples import BadSampleFilter, SkippedSample
from .buffer_pool import Batch, BufferPool
from .decode_workers import DecodeWorkers
from .options import LoaderKeywords, LoaderOptions, options_of, shows_options
from .page_advice import bytes_of
from .planner import Planner, check_indices
from .sampler import DistributedBatchSampler
from .thread_stats import ThreadStats, TraceHook
from .watchdog import Watchdog

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Loader(Settled):
    """Batches of ``(images, labels)`` from a beton file.

    ``images`` is uint8 (B, 3, size, size), ``labels`` int64 (B,), both torch tensors in host memory; ``batch.indices``, int64
    (B,), are the samples' places in the file.  If the label is a float field, ``labels`` is float32: the file's float64 values,
    rounded, as a loss of float32 outputs expects them.
    The pixels of sample i in epoch e are a function of (seed, e, i) alone, and the order of (seed, e):
    neither threads, nor batch size, nor ranks, nor a resume change them.  A batch that you hold is
    yours; its memory is used again when your last reference to it is gone.

    Where ``indices`` repeats a sample, each copy has its own crop, flip and augmentations, which depend on the copy's place
    among the sample's copies in that list; the first copy has those of a sample that occurs once.

    A pickle or copy of a Loader holds its arguments, with the absolute path of its file, and where its next iteration
    starts: another Loader is opened from them, in any process.

    Args:
        path: a .beton file, packed by ``python -m alexnet_fast.pack`` or written by FFCV.
        batch_size: samples a batch, on each rank.
        options: LoaderOptions.  Or the same as keyword arguments, of which ``train`` has no default.

    Raises:
        UserError: an argument out of range or of a wrong type, a batch larger than the set with ``drop_last``; an attribute
            that is set later, where nobody would read it: only ``watch`` can be.
        BetonError: the file cannot be read, or has several fields that could be the image or the label; while iterating, it
            was overwritten in place or shortened since it was opened.
        TurboJpegMissing: decoder="libjpeg" where libturbojpeg is not installed ("auto" needs it for unusual JPEGs only), or the
            environment names a file that is no such library.
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
        "options",
        "seed",
        "size",
        "threads",
        "train",
    )
    _instead: ClassVar = {"epoch": "call set_epoch with it"}

    @shows_options
    def __init__(
        self,
        path: str | os.PathLike[str],
        batch_size: int,
        options: LoaderOptions | None = None,
        **keywords: Unpack[LoaderKeywords],
    ) -> None:
        batch_size = whole("batch_size", batch_size, "at least 1", lambda n: n >= 1)
        options = options_of(options, keywords)
        drop_last = options.train if options.drop_last is None else options.drop_last
        shuffle = options.train if options.shuffle is None else options.shuffle
        rank, world_size = options.rank, options.world_size
        turbojpeg.load() if options.decoder == "libjpeg" else turbojpeg.load_if_there()
        self.beton = Beton(path, options.image_field, options.label_field)
        self.batch_size = batch_size
        self.train, self.size, self.seed = options.train, options.size, options.seed
        self._wait_s = 0.0
        samples = sample_table(self.beton)
        if options.indices is not None:
            places = check_indices(options.indices, self.beton)
            samples = samples[places]
            samples["occurrence"] = occurrences(places)
            # A copy: the caller's list may change, and be large.
            options = replace(options, indices=samples["index"])
        self.options = options
        self._arguments = {
            "path": os.path.abspath(self.beton.path),
            "batch_size": batch_size,
            "options": options,
        }
        self.num_samples = len(samples)
        """Samples of an epoch, over all ranks."""
        self._sampler = DistributedBatchSampler(self.num_samples, batch_size, rank, world_size, drop_last)
        if self._sampler.steps == 0 and drop_last:
            raise UserError(
                f"{self.beton.path} has {self.num_samples} samples, fewer than one batch of {batch_size * world_size} "
                f"({batch_size} on each of {world_size} ranks), and drop_last skips what does not fill one; "
                f"give a batch of at most {self.num_samples // world_size} on each, or Loader drop_last=False"
            )
        self.cropping = options.crop_options
        self.threads = options.threads or allowed_cores()
        self._pool = BufferPool(
            batch_size,
            options.size,
            max_free=2 * options.batches_ahead + 2,
            pin_memory=options.pin_memory,
            label_dtype=self.beton.target_field.dtype,
        )
        if shuffle and options.read_ahead_bytes:
            self.beton.expect_random_access()
        # No further than an epoch: by then a file that small is in memory.
        read_ahead_bytes = min(options.read_ahead_bytes, bytes_of(samples) // world_size)
        self._bad_samples = BadSampleFilter(self.beton, options.on_error, may_be_empty=not drop_last)
        watchdog = Watchdog(options.stall_s)
        self._planner = Planner(
            self.beton,
            samples,
            self._sampler,
            self.cropping,
            options.seed,
            shuffle,
            read_ahead_bytes,
            watchdog,
        )
        self._workers = DecodeWorkers(
            self.beton.map,
            self.cropping.size,
            options.decoder,
            Augmenter(options.augmentations, options.seed),
            self.threads,
            options.batches_ahead,
            self._planner,
            self._pool,
            around_each=self.beton.unchanged,
            watchdog=watchdog,
        )
        # None of these refers to the loader, so a loader that is dropped, even within the next lines, stops their threads.
        for end in (self._pool.close, self._planner.stop, self._workers.stop):
            weakref.finalize(self, end).atexit = False
        self._planner.start(self._workers.plan_is_ready)
        self._workers.start()
        self._cursor = (0, 0)
        self._iteration = 0
        self._settled = True

    @property
    def num_classes(self) -> int:
        """One more than the largest label in the file; raises FieldError if the label is a float."""
        return self.beton.num_classes

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration runs."""
        return self._cursor[0]

    @property
    def dropped(self) -> int:
        """Samples of each epoch that ``drop_last`` skips, over all ranks."""
        return self._sampler.dropped

    @property
    def skipped(self) -> list[SkippedSample]:
        """The samples that ``on_error = "skip"`` has skipped so far on this rank: each once, in the order in which they came."""
        return self._bad_samples.skipped

    @property
    def skipped_in_epoch(self) -> int:
        """How many samples of this rank's batches were skipped so far in the current epoch."""
        return self._bad_samples.skipped_in_epoch

    @property
    def wait_s(self) -> float:
        """Seconds that the consumer has waited for batches so far."""
        return self._wait_s

    @property
    def decode_paths(self) -> DecodePaths:
        """How many JPEGs our own decoder has decoded so far, and how many libjpeg-turbo."""
        return sum((each.paths for each in self.thread_stats), DecodePaths())

    @property
    def thread_stats(self) -> list[ThreadStats]:
        """What each decoding thread is doing and has done."""
        return self._workers.thread_stats

    @property
    def watch(self) -> TraceHook | None:
        """Called for every chunk of samples that a thread decoded and every wait for work; None = not called. May be set at any time."""
        return self._workers.watch

    @watch.setter
    def watch(self, watch: TraceHook | None) -> None:
        check("watch", watch, "something to call, or None", watch is None or callable(watch))
        self._workers.watch = watch

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Start the next iteration at batch ``step`` of ``epoch``; without this call epochs follow each other from 0."""
        epoch = whole("epoch", epoch, "0 to 2^63 - 1", lambda n: 0 <= n < 1 << 63)
        batches = f"0 to {len(self)}, the batches of an epoch"
        self._cursor = (epoch, whole("step", step, batches, lambda n: 0 <= n <= len(self)))

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        return self._sampler.steps

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch's batches. The next iteration is the next epoch's, even if this one is left early."""
        epoch, step = self._cursor
        self._cursor = (epoch + 1, 0)
        self._workers.seek((epoch, step))
        self._iteration += 1
        return self._batches(range(step, len(self)), self._iteration)

    def _batches(self, steps: range, iteration: int) -> Iterator[Batch]:
        for _ in steps:
            if iteration != self._iteration:
                raise RuntimeError(
                    "this iteration ended when another of the same loader started; use one loader for each"
                )
            if (batch := self._next_batch()) is not None:
                yield batch

    def _next_batch(self) -> Batch | None:
        """The next batch, or None if all its samples are broken and it is skipped."""
        started = time.perf_counter()
        task = self._workers.next_done()
        self._wait_s += time.perf_counter() - started
        try:
            count = self._bad_samples.apply(task)
            return self._pool.lend(task.buffer, count) if count else None
        finally:
            self._workers.refill()

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
