"""What a loader runs on: the planner, the decoding threads and the buffers, for one share, batch size and size of images.

When one of these changes, the next epoch gets a pipeline of its own, which takes a few milliseconds: the kernels are loaded.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypedDict

from ..augment.augmenter import Augmenter
from ..beton.reader import Beton
from ..beton.several import BetonSet
from .buffer_pool import BufferPool
from .decode_workers import DecodeWorkers
from .options import LoaderOptions
from .page_advice import bytes_of
from .planner import Planner, Resumed
from .position import First
from .sample_set import SampleSet
from .sampler import DistributedBatchSampler
from .watchdog import Watchdog


class Pipeline:
    """The threads and the buffers of a loader; they end when it is closed or dropped.

    Args:
        own: the samples.
        options: of the loader.
        threads: decoding threads.
        sampler: this rank's share.
        resumed: an epoch that was left in the middle of a step.
    """

    def __init__(
        self,
        own: SampleSet,
        options: LoaderOptions,
        threads: int,
        sampler: DistributedBatchSampler,
        resumed: Resumed | None = None,
    ) -> None:
        self._own, self._options, self._sampler, self._resumed = own, options, sampler, resumed
        beton = own.beton
        self.pool = BufferPool(
            sampler.batch_size,
            options.size,
            max_free=2 * options.batches_ahead + 2,
            pin_memory=options.pin_memory,
            label_dtype=beton.target_field.dtype,
            label_shape=beton.target_field.shape,
            views=options.views,
        )
        watchdog = Watchdog(options.stall_s)
        self.planner = Planner(
            beton,
            own.samples,
            own.orders,
            sampler,
            options.crop_options,
            # No further than an epoch: by then a file that small is in memory.
            min(options.read_ahead_bytes, bytes_of(own.samples) // sampler.world_size),
            watchdog,
            resumed,
            options.views,
        )
        self.workers = DecodeWorkers(
            beton.map,
            options.crop_options,
            options.decoder,
            Augmenter(options.augmentations, options.seed, options.mix),
            threads,
            options.batches_ahead,
            self.planner,
            self.pool,
            **_checks(beton),
            watchdog=watchdog,
        )
        # None of these refers to the pipeline, so one that is dropped, even within the next lines, stops their threads.
        for end in (self.pool.close, self.planner.stop, self.workers.stop):
            weakref.finalize(self, end).atexit = False
        self.planner.start(self.workers.plan_is_ready)
        self.workers.start()

    def serves(self, own: SampleSet, options: LoaderOptions, first: First) -> bool:
        """Whether an iteration that starts there gets its batches from this pipeline."""
        return (
            own is self._own
            and options is self._options
            and replace(first.sampler, first=0) == self._sampler
            and (
                first.resumed == self._resumed
                # Its own resumed epoch is over, and does not come again.
                or (not first.resumed and self._resumed is not None and self._resumed[0] < first.epoch)
            )
        )

    def close(self) -> None:
        """Stop and join the threads. Batches that are held stay valid.

        Raises:
            LoaderStalled: a thread does not end.
        """
        try:
            self.workers.close()
        finally:
            self.pool.close()
            self.planner.close()


class _Checks(TypedDict):
    around_each: AbstractContextManager[object]
    after_each: Callable[[], None]


def _checks(beton: Beton) -> _Checks:
    """When the files are checked for changes: one file around each thread's work on a batch, several once for each batch.

    A check holds the interpreter's lock for 1.5 us a file: of 128 files, by 16 threads, twice a batch, that is 6 ms, twice as long as a batch.
    """
    unchanged = beton.unchanged  # which also keeps failed reads from ending the process
    if isinstance(beton, BetonSet):
        return {"around_each": nullcontext(), "after_each": beton.check}
    return {"around_each": unchanged, "after_each": lambda: None}
