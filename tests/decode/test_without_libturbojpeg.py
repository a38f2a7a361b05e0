"""A machine without libturbojpeg: what is usual is decoded to the same pixels, what is not is an error that says what to install.

Each test is a process of its own: what a process has linked stays linked.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.common.libturbojpeg import ENVIRONMENT, NONE
from betons import Entry, jpeg, picture, write

WITHOUT = {ENVIRONMENT: NONE}
LOAD = """
import hashlib, json, sys
from alexnet_fast import Loader
from alexnet_fast.errors import exit_code

def main():
    with Loader(sys.argv[1], 4, size=32, threads=2, **json.loads(sys.argv[2])) as loader:
        sums = [hashlib.sha256(images.numpy()).hexdigest() for _ in range(2) for images, _ in loader]
        print(json.dumps([sums, [str(each) for each in loader.skipped]]))

sys.exit(exit_code(main))
"""


def progressive(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(96, 80, seed).save(buffer, "JPEG", progressive=True)
    return buffer.getvalue()


def loaded(run_cli: Callable[..., Any], path: Path, env: dict[str, str], **options: Any) -> Any:
    return run_cli("-c", LOAD, path, json.dumps({"train": True, **options}), env=env)


@pytest.mark.parametrize("train", [True, False])
def test_usual_jpegs_are_decoded_to_the_same_pixels(
    train: bool, run_cli: Callable[..., Any], tmp_path: Path, require: Callable[[str], Any]
) -> None:
    require("turbojpeg")
    path = write(tmp_path / "a.beton", [jpeg(picture(96, 80, seed)) for seed in range(8)])
    without, there = (loaded(run_cli, path, env, train=train) for env in (WITHOUT, {}))
    assert without.code == there.code == 0, without.stderr + there.stderr
    assert json.loads(without.stdout) == json.loads(there.stdout)


@pytest.mark.parametrize("what", ["progressive", "corrupt"])
def test_what_only_libjpeg_turbo_can_decide_is_a_broken_sample_that_says_what_to_install(
    what: str, run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    usual = [jpeg(picture(96, 80, seed)) for seed in range(4)]
    odd = progressive(9) if what == "progressive" else usual[0][: len(usual[0]) // 2]
    path = write(tmp_path / "a.beton", [*usual[:2], odd, *usual[2:]])
    refused = loaded(run_cli, path, WITHOUT, train=False)
    assert refused.code == 2 and refused.stderr.count("\n") == 1, refused
    assert "sample 2 " in refused.stderr and "apt-get download libturbojpeg0" in refused.stderr
    assert "pack it again" not in refused.stderr
    skipping = loaded(run_cli, path, WITHOUT, train=False, on_error="skip")
    assert skipping.code == 0, skipping.stderr
    _, skipped = json.loads(skipping.stdout)
    assert (
        len(skipped) == 1 and skipped[0].startswith("sample 2") and "libturbojpeg was not found" in skipped[0]
    )


def test_what_is_found_broken_by_its_header_keeps_its_own_reason(
    run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(96, 80)), Entry(b"no jpeg" * 400, 96, 80)])
    refused = loaded(run_cli, path, WITHOUT, train=False)
    assert refused.code == 2 and "its bytes are no JPEG" in refused.stderr, refused


def test_a_loader_that_is_told_to_use_libjpeg_turbo_is_refused_at_once(
    run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(96, 80))] * 4)
    refused = loaded(run_cli, path, WITHOUT, decoder="libjpeg")
    assert refused.code == 2 and refused.stderr.startswith("error: libturbojpeg was not found; install it: ")


def test_a_folder_is_packed_verified_and_inspected_and_the_doctor_warns(
    run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "data/train/ant").mkdir(parents=True)
    for k in range(3):
        (tmp_path / f"data/train/ant/{k}.JPEG").write_bytes(progressive(k))
    packed = run_cli(
        "-m",
        "alexnet_fast",
        "pack",
        "--data",
        "data",
        "--out",
        ".",
        "--workers",
        1,
        env=WITHOUT,
        cwd=tmp_path,
    )
    assert (
        packed.code == 0 and "corrupt JPEGs were not looked for: libturbojpeg was not found" in packed.stdout
    )
    verified = run_cli(
        "-m", "alexnet_fast", "pack", "--verify", "train.beton", "--source", "data", "--workers", 1, env=WITHOUT,
        cwd=tmp_path,
    )  # fmt: skip
    assert verified.code == 0, verified
    inspected = run_cli(
        "-m", "alexnet_fast", "inspect", "train.beton", "--out", ".", env=WITHOUT, cwd=tmp_path
    )
    assert inspected.code == 0 and (tmp_path / "crops.png").is_file(), inspected
    doctor = run_cli("-m", "alexnet_fast", "doctor", "--json", env=WITHOUT, cwd=tmp_path)
    (codec,) = (each for each in json.loads(doctor.stdout) if each["name"] == "libjpeg-turbo")
    assert codec["status"] == "warning" and "progressive" in codec["found"]


def test_lossless_packing_without_jpegtran_is_refused_before_anything_is_written(
    run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "data/train/ant").mkdir(parents=True)
    (tmp_path / "data/train/ant/0.JPEG").write_bytes(jpeg(picture(64, 48)))
    run = run_cli(
        "-m", "alexnet_fast", "pack", "--data", "data", "--out", "out", "--mode", "lossless",
        env={**WITHOUT, "PATH": str(tmp_path)}, cwd=tmp_path,
    )  # fmt: skip
    assert run.code == 2 and "jpegtran, which was not found; install it: " in run.stderr
    assert "apt-get download libjpeg-turbo-progs" in run.stderr and not (tmp_path / "out").exists()
