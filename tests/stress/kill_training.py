"""Stop a training run at random steps in every way, resume it each time, and compare its end with an uninterrupted one's.

    PYTHONPATH=.:tests:tools python -m stress.kill_training --betons DIR [--tries 10] [--each 5] [--seed 0] [--ranks 1 2] [--faults ...]

DIR holds a train.beton and a val.beton of at most ten classes.  The run is the command in its own processes, on
a CPU, with a narrow AlexNet (narrow_model.py), at O2 with dropout, a checkpoint every third step and an evaluation each epoch.
At a random moment after a random step a signal is sent to one of its processes; with several ranks to the launcher, to
one rank, or to all.  Then ``--resume auto`` starts at once, even if ranks whose launcher was killed still run.
Survived means: the exit code reports what happened, no process and no half-written file is left, and at the end all
losses, accuracies, weights and momenta, also those of the best checkpoint, equal those of the uninterrupted run to the
bit.  Prints a row of JSON for each kind of fault, and a sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alexnet_fast.common.cli import file_path
from alexnet_fast.errors import UserError, exit_code
from alexnet_fast.run import checkpoint
from bench.proc import tree

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, STEPS = 4, 7
PATIENCE_S = 300.0
CODES = {"SIGTERM": {143}, "SIGINT": {130}}
FILES = {
    "checkpoint_best.pt", "checkpoint_last.pt", "eval.json", "metrics.jsonl", "recipe.toml", "report.json",
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """A signal, and which of the run's processes get it: the "launcher", one "rank", or "all"."""

    name: str
    whom: str

    def __str__(self) -> str:
        return f"{self.name} to {self.whom}"

    def strike(self, launcher: int, rng: random.Random) -> None:
        """Send it; the launcher of one rank is that rank."""
        processes = tree(launcher)
        ranks = [pid for pid in processes[1:] if called(pid).startswith("rank ")]
        targets = {
            "launcher": [launcher],
            "rank": [rng.choice(ranks or [launcher])],
            "all": [launcher, *ranks],
        }
        for pid in targets[self.whom]:
            os.kill(pid, getattr(signal, self.name))


class Run:
    """A training run in its own processes, and the files that it has left."""

    def __init__(self, name: str, folder: Path, betons: Path, ranks: int) -> None:
        self.folder, self.metrics = folder / name, folder / name / "metrics.jsonl"
        self.before: int | None = None
        self.arguments = [
            f"run.name={name}", f"run.out={folder}", "run.device=cpu", f"data.train={betons / 'train.beton'}",
            f"data.val={betons / 'val.beton'}", "data.size=64", "data.global_batch_size=4", "model.num_classes=10",
            "optim.lr=0.002", f"schedule.epochs={EPOCHS}", f"schedule.steps_per_epoch={STEPS}", "schedule.per=step",
            "precision.level=O2", "eval.global_batch_size=20", "checkpoint.every_steps=3", "log.print_freq=1",
            f"distributed.nproc={ranks}",
        ]  # fmt: skip

    def start(self) -> subprocess.Popen[str]:
        """Start the command, which resumes if it can."""
        self.before = self.file()
        sets = [word for argument in self.arguments for word in ("--set", argument)]
        return subprocess.Popen(
            [sys.executable, str(ROOT / "tests/stress/narrow_model.py"), str(ROOT / "recipes/tiny.toml"), *sets,
             "--resume", "auto"],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's & has it ignored
        )  # fmt: skip

    def file(self) -> int | None:
        """Which file metrics.jsonl is: each start writes it again, as a new file."""
        return self.metrics.stat().st_ino if self.metrics.exists() else None

    def records(self) -> list[dict[str, Any]]:
        """The complete lines of metrics.jsonl."""
        text = self.metrics.read_text() if self.metrics.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def wait_for(self, step: int, process: subprocess.Popen[str]) -> None:
        """Return when this start has logged that many steps of the run; raises AssertionError if it ends before."""
        deadline = time.monotonic() + PATIENCE_S
        while self.file() == self.before or not any(record["step"] >= step for record in self.records()):
            assert process.poll() is None, f"it ended before step {step}: {process.communicate()}"
            assert time.monotonic() < deadline, f"step {step} was not reached in {PATIENCE_S} s"
            time.sleep(0.003)

    def figures(self) -> list[dict[str, Any]]:
        """What is the same in every run: each record without what a clock measured."""
        clocks = ("img_per_s", "data_wait_share", "seconds")
        return [{k: v for k, v in record.items() if k not in clocks} for record in self.records()]

    def tensors(self) -> list[torch.Tensor]:
        """Weights and momenta at the end, and where the run was best."""
        loaded = [checkpoint.load(self.folder / name) for name in (checkpoint.LAST, checkpoint.BEST)]
        momenta = [
            value
            for each in loaded
            for state in each["optimizer"]["state"].values()
            for value in state.values()
        ]
        return [*(tensor for each in loaded for tensor in each["state_dict"].values()), *momenta]


def attack(folder: Path, betons: Path, ranks: int, faults: Sequence[Fault], seed: int) -> str:
    """Interrupt one run by each of `faults` in turn, at random increasing steps, then let it finish; returns "" or what was wrong."""
    rng = random.Random(seed)
    whole, let_alone = Run(f"whole{ranks}", folder, betons, ranks), None
    if not (whole.folder / "report.json").exists():
        let_alone = whole.start()  # concurrently with the one that is interrupted
    run = Run(f"struck{ranks}_{faults[0].name}_{seed}", folder, betons, ranks)
    assert not run.folder.exists(), (
        f"{run.folder} is of another run: what is interrupted there may have ended"
    )
    steps = sorted(rng.sample(range(1, EPOCHS * STEPS - 4), len(faults)))
    struck, processes = list[subprocess.Popen[str]](), list[int]()
    try:
        for step, fault in zip(steps, faults, strict=True):
            process = run.start()
            run.wait_for(step, process)
            time.sleep(rng.random() * 0.1)
            processes += tree(process.pid)
            fault.strike(process.pid, rng)
            expected = CODES.get(fault.name) or (
                {-signal.SIGKILL} if ranks == 1 or fault.whom != "rank" else {1}
            )
            code = process.wait(PATIENCE_S)
            assert code in expected, f"exit code {code}, not {expected}: {process.communicate()}"
            struck.append(process)
        assert "resumes from" in ended(run.start())
        if let_alone is not None:
            ended(let_alone)
        await_end(processes)
        for process in struck:
            _, error = process.communicate()
            assert "Traceback" not in error, error
        assert run.figures() == whole.figures(), "other figures"
        pairs = zip(run.tensors(), whole.tensors(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs), "other weights or momenta"
        left = {
            path.name for path in run.folder.iterdir() if not path.name.startswith("checkpoint_e")
        } - FILES
        assert not left, f"left over: {left}"
    except AssertionError as wrong:
        return f"seed {seed}, {ranks} rank(s), {', '.join(map(str, faults))} at steps {steps}: {wrong}"
    return ""


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for a process that must succeed; returns what it printed."""
    out, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, f"exit code {process.returncode}: {out[-500:]} {error}"
    return out


def await_end(processes: list[int]) -> None:
    """Return when all have ended, also ranks whose launcher was killed."""
    deadline = time.monotonic() + PATIENCE_S
    while left := [pid for pid in processes if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"processes {left} are left"
        time.sleep(0.01)


def called(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="training.py", description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--betons", type=file_path, required=True, metavar="DIR", help="train.beton and val.beton"
    )
    parser.add_argument("--tries", type=int, default=10, help="signals of each kind")
    parser.add_argument("--each", type=int, default=5, help="of them on one run, before it may end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--faults", nargs="+", default=["SIGTERM", "SIGINT", "SIGKILL"])
    arguments = parser.parse_args(argv)
    betons = arguments.betons.resolve()
    if not (betons / "train.beton").exists():
        raise UserError(f"there is no {betons / 'train.beton'}: pack with tools/write_beton.py first")
    wrongs = []
    with tempfile.TemporaryDirectory(prefix="attack-") as name:
        for ranks in arguments.ranks:
            for fault in arguments.faults:
                began, tries, survived = time.monotonic(), 0, 0
                for seed in range(arguments.seed, arguments.seed + -(-arguments.tries // arguments.each)):
                    whom = ["launcher", "rank", "all"] if ranks > 1 else ["launcher"]
                    count = min(arguments.each, arguments.tries - tries)
                    faults = [Fault(fault, whom[(seed + k) % len(whom)]) for k in range(count)]
                    wrong = attack(Path(name), betons, ranks, faults, seed)
                    tries, survived = tries + count, survived + (0 if wrong else count)
                    wrongs += [wrong] if wrong else []
                row = {
                    "fault": f"{fault} in training", "ranks": ranks, "tries": tries, "survived": survived,
                    "seed": arguments.seed, "seconds": round(time.monotonic() - began, 1),
                }  # fmt: skip
                print(json.dumps(row), flush=True)
    print("\n".join(wrongs) or "every run ended with the bits of an uninterrupted one")
    return 1 if wrongs else 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
