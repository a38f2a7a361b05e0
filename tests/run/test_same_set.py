"""Sets and checkpoints of other classes, given to the training command: what is refused, warned about, accepted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ranked
from alexnet_fast import train as command
from alexnet_fast.distributed.launcher import LaunchConfig
from alexnet_fast.errors import UserError
from alexnet_fast.models import MODELS
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.writer import scan_folder, write_beton
from alexnet_fast.recipe_toml import load
from alexnet_fast.run import checkpoint
from called_as_ranks import launch
from components import ROOT
from folders import fill
from stress.narrow_model import NARROW

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Betons of ant, bee and cat: of all classes, of some (numbered alone or as in training), and of other classes."""
    root = tmp_path_factory.mktemp("sets")
    abc = ["ant", "bee", "cat"]
    for name, counts, classes in (
        ("train", {"ant": 3, "bee": 2, "cat": 3}, None),
        ("more", {"ant": 3, "bee": 3, "cat": 3}, None),
        ("others", {"ant": 3, "bee": 2, "dog": 3}, None),
        ("val", {"ant": 2, "bee": 2, "cat": 2}, None),
        ("alone", {"ant": 2, "cat": 2}, None),  # packed alone: cat is 1
        ("lacks_bee", {"ant": 2, "cat": 2}, abc),
        ("lacks_cat", {"ant": 2, "bee": 2}, None),
        ("four", {"ant": 2, "bee": 2, "cat": 2, "dog": 2}, None),
    ):
        split = scan_folder(fill(root / name, counts), classes)
        write_beton(split, root / f"{name}.beton", Encoding(), workers=1)
    return root


@pytest.fixture
def run(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Command:
    """run("train", "val", *arguments): the command on these sets; returns its exit code, stdout and stderr."""
    monkeypatch.setitem(MODELS, "alexnet", NARROW)

    def of(train: Path | str, val: Path | str, *arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = command.main(
            [str(ROOT / "recipes/1p.toml"), *settings(sets, tmp_path, train, val), *arguments]
        )
        return code, *capsys.readouterr()

    return of


def settings(sets: Path, out: Path, train: Path | str, val: Path | str) -> list[str]:
    keys = {
        "run.name": "r", "run.out": str(out), "run.device": "cpu", "data.size": 64, "data.global_batch_size": 2,
        "data.train": str(sets / f"{train}.beton"), "data.val": str(sets / f"{val}.beton"), "model.num_classes": 3,
        "precision.level": "O0", "schedule.epochs": 1, "schedule.steps_per_epoch": 2, "log.print_freq": 1,
        "eval.global_batch_size": 2, "checkpoint.keep": 1,
    }  # fmt: skip
    return [part for key, value in keys.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def bare(sets: Path, folder: Path, *names: str) -> Path:
    """A folder of the betons, without the JSON files that name their classes."""
    for name in names:
        shutil.copy(sets / f"{name}.beton", folder)
    return folder


def saved(folder: Path) -> dict[str, Any]:
    return checkpoint.load(folder / "r" / checkpoint.LAST)


def refused(ran: tuple[int, str, str]) -> str:
    """The one-sentence error of a command that trained and evaluated nothing."""
    code, out, error = ran
    assert code == 2 and "Acc@1" not in out and error.startswith("error: ") and error.count("\n") == 1, (
        out,
        error,
    )
    return error


@pytest.mark.parametrize("val", ["val", "lacks_bee", "lacks_cat"])
def test_a_val_set_whose_labels_mean_the_same_is_accepted_even_if_classes_are_missing(
    run: Command, val: str, tmp_path: Path
) -> None:
    code, out, error = run("train", val)
    assert code == 0 and "warning" not in out, (out, error)
    assert saved(tmp_path)["classes"] == ["ant", "bee", "cat"]


def test_a_val_set_packed_alone_with_a_class_missing_is_refused(
    run: Command, sets: Path, tmp_path: Path
) -> None:
    error = refused(run("train", "alone"))
    assert (
        f"label 1 is 'cat' in {sets}/alone.beton, but 'bee' in {sets}/train.beton: accuracies would be wrong"
        in error
    )
    assert "pack it with train/ next to it" in error and "move alone.beton.json away" in error
    assert not list((tmp_path / "r").glob("*.pt"))


def test_the_number_of_labels_that_differ_is_reported(run: Command, sets: Path) -> None:
    error = refused(run("alone", "val"))
    assert (
        f"label 1 is 'bee' in {sets}/val.beton, but 'cat' in {sets}/alone.beton (2 of 3 labels differ)"
        in error
    )


def test_a_label_beyond_the_training_sets_classes_is_refused(run: Command, sets: Path) -> None:
    error = refused(run("train", "four", "--set", "model.num_classes=4"))
    assert f"{sets}/four.beton has a label 3 ('dog'), but {sets}/train.beton the classes 0 to 2" in error


def test_without_names_only_another_number_of_classes_gives_a_warning(
    run: Command, sets: Path, tmp_path: Path
) -> None:
    folder = bare(sets, tmp_path, "train", "alone", "val")
    code, out, _ = run(folder / "train", folder / "alone")
    assert code == 0
    assert (
        f"warning: {folder}/alone.beton has 2 classes and {folder}/train.beton 3, and no class names show whether the labels mean the same"
        in out
    )
    code, out, _ = run(folder / "train", folder / "val")
    assert code == 0 and "warning" not in out and "classes" not in saved(tmp_path)
    code, out, _ = run("train", folder / "alone")  # names on one side only
    assert code == 0 and f"warning: {folder}/alone.beton has 2 classes and {sets}/train.beton 3" in out


def test_names_that_cannot_be_read_give_a_warning(run: Command, sets: Path, tmp_path: Path) -> None:
    folder = bare(sets, tmp_path, "val")
    shutil.copy(sets / "train.beton.json", folder / "val.beton.json")
    code, out, _ = run("train", folder / "val")
    assert code == 0
    assert "val.beton.json: it was written for another file than this" in out
    assert "; until then class names are not compared" in out and out.count("warning") == 1


def test_an_evaluation_compares_the_set_with_the_checkpoint(run: Command, sets: Path, tmp_path: Path) -> None:
    assert run("train", "val")[0] == 0
    path = str(tmp_path / "r" / checkpoint.LAST)
    for given in (["--eval"], ["--eval", "--resume", path], ["--eval", "--set", f"model.weights={path}"]):
        error = refused(run("nowhere", "alone", *given))
        assert (
            f"label 1 is 'cat' in {sets}/alone.beton, but 'bee' in the checkpoint {tmp_path}/r/checkpoint_"
            in error
        )
        code, out, _ = run("nowhere", "lacks_cat", *given)
        assert code == 0 and "Acc@1" in out and "warning" not in out


def test_a_checkpoint_that_names_no_classes_is_evaluated_as_before(
    run: Command, sets: Path, tmp_path: Path
) -> None:
    """One of version 0.1, or weights of torchvision's."""
    assert run("train", "val")[0] == 0
    older = {key: value for key, value in saved(tmp_path).items() if key not in ("classes", "train_set")}
    for content in (older, older["state_dict"]):
        torch.save(content, tmp_path / "older.pt")
        code, out, _ = run("nowhere", "val", "--eval", "--resume", str(tmp_path / "older.pt"))
        assert code == 0 and "warning" not in out
        code, out, _ = run("nowhere", "alone", "--eval", "--resume", str(tmp_path / "older.pt"))
        assert code == 0 and "alone.beton has 2 classes and the checkpoint" in out and "warning" in out


def test_a_run_is_not_resumed_on_other_classes(run: Command, sets: Path, tmp_path: Path) -> None:
    assert run("train", "val")[0] == 0
    error = refused(run("others", "lacks_cat", "--resume", "auto", "--set", "schedule.epochs=2"))
    assert f"label 2 is 'dog' in {sets}/others.beton, but 'cat' in the checkpoint" in error
    assert "a run resumes with the classes that it started with; give its own set" in error


def test_a_run_of_an_older_version_is_resumed_and_saves_its_class_names_from_then_on(
    run: Command, tmp_path: Path
) -> None:
    assert run("train", "val")[0] == 0
    older = {key: value for key, value in saved(tmp_path).items() if key not in ("classes", "train_set")}
    for key in ("image_field", "label_field"):
        del older["recipe"]["data"][key]
    torch.save(older, tmp_path / "r" / checkpoint.LAST)
    code, out, _ = run("train", "val", "--resume", "auto", "--set", "schedule.epochs=2")
    assert code == 0 and "resumes from" in out and "warning" not in out
    assert "changed since that checkpoint: schedule.epochs\n" in out
    assert (
        saved(tmp_path)["classes"] == ["ant", "bee", "cat"] and saved(tmp_path)["train_set"]["samples"] == 8
    )


def test_a_run_on_a_set_without_names_keeps_the_names_of_its_checkpoint(
    run: Command, sets: Path, tmp_path: Path
) -> None:
    assert run("train", "val")[0] == 0
    folder = bare(sets, tmp_path, "train")
    error = refused(run(folder / "train", "alone", "--resume", "auto", "--set", "schedule.epochs=2"))
    assert "label 1 is 'cat' in" in error and "but 'bee' in the checkpoint" in error
    assert run(folder / "train", "val", "--resume", "auto", "--set", "schedule.epochs=2")[0] == 0
    assert saved(tmp_path)["cursor"]["epoch"] == 2 and saved(tmp_path)["classes"] == ["ant", "bee", "cat"]


def test_other_samples_in_the_same_file_give_a_warning_between_epochs_and_are_refused_within_one(
    run: Command, sets: Path, tmp_path: Path
) -> None:
    for name in ("train.beton", "train.beton.json"):
        shutil.copy(sets / name, tmp_path)
    assert run(tmp_path / "train", "val")[0] == 0
    for name in ("beton", "beton.json"):
        shutil.copy(sets / f"more.{name}", tmp_path / f"train.{name}")
    resumed = (tmp_path / "train", "val", "--resume", "auto", "--set", "schedule.epochs=2")
    code, out, _ = run(*resumed)
    assert (
        code == 0
        and f"warning: {tmp_path}/train.beton is not the set of" in out
        and "it had 8 samples and has 9" in out
    )
    within = saved(tmp_path)
    within["cursor"], within["train_set"] = {"epoch": 1, "step": 1}, {"samples": 9, "labels": "00000000"}
    torch.save(within, tmp_path / "r" / checkpoint.LAST)
    error = refused(run(*resumed))
    assert (
        "it has as many samples (9), with other labels or in another order; step 1 of epoch 1 would be another batch"
        in error
    )


def test_a_run_may_take_up_the_block_order_between_epochs_and_needs_the_same_pages_within_one(
    run: Command, sets: Path, tmp_path: Path
) -> None:
    assert run("train", "val")[0] == 0
    block = ("--resume", "auto", "--set", "data.order=block", "--set", "schedule.epochs=2")
    code, out, _ = run("train", "val", *block)
    assert code == 0 and "is not the set of" not in out
    assert "changed since that checkpoint: data.order" in out
    within = saved(tmp_path)
    within["cursor"] = {"epoch": 1, "step": 1}
    torch.save(within, tmp_path / "r" / checkpoint.LAST)
    error = refused(run("train", "val", "--resume", "auto", "--set", "schedule.epochs=3"))
    assert "saved at epoch 1, step 1: data.order has changed since" in error
    within["train_set"] |= {"pages": "00000000"}
    torch.save(within, tmp_path / "r" / checkpoint.LAST)
    assert "in another order; step 1 of epoch 1 would be another batch" in refused(
        run("train", "val", *block)
    )


def test_weights_of_other_classes_start_a_run_with_a_warning(
    run: Command, sets: Path, tmp_path: Path
) -> None:
    """Fine-tuning: training changes what the last layer means, which an evaluation or a resume does not."""
    assert run("train", "val")[0] == 0
    path = (tmp_path / "r" / checkpoint.LAST).rename(tmp_path / "first.pt")
    begin = ["--set", f"model.weights={path}"]
    code, out, _ = run("others", "lacks_cat", *begin)
    assert code == 0
    assert (
        f"warning: label 2 is 'dog' in {sets}/others.beton, but 'cat' in the checkpoint {path}: the last layer starts with"
        in out
    )
    assert saved(tmp_path)["classes"] == ["ant", "bee", "dog"]
    code, out, _ = run("train", "val", *begin)
    assert code == 0 and f"starts with the weights of {path}" in out and "warning" not in out


def test_two_ranks_refuse_other_classes_in_one_sentence_and_save_them_once(
    sets: Path, tmp_path: Path, capfd: Any
) -> None:
    two = ["--set", "distributed.nproc=2"]

    def recipe(val: str) -> Any:
        return load(
            ROOT / "recipes/1p.toml",
            [part for part in (*settings(sets, tmp_path, "train", val), *two) if part != "--set"],
        )

    assert launch(LaunchConfig(2), ranked.train_each, [recipe("val")], 2) == 0, capfd.readouterr().err
    assert saved(tmp_path)["classes"] == ["ant", "bee", "cat"]
    with pytest.raises(UserError, match="label 1 is 'cat' in .*alone.beton, but 'bee' in the checkpoint"):
        launch(
            LaunchConfig(2), ranked.evaluate_each, [recipe("alone")], 2, str(tmp_path / "r" / checkpoint.LAST)
        )
