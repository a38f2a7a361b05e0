"""What a run keeps when it is signalled or killed, or finds its checkpoint corrupt or its loss not finite."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

import betons
from alexnet_fast import train as command
from alexnet_fast.distributed.stop_signals import StopSignals
from alexnet_fast.distributed.world import ENVIRONMENT, World
from alexnet_fast.engine import tasks
from alexnet_fast.engine.meter import Meter
from alexnet_fast.models import MODELS
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from alexnet_fast.recipe_toml import dump, load
from alexnet_fast.run import checkpoint, checkpoint_manager
from alexnet_fast.run.checkpoint import BEST, LAST
from alexnet_fast.run.run_lock import LOCK, run_lock
from components import ROOT
from stress.narrow_model import NARROW

EPOCHS, STEPS = 2, 4
Main = Callable[..., int]


@pytest.fixture(scope="module", autouse=True)
def narrow() -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(MODELS, "alexnet", NARROW)
        yield


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a train.beton of 18 images and a val.beton of 24, ten classes."""
    folder = tmp_path_factory.mktemp("sets")
    jpegs = [encode_jpeg(betons.picture(72, 64, k), Encoding()) for k in range(24)]
    for name, count in (("train", 18), ("val", 24)):
        betons.write(folder / f"{name}.beton", jpegs[:count], [k % 10 for k in range(count)])
    return folder


def recipe_in(folder: Path, sets: Path) -> Path:
    """A recipe of two epochs of four steps, whose results go into `folder`/run."""
    settings = {
        "run.name": "run", "run.device": "cpu", "run.out": str(folder), "data.train": str(sets / "train.beton"),
        "data.val": str(sets / "val.beton"), "data.size": 64, "data.global_batch_size": 4, "precision.level": "O0",
        "model.num_classes": 10, "schedule.epochs": EPOCHS, "schedule.steps_per_epoch": STEPS, "log.print_freq": 1, "eval.global_batch_size": 8,
    }  # fmt: skip
    path = folder / "run.toml"
    path.write_text(
        dump(load(ROOT / "recipes/tiny.toml", [f"{k}={json.dumps(v)}" for k, v in settings.items()]))
    )
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the run's results."""
    return tmp_path / "run"


@pytest.fixture
def main(tmp_path: Path, sets: Path) -> Main:
    """main("--resume", "auto", "optim.lr=0.1"): the command on that recipe; the exit code."""
    recipe = str(recipe_in(tmp_path, sets))

    def run(*arguments: str) -> int:
        return command.main(
            [
                recipe,
                *(
                    word
                    for argument in arguments
                    for word in (["--set"] if "=" in argument else []) + [argument]
                ),
            ]
        )

    return run


@pytest.fixture(scope="module")
def let_alone(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("let_alone")
    assert command.main([str(recipe_in(folder, sets))]) == 0
    return folder / "run"


def figures(folder: Path) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    keys = ("kind", "step", "loss", "epoch_loss", "acc1", "val_loss")
    return [tuple(line.get(key) for key in keys) for line in lines]


def weights(folder: Path) -> list[torch.Tensor]:
    return list(checkpoint.load(folder / LAST)["state_dict"].values())


def cursor(path: Path) -> tuple[int, int]:
    found = checkpoint.load(path)["cursor"]
    return found["epoch"], found["step"]


def check_same(folder: Path, other: Path) -> None:
    assert figures(folder) == figures(other)
    assert all(torch.equal(one, two) for one, two in zip(weights(folder), weights(other), strict=True))


def strike(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, *numbers: int) -> None:
    """Send this process signals as the function `name` is called for the `call`th time."""
    real, left = getattr(owner, name), [call]

    def signalled(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            for number in numbers:
                os.kill(os.getpid(), number)
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, signalled)


# --- stopped by a signal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "owner", "name", "call", "stands_at"),
    [
        (signal.SIGINT, Meter, "add", 1, (0, 1)),
        (signal.SIGTERM, Meter, "add", STEPS, (0, STEPS)),
        (signal.SIGINT, tasks.Classification, "loss_sum", 2, (0, STEPS)),
        (signal.SIGTERM, checkpoint, "write_partial", 1, (1, 1)),
    ],
    ids=["the first step", "an epoch's last step", "an evaluation", "a checkpoint"],
)
def test_a_signal_during_anything_saves_and_the_run_goes_on_to_the_bit(
    number: int, owner: Any, name: str, call: int, stands_at: tuple[int, int],
    main: Main, folder: Path, let_alone: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patched:
        strike(patched, owner, name, call, number)
        assert main() == 128 + number
    shown = signal.Signals(number).name
    epoch, step = stands_at
    assert capfd.readouterr().err.splitlines() == [
        f"{shown}: the run saves what it has and stops; Ctrl-C from now on ends it at once, without a save",
        f"stopped by {shown} at epoch {epoch}, step {step}: saved, resume with --resume auto",
    ]
    assert cursor(folder / LAST) == stands_at and not (folder / "report.json").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    torch.manual_seed(1000)  # whatever happens between the two must not matter
    assert main("--resume", "auto") == 0
    check_same(folder, let_alone)


def test_without_checkpoints_a_stopped_run_says_that_nothing_is_saved(
    main: Main, folder: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    strike(monkeypatch, Meter, "add", 2, signal.SIGTERM, signal.SIGTERM)
    assert main("checkpoint.every_epochs=0") == 143
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("SIGTERM: the run stops, and saves nothing; ")
    assert second == (
        "stopped by SIGTERM at epoch 0, step 2: nothing is saved, because checkpoint.every_epochs = 0 "
        "and checkpoint.every_steps = 0"
    )
    assert not list(folder.glob("*.pt"))


def test_where_checkpoints_are_asked_for_by_steps_alone_a_stop_a_best_epoch_and_the_last_save_too(
    main: Main, folder: Path, let_alone: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_steps = "checkpoint.every_epochs=0", "checkpoint.every_steps=3", "checkpoint.keep=9"
    with monkeypatch.context() as patched:
        strike(patched, Meter, "add", 2, signal.SIGTERM)
        assert main(*by_steps) == 143
    assert "step 2: saved, resume with --resume auto" in capfd.readouterr().err
    assert cursor(folder / LAST) == (0, 2)
    assert main(*by_steps, "--resume", "auto") == 0
    assert cursor(folder / LAST) == (EPOCHS, 0) and cursor(folder / BEST) > (0, 0)
    check_same(folder, let_alone)


def test_checkpoints_by_steps_count_an_epochs_last_step_too(main: Main, folder: Path) -> None:
    by_steps = "checkpoint.every_epochs=0", f"checkpoint.every_steps={STEPS}", "checkpoint.keep=9"
    assert main(*by_steps, "eval.every=0") == 0
    assert [cursor(folder / name) for name in numbered(folder)] == [(1, 0)]
    assert cursor(folder / LAST) == (EPOCHS, 0)


def test_a_run_without_checkpoints_says_that_it_leaves_those_of_an_earlier_one(
    main: Main, folder: Path, capfd: Any
) -> None:
    assert main() == 0
    before = (folder / LAST).read_bytes()
    capfd.readouterr()
    assert main("checkpoint.every_epochs=0") == 0
    assert (
        "holds an earlier run: its report is deleted now, its checkpoints are kept" in capfd.readouterr().out
    )
    assert (folder / LAST).read_bytes() == before


def test_a_signal_that_is_ignored_as_under_nohup_stays_so() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with StopSignals(World()) as stopping:
            signal.raise_signal(signal.SIGTERM)
            assert stopping.agreed() == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def signalled(*names: str, ignored: str = "", after: str = "", **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process that receives the named signals inside `StopSignals`.

    ignored: a signal that it ignores.  after: a signal that it receives after `StopSignals`.
    """
    code = (
        "import signal, sys\nfrom alexnet_fast.distributed.stop_signals import StopSignals\n"
        "from alexnet_fast.distributed.world import World\nignored, after, *names = sys.argv[1:]\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "if ignored:\n    signal.signal(signal.Signals[ignored], signal.SIG_IGN)\n"
        "with StopSignals(World()) as stopping:\n    for name in names:\n"
        "        signal.raise_signal(signal.Signals[name])\n"
        "if after:\n    signal.raise_signal(signal.Signals[after])\n"
        "print('stops for', signal.Signals(stopping.agreed()).name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, ignored, after, *names],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("first", ["SIGTERM", "SIGINT"])
def test_after_the_first_signal_sigterm_changes_nothing_and_ctrl_c_ends_at_once_though_no_line_of_python_runs(
    first: str,
) -> None:
    printed = (
        f"{first}: the run saves what it has and stops; Ctrl-C from now on ends it at once, without a save\n"
    )
    assert signalled(first, "SIGTERM", "SIGTERM") == (0, f"stops for {first}\n", printed)
    assert signalled(first, "SIGTERM", "SIGINT") == (-signal.SIGINT, "", printed)


def test_ctrl_c_that_is_ignored_as_by_a_shells_background_stays_so_after_a_sigterm() -> None:
    printed = "SIGTERM: the run saves what it has and stops\n"
    done = signalled("SIGTERM", "SIGINT", ignored="SIGINT", after="SIGINT")
    assert done == (0, "stops for SIGTERM\n", printed)


def test_a_rank_of_torchrun_reacts_to_the_first_signal_alone_until_its_end() -> None:
    rank = dict.fromkeys(ENVIRONMENT, "1")
    printed = "SIGTERM: the run saves what it has and stops\n"
    done = signalled("SIGTERM", "SIGINT", "SIGTERM", after="SIGTERM", **rank)
    assert done == (0, "stops for SIGTERM\n", printed)


def test_ctrl_c_while_torch_is_imported_leaves_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "alexnet_fast.train", "recipes/tiny.toml"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    maps = Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 120
    while "libtorch" not in maps.read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=120)
    assert (process.returncode, out, error) == (-signal.SIGINT, "", "")


def test_ctrl_c_that_also_ends_tee_still_saves(tmp_path: Path, sets: Path, folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "tests/stress/narrow_model.py", str(recipe_in(tmp_path, sets)), "--set", "schedule.epochs=9999",
         "--set", "checkpoint.every_epochs=9999", "--set", "eval.every=0"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    while b"Epoch: [1]" not in (line := process.stdout.readline()):
        assert line, "it ended"
    process.stdout.close()  # as when tee ends in `2>&1 | tee log`
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert cursor(folder / LAST) > (1, 0) and not list(folder.glob("*.partial"))


# --- which checkpoints are kept, and which is taken ----------------------------------------------------------------


def numbered(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint_e*.pt"))


def test_the_last_keep_checkpoints_stay_and_each_can_be_resumed(
    main: Main, folder: Path, let_alone: Path
) -> None:
    assert main("checkpoint.every_steps=1", "checkpoint.keep=4") == 0
    names = ["checkpoint_e0001_s000001.pt", "checkpoint_e0001_s000002.pt", "checkpoint_e0001_s000003.pt"]
    assert numbered(folder) == names
    assert [cursor(folder / name) for name in names] == [(1, 1), (1, 2), (1, 3)]
    assert cursor(folder / LAST) == (2, 0)
    assert main("--resume", str(folder / names[1]), "checkpoint.every_steps=1", "checkpoint.keep=1") == 0
    assert numbered(folder) == [], "keep = 1 leaves the last alone"
    check_same(folder, let_alone)


def test_at_no_moment_does_the_last_checkpoint_know_of_a_better_one_than_the_best(
    main: Main, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = os.replace, list[float]()

    def replace(source: Any, target: Any) -> None:
        real(source, target)
        if (folder / LAST).exists():
            last = checkpoint.load(folder / LAST)["best_acc1"]
            best = checkpoint.load(folder / BEST)["best_acc1"]
            assert best >= last, "a kill now would lose the best"
            seen.append(best)

    monkeypatch.setattr(os, "replace", replace)
    assert main("checkpoint.every_epochs=1", "checkpoint.keep=1") == 0
    assert seen


def test_a_fresh_run_says_whose_checkpoints_it_replaces_and_never_mixes_those_of_two_runs(
    main: Main, folder: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main("checkpoint.every_steps=1", "checkpoint.keep=9") == 0
    assert len(numbered(folder)) == EPOCHS * STEPS - 1
    (folder / "checkpoint_last.pt.partial").write_bytes(b"what a killed run was writing")
    capfd.readouterr()
    with monkeypatch.context() as patched:
        strike(patched, Meter, "add", 2, signal.SIGTERM)
        assert main("checkpoint.keep=9") == 143
    assert "holds an earlier run: its report is deleted now" in capfd.readouterr().out
    assert numbered(folder) == [] and cursor(folder / LAST) == (0, 2)
    assert not list(folder.glob("*.partial"))


def test_the_best_checkpoint_of_another_run_is_deleted_and_its_own_is_kept(main: Main, folder: Path) -> None:
    assert main() == 0 and (folder / BEST).exists()
    more = f"schedule.epochs={EPOCHS + 1}", "eval.every=0"
    assert main(*more, "--resume", "auto") == 0 and (folder / BEST).exists()
    before = folder / "other.pt"
    shutil.copy(folder / LAST, before)
    checkpoint.save(before, checkpoint.load(before) | {"best_acc1": 1.0})
    assert main(f"schedule.epochs={EPOCHS + 2}", "eval.every=0", "--resume", str(before)) == 0
    assert not (folder / BEST).exists(), "the resumed checkpoint names another best"
    assert main() == 0 and (folder / BEST).exists()
    assert main("eval.every=0") == 0 and not (folder / BEST).exists()


def flip(path: Path, share: float = 0.5) -> None:
    """Flip one bit of the file, in a tensor; a hard link to the old file keeps the old bytes."""
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 16
    path.unlink()
    path.write_bytes(content)


def test_a_flipped_bit_in_a_weight_is_detected_and_the_previous_checkpoint_used_with_a_warning(
    main: Main, folder: Path, let_alone: Path, capfd: Any
) -> None:
    assert main("checkpoint.every_steps=3", "checkpoint.keep=3") == 0
    last, before, first = (
        folder / name for name in (LAST, "checkpoint_e0001_s000003.pt", "checkpoint_e0001_s000000.pt")
    )
    flip(last)
    before.write_bytes(before.read_bytes()[:-5000])
    capfd.readouterr()
    assert main("--resume", str(last)) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"error: the checkpoint {last} is corrupt (the checksum of its record ")
    assert error.endswith(f"{first}, the one before it, is valid; give that one\n") and error.count("\n") == 1
    assert main("--eval", "--resume", str(last)) == 2 and f"{first}, the one" in capfd.readouterr().err

    assert main("--resume", "auto") == 0
    out = capfd.readouterr().out
    assert (
        f"{last} is corrupt (the checksum of its record " in out
        and f": using {before}, the one before it" in out
    )
    assert f"{before} is corrupt (" in out and f": using {first}, the one before it" in out
    assert f"resumes from {first} at epoch 1, step 0" in out
    check_same(folder, let_alone)

    for path in checkpoint_manager.list_checkpoints(folder):
        flip(path)
    assert main("--resume", "auto") == 2
    assert "has no other valid checkpoint: move it away to start from scratch" in capfd.readouterr().err


# --- another run in the folder -------------------------------------------------------------------------------------


def test_two_runs_cannot_share_a_folder_and_the_second_names_the_first(
    main: Main, folder: Path, capfd: Any
) -> None:
    folder.mkdir()
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with run_lock(folder, 0, print):
        assert main("distributed.stop_s=1", "--resume", "auto") == 2
        assert os.listdir(folder) == [LOCK], "nothing of the first is touched"
    out, error = capfd.readouterr()
    assert out == f"{folder} is in use by {holder}: waiting for it to end, at most 1 s\n"
    assert error == (
        f"error: {folder} is in use by {holder}, which did not end in 1 s: wait for it, stop it, or set run.name\n"
    )


def test_an_evaluation_does_not_wait_for_a_run_that_trains(main: Main, folder: Path, let_alone: Path) -> None:
    folder.mkdir()
    with run_lock(folder, 0, print):
        assert main("--eval", "--resume", str(let_alone / LAST)) == 0


def test_a_run_waits_for_its_predecessor_to_save_and_end(tmp_path: Path) -> None:
    with ExitStack() as predecessor:
        predecessor.enter_context(run_lock(tmp_path, 0, print))
        printed: list[str] = []

        def end(sentence: str) -> None:
            printed.append(sentence)
            predecessor.close()

        with run_lock(tmp_path, 600, end):
            assert len(printed) == 1 and (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir()), "the lock is deleted with its run's end"


def test_the_lock_file_of_a_killed_run_stops_no_other_run(main: Main, folder: Path, capfd: Any) -> None:
    folder.mkdir()
    (folder / LOCK).write_text("process 1 on nowhere")
    assert main("schedule.epochs=1") == 0
    assert "in use" not in capfd.readouterr().out and not (folder / LOCK).exists()


def test_on_a_file_system_without_locks_runs_start_without_one(
    main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert main("schedule.epochs=1") == 0


# --- samples that are skipped --------------------------------------------------------------------------------------


def test_samples_that_were_skipped_before_a_stop_are_reported_after_the_resume(
    main: Main, tmp_path: Path, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpegs = [encode_jpeg(betons.picture(72, 64, k), Encoding()) for k in range(18)]
    entries = [betons.Entry(b"no image" if k in (3, 7, 11) else jpeg, 72, 64) for k, jpeg in enumerate(jpegs)]
    betons.write(tmp_path / "broken.beton", entries, [k % 10 for k in range(18)])
    skipping = [f"data.train={tmp_path / 'broken.beton'}", "data.on_error=skip"]
    assert main(*skipping, "run.name=whole") == 0
    for at in (3, STEPS + 3):  # in either epoch
        with monkeypatch.context() as patched:
            strike(patched, Meter, "add", at, signal.SIGTERM)
            assert main(*skipping, f"run.name=stopped{at}") == 143
        assert main(*skipping, f"run.name=stopped{at}", "--resume", "auto") == 0
        assert skipped(tmp_path / f"stopped{at}") == skipped(tmp_path / "whole")
    samples, in_epochs = skipped(tmp_path / "whole")
    assert {sample["index"] for sample in samples} <= {3, 7, 11} and samples
    assert all(0 < count <= 3 for count in in_epochs) and len(in_epochs) == EPOCHS


def skipped(folder: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The skipped samples that the report lists, and their number in each epoch by metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    counts = [line["skipped_in_epoch"] for line in lines if line["kind"] == "epoch"]
    return json.loads((folder / "report.json").read_text())["skipped_samples"], counts


# --- a loss that is not finite -------------------------------------------------------------------------------------


def poison(monkeypatch: pytest.MonkeyPatch, steps: range, weights: bool) -> None:
    """Make the loss of those steps of the run infinite; or NaN, and with it the weights (`weights`)."""
    real, seen = tasks.functional.cross_entropy, [0]

    def cross_entropy(logits: Any, labels: Any, **options: Any) -> Any:
        loss = real(logits, labels, **options)
        if not torch.is_grad_enabled():
            return loss
        seen[0] += 1
        if seen[0] - 1 not in steps:
            return loss
        return loss * torch.nan if weights else loss + torch.inf

    monkeypatch.setattr(tasks.functional, "cross_entropy", cross_entropy)


def test_a_loss_that_stays_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    main: Main, folder: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, range(5, 99), weights=False)
    assert main("checkpoint.every_steps=1", "schedule.nonfinite_steps=2") == 2
    out, error = capfd.readouterr()
    assert "no checkpoint of step 6: the loss or a weight is not finite" in out
    assert error == (
        "error: the loss has not been finite for 2 steps, since step 5 of the run: stopped at optim.lr = 0.004; "
        f"{folder / LAST} was saved before that; try a lower optim.lr\n"
    )
    assert cursor(folder / LAST) == (1, 1) and not list(folder.glob("*.partial"))


def test_weights_that_are_not_finite_stop_the_run_when_it_would_save_them(
    main: Main, folder: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, range(5, 6), weights=True)
    real = Meter.add
    monkeypatch.setattr(Meter, "add", lambda self, loss, *rest: real(self, loss.nan_to_num(), *rest))
    assert main("schedule.warmup_epochs=0") == 2
    assert "error: the weights are no longer finite: stopped" in capfd.readouterr().err
    assert cursor(folder / LAST) == (1, 0) and all(tensor.isfinite().all() for tensor in weights(folder))


def test_an_epoch_that_cannot_be_kept_is_not_the_best(
    main: Main, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, range(STEPS - 1, STEPS), weights=False)
    assert main("optim.lr=0.0") == 0  # the next is as good, not better
    assert cursor(folder / BEST) == (EPOCHS, 0)


def test_a_run_whose_loss_recovers_or_is_not_checked_continues(
    main: Main, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        poison(patched, range(1, 3), weights=False)
        assert main("schedule.nonfinite_steps=3") == 0
    with monkeypatch.context() as patched:
        poison(patched, range(5, 99), weights=True)
        assert main("schedule.nonfinite_steps=0") == 0
    assert cursor(folder / LAST) == (1, 0), "no checkpoint is saved while the loss or a weight is not finite"
