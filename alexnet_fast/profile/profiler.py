"""The profile of a recipe on this machine: every stage alone, then all together, and the files with the results."""

from __future__ import annotations

import os
import shlex
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from ..beton.target_fields import TARGETS
from ..build import fast_paths, init_distributed, train_loader, train_state
from ..common.console import Console
from ..common.cpus import allowed_cores
from ..common.progress import ClockProgress
from ..devices.device import Device
from ..devices.device_timer import DeviceTimer, Span
from ..distributed.world import World
from ..errors import UserError
from ..loader.device_prefetcher import DevicePrefetcher
from ..loader.loader import Loader
from ..loader.preload import kernels
from ..recipe import Recipe
from ..run.ceiling import PROFILE, machine_of
from . import chrome_trace, console_report, end_to_end, repack, storage
from . import copying as copy
from . import decoding as decode
from . import queueing as queue
from . import stepping as step
from .prediction import Stages
from .result import PICTURE, TIMELINE, Profile
from .verdict import find_bottleneck

SHARES = {
    "read": 0.05,
    "decode": 0.2,
    "copy": 0.06,
    "step": 0.13,
    "queue": 0.06,
    "whole": 0.26,
}  # of the time
# Decoding, the step and queueing are measured again after the end-to-end run, so that a machine that slows down does so for both.
AGAIN = {"decode": 0.05, "step": 0.14, "queue": 0.05}
FIXED_S = 8.0  # for what has a fixed time: opening, the disk, the decoder's split, other ways to store


def profile(recipe: Recipe, seconds: float = 60.0) -> Profile:
    """Measure for about `seconds` and write throughput.json and timeline.json into the run's folder.

    Nothing else is written, and no weights change; a throughput.png drawn from an older profile is deleted.  Every rank
    has to call this.  Raises UserError for everything that the user can fix.
    """
    with ExitStack() as stack:
        world, device = init_distributed(recipe, stack)
        DeviceTimer(device)  # raises for a device that cannot be timed, before minutes of measuring
        torch.manual_seed(recipe.run.seed)  # the same weights on all ranks
        return _Profiling(recipe, world, device, seconds, stack).run()


class _Profiling:
    """One profile while it is made: the parts of a training run, and what is measured with them."""

    def __init__(
        self, recipe: Recipe, world: World, device: Device, seconds: float, stack: ExitStack
    ) -> None:
        self.recipe, self.world, self.device, self.stack = recipe, world, device, stack
        self.seconds = {stage: share * seconds for stage, share in SHARES.items()}
        self.again = {stage: share * seconds for stage, share in AGAIN.items()}
        if device.is_host:  # which queues nothing
            self.seconds["whole"] += self.seconds["queue"] + self.again["queue"]
        self.console = Console(quiet=not world.is_rank0, highlight=False, soft_wrap=True)
        self.began_s = time.perf_counter()
        self.progress = stack.enter_context(
            ClockProgress("opening", seconds + FIXED_S, self.console, speaks=world.is_rank0)
        )

    def run(self) -> Profile:
        recipe, world, device, seconds = self.recipe, self.world, self.device, self.seconds
        if world.is_rank0:
            self.check_folder()
        loader = self.stack.enter_context(train_loader(recipe, world, device))
        cores = world.threads or allowed_cores()
        self.say("loading the decoder")
        kernels.wait(lambda: False)  # compiling, once on a machine, uses a core

        def open_loader(threads: int, places: np.ndarray) -> Loader:
            return train_loader(recipe, world, device, threads=threads, indices=places)

        with loader.beton.unchanged:
            self.say("reading samples")
            reading = storage.measure(loader, seconds["read"], world)
            decoding = decode.measure(
                open_loader,
                loader,
                cores,
                recipe.data.batches_ahead,
                seconds["decode"],
                world,
                self.say,
            )
            self.say("decoding other ways to store the set")
            stored = repack.measure(loader.beton, loader.cropping, loader.options.decoder, world)
        if not device.is_host:
            self.say("copying to the device")
        copying = copy.measure(device, loader.batch_size, loader.size, seconds["copy"], world)

        self.say("training on data that is on the device")
        state = train_state(recipe, world, device)
        for note in fast_paths(recipe, state, world, self.say).notes:
            self.console.print(note)
        feed = DevicePrefetcher(device, state.precision.dtype, normalizes=False)
        step.prepare(state)
        step.mark(state, feed, DeviceTimer(device))
        targets = TARGETS[recipe.model.task].examples(loader.batch_size, recipe.model.num_classes)
        batch = step.random_batch(loader.size, targets, device.torch_device)
        stepping = step.measure(state, feed, batch, cores, seconds["step"], world)

        places = decode.few_places(loader, recipe.data.batches_ahead, world)
        queueing = None
        if not device.is_host:
            self.say("queueing steps next to decoding")
            with open_loader(loader.threads, places) as beside:
                batches = decode.forever(beside)
                queueing = queue.measure(state, feed, batch, batches, seconds["queue"], world)

        self.say("training with everything running")
        queued = recipe.data.batches_ahead + (0 if device.is_host else feed.depth)
        everything, spans = end_to_end.measure(
            loader, feed, state, queued, seconds["whole"], world, _device_s(queueing, stepping)
        )

        self.say("decoding and training again")
        with open_loader(loader.threads, places) as again:
            decoding = decoding.pooled(decode.alone(again, self.again["decode"], world))
            if queueing is not None:
                batches = decode.forever(again)
                later = queue.measure(state, feed, batch, batches, self.again["queue"], world)
                queueing = queueing.pooled(later)
        step.mark(state, feed, DeviceTimer(device))  # a device's clock gets coarse after a long time
        stepping = stepping.pooled(step.measure(state, feed, batch, cores, self.again["step"], world))

        stages = Stages(
            reading,
            decoding,
            stored,
            copying,
            stepping,
            everything,
            world.world_size,
            int(world.all_reduce_sum(torch.tensor(cores))),
            queueing,
        )
        self.say("writing")
        result = Profile(
            stages,
            find_bottleneck(stages),
            machine_of(device, world),
            recipe.model_dump(mode="json"),
            time.perf_counter() - self.began_s,
        )
        of_ranks = world.gather_object(spans)
        if of_ranks is not None:
            self.write(result, of_ranks)
        return result

    def say(self, what: str) -> None:
        """Show what comes next."""
        self.progress.say(what)

    def check_folder(self) -> None:
        """Raise UserError for a folder that cannot be written, before minutes of measuring."""
        folder = self.recipe.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error
        if not os.access(folder, os.W_OK):
            raise _unwritable(folder, "no permission")

    def write(self, result: Profile, spans_of_ranks: list[list[Span]]) -> None:
        """The verdict on the console, and the two files."""
        self.progress.stop()
        console_report.show(result, self.console)
        folder = self.recipe.folder
        try:
            (folder / PICTURE).unlink(missing_ok=True)  # drawn from an older profile
            result.write(folder)
            chrome_trace.write(folder / TIMELINE, spans_of_ranks)
        except OSError as error:
            raise _unwritable(folder, error) from error
        self.console.print(f"in {folder}: {PROFILE}, {TIMELINE}")
        command = f"python tools/plot_profile.py {shlex.quote(str(folder / PROFILE))}"
        self.console.print(f"to draw a picture of it: {command} (from a checkout, with matplotlib)")


def _device_s(queueing: queue.Queue | None, stepping: step.Step) -> float | None:
    """How long the device computes a step without gaps, its sums included; None if that is not known."""
    if queueing is None or queueing.device_ms is None:
        return None
    sums_ms = stepping.all_reduce_ms
    return (queueing.device_ms.median + (sums_ms.median if sums_ms else 0.0)) / 1e3


def _unwritable(folder: Path, why: object) -> UserError:
    return UserError(f"the folder {folder} cannot be written ({why}): set run.out")
