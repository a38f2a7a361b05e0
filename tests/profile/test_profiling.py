"""The command with --profile: its files, the picture that a tool draws from them, and later runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import plot_profile
import trace_events
from alexnet_fast import train
from alexnet_fast.errors import exit_code
from alexnet_fast.models import MODELS
from alexnet_fast.profile import profiler
from alexnet_fast.profile.stepping import PARTS
from stress.narrow_model import NARROW

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "quickstart.toml"


def test_a_profile_leaves_its_two_files_and_a_later_run_logs_its_share_of_the_ceiling(
    photo_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(MODELS, "alexnet", NARROW)
    folder = tmp_path / "it"
    folder.mkdir()
    (folder / "throughput.png").write_bytes(b"drawn from an older profile")
    kept = {"checkpoint_last.pt": b"a checkpoint", "recipe.toml": b"a recipe", "metrics.jsonl": b""}
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    keys = {
        "run.name": "it", "run.out": tmp_path, "run.device": "cpu", "data.train": photo_beton,
        "data.global_batch_size": 16, "model.num_classes": 1000, "eval.every": 0, "schedule.epochs": 1,
        "schedule.steps_per_epoch": 3, "checkpoint.every_epochs": 0,
    }  # fmt: skip
    arguments = [str(RECIPE), *(f"--set={key}={value}" for key, value in keys.items())]

    assert train.main([*arguments, "--profile", "--seconds", "1"]) == 0
    for name, content in kept.items():
        assert (folder / name).read_bytes() == content
    assert {path.name for path in folder.iterdir()} - set(kept) == {"throughput.json", "timeline.json"}
    out = capfd.readouterr().out
    assert f"python tools/plot_profile.py {folder / 'throughput.json'} (" in out
    figures = plot_profile.read(folder / "throughput.json")
    document = json.loads((folder / "throughput.json").read_text())
    verdict = document["verdict"]
    assert verdict["binding"] == "step" and verdict["text"] in out.replace("\n", " ")
    assert [bar.median for bar in figures.ceilings] == pytest.approx(
        [*verdict["ceilings_img_per_s"].values()]
    )
    assert len(figures.step_ms) == len(PARTS) and figures.end_to_end.median > 0
    assert document["read"]["cached_bytes_per_s"]["n"] == 5 and document["copy"] is None
    assert document["decode"]["scaling"][0]["threads"] == 1
    lanes = trace_events.read(folder / "timeline.json")
    names = {lane.name for lane in lanes}
    assert names >= {"training steps", "host: waits for batches"}
    assert any(name.startswith("decode-") for name in names)  # one thread may have decoded everything

    assert train.main(arguments) == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line["ceiling_share"] > 0 for line in lines if line["kind"] == "step")


def test_a_set_that_is_written_over_while_it_is_profiled_gets_no_verdict(
    photo_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(MODELS, "alexnet", NARROW)
    path = Path(shutil.copy(photo_beton, tmp_path / "train.beton"))
    monkeypatch.setattr(profiler.repack, "measure", lambda *arguments: os.utime(path))
    arguments = [f"--set=data.train={path}", f"--set=run.out={tmp_path}", "--set=run.device=cpu"]
    more = [
        "--set=run.name=it",
        "--set=data.global_batch_size=16",
        "--set=eval.every=0",
        "--seconds",
        "1",
        "--set=model.num_classes=1000",
    ]
    code = exit_code(lambda: train.main([str(RECIPE), *arguments, *more, "--profile"]))
    assert code == 2 and f"error: {path} was written over or touched" in capfd.readouterr().err
    assert not (tmp_path / "it/throughput.json").exists()


def test_seconds_that_are_not_a_number_in_range_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    for wrong in ("0", "much", "1e9"):
        with pytest.raises(SystemExit) as stopped:
            train.main([str(RECIPE), "--profile", "--seconds", wrong])
        assert stopped.value.code == 2 and "--seconds" in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--profile", "--eval"], ["--profile", "--resume", "auto"], ["--seconds", "9"]]
)
def test_flags_that_a_profile_would_ignore_are_refused(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train.main([str(RECIPE), *arguments])
    assert stopped.value.code == 2 and "--profile" in capfd.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(
    photo_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(profiler, "train_loader", None)
    (tmp_path / "taken").touch()
    keys = {"run.out": tmp_path / "taken", "run.device": "cpu", "data.train": photo_beton}
    assert (
        train.main([str(RECIPE), "--profile", *(f"--set={key}={value}" for key, value in keys.items())]) == 2
    )
    assert "set run.out" in capfd.readouterr().err
