"""The log of a run: a live line, log lines, a row per epoch, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from rich.progress import BarColumn, Progress, TextColumn

from ..common.console import Console
from ..common.files import write_text
from ..engine.evaluate import Evaluation
from ..engine.meter import Averages, ThroughputMeter
from ..engine.tasks import Classification, Task
from ..errors import UserError
from .checkpoint import Cursor
from .log_fields import Logged, fields_on, record, row
from .report import evaluation_lines

METRICS = "metrics.jsonl"
NARROW = 110  # columns, below which the live line omits what the log lines show


class Log:
    """The console, metrics.jsonl and TensorBoard.

    On a terminal a live line is shown below the log; elsewhere there are only log lines.  If the console cannot be
    written to, nothing more is printed, and the run continues.

    going_on_from: where the run resumes.  What metrics.jsonl holds of later steps, or of the end of an epoch that is
        not complete, is later than the resume point and is deleted.  A fresh run starts a new file.
    speaks: whether anything is printed and written; True on rank 0 only.
    task: whose metrics are written; None = classification.
    ceiling_img_per_s: the maximum speed that a profile predicts; None without a profile.
    """

    def __init__(
        self,
        folder: Path,
        *,
        epochs: int,
        steps_per_epoch: int,
        going_on_from: Cursor,
        tensorboard: bool,
        task: Task | None = None,
        speaks: bool = True,
        ceiling_img_per_s: float | None = None,
    ) -> None:
        self._ceiling, self._run_task = ceiling_img_per_s, task or Classification()
        self._folder, self._epochs, self._steps_per_epoch = folder, epochs, steps_per_epoch
        self._console = Console(quiet=not speaks, highlight=False, soft_wrap=True)
        self._lines = _Lines(folder / METRICS, going_on_from, steps_per_epoch, self.say) if speaks else None
        self._tensorboard = _summary_writer(folder) if tensorboard and speaks else None
        self._headed = False
        self._narrow = self._console.width < NARROW
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]} step {task.fields[at]}"),
            *([] if self._narrow else [BarColumn(bar_width=24)]),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            refresh_per_second=2,
            disable=not (self._console.is_terminal and speaks),
        )
        self._task = self._progress.add_task(
            "",
            total=epochs * steps_per_epoch,
            epoch=going_on_from["epoch"],
            epochs=epochs,
            at=f"0/{steps_per_epoch}",
            figures="",
        )
        self._progress.start()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def advance(self, epoch: int, step: int) -> None:
        """Advance the live line; reads nothing from the device."""
        self._progress.update(
            self._task,
            completed=epoch * self._steps_per_epoch + step,
            epoch=epoch,
            at=f"{step}/{self._steps_per_epoch}",
        )

    def step(
        self, epoch: int, step: int, averages: Averages, clock: ThroughputMeter, **measured: float
    ) -> None:
        """A log line after `step` + 1 steps of `epoch`; measured: other values, by the names of their LogFields."""
        line, so_far = clock.line(), clock.epoch
        width = len(str(self._steps_per_epoch))
        self.say(
            f"Epoch: [{epoch}][{step:{width}d}/{self._steps_per_epoch}]"
            f"  Time {line.step_s:6.3f} ({so_far.step_s:6.3f})"
            f"  Data {line.step_wait_s:6.3f} ({so_far.step_wait_s:6.3f})"
            f"  Loss {averages.last_loss:.4e} ({averages.loss:.4e})"
            + "".join(
                f"  {metric.title} {metric.in_line(averages.metrics[metric.name])}"
                for metric in self._run_task.metrics
            )
        )
        left_s = (
            self._epochs * self._steps_per_epoch - epoch * self._steps_per_epoch - step - 1
        ) * so_far.step_s
        of_ceiling = (
            "" if self._ceiling is None else f" ({100 * line.img_per_s / self._ceiling:.0f} % of ceiling)"
        )
        wait, left = f"{100 * line.data_wait_share:.0f} %", _duration(left_s)
        self._progress.update(
            self._task,
            figures=f"{line.img_per_s:.0f} img/s{of_ceiling} wait {wait} {left}"
            if self._narrow
            else f"loss {averages.loss:.3f}  {line.img_per_s:.0f} img/s{of_ceiling}  data wait {wait}  {left} left",
        )
        self._record(
            "step",
            epoch * self._steps_per_epoch + step + 1,
            Logged(averages, None, measured, epoch, self._epochs, line, self._ceiling, self._run_task),
        )

    def epoch(
        self,
        epoch: int,
        learning_rate: float,
        averages: Averages,
        evaluation: Evaluation | None,
        clock: ThroughputMeter,
        **measured: float,
    ) -> None:
        """The epoch's row in the table, and the lines FPS@all and [AVG-ACC], or the task's; measured: as of `step`."""
        interval = clock.epoch
        self.say(f"[gpu id: 0 ] * FPS@all {interval.img_per_s:.3f}")
        if evaluation is not None:
            self.evaluation(evaluation)
        if not self._headed:
            self.say("  ".join(f"{each.column:>9}" for each in fields_on("table", self._run_task)))
            self._headed = True
        measured["lr"] = learning_rate
        logged = Logged(
            averages, evaluation, measured, epoch, self._epochs, interval, self._ceiling, self._run_task
        )
        self.say("  ".join(f"{cell:>9}" for cell in row(logged)))
        self._record("epoch", (epoch + 1) * self._steps_per_epoch, logged)

    def evaluation(self, evaluation: Evaluation) -> None:
        for line in evaluation_lines(evaluation, self._run_task):
            self.say(line)

    def close(self) -> None:
        with suppress(OSError):  # as in `say`
            self._progress.stop()
        if self._lines is not None:
            self._lines.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _record(self, kind: Literal["step", "epoch"], step: int, logged: Logged) -> None:
        values = {name: value for name, value in record(kind, logged).items() if value is not None}
        if self._lines is not None:
            self._lines.add(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(f"{kind}/{name}", value, step)


class _Lines:
    """metrics.jsonl: written line by line, after records later than the resume point are deleted.

    A failing write does not stop the run: lines that cannot be written, as on a full disk, wait in memory.
    """

    def __init__(
        self, path: Path, going_on_from: Cursor, steps_per_epoch: int, say: Callable[[str], None]
    ) -> None:
        self._path, self._say = path, say
        _drop_what_is_to_come(path, going_on_from, steps_per_epoch)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed in close)
        self._waiting, self._told = b"", False

    def add(self, line: str) -> None:
        self._waiting += line.encode()
        try:
            while self._waiting:
                if not (written := self._file.write(self._waiting)):
                    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                self._waiting = self._waiting[written:]
            self._told = False
        except OSError as error:
            if not self._told:
                self._told = True
                self._say(
                    f"{self._path} cannot be written ({error.strerror}): the run continues, and its lines are kept in memory until they can be written"
                )

    def close(self) -> None:
        self._told = True
        self.add("")
        if self._waiting:
            lost = self._waiting.count(b"\n")
            self._say(f"the last {lost:,} lines of {self._path} could not be written and are lost")
        with suppress(OSError):
            self._file.close()


def _drop_what_is_to_come(path: Path, going_on_from: Cursor, steps_per_epoch: int) -> None:
    """Delete the records of metrics.jsonl that are later than the resume point."""
    kept: list[str] = []
    last = going_on_from["epoch"] * steps_per_epoch + going_on_from["step"]
    if last and path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                values = json.loads(line)
                is_to_come = values["kind"] == "epoch" and values["epoch"] >= going_on_from["epoch"]
                if values["step"] <= last and not is_to_come:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):  # a line that a kill truncated
                continue
    write_text(path, "".join(kept))


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "log.tensorboard = true, but tensorboard is not installed: pip install tensorboard"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
