"""A training run, to be read from top to bottom: its parts, the loop over epochs and steps, evaluation, the report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from itertools import islice
from typing import NoReturn

import torch
from torch import Tensor

from .build import (
    all_skipped,
    fast_paths,
    init_distributed,
    raise_if_diverged,
    schedule,
    train_loader,
    train_state,
    val_loader,
)
from .common.disk_space import room_for_checkpoints
from .common.files import write_text
from .common.sizes import Size, size_text
from .common.text import plural
from .decode.kernel import decode_chunk
from .distributed import world as ranks
from .distributed.stop_signals import StopSignals
from .distributed.world import World
from .engine.evaluate import Evaluation, evaluate
from .engine.meter import Averages, ThroughputMeter
from .engine.tasks import target_of
from .engine.train_state import TrainState
from .errors import StoppedBySignal, escaped
from .kernel_cache import is_cached
from .loader.bad_samples import SkippedSample, summarize
from .loader.device_prefetcher import DevicePrefetcher
from .loader.loader import Loader
from .models import spec_of
from .recipe import Recipe
from .run import checkpoint_manager
from .run.ceiling import ceiling_img_per_s, machine_of
from .run.checkpoint import ResumeState, restore_average
from .run.checkpoint_manager import CheckpointManager
from .run.data_wait import DataWaitMonitor
from .run.folder import hold_run_folder, make_folder, writing
from .run.log import Log
from .run.log_fields import full_batches, score
from .run.report import (
    EVALUATION,
    REPORT,
    Report,
    closing_lines,
    evaluation_lines,
    read_report,
    versions,
)
from .run.resume import assert_ranks_agree, find_weights, load_start, paths_differ
from .run.same_set import check_learnt_task, check_val_classes, classes_of, learnt_classes, unread

Pair = tuple[Tensor, Tensor]  # images and targets on the device


def train(recipe: Recipe, resume: str | None = None) -> Report:
    """Train, evaluate and save as the recipe says; returns the report, which is also written to the run's folder.

    resume: a checkpoint's path, or "auto" for the run's own newest valid one, if any.
    Raises UserError for a mistake that the user can fix, and StoppedBySignal after the step, or before the evaluation
    batch, at which a signal came (with several ranks, one later).
    """
    with ExitStack() as stack:
        return Trainer(recipe, resume, stack).run()


class Signalled(Exception):
    """A signal came during an evaluation."""

    def __init__(self, number: int) -> None:
        self.number = number


class Trainer:
    """One run: its parts, and the loop over epochs and steps."""

    def __init__(self, recipe: Recipe, resume: str | None, stack: ExitStack) -> None:
        self.started = time.perf_counter()
        self.recipe = recipe
        self.world, self.device = world, device = init_distributed(recipe, stack)
        torch.manual_seed(recipe.run.seed)
        self.train_set = stack.enter_context(train_loader(recipe, world, device))
        self.val_set = stack.enter_context(val_loader(recipe, world, device)) if recipe.eval.every else None
        self.steps_per_epoch = min(
            len(self.train_set), recipe.schedule.steps_per_epoch or len(self.train_set)
        )
        self.state = train_state(recipe, world, device)
        self.precision, self.meter, self.task = self.state.precision, self.state.meter, self.state.task
        ranks.seed_per_rank(world)
        self.lr_schedule = schedule(recipe, self.steps_per_epoch)
        self.feed = DevicePrefetcher(device, self.precision.dtype, normalizes=False)
        self.val_feed = DevicePrefetcher(device, self.precision.dtype, normalizer=self.state.normalize)
        self.clock = ThroughputMeter(device, recipe.log.warmup_steps, world)
        self.data_wait = DataWaitMonitor(self.train_set, world.world_size)

        hold_run_folder(recipe, world, stack)
        classes = classes_of(self.train_set, recipe, world)
        progress, taken, notes = load_start(
            recipe, resume, self.precision, world, device, self.train_set, classes
        )
        notes += unread(classes)
        self.classes, self.train_set_identity = progress.classes, progress.train_set
        if self.val_set is not None:
            known = classes
            if not classes.names and self.classes:
                known = replace(classes, names=self.classes, whose=f"the checkpoint {taken}")
            notes += check_val_classes(known, self.val_set, recipe, world)
        self.cursor, self.best = progress.cursor, progress.best
        self.size = recipe.data.size_at(self.cursor["epoch"])
        if self.size != self.train_set.size:
            self.train_set.size = self.size
        self.skipped_before = self.skipped = list(progress.skipped_samples)
        self.meter.load_state_dict(*progress.meters)
        assert_ranks_agree(world, self.precision, self.train_set, self.cursor, self.val_set)
        begins = self.cursor == {"epoch": 0, "step": 0}
        self.folder = make_folder(recipe, begins) if world.is_rank0 else recipe.folder
        self.keeper = CheckpointManager(self.folder, recipe.checkpoint.keep, world, taken, self.cursor)
        self.stopping = stack.enter_context(StopSignals(world, recipe.checkpoint.is_asked_for))
        with writing(self.folder):
            self.log = Log(
                self.folder,
                epochs=recipe.schedule.epochs,
                steps_per_epoch=self.steps_per_epoch,
                going_on_from=self.cursor,
                tensorboard=recipe.log.tensorboard,
                task=self.task,
                speaks=world.is_rank0,
                ceiling_img_per_s=ceiling_img_per_s(
                    recipe, machine_of(device, world), self.train_set.beton.num_bytes
                ),
            )
        stack.callback(self.log.close)
        if target_of(self.task).are_classes and 2 * self.train_set.num_classes < recipe.model.num_classes:
            notes.append(
                f"warning: the set has {self.train_set.num_classes} classes and the model {recipe.model.num_classes}: "
                f"--set model.num_classes={self.train_set.num_classes}, if the set is complete"
            )
        parameters = sum(each.numel() for each in self.precision.model.parameters())
        if (
            room := room_for_checkpoints(
                recipe.folder, recipe.max_checkpoints, parameters, recipe.tensors_in_checkpoint
            )
        ).remedy:
            notes.append(f"warning: {room.found}: {room.remedy}")
        if not is_cached(decode_chunk):
            notes.append(
                "the kernels are being compiled, once on this machine: some 40 s until the first batch"
            )
        for note in (self.describe(), *notes):
            self.log.say(note)
        # The loader decodes its first batches meanwhile.
        self.use_fast_paths()
        if self.precision.has_reducer:
            self.log.say(
                "gradients are averaged over the ranks in flat buffers, not by DDP, which cannot be captured"
            )
        for note in paths_differ(progress.fast_paths, self.fast_paths.on):
            self.log.say(note)

    def use_fast_paths(self) -> None:
        """Prove and use the fast paths for images of the current size, and say which."""
        self.fast_paths = fast_paths(
            self.recipe, self.state, self.world, self.log.say, self.val_set, self.size
        )
        if self.fast_paths.summary:
            self.log.say(self.fast_paths.summary)
        for note in self.fast_paths.notes:
            self.log.say(note)

    def resize(self, size: Size) -> None:
        """Train on images of this size from now on: what was captured or compiled for others is proven again."""
        self.log.say(f"images of {size_text(size)} from here on")
        self.train_set.size = self.size = size
        self.use_fast_paths()

    def run(self) -> Report:
        """Run all epochs from the cursor on, with an evaluation and a checkpoint after each where one is due."""
        recipe, evaluation, averages = self.recipe, None, None
        for epoch in range(self.cursor["epoch"], recipe.schedule.epochs):
            self.train_epoch(epoch)
            self.tell_skipped()
            last = epoch + 1 == recipe.schedule.epochs
            due = self.val_set is not None and (last or is_due(recipe.eval.every, epoch + 1))
            evaluation, averages = self.validate() if due else None, self.meter.read()
            values = self.precision.figures()
            if recipe.data.on_error == "skip":  # from the meter's count, which includes steps before a resume
                in_all = self.steps_per_epoch * recipe.data.global_batch_size
                values["skipped_in_epoch"] = in_all - averages.samples
            self.log.epoch(epoch, self.precision.learning_rate, averages, evaluation, self.clock, **values)
            self.meter.clear()
            self.cursor = {"epoch": epoch + 1, "step": 0}

            before, first = self.best, self.task.metrics[0]
            value = None if evaluation is None else evaluation.metrics[first.name]
            is_best = value is not None and first.is_better(value, before)
            self.best = value if is_best else before
            asked = recipe.checkpoint
            saves = last or is_best or is_due(asked.every_epochs, epoch + 1)
            saves = saves or is_due(asked.every_steps, self.steps_per_epoch)
            if asked.is_asked_for and saves and not self.save(is_best):
                self.best = before  # the best must be one that was saved

        if evaluation is None and self.val_set is not None:  # resumed after its last epoch
            evaluation = self.validate()
            self.log.evaluation(evaluation)
        return self.report(averages, evaluation)

    def train_epoch(self, epoch: int) -> None:
        """The steps of an epoch from the cursor on; only log lines, every print_freq, and checkpoints wait for the device."""
        recipe, steps = self.recipe, self.steps_per_epoch
        first = self.cursor["step"]
        if first >= steps:  # stopped after its last step: only its evaluation remains
            return
        if (size := recipe.data.size_at(epoch)) != self.size:
            self.resize(size)
        self.train_set.set_epoch(epoch, first)
        self.precision.model.train()
        with self.clock.training(), closing(self.feed(self.train_set)) as batches:
            waited_s = self.train_set.wait_s
            self.data_wait.go_on()
            for step, (images, targets) in enumerate(islice(batches, steps - first), first):
                self.state.lr = self.lr_schedule(epoch * steps + step)
                self.state.train_step(images, targets)

                self.clock.step(len(targets) * self.world.world_size, self.train_set.wait_s - waited_s)
                waited_s = self.train_set.wait_s
                self.cursor = {"epoch": epoch, "step": step + 1}
                self.log.advance(epoch, step + 1)
                if step % recipe.log.print_freq == 0 or step + 1 == steps:
                    averages = self.meter.read()
                    self.log.step(epoch, step, averages, self.clock, **self.precision.figures())
                    if late := self.data_wait.warning(self.clock.steady):
                        self.log.say(late)
                    raise_if_diverged(recipe, averages, epoch * steps + step + 1)
                if is_due(recipe.checkpoint.every_steps, step + 1) and step + 1 < steps:
                    with self.clock.paused():
                        self.save()
                self.stop_if_signalled()

    def validate(self) -> Evaluation:
        """The task's exact metrics on the evaluation set, and those of the average of the weights, if there is one."""
        val_set, world, every = self.val_set, self.world, self.recipe.eval.full_batches_of
        assert val_set is not None
        try:
            return validate_both(
                self.state, val_set, lambda: self.until_signalled(self.val_feed(val_set)), world, every
            )
        except Signalled as signalled:  # the weights are their own again
            self.end_by_signal(signalled.number)

    def until_signalled(self, batches: Iterable[Pair]) -> Iterator[Pair]:
        """An evaluation's batches, looking for a signal at each step that all ranks have, which raises Signalled."""
        assert self.val_set is not None
        steps = self.val_set.num_samples // (self.val_set.batch_size * self.world.world_size)
        for step, batch in enumerate(batches):
            if step < steps and (number := self.stopping.agreed()):
                raise Signalled(number)
            yield batch

    def stop_if_signalled(self) -> None:
        """Stop, on all ranks together, where any of them was signalled."""
        if number := self.stopping.agreed():
            self.end_by_signal(number)

    def end_by_signal(self, number: int) -> NoReturn:
        """Save, unless the run saves nothing, and raise StoppedBySignal; every rank has to call this."""
        where = f"at epoch {self.cursor['epoch']}, step {self.cursor['step']}: "
        if not self.recipe.checkpoint.is_asked_for:
            asks = "checkpoint.every_epochs = 0 and checkpoint.every_steps = 0"
            raise StoppedBySignal(number, f"{where}nothing is saved, because {asks}")
        saved = self.save()
        self.world.all_reduce_sum(torch.zeros(1))  # no rank ends before rank 0 has written
        raise StoppedBySignal(
            number, where + ("saved, resume with --resume auto" if saved else "not saved, see above")
        )

    def save(self, is_best: bool = False) -> bool:
        """Save the state at the cursor as the last checkpoint; False, on all ranks, where it is not finite.

        is_best: and as the best.
        """
        recipe, averages = self.recipe, self.meter.read()
        skipped = self.all_skipped()
        progress = ResumeState(
            self.cursor,
            [self.meter.state_dict()],
            self.best,
            skipped,
            self.classes,
            self.train_set_identity,
            self.task.metrics[0].name,
            self.fast_paths.on,
        )
        dumped = recipe.model_dump(mode="json")
        if averages.nonfinite_steps == 0 and self.keeper.save(self.precision, progress, dumped, is_best):
            return True
        steps = self.cursor["epoch"] * self.steps_per_epoch + self.cursor["step"]
        raise_if_diverged(recipe, averages, steps, weights=averages.nonfinite_steps > 0)
        self.log.say(f"no checkpoint of step {steps}: the loss or a weight is not finite")
        return False

    def tell_skipped(self) -> None:
        """Log which training samples were skipped, if there are new ones.  Every rank has to call this."""
        before, self.skipped = len(self.skipped), self.all_skipped()
        if len(self.skipped) > before:
            self.log.say(f'data.on_error = "skip": {summarize(self.skipped)}')

    def all_skipped(self) -> list[SkippedSample]:
        """All samples skipped so far, before a resume too, on rank 0.  Every rank has to call this."""
        if self.recipe.data.on_error != "skip":
            return self.skipped_before
        return all_skipped(self.world, self.train_set, self.skipped_before)

    def describe(self) -> str:
        """What is about to run, in one line."""
        recipe, sets = self.recipe, f"{self.train_set.num_samples:,} training samples"
        if self.train_set.dropped:
            sets += f" ({self.train_set.dropped} left over each epoch)"
        if self.val_set is not None:
            sets += f", {self.val_set.num_samples:,} to evaluate on"
        return (
            f"{recipe.run.name}: {spec_of(recipe.model.name).title}, {self.task.describe(recipe.model.num_classes)}, {recipe.precision.level}, "
            f"{self.sizes}, on {self.where}; {sets}; {self.decoding}; "
            f"{plural(recipe.schedule.epochs, 'epoch')} of {plural(self.steps_per_epoch, 'step')} of "
            f"{recipe.data.global_batch_size}; results in {self.folder}"
        )

    @property
    def sizes(self) -> str:
        """The sizes of the training images."""
        stages = self.recipe.data.stages
        return size_text(stages[0][1]) + "".join(
            f", {size_text(size)} from epoch {epoch} on" for epoch, size in stages[1:]
        )

    @property
    def decoding(self) -> str:
        """How many threads decode, and why so many."""
        threads = plural(self.train_set.threads, "decoding thread")
        each = " on each rank" if self.world.world_size > 1 else ""
        return f"{threads}{each}" + (", one for each of its cores" if not self.recipe.data.threads else "")

    @property
    def where(self) -> str:
        """The device, and how many of them train together."""
        plural = f"{self.world.world_size} x " if self.world.world_size > 1 else ""
        return f"{plural}{self.device.kind} ({self.device.name})"

    def report(self, averages: Averages | None, evaluation: Evaluation | None) -> Report:
        """Write report.json and print the closing lines."""
        recipe, speed = self.recipe, self.clock.run
        report = Report(
            name=recipe.run.name,
            evaluation=evaluation,
            best=self.best,
            training=averages,
            epochs=recipe.schedule.epochs,
            steps=recipe.schedule.epochs * self.steps_per_epoch,
            skipped_steps=int(self.precision.skipped),
            skipped_samples=[asdict(sample) for sample in self.skipped],
            img_per_s=speed.img_per_s,
            img_per_s_leaves_out=f"first {recipe.log.warmup_steps} steps, evaluations, checkpoints, start-up",
            data_wait_share=speed.data_wait_share,
            seconds=time.perf_counter() - self.started,
            device=self.where,
            ranks=self.world.world_size,
            peak_memory_bytes=self.device.peak_memory_bytes(),
            versions=versions(),
            recipe=recipe.model_dump(mode="json"),
            measured=self.precision.figures(),
            task=self.task,
        )
        before = read_report(self.folder / REPORT, self.task) if averages is None else None
        if before is not None:  # it had trained all its epochs and written its report
            self.log.say(
                f"{recipe.run.name} is already complete: its report is kept; to train further, raise schedule.epochs "
                f"= {recipe.schedule.epochs}"
            )
        elif self.world.is_rank0:
            with writing(self.folder):
                report.write(self.folder / REPORT)
        for line in closing_lines(before or report.figures(), self.task):
            self.log.say(line)
        return report


def evaluate_only(recipe: Recipe, resume: str | None = None) -> Evaluation:
    """Evaluate a checkpoint on the recipe's evaluation set: `resume`, or the run's best, or model.weights."""
    with ExitStack() as stack:
        world, device = init_distributed(recipe, stack)
        path = find_weights(recipe, resume)
        state = train_state(recipe, world, device)
        precision = state.precision
        loaded = checkpoint_manager.load(path)
        check_learnt_task(path, loaded, recipe)
        precision.load_state_dict(loaded["state_dict"])
        val_set = stack.enter_context(val_loader(recipe, world, device))
        for warning in check_val_classes(learnt_classes(path, loaded, recipe), val_set, recipe, world):
            if world.is_rank0:
                print(warning)
        assert_ranks_agree(world, precision, val_set)
        feed = DevicePrefetcher(device, precision.dtype)
        if not restore_average(loaded, precision):
            precision.average = None
        evaluation = validate_both(state, val_set, lambda: feed(val_set), world, recipe.eval.full_batches_of)
    result = {"checkpoint": str(path), **score(evaluation), "loss": evaluation.loss}
    result["full_batches"] = full_batches(evaluation)
    if (averaged := evaluation.averaged) is not None:
        result["ema"] = {**score(averaged), "loss": averaged.loss}
    if world.is_rank0:
        with writing(recipe.folder):
            write_text(make_folder(recipe) / EVALUATION, json.dumps(result, indent=2) + "\n")
        print(
            escaped(
                f"{path} on {val_set.beton.path}: {evaluation.samples:,} samples, loss {evaluation.loss:.4f}"
            )
        )
        print("\n".join(evaluation_lines(evaluation, state.task)))
    return evaluation


def validate_both(
    state: TrainState,
    val_set: Loader,
    batches: Callable[[], Iterable[Pair]],
    world: World,
    full_batches_of: int = 0,
) -> Evaluation:
    """As ``validate``, and the same of the average of the weights, where there is one; `batches` is called for each pass over them."""
    plain = validate(state, val_set, batches(), world, full_batches_of)
    average = state.precision.average
    if average is None:
        return plain
    with average.in_use():
        return replace(plain, averaged=validate(state, val_set, batches(), world, full_batches_of))


def validate(
    state: TrainState,
    val_set: Loader,
    batches: Iterable[Pair],
    world: World,
    full_batches_of: int = 0,
) -> Evaluation:
    """The task's exact metrics of the model on all of `val_set`, of which `batches` are this rank's on the device."""
    precision = state.precision
    precision.model.eval()
    return evaluate(
        state.evaluate,
        batches,
        val_set.num_samples,
        world,
        precision.device.torch_device,
        task=state.task,
        batch_size=val_set.batch_size,
        full_batches_of=full_batches_of,
    )


def is_due(every: int, count: int) -> bool:
    """Whether something done every `every` is due after `count`; 0 is never."""
    return every > 0 and count % every == 0
