"""What macOS lacks: the package packs, loads and trains without it.  It was tried by taking the names away, not on macOS."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.common import page_cache, systems
from betons import jpeg, picture

AS_ON_MACOS = """
import ctypes, os, resource, runpy, sys
for module, names in {
    resource: ["RUSAGE_THREAD"],
    os: ["O_DIRECT", "POSIX_FADV_DONTNEED", "POSIX_FADV_RANDOM", "fdatasync", "posix_fadvise", "posix_fallocate",
         "sched_getaffinity", "sched_setaffinity"],
}.items():
    for name in names:
        delattr(module, name)

class Library(ctypes.CDLL):
    def __getattr__(self, name):
        if name in ("prctl", "mallopt"):
            raise AttributeError(name)
        return super().__getattr__(name)

ctypes.CDLL = Library
"""


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fdatasync", "posix_fadvise", "O_DIRECT"):
        monkeypatch.delattr(os, name)
    monkeypatch.delattr("resource.RUSAGE_THREAD")


def test_advice_is_nothing_and_a_sync_is_a_whole_one_and_faults_are_the_processs(
    without: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with open(tmp_path / "a", "wb") as file:
        systems.advise(file.fileno(), 0, 0, "DONTNEED")
        systems.sync_data(file.fileno())
        assert synced == [file.fileno()]
    assert systems.major_faults() >= 0
    with pytest.raises(OSError, match="has no O_DIRECT"):
        systems.open_directly(tmp_path / "a")


def test_the_disk_is_measured_as_on_a_file_system_without_direct_reads(without: None, tmp_path: Path) -> None:
    """All of the file is cached, so there is nothing to read and no rate; nothing else is an error."""
    (tmp_path / "a").write_bytes(os.urandom(1 << 20))
    assert page_cache.disk_rate(tmp_path / "a") is None


@pytest.mark.parametrize("nproc", [pytest.param(1, marks=pytest.mark.long), 2])
def test_packing_loading_and_training_need_none_of_it(
    nproc: int, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    (tmp_path / "as_on_macos").mkdir()
    (tmp_path / "as_on_macos/sitecustomize.py").write_text(AS_ON_MACOS)
    root = Path(__file__).parents[2]
    # Every process: workers and ranks, too.
    env = {"PYTHONPATH": os.pathsep.join((str(tmp_path / "as_on_macos"), str(root)))}

    def run(*words: object) -> str:
        done = run_cli("-m", "alexnet_fast", *words, env=env, cwd=tmp_path)
        assert done.code == 0, done
        return done.stdout

    taken = run_cli("-c", "import os; print(hasattr(os, 'fdatasync'))", env=env)
    assert taken.stdout == "False\n", "the names are really taken away"
    for split in ("train", "val"):
        for label, name in enumerate(("ant", "bee")):
            (folder := tmp_path / "images" / split / name).mkdir(parents=True)
            for k in range(8):
                (folder / f"{k}.JPEG").write_bytes(jpeg(picture(90, 70, 10 * label + k)))
    run("pack", "--data", "images", "--out", "data/quickstart", "--workers", 2)
    small = ("model.num_classes=2", "data.global_batch_size=8", "schedule.epochs=1", "run.device=cpu")
    sets = [word for setting in small for word in ("--set", setting)]
    run("train", "quickstart", *sets, "--set", f"distributed.nproc={nproc}")
    assert json.loads((tmp_path / "runs/quickstart/report.json").read_text())["steps"] == 2
    if nproc == 1:
        assert (
            '"cores"'
            in run_cli("-m", "alexnet_fast", "doctor", "quickstart", "--json", env=env, cwd=tmp_path).stdout
        )
