"""The training command on a small packed set: a complete run, its files, its resume, and the errors for mistakes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_fast import train as command
from alexnet_fast import trainer as training
from alexnet_fast.models.alexnet import AlexNet
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.writer import scan_folder, write_beton
from alexnet_fast.recipe_toml import load
from alexnet_fast.run import checkpoint

CLASSES, STEPS = 3, 3  # classes of the set; steps of an epoch at batch 4


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.beton (13 images: 3 steps of 4) and val.beton (7), of three classes of textures."""
    root = tmp_path_factory.mktemp("sets")
    generator = np.random.default_rng(0)
    for split, count in (("train", 13), ("val", 7)):
        for index in range(count):
            folder = root / split / f"class{index % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            grain = 2 ** (2 + 2 * (index % CLASSES))
            small = generator.integers(0, 256, (90 // grain + 2, 110 // grain + 2, 3), dtype=np.uint8)
            Image.fromarray(small).resize((110, 90), Image.Resampling.BICUBIC).save(
                folder / f"{index:02}.JPEG"
            )
        write_beton(scan_folder(root / split), root / f"{split}.beton", Encoding(), workers=1)
    return root


def write_recipe(sets: Path, folder: Path) -> Path:
    """A recipe of two epochs whose results go into `folder`/small."""
    path = folder / "small.toml"
    path.write_text(
        f"""
[run]
name = "small"
device = "cpu"
out = {json.dumps(str(folder))}
[data]
train = {json.dumps(str(sets / "train.beton"))}
val = {json.dumps(str(sets / "val.beton"))}
size = 64
global_batch_size = 4
[model]
num_classes = {CLASSES}
[schedule]
epochs = 2
per = "step"
[log]
print_freq = 1
"""
    )
    return path


@pytest.fixture
def recipe(sets: Path, tmp_path: Path) -> Path:
    return write_recipe(sets, tmp_path)


@pytest.fixture(scope="module")
def finished(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An uninterrupted run: its folder, and what it printed."""
    path = write_recipe(sets, tmp_path_factory.mktemp("finished"))
    done = run_command(str(path))
    assert done.returncode == 0, done.stderr
    return path.parent / "small", done.stdout


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "alexnet_fast.train", *arguments],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )


def step_losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = checkpoint.load(folder / "checkpoint_last.pt")["state_dict"]
    return state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_writes_its_files_and_the_lines_that_scripts_read(finished: tuple[Path, str]) -> None:
    folder, out = finished
    assert sorted(os.listdir(folder)) == [
        "checkpoint_best.pt", "checkpoint_e0001_s000000.pt", "checkpoint_last.pt", "metrics.jsonl", "recipe.toml", "report.json",
    ]  # fmt: skip
    report = json.loads((folder / "report.json").read_text())
    assert report["val_samples"] == 7 and report["steps"] == 2 * STEPS
    assert 0 <= report["acc1"] <= report["best_acc1"] <= 100 == report["acc5"]
    assert report["img_per_s"] > 0 and 0 <= report["data_wait_share"] <= 1 and report["seconds"] > 0
    assert report["recipe"] == load(folder / "recipe.toml").model_dump(mode="json")
    assert len(step_losses(folder)) == 2 * STEPS
    assert out.count("Epoch: [") == 2 * STEPS and out.count("FPS@all") == 2
    assert f"[AVG-ACC] * Acc@1 {report['acc1']:.3f} Acc@5 100.000" in out
    *_, speed, accuracy, seconds = out.splitlines()
    assert speed == f"Final Performance images/sec : {report['img_per_s']:.2f}"
    assert accuracy == f"Final Train Accuracy : {report['acc1']:.3f}"
    assert seconds.startswith("E2E Training Duration sec : ")
    assert "13 training samples (1 left over each epoch), 7 to evaluate on" in out


def test_its_checkpoint_loads_into_a_plain_alexnet(finished: tuple[Path, str]) -> None:
    loaded = torch.load(finished[0] / "checkpoint_best.pt", weights_only=True)
    AlexNet(CLASSES).load_state_dict(loaded["state_dict"], strict=True)
    assert {tensor.dtype for tensor in loaded["state_dict"].values()} == {torch.float32}


def test_a_finished_run_resumed_only_evaluates(finished: tuple[Path, str], recipe: Path, capsys: Any) -> None:
    (recipe.parent / "small").mkdir()
    os.link(finished[0] / "checkpoint_last.pt", recipe.parent / "small" / "checkpoint_last.pt")
    assert command.main([str(recipe), "--resume", "auto"]) == 0
    out = capsys.readouterr().out
    assert "Epoch: [" not in out and "[AVG-ACC]" in out
    report = json.loads((recipe.parent / "small" / "report.json").read_text())
    assert report["acc1"] == json.loads((finished[0] / "report.json").read_text())["acc1"]


def test_a_disk_too_small_for_the_checkpoints_is_reported_before_training(
    finished: tuple[Path, str], recipe: Path, capsys: Any, monkeypatch: Any
) -> None:
    (recipe.parent / "small").mkdir()
    os.link(finished[0] / "checkpoint_last.pt", recipe.parent / "small" / "checkpoint_last.pt")
    one = (finished[0] / "checkpoint_last.pt").stat().st_size
    for free, enough in ((one, False), (9 * one, True)):
        disk = SimpleNamespace(f_frsize=1, f_bavail=free)
        monkeypatch.setattr(os, "statvfs", lambda path, disk=disk: disk)
        assert command.main([str(recipe), "--resume", "auto"]) == 0
        warned = "free, checkpoints take 1.3 GiB more: --set run.out=FOLDER, on a larger disk"
        assert (warned in capsys.readouterr().out) is not enough


def test_a_run_that_augments_and_mixes_is_the_same_when_it_is_resumed_in_an_epoch(
    recipe: Path, finished: tuple[Path, str], tmp_path: Path
) -> None:
    augmented = [
        'augment.operations=[{op = "RandAugment"}, {op = "RandomErasing", p = 0.5}]',
        "augment.mixup=0.4",
        "augment.cutmix=1",
        "precision.level=O0",
        "schedule.curve=constant",  # the same rate whatever the number of epochs
    ]

    def run(name: str, *arguments: str, sets: tuple[str, ...] = ()) -> Path:
        given = [part for each in (f"run.name={name}", *augmented, *sets) for part in ("--set", each)]
        assert command.main([str(recipe), *given, *arguments]) == 0
        return recipe.parent / name

    whole = run("whole")
    begun = run("begun", sets=("checkpoint.every_steps=2", "schedule.epochs=1", "checkpoint.keep=9"))
    resumed = run("resumed", "--resume", str(begun / "checkpoint_e0000_s000002.pt"))
    assert same(weights(whole), weights(resumed))
    assert step_losses(whole)[2:] == step_losses(resumed)
    assert step_losses(whole) != step_losses(finished[0])


def test_a_finished_run_resumed_keeps_its_report(
    finished: tuple[Path, str], recipe: Path, capsys: Any
) -> None:
    shutil.copytree(finished[0], recipe.parent / "small")
    assert command.main([str(recipe), "--resume", "auto"]) == 0
    out = capsys.readouterr().out
    assert "small is already complete: its report is kept; to train further, raise schedule.epochs" in out
    assert out.splitlines()[-3:] == finished[1].splitlines()[-3:]
    before, after = (folder / "small" / "report.json" for folder in (finished[0].parent, recipe.parent))
    assert after.read_bytes() == before.read_bytes()


def test_eval_gives_the_same_accuracy_by_flag_and_by_key(
    finished: tuple[Path, str], recipe: Path, capsys: Any
) -> None:
    folder, _ = finished
    path = str(folder / "checkpoint_last.pt")
    for extra in (["--eval"], ["--set", "eval.only=true"], ["--eval", "--set", "eval.global_batch_size=5"]):
        assert command.main([str(recipe), "--resume", path, *extra]) == 0
        result = json.loads((recipe.parent / "small" / "eval.json").read_text())
        assert (result["samples"], result["acc1"]) == (
            7,
            json.loads((folder / "report.json").read_text())["acc1"],
        )
        assert f"[AVG-ACC] * Acc@1 {result['acc1']:.3f}" in capsys.readouterr().out


def test_a_program_that_passes_its_own_arguments_starts_ranks_with_them(
    finished: tuple[Path, str], recipe: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", "raise SystemExit(9)"])
    path = str(finished[0] / "checkpoint_last.pt")
    two = ["--set", "distributed.nproc=2", "--set", "eval.global_batch_size=4"]
    assert command.main([str(recipe), "--eval", "--resume", path, *two]) == 0
    result = json.loads((recipe.parent / "small" / "eval.json").read_text())
    assert result["acc1"] == json.loads((finished[0] / "report.json").read_text())["acc1"]
    assert capfd.readouterr().out.count("[AVG-ACC]") == 1, "by rank 0 only"


def test_resume_auto_with_nothing_to_resume_says_so_and_starts(recipe: Path, capsys: Any) -> None:
    (recipe.parent / "small").mkdir()
    (recipe.parent / "small" / "eval.json").write_text("of other weights")
    assert command.main([str(recipe), "--resume", "auto", "--set", "schedule.steps_per_epoch=1", "--set",
                         "schedule.epochs=1", "--set", "checkpoint.every_epochs=0", "--set", "model.num_classes=7"]) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "warning: the set has 3 classes and the model 7: --set model.num_classes=3" in out
    assert not (recipe.parent / "small" / "eval.json").exists()
    assert (
        "checkpoint_last.pt does not exist, so the run starts from scratch" in out
        and out.count("Epoch: [") == 1
    )
    assert not list((recipe.parent / "small").glob("*.pt"))


def test_keys_lists_every_key_as_a_table(capsys: Any) -> None:
    assert command.main(["--keys"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("| key | type | default | what it does |\n|---|")
    assert "| `optim.lr` | a number | `0.01` |" in out
    assert '| `augment.operations` | a list of tables, [{op = "NAME", parameter = value}] | `[]` |' in out
    assert "\n- Solarize(threshold=128.0, p=0.5)\n" in out and "- RandAugment(num_ops=2, magnitude=9" in out


def refused(capsys: Any, *arguments: str) -> str:
    """The one-sentence error of the command."""
    assert command.main(list(arguments)) == 2
    error = str(capsys.readouterr().err)
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.train=nowhere.beton", "nowhere.beton"),
        ("data.val=nowhere.beton", "nowhere.beton"),
        ("optim.lrr=1", "unknown key optim.lrr; did you mean optim.lr?"),
        ('data.size="large"', 'data.size = "large" is not accepted: expected a whole number'),
        (
            "model.num_classes=2",
            "has a label 2, but model.num_classes = 2 allows 0 to 1: set model.num_classes = 3",
        ),
        ("data.global_batch_size=14", "13 samples, fewer than one batch of 14"),
        ("distributed.hosts=2", "distributed.address = '' is not an address for 2 hosts"),
        ("run.device=gpu", "run.device = 'gpu' is not a device"),
        ("data.scale=[0.5, 2]", "scale = (0.5, 2.0)"),
        ("eval.size=32", "eval.size = 32 is too small"),
        ("eval.size=[224, 32]", "eval.size = [224, 32] is too small"),
        ("model.weights=nowhere.pt", "there is no checkpoint nowhere.pt"),
    ],
)
def test_a_mistake_in_the_recipe_is_one_sentence_and_exit_code_2(
    override: str, sentence: str, recipe: Path, capsys: Any
) -> None:
    assert sentence in refused(capsys, str(recipe), "--set", override)


def test_a_file_that_is_not_a_beton_is_refused(recipe: Path, sets: Path, capsys: Any) -> None:
    whole = (sets / "train.beton").read_bytes()
    for name, content in (("text.beton", b"hello"), ("cut.beton", whole[: len(whole) // 2])):
        (recipe.parent / name).write_bytes(content)
        assert name in refused(capsys, str(recipe), "--set", f"data.train={recipe.parent / name}")


def test_a_results_folder_that_cannot_be_made_is_refused(recipe: Path, capsys: Any) -> None:
    assert "cannot be written" in refused(capsys, str(recipe), "--set", f"run.out={recipe}")


def test_resuming_a_missing_corrupt_or_foreign_checkpoint_is_refused(
    finished: tuple[Path, str], recipe: Path, capsys: Any
) -> None:
    assert "there is no checkpoint" in refused(capsys, str(recipe), "--resume", "nowhere.pt")
    assert "nothing to evaluate" in refused(capsys, str(recipe), "--eval")
    corrupt = recipe.parent / "corrupt.pt"
    corrupt.write_bytes((finished[0] / "checkpoint_last.pt").read_bytes()[:100_000])
    assert "corrupt.pt" in refused(capsys, str(recipe), "--resume", str(corrupt))
    wide = refused(
        capsys,
        str(recipe),
        "--resume",
        str(finished[0] / "checkpoint_last.pt"),
        "--set",
        "model.num_classes=9",
    )
    assert "'classifier.6.weight' has shape (3, 4096), but the model's is (9, 4096)" in wide


def test_a_changed_batch_within_an_epoch_is_refused(recipe: Path, capsys: Any, monkeypatch: Any) -> None:
    save = training.Trainer.save

    def save_and_stop(training: training.Trainer) -> None:
        save(training)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training.Trainer, "save", save_and_stop)
        assert command.main([str(recipe), "--set", "checkpoint.every_steps=1"]) == 130
    capsys.readouterr()
    sentence = refused(capsys, str(recipe), "--resume", "auto", "--set", "data.global_batch_size=2")
    assert "saved at epoch 0, step 1: data.global_batch_size has changed since" in sentence


def test_a_mistake_ends_the_process_with_2_and_no_traceback(recipe: Path) -> None:
    done = run_command(str(recipe), "--set", "optim.lrr=1")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""


def test_training_imports_neither_the_profile_nor_the_doctor(run_cli: Any) -> None:
    """They are layers above training."""
    code = "import sys, alexnet_fast.train; print([name for name in sys.modules if name.startswith('alexnet_fast.')])"
    done = run_cli("-c", code)
    assert done.code == 0, done.stderr
    above = ("alexnet_fast.profile", "alexnet_fast.doctor")
    assert "alexnet_fast.trainer" in done.stdout and not any(room in done.stdout for room in above)
