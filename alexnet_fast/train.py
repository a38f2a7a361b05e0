"""Train AlexNet by a recipe: ``python -m alexnet_fast.train RECIPE [--set section.key=value ...]``.

The flags of the reference, Ascend ModelZoo's AlexNet, work too (reference.py).
Exit codes: 0 done, 1 a rank failed (its error on stderr), 2 something the user can mend (one sentence on
stderr), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from itertools import islice

from .errors import UserError, exit_code

try:  # before torch: it settles how OpenMP waits, and says why a torch does not load
    from . import engine  # noqa: F401
except UserError as error:
    if __name__ != "__main__":
        raise
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

import torch
from torch.nn import functional

from . import reference
from .engine import checkpoint, launch, metrics, ranks
from .engine.checkpoint import BEST, LAST, Progress
from .engine.evaluate import Accuracy, evaluate
from .engine.feed import Feed
from .engine.meter import Averages, Clock, Meter
from .engine.metrics import Log, Report
from .engine.precision import Precision
from .engine.ranks import World
from .parts import (
    agree,
    begin,
    build,
    find_weights,
    join,
    layout,
    make_folder,
    open_train_set,
    open_val_set,
    schedule,
)
from .pipeline.decode import decode_chunk
from .pipeline.jit import is_cached
from .pipeline.loader import Loader
from .recipe import Recipe, keys, load


def train(recipe: Recipe, resume: str | None = None) -> Report:
    """Train, evaluate and save as the recipe says; what it came to also lies in the run's folder.

    resume: a checkpoint's path, or "auto" for the run's own last one, if there is one.
    Raises UserError for whatever the user can mend.
    """
    with ExitStack() as stack:
        return Training(recipe, resume, stack).run()


class Training:
    """One run: its parts, and the loop over epochs and steps."""

    def __init__(self, recipe: Recipe, resume: str | None, stack: ExitStack) -> None:
        self.started = time.perf_counter()
        self.recipe = recipe
        self.world, self.device = world, device = join(recipe, stack)
        torch.manual_seed(recipe.run.seed)
        self.train_set = stack.enter_context(open_train_set(recipe, world, device))
        self.val_set = stack.enter_context(open_val_set(recipe, world, device)) if recipe.eval.every else None
        self.steps_per_epoch = min(
            len(self.train_set), recipe.schedule.steps_per_epoch or len(self.train_set)
        )
        self.precision = build(recipe, world, device)
        ranks.seed_apart(world)
        self.learning_rate = schedule(recipe, self.steps_per_epoch)
        self.feed = Feed(device, self.precision.dtype)
        self.val_feed = Feed(device, self.precision.dtype)
        self.meter = Meter(device.torch_device, world)
        self.clock = Clock(device, recipe.log.warmup_steps)

        progress, notes = begin(recipe, resume, self.precision, world, device)
        self.cursor, self.best_acc1 = progress.cursor, progress.best_acc1
        self.meter.load_state_dict(*progress.meters)
        agree(world, self.precision, self.train_set, self.cursor)
        self.folder = make_folder(recipe) if world.is_first else recipe.folder
        self.log = Log(
            self.folder,
            epochs=recipe.schedule.epochs,
            steps_per_epoch=self.steps_per_epoch,
            going_on_from=self.cursor["epoch"] * self.steps_per_epoch + self.cursor["step"],
            tensorboard=recipe.log.tensorboard,
            speaks=world.is_first,
        )
        stack.callback(self.log.close)
        if not is_cached(decode_chunk):
            notes.append(
                "the kernels are being compiled, once on this machine: some 20 s until the first batch"
            )
        for note in (self.describe(), *notes):
            self.log.say(note)

    def run(self) -> Report:
        """All epochs from the cursor on, an evaluation and a checkpoint after each that is due one."""
        recipe, accuracy, averages = self.recipe, None, None
        for epoch in range(self.cursor["epoch"], recipe.schedule.epochs):
            self.run_epoch(epoch)
            last = epoch + 1 == recipe.schedule.epochs
            due = self.val_set is not None and (last or is_due(recipe.eval.every, epoch + 1))
            accuracy, averages = self.validate() if due else None, self.meter.read()
            self.log.epoch(epoch, self.precision.learning_rate, averages, accuracy, self.clock)
            self.meter.clear()
            self.cursor = {"epoch": epoch + 1, "step": 0}

            is_best = accuracy is not None and (self.best_acc1 is None or accuracy.acc1 > self.best_acc1)
            if accuracy is not None and is_best:
                self.best_acc1 = accuracy.acc1
            if recipe.checkpoint.every_epochs and (
                last or is_best or is_due(recipe.checkpoint.every_epochs, epoch + 1)
            ):
                self.save()
                if is_best and self.world.is_first:
                    checkpoint.copy(self.folder / LAST, self.folder / BEST)

        if accuracy is None and self.val_set is not None:  # resumed behind its last epoch
            accuracy = self.validate()
            self.log.accuracy(accuracy)
        return self.report(averages, accuracy)

    def run_epoch(self, epoch: int) -> None:
        """The steps of an epoch from the cursor on; only log lines, every print_freq, wait for the device."""
        recipe, precision = self.recipe, self.precision
        first, self.cursor["step"] = self.cursor["step"], 0
        self.train_set.set_epoch(epoch, first)
        precision.model.train()
        with self.clock.training(), closing(self.feed(self.train_set)) as batches:
            waited_s = self.train_set.wait_s
            for step, (images, labels) in enumerate(islice(batches, self.steps_per_epoch - first), first):
                logits = precision.forward(images)
                loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.optim.label_smoothing)
                precision.backward(loss)
                precision.step(self.learning_rate(epoch * self.steps_per_epoch + step))

                self.meter.add(loss, logits, labels)
                self.clock.step(len(labels) * self.world.world_size, self.train_set.wait_s - waited_s)
                waited_s = self.train_set.wait_s
                self.log.advance(epoch, step + 1)
                if step % recipe.log.print_freq == 0 or step + 1 == self.steps_per_epoch:
                    self.log.step(epoch, step, self.meter.read(), self.clock, **precision.figures())
                if is_due(recipe.checkpoint.every_steps, step + 1) and step + 1 < self.steps_per_epoch:
                    with self.clock.paused():
                        self.cursor = {"epoch": epoch, "step": step + 1}
                        self.save()

    def validate(self) -> Accuracy:
        """Exact accuracies on the evaluation set."""
        assert self.val_set is not None
        full_batches_of = self.recipe.eval.full_batches_of
        return validate(self.precision, self.val_set, self.val_feed, self.world, full_batches_of)

    def save(self) -> None:
        """Write the last checkpoint, as things stand at the cursor."""
        progress = Progress(self.cursor, [self.meter.state_dict()], self.best_acc1)
        recipe = self.recipe.model_dump(mode="json")
        snapshot = checkpoint.snapshot(self.precision, progress, recipe, self.world)
        if snapshot is not None:
            checkpoint.save(self.folder / LAST, snapshot)

    def describe(self) -> str:
        """What is about to run, in one line."""
        recipe, sets = self.recipe, f"{self.train_set.num_samples:,} training samples"
        if self.train_set.dropped:
            sets += f" ({self.train_set.dropped} of each epoch's last batch left out)"
        if self.val_set is not None:
            sets += f", {self.val_set.num_samples:,} to evaluate on"
        return (
            f"{recipe.run.name}: AlexNet, {recipe.model.num_classes} classes, {recipe.precision.level}, "
            f"{recipe.data.size} px, on {self.where}; {sets}; "
            f"{recipe.schedule.epochs} epochs of {self.steps_per_epoch} steps of "
            f"{recipe.data.global_batch_size}; results in {self.folder}"
        )

    @property
    def where(self) -> str:
        """The device, and how many train together."""
        several = f"{self.world.world_size} x " if self.world.world_size > 1 else ""
        return f"{several}{self.device.kind} ({self.device.name})"

    def report(self, averages: Averages | None, accuracy: Accuracy | None) -> Report:
        """Write report.json and print the closing lines."""
        recipe, speed = self.recipe, self.clock.run
        report = Report(
            name=recipe.run.name,
            accuracy=accuracy,
            best_acc1=self.best_acc1,
            training=averages,
            epochs=recipe.schedule.epochs,
            steps=recipe.schedule.epochs * self.steps_per_epoch,
            skipped_steps=int(self.precision.skipped),
            img_per_s=speed.img_per_s,
            img_per_s_leaves_out=f"first {recipe.log.warmup_steps} steps, evaluations, checkpoints, start-up",
            data_wait_share=speed.data_wait_share,
            seconds=time.perf_counter() - self.started,
            device=self.where,
            ranks=self.world.world_size,
            peak_memory_bytes=self.device.peak_memory_bytes(),
            versions=metrics.versions(),
            recipe=recipe.model_dump(mode="json"),
        )
        if self.world.is_first:
            report.write(self.folder / metrics.REPORT)
        for line in report.closing_lines():
            self.log.say(line)
        return report


def evaluate_only(recipe: Recipe, resume: str | None = None) -> Accuracy:
    """Evaluate a checkpoint on the recipe's evaluation set: `resume`, or the run's best, or model.weights."""
    with ExitStack() as stack:
        world, device = join(recipe, stack)
        path = find_weights(recipe, resume)
        precision = build(recipe, world, device)
        precision.load_state_dict(checkpoint.load(path)["state_dict"])
        val_set = stack.enter_context(open_val_set(recipe, world, device))
        agree(world, precision, val_set)
        feed = Feed(device, precision.dtype)
        accuracy = validate(precision, val_set, feed, world, recipe.eval.full_batches_of)
    result = {"checkpoint": str(path), "acc1": accuracy.acc1, "acc5": accuracy.acc5, **asdict(accuracy)}
    result["full_batches"] = metrics.full_batches(accuracy)
    if world.is_first:
        metrics.write_text(make_folder(recipe) / "eval.json", json.dumps(result, indent=2) + "\n")
        print(f"{path} on {recipe.data.val}: {accuracy.samples:,} samples, loss {accuracy.loss:.4f}")
        print("\n".join(metrics.accuracy_lines(accuracy)))
    return accuracy


def validate(
    precision: Precision, val_set: Loader, feed: Feed, world: World, full_batches_of: int = 0
) -> Accuracy:
    """The model's exact accuracies on all of `val_set`."""
    precision.model.eval()
    return evaluate(
        precision.forward,
        feed(val_set),
        val_set.num_samples,
        world,
        precision.device.torch_device,
        batch_size=val_set.batch_size,
        full_batches_of=full_batches_of,
    )


def is_due(every: int, count: int) -> bool:
    """Whether something done every `every` is due after `count`; 0 is never."""
    return every > 0 and count % every == 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = parse(argv)
    if arguments.keys:
        print("| key | type | default | what it does |\n|---|---|---|---|")
        print(
            "\n".join(
                f"| `{key.name}` | {key.type} | `{key.default}` | {key.description} |" for key in keys()
            )
        )
        return 0

    def run() -> int:
        path = arguments.recipe or reference.choose_recipe(arguments)
        flags = reference.overrides(arguments, load(path, arguments.set))
        recipe = load(path, [*flags, *arguments.set])
        where = layout(recipe)  # all that can be wrong is found before images are packed
        if arguments.data_path:
            flags += reference.data_overrides(arguments, recipe, say)
            recipe = load(path, [*flags, *arguments.set])
        entry = evaluate_only if arguments.eval or recipe.eval.only else train
        return launch.run(where, entry, recipe, arguments.resume)

    return exit_code(run)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line's arguments; exits with one sentence for what is no flag, or is one too few."""
    parser = reference.Parser(prog="python -m alexnet_fast.train", description="Train AlexNet by a recipe.")
    parser.add_argument(
        "recipe",
        nargs="*",
        metavar="RECIPE",
        help="a TOML file, such as recipes/tiny.toml; a folder or a .beton in its place is --data_path",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="section.key=value",
        help="override one key; may be repeated",
    )
    parser.add_argument(
        "-e", "--eval", "--evaluate", action="store_true", help="evaluate a checkpoint and stop"
    )
    parser.add_argument(
        "--resume", metavar="PATH|auto", help="go on from a checkpoint; auto: the run's own last one, if any"
    )
    parser.add_argument("--keys", action="store_true", help="list the recipe's keys and stop")
    reference.add_flags(parser)
    return reference.settle(parser.parse(argv), parser)


def say(sentence: str) -> None:
    """Tell the user, once for all ranks that torchrun may have started."""
    if os.environ.get("RANK", "0") == "0":
        print(sentence, flush=True)


if __name__ == "__main__":
    sys.exit(main())
