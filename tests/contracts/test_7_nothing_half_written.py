"""Promise 7, for files: a partly written file is never taken for a complete one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_fast import Beton
from alexnet_fast.beton.reader import BetonError
from alexnet_fast.errors import UserError
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.writer import ImageFolder, write_beton
from betons import Entry, picture, write
from components import ROOT
from stress import kill_packing
from stress import sample_images as found
from stress.kill_packing import Packing, kill_at_random, own_mounts


class Stop(BaseException):
    pass


def test_a_packing_that_stops_at_any_point_leaves_no_beton(tmp_path: Path) -> None:
    """Its partial file has another name, and even renamed it is refused."""
    for k in range(20):
        picture(60, 40, k).save(tmp_path / f"{k}.png")
    split = ImageFolder(tmp_path, [f"{k}.png" for k in range(20)], [0] * 20, ["only"])

    for last in (1, 10, 20):

        def progress(done: int, last: int = last) -> None:
            if done == last:
                raise Stop

        out = tmp_path / f"out{last}"
        with pytest.raises(Stop):
            write_beton(split, out / "a.beton", Encoding(), workers=1, progress=progress)
        assert sorted(os.listdir(out)) == ["a.beton.journal", "a.beton.partial"]
        with pytest.raises(BetonError):
            Beton((out / "a.beton.partial").rename(out / "b.beton"))


def test_a_packing_killed_several_times_ends_with_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    """SIGKILL of the whole process group, at random moments; the full attack is stress.kill_packing."""
    kills = kill_at_random(Packing(photos, "--limit", 200), tmp_path, tries=3, seed=0, workers=(1, 2))
    assert (kills.kills, kills.survived) == (3, True) and kills.resumed, kills


def test_a_packing_on_a_full_disk_fails_and_resumes_when_there_is_room(photos: Path) -> None:
    try:
        own_mounts()
    except UserError as error:
        pytest.skip(str(error))
    attack = [
        "-m",
        "stress.kill_packing",
        "--data",
        photos,
        "--limit",
        60,
        "--tries",
        0,
        "--full-at",
        0.5,
    ]
    run = subprocess.run(
        [sys.executable, *map(str, attack)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tools'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    told = json.loads(run.stdout.splitlines()[0])
    assert told["full"] == 1 and told["identical"] and "MB more are needed" in told["said"]


def test_the_attack_on_packings_reports_in_one_sentence_what_it_cannot_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found, "FOLDERS", (tmp_path / "none", tmp_path / "photos"))
    with pytest.raises(UserError, match="neither .*none nor .*photos: give --data FOLDER, which has train/"):
        kill_packing.main(["--tries", "1"])
    (tmp_path / "photos/train/ant").mkdir(parents=True)
    assert found.found_folder("--data") == tmp_path / "photos"
    with pytest.raises(UserError) as caught:
        kill_packing.main(["--tries", "1"])
    said = str(caught.value)
    assert said.startswith("the packing without an attack ended with code 2: ")
    assert "contains no image" in said
    assert "\n" not in said and "error:" not in said


def test_a_copy_truncated_at_any_point_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.beton", [Entry.raw(picture(60, 40, k)) for k in range(5)]).read_bytes()
    for length in [
        0,
        1,
        23,
        24,
        2105,
        2106,
        2200,
        1 << 21,
        (1 << 21) + 40_000,
        (1 << 22) - 1,
        1 << 22,
        len(whole) - 24,
        len(whole) - 1,
    ]:
        (tmp_path / "copy.beton").write_bytes(whole[:length])
        with pytest.raises(BetonError, match=r"copy\.beton"):
            Beton(tmp_path / "copy.beton")
