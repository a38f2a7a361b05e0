"""The ceiling of decoding: the loader alone with more and more threads, and where the time of a sample goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..beton.reader import Beton
from ..decode.crop import CropOptions
from ..decode.decoder import DecodePaths, DecoderName
from ..decode.kernel import sample_table
from ..decode.stages import ALL, CUT, LIBJPEG_CUT, PLANES, DecodeStages
from ..distributed.world import World
from ..errors import UserError
from ..loader.buffer_pool import Batch
from ..loader.loader import Loader
from ..loader.sampler import epoch_permutation
from .stats import WINDOWS, Stat, averaged, barrier, throughput
from .storage import ORDER_SEED, small_share, touch

SPLIT_SAMPLES = 60


@dataclass(frozen=True)
class Scaling:
    """What the loaders of all ranks make together with N decoding threads on each, or fewer on a rank that may not have N."""

    threads: int
    img_per_s: Stat


@dataclass(frozen=True)
class Split:
    """Where the time of one thread for a sample goes, in microseconds; the first two are None for raw pixels.

    cut_us: the header, its tables, and the tiles that the crop touches.  decode_us: decoding them to planes (removing the
    stuffing, Huffman, inverse DCT), by whichever decoder takes the sample; version 0.1 stored it as libjpeg_us.  render_us:
    resampling and colour; for raw pixels it is all of the time.
    """

    cut_us: Stat | None
    decode_us: Stat | None
    render_us: Stat
    all_us: Stat


@dataclass(frozen=True)
class Decode:
    """The loaders alone, on samples that are in the page cache.

    threads: the recipe's threads of a rank, the maximum over ranks if they differ.  scaling: with fewer threads, and
    with as many as a rank may have.  libjpeg_share: of the JPEGs, how many our own decoder left to libjpeg-turbo; 0 where
    the recipe has libjpeg-turbo decode all.
    """

    threads: int
    scaling: list[Scaling]
    split: Split
    libjpeg_share: float = 0.0

    @property
    def img_per_s(self) -> float:
        """With the recipe's threads."""
        return next(point.img_per_s.median for point in self.scaling if point.threads == self.threads)

    def pooled(self, later: Stat) -> Decode:
        """With a later measurement at the recipe's threads."""
        scaling = [
            replace(point, img_per_s=point.img_per_s.pooled(later))
            if point.threads == self.threads
            else point
            for point in self.scaling
        ]
        return replace(self, scaling=scaling)


def measure(
    open_loader: Callable[[int, np.ndarray], Loader],
    training: Loader,
    cores: int,
    batches_ahead: int,
    seconds: float,
    world: World,
    say: Callable[[str], None],
) -> Decode:
    """Decode a part of the file, small enough for the page cache, for about `seconds`.

    open_loader: called with a number of threads and the indices of samples.  training: the run's loader, which is idle.
    cores: how many this rank may use.
    """
    places = few_places(training, batches_ahead, world)
    most = max(cores, training.threads)
    # Ranks may have different numbers of cores, and all have to measure the same number of times.
    used = int(world.all_reduce_max(training.threads))
    counts = thread_counts(used, int(world.all_reduce_max(most)))
    scaling, paths = [], DecodePaths()
    for count in counts:
        say(f"decoding on {count} thread{'s' if count > 1 else ''}")
        with open_loader(min(count, most), places) as loader:
            scaling.append(Scaling(count, alone(loader, seconds / len(counts), world)))
            paths += loader.decode_paths
    parts = split(training.beton, training.cropping, training.options.decoder, world)
    return Decode(used, scaling, parts, share_of_libjpeg(paths, world))


def share_of_libjpeg(paths: DecodePaths, world: World) -> float:
    """Of all ranks' JPEGs, the share that our own decoder left to libjpeg-turbo; 0 where it was not asked."""
    own, *others = world.all_reduce_sum(torch.tensor(paths, dtype=torch.float64)).tolist()
    return sum(others) / max(own + sum(others), 1.0)


def few_places(training: Loader, batches_ahead: int, world: World) -> np.ndarray:
    """The indices of samples that are in the page cache from now on.

    A few times as many as the threads decode ahead, so that an epoch does not end when it has just started; else few.
    """
    beton, wanted = training.beton, world.world_size * training.batch_size * (2 * batches_ahead + 4)
    places = epoch_permutation(beton.num_samples, ORDER_SEED, 0)[:wanted]
    touch(beton, places[world.local_rank :: world.local_world_size])
    return places


def alone(loader: Loader, seconds: float, world: World) -> Stat:
    """Images a second that the loaders of all ranks decode together while nothing else runs.

    It counts what the threads decode, not what is taken from them: after a pause of the consumer, batches are ready.
    """
    batches, decoded = forever(loader), 0

    def work() -> int:
        nonlocal decoded
        next(batches)
        before, decoded = decoded, sum(activity.samples for activity in loader.thread_stats)
        return decoded - before

    return throughput(work, seconds, world)


def thread_counts(used: int, most: int) -> list[int]:
    """1, 2, 4 ... `most`, and `used`."""
    counts = {most, used}
    count = 1
    while count < most:
        counts.add(count)
        count *= 2
    return sorted(counts)


def forever(loader: Loader) -> Iterator[Batch]:
    """Batches of one epoch after another, endlessly."""
    while True:
        yield from loader


def some_samples(beton: Beton, most: int, cropping: CropOptions, world: World) -> np.ndarray:
    """Samples from all over the file, different ones on each rank, (most or fewer,) SAMPLE_DTYPE; broken ones are skipped.

    Raises UserError if none of them can be decoded.
    """
    samples = sample_table(beton)[small_share(beton, world, 1 << 40)[:most]]
    sound = DecodeStages(beton.map, samples, cropping).sound()
    if len(sound) == 0:
        raise UserError(
            f"none of {len(samples)} samples of {beton.path} that were tried can be decoded: pack it again"
        )
    return sound


def split(beton: Beton, cropping: CropOptions, decoder: DecoderName, world: World) -> Split:
    """The time of each stage on one thread of each rank."""
    samples = some_samples(beton, SPLIT_SAMPLES, cropping, world)
    stages = DecodeStages(beton.map, samples, cropping, decoder)
    raw = bool(world.all_reduce_max(stages.raw))  # each rank has other samples
    kinds = (ALL,) if raw else (LIBJPEG_CUT if decoder == "libjpeg" else CUT, PLANES, ALL)
    for stage in kinds:  # compile, and load the samples into the caches
        for number in range(len(stages.chunks)):
            stages.time(number, stage)
    barrier(world)
    rounds_us = np.array(
        [
            [
                sum(stages.time(number, stage) for number in range(len(stages.chunks))) * 1e6 / len(samples)
                for stage in kinds
            ]
            for _ in range(WINDOWS)
        ]
    )
    if raw:
        everything = averaged(rounds_us[:, 0].tolist(), world)
        return Split(None, None, everything, everything)
    cut, planes, everything = rounds_us.T
    return Split(
        averaged(cut.tolist(), world),
        averaged((planes - cut).clip(0).tolist(), world),
        averaged((everything - planes).clip(0).tolist(), world),
        averaged(everything.tolist(), world),
    )
