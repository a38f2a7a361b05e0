"""The public Loader: batches of a beton, decoded ahead by threads that live across epochs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch.utils.data import IterableDataset

from ..beton.several import BetonFiles, open_beton
from ..common.arguments import check, whole
from ..common.cpus import fair_share, local_ranks
from ..common.sizes import Size
from ..decode import turbojpeg
from ..decode.crop import CropOptions
from ..decode.decoder import DecodePaths
from .bad_samples import BadSampleFilter, SkippedSample
from .buffer_pool import Batch
from .dataset_view import refuse_in_a_worker
from .fields import Fields
from .normalize import host_normalizer
from .options import LoaderKeywords, LoaderOptions, options_of, shows_options
from .pipeline import Pipeline
from .position import First, Start, epoch_of, start_of, state_of
from .rank import Shares
from .sample_set import SampleSet
from .sampler import DistributedBatchSampler
from .soft_labels import SoftLabels
from .stream import Batches, Stream
from .thread_stats import ThreadStats, TraceHook
from .torch_protocol import TorchProtocol

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Loader(TorchProtocol):
    """Batches of ``(images, labels)`` from a beton file.

    ``images`` is uint8 (B, 3, height, width), or as ``normalize``, ``dtype`` and ``memory_format`` say; ``labels`` is int64 (B,);
    both are torch tensors in host memory.  ``batch.indices``, int64 (B,), are the samples' places in the file.  If the label is a
    float field, ``labels`` is float32: the file's float64 values, rounded, as a loss of float32 outputs expects them.  With
    ``mix`` classes are soft: float32 (B, classes).  With ``views=2`` (or more) ``images`` is a tuple of two such tensors, of the same
    samples, each with a crop, a flip and augmentations of its own: ``(first, second), labels = batch``.
    With ``fields=("image", "label", "attrs")`` a batch is a named tuple of these fields of the file: see ``fields.FieldBatch``.
    The pixels of sample i in epoch e are a function of (seed, e, i) alone, and the order of (seed, e):
    neither threads, nor batch size, nor ranks, nor a resume change them.  A batch that you hold is
    yours; its memory is used again when your last reference to it is gone.

    Where ``indices`` or ``order`` repeat a sample, each copy has its own crop, flip and augmentations, which depend on the copy's
    place among the sample's copies there; the first copy has those of a sample that occurs once.

    ``state_dict`` and ``load_state_dict`` resume exactly, within an epoch too, with any batch size and number of ranks.
    ``size``, ``indices`` and ``batch_size`` may be set at any time, for the iterations that start later.
    Code that knows torch's DataLoader finds its attributes.

    A pickle or copy of a Loader holds its arguments, with the absolute path or the URL of its file, and where its next iteration
    starts: another Loader is opened from them, in any process.

    Args:
        path: a .beton file, packed by ``python -m alexnet_fast.pack`` or written by FFCV; or its URL (s3://, gs://, https://,
            hf://), of which a local copy is fetched first and then used as any local file; or several as one set: a list of these, a
            pattern such as ``shards/*.beton``, or the index of a set, ``train.index.json``.
        batch_size: samples a batch, on each rank.
        options: LoaderOptions.  Or the same as keyword arguments, of which ``train`` has no default.

    Raises:
        UserError: an argument out of range or of a wrong type, a batch larger than the set with ``drop_last``; an attribute
            that is set later, where nobody would read it; when it is read in a worker process of a DataLoader.
        BetonError: the file cannot be read, or has several fields that could be the image or the label; while iterating, it
            was overwritten in place or shortened since it was opened.
        TurboJpegMissing: decoder="libjpeg" where libturbojpeg is not installed ("auto" needs it for unusual JPEGs only), or the
            environment names a file that is no such library.
        BrokenSample: while iterating, for a sample that cannot be decoded, naming it.
        LoaderStalled: while iterating, or when it is closed and a thread does not end.
    """

    __slots__ = (
        "__weakref__",
        "_access",
        "_bad_samples",
        "_batch_size",
        "_closed",
        "_fields",
        "_iteration",
        "_normalizer",
        "_options",
        "_own",
        "_path",
        "_paths_before",
        "_pipeline",
        "_position",
        "_settled",
        "_shares",
        "_soft",
        "_start",
        "_streamed",
        "_wait_s",
        "beton",
        "seed",
        "threads",
        "train",
    )
    _instead: ClassVar = {"epoch": "call set_epoch with it"}

    @shows_options
    def __init__(
        self,
        path: BetonFiles,
        batch_size: int,
        options: LoaderOptions | None = None,
        **keywords: Unpack[LoaderKeywords],
    ) -> None:
        self._batch_size = whole("batch_size", batch_size, "at least 1", lambda n: n >= 1)
        options = options_of(options, keywords)
        turbojpeg.load() if options.decoder == "libjpeg" else turbojpeg.load_if_there()
        self.beton = open_beton(path, options.image_field, options.label_field)
        self._path = self.beton.location
        self.train, self.seed = options.train, options.seed
        self._soft = SoftLabels.of(options.mix, self.beton)
        self._fields = Fields.of(options.fields, self.beton)  # type: ignore[arg-type]  # checked by LoaderOptions
        self.threads = options.threads or fair_share(local_ranks())
        self._own = SampleSet(self.beton, options)
        self._options = replace(options, indices=self._own.indices)
        self._shares = Shares(options.rank, options.world_size)
        sampler = self._find_sampler()
        if options.reads_at_random and options.read_ahead_bytes:
            # The planner requests all that is touched; by default the kernel would read its neighbours too.
            self.beton.expect_random_access()
        self._bad_samples = BadSampleFilter(self.beton, options.on_error, not options.drops_last)
        self._normalizer = host_normalizer(options)
        self._pipeline = Pipeline(self._own, self._options, self.threads, sampler)
        self._access = self._streamed = None
        self._start = Start(0)
        self._position: tuple[First, SampleSet, int] | None = (
            None  # of the iteration, and the step of its next batch
        )
        self._iteration, self._wait_s, self._paths_before = 0, 0.0, DecodePaths()
        self._closed = False
        self._settled = True

    # -- what it holds

    @property
    def options(self) -> LoaderOptions:
        """Its options as they are now."""
        return self._options

    @property
    def cropping(self) -> CropOptions:
        """What ``decode.crop`` needs of the options."""
        return self._options.crop_options

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, over all ranks."""
        return self._own.num_samples

    @property
    def num_classes(self) -> int:
        """One more than the largest label in the file; raises FieldError if the label is a float."""
        return self.beton.num_classes

    @property
    def dropped(self) -> int:
        """Samples of each epoch that ``drop_last`` skips, over all ranks."""
        return self._find_sampler().dropped

    # -- what may be set

    @property
    def batch_size(self) -> int:
        """Samples a batch, on each rank; may be set, for the iterations that start later."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, given: int) -> None:
        self._batch_size = whole("batch_size", given, "at least 1", lambda n: n >= 1)

    @property
    def size(self) -> Size:
        """Side of the images, in pixels, or their (height, width); may be set, for the iterations that start later."""
        return self._options.size

    @size.setter
    def size(self, given: Size) -> None:
        self._options, self._access = replace(self._options, size=given), None

    @property
    def indices(self) -> np.ndarray | None:
        """The samples' places in the file, (n,) int32; None = all. May be set, for the iterations that start later."""
        return self._own.indices

    @indices.setter
    def indices(self, given: Sequence[int] | np.ndarray | None) -> None:
        self._own = SampleSet(self.beton, replace(self._options, indices=given))
        self._options = replace(self._options, indices=self._own.indices)
        self._start = self._start.of_another_set()

    @property
    def watch(self) -> TraceHook | None:
        """Called for every chunk of samples that a thread decoded and every wait for work; None = not called. May be set at any time."""
        return self._pipeline.workers.watch

    @watch.setter
    def watch(self, watch: TraceHook | None) -> None:
        check("watch", watch, "something to call, or None", watch is None or callable(watch))
        self._pipeline.workers.watch = watch

    @property
    def pages_checksum(self) -> int | None:
        """CRC-32 of which page of the file holds each sample, with the block order; None where the order does not depend on it."""
        return self._own.pages_checksum

    # -- where it is

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration runs."""
        return self._start.next_epoch(self._own.num_samples)

    def set_epoch(self, epoch: int, step: int | None = None) -> None:
        """Start the next iteration at batch ``step`` of ``epoch``; without this call epochs follow each other from 0.

        Without a step it starts at the first batch, or where ``load_state_dict`` has resumed this epoch.
        """
        epoch = epoch_of(epoch)
        if step is None:
            self._start = self._start.at(epoch)
        else:
            batches = f"0 to {len(self)}, the batches of an epoch"
            self._start = Start(epoch, whole("step", step, batches, lambda n: 0 <= n <= len(self)))
        self._position = None

    def state_dict(self) -> dict[str, int]:
        """What was handed out so far, over all ranks, by the Loader or by what ``prefetch_to`` returned: integers, at any time."""
        if self._position is None:
            position, own = self._first().position, self._own
        else:
            first, own, following = self._position
            position = first.before(following)
        return state_of(position, self.seed, own.num_samples, own.checksum)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Start the next iteration after what the Loader of this state had handed out: the rest of its epoch, or the next one.

        Raises:
            UserError: it is no state of a Loader, or of another set, order or seed.
        """
        self._start = start_of(state, self.seed, self._own.num_samples, self._own.checksum, self.beton.path)
        self._position = None

    # -- what it has done

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
        return sum((each.paths for each in self.thread_stats), self._paths_before)

    @property
    def thread_stats(self) -> list[ThreadStats]:
        """What each decoding thread is doing and has done."""
        return self._pipeline.workers.thread_stats

    # -- its batches and samples

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        return self._find_sampler().steps

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch's batches.

        The next iteration is the next epoch's, even if this one is left early, unless nothing of it was taken.  `set_epoch` and
        `load_state_dict` count until its first batch is taken.
        """
        return self._hand_out(self._begin(), self._finish)

    def _find_sampler(self) -> DistributedBatchSampler:
        """This rank's share of an epoch, as it is now."""
        return self._own.sampler(self._batch_size, self._shares.find(), self._options.drops_last)

    def _first(self) -> First:
        """The first batch of the next iteration."""
        return self._start.first(self._find_sampler())

    def _begin(self) -> Stream:
        """Start an iteration."""
        refuse_in_a_worker()
        self._shares.tell(self.beton.path)
        start, first, own = self._start, self._first(), self._own
        if not self._pipeline.serves(own, self._options, first) and not self._closed:
            self._renew_pipeline(first)
        self._pipeline.workers.seek((first.epoch, first.step))
        self._iteration += 1
        self._position = first, own, first.step
        return Stream(start, first, own, self._iteration, self._batches(first, self._iteration))

    def _renew_pipeline(self, first: First) -> None:
        before, self._iteration = self._pipeline, self._iteration + 1
        before.close()
        self._paths_before = self.decode_paths
        share = replace(first.sampler, first=0)
        self._pipeline = Pipeline(self._own, self._options, self.threads, share, first.resumed)
        self._pipeline.workers.watch = before.workers.watch

    def _hand_out(self, stream: Stream, finish: Callable[[Batches], Batches]) -> Iterator[Batch]:
        """The batches of an iteration, finished, and what was handed out, as the consumer knows it."""
        # Lightning sets the epoch, or loads a state, after it has asked for an iterator: torch's begin with their first batch too.
        if stream.number == self._iteration:
            same = self._start.is_as(stream.start)
            stream = stream._replace(start=self._start) if same else self._begin()
        for batch, following in finish(stream.batches):
            self._passed(stream, following)
            yield batch if self._fields is None else self._fields(batch)
        self._passed(stream, stream.first.sampler.steps)

    def _passed(self, stream: Stream, following: int) -> None:
        if stream.number != self._iteration:  # another one has started
            return
        if self._start is stream.start:  # else an epoch was set since the first batch
            self._start = Start(stream.first.epoch + 1)
        self._position = stream.first, stream.own, following

    def _finish(self, batches: Batches) -> Batches:
        if self._normalizer is None:
            return batches
        return ((self._finished(batch), following) for batch, following in batches)

    def _batches(self, first: First, iteration: int) -> Batches:
        for step in range(first.step, first.sampler.steps):
            if iteration != self._iteration:
                raise RuntimeError(
                    "this iteration ended when another of the same loader started; use one loader for each"
                )
            if (batch := self._next_batch()) is not None:
                yield batch, step + 1

    def _next_batch(self) -> Batch | None:
        """The next batch, or None if all its samples are broken and it is skipped."""
        workers = self._pipeline.workers
        started = time.perf_counter()
        task = workers.next_done()
        self._wait_s += time.perf_counter() - started
        try:
            count = self._bad_samples.apply(task)
            batch = task.batch
            if batch is None and count:
                batch = self._pipeline.pool.lend(task.buffer, count)
            return batch if batch is None or self._soft is None else self._soft(batch, task.own_share)
        finally:
            workers.refill()

    def close(self) -> None:
        """Stop and join the threads. Batches that are held stay valid."""
        self._closed = True
        self._pipeline.close()

    def __getstate__(self) -> dict[str, Any]:
        """What another Loader is opened from, with threads of its own; and what a derived class has added."""
        return {
            "arguments": {
                "path": self._path,
                "batch_size": self._batch_size,
                "options": self._options,
            },
            "start": self._start,
            "added": getattr(self, "__dict__", {}),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        Loader.__init__(self, **state["arguments"])
        self._start = state["start"]
        if state["added"]:
            vars(self).update(state["added"])

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# So that a DataLoader over a Loader hands out its batches, and does not index its samples by the numbers of the batches.
IterableDataset.register(Loader)
