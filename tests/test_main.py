"""alexnet-fast COMMAND, as people run it; ``python -m alexnet_fast`` is the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import command_line
from alexnet_fast import __version__
from alexnet_fast.__main__ import COMMANDS
from components import ROOT

ENTRY = (
    "import sys; from alexnet_fast.__main__ import main; sys.argv[0] = 'bin/alexnet-fast'; sys.exit(main())"
)


MODULE: list[object] = ["-m", "alexnet_fast"]


@pytest.fixture
def installed(tmp_path: Path) -> list[object]:
    """What comes before COMMAND: a script like the one that pip writes."""
    script = tmp_path / "bin/alexnet-fast"
    script.parent.mkdir()
    script.write_text(
        "import sys\nfrom alexnet_fast.__main__ import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    return [script]


def test_help_lists_every_command_and_help_and_version_import_nothing_heavy(
    run_cli: Callable[..., Any],
) -> None:
    heavy = "print(sorted({'torch', 'numba', 'numpy', 'PIL', 'pydantic', 'rich'} & set(sys.modules)))"
    for flag in ("--help", "--version"):
        code = f"import sys\ntry:\n    {ENTRY[12:].replace('; sys.exit(main())', '')}; main()\nexcept SystemExit: pass\n{heavy}"
        run = run_cli("-c", code, flag)
        assert run.code == 0 and run.stdout.splitlines()[-1] == "[]", run
        if flag == "--help":
            assert all(f"\n    {name}" in run.stdout for name in COMMANDS)
        else:
            assert run.stdout.startswith(f"alexnet-fast {__version__}\n")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_shows_its_help_under_the_name_that_was_typed(
    name: str, installed: list[object], run_cli: Callable[..., Any]
) -> None:
    run = run_cli(*installed, name, "--help")
    shown = "train" if name == "profile" else name
    assert (run.code, run.stderr) == (0, "") and run.stdout.startswith(f"usage: alexnet-fast {shown} ")


def test_the_module_is_the_same_command_under_another_name(
    installed: list[object], run_cli: Callable[..., Any]
) -> None:
    as_module, as_script = (run_cli(*entry, "pack", "--help").stdout for entry in (MODULE, installed))
    assert as_module.startswith("usage: python -m alexnet_fast pack ")
    assert as_module.partition("\n\n")[2] == as_script.partition("\n\n")[2]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "error: expected a command, one of sample, pack, train, "),
        (["packk"], "error: unknown command packk; did you mean pack?"),
        (["x"], "error: unknown command x: expected one of sample, pack, "),
        (["--vers"], "error: unrecognized arguments: --vers"),
        (["pack", "--dat", "x"], "error: unknown flag --dat; did you mean --data?"),
        (["completion", "fish"], "invalid choice: 'fish'"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], sentence: str, run_cli: Callable[..., Any]) -> None:
    run = run_cli("-m", "alexnet_fast", *words)
    assert (run.code, run.stdout, run.stderr.count("\n")) == (2, "", 1) and sentence in run.stderr


def test_from_images_to_accuracy_every_command_works_in_an_empty_folder_and_names_the_next_one_as_it_was_typed(
    installed: list[object], tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    (home := tmp_path / "home").mkdir()

    def run(*words: object) -> str:
        done = run_cli(*installed, *words, cwd=home)
        assert done.code == 0, done
        return done.stdout

    made = run("sample", "--classes", 2, "--train", 12, "--val", 4)
    assert "data/quickstart-images: 32 images of 2 classes" in made
    pack = made.splitlines()[-1].partition("to pack it: ")[2]
    assert pack == "alexnet-fast pack --data data/quickstart-images --out data/quickstart"
    run(*pack.removeprefix("alexnet-fast ").split(), "--workers", 2)
    assert "8 samples of 2 classes" in run("inspect", "data/quickstart/val.beton")
    small = ("model.num_classes=2", "data.global_batch_size=8", "schedule.epochs=1", "run.device=cpu")
    sets = [word for setting in small for word in ("--set", setting)]
    # Two ranks: they are started by the command line that was typed.
    run("train", "quickstart", *sets, "--set", "distributed.nproc=2")
    report = json.loads((home / "runs/quickstart/report.json").read_text())
    assert report["steps"] == 3, report


def test_a_recipe_of_the_package_is_trained_by_name_and_a_file_of_that_name_comes_first(
    tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    refused = run_cli("-m", "alexnet_fast", "train", "quickstart", cwd=tmp_path)
    assert refused.code == 2, refused
    assert "data/quickstart/train.beton does not exist; pack one with python -m alexnet_fast pack --data" in (
        refused.stderr
    )
    (tmp_path / "quickstart").mkdir()
    as_data = run_cli("-m", "alexnet_fast", "train", "quickstart", cwd=tmp_path)
    assert as_data.code == 2 and "quickstart has neither train/ and val/" in as_data.stderr, as_data


def test_profile_is_train_with_that_flag(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    refused = run_cli("-m", "alexnet_fast", "profile", "1p", "--eval", cwd=tmp_path)
    assert refused.code == 2 and "--profile measures instead of training" in refused.stderr


def test_ctrl_c_while_torch_is_imported_ends_without_a_traceback(tmp_path: Path) -> None:
    """A torch that reports its import and then takes long."""
    (tmp_path / "torch.py").write_text(
        "import pathlib, time\npathlib.Path(__file__).with_name('begun').touch()\ntime.sleep(60)\n"
    )
    environment = command_line.environment({"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))})
    command = [sys.executable, "-m", "alexnet_fast", "train", "1p"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (-signal.SIGINT, "")


def test_without_torch_training_says_so_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')\n")
    environment = command_line.environment({"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))})
    command = [sys.executable, "-m", "alexnet_fast", "train", "1p"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: torch is not installed"), done.stderr
