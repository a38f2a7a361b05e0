"""tools/write_beton.py as people run it."""

from __future__ import annotations

import functools
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

from alexnet_fast.beton.encode import Encoding
from alexnet_fast.beton.lossless import JpegtranMissing, jpegtran
from alexnet_fast.beton.reader import Beton
from betons import PAGE, jpeg, picture
from coefficients import same_coefficients
from components import ROOT

Pack = Callable[..., Any]
"""pack("--data", folder, ...) runs the command: its code, stdout and stderr."""


@pytest.fixture
def pack(run_cli: Callable[..., Any]) -> Pack:
    return functools.partial(run_cli, "tools/write_beton.py", timeout_s=120)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageNet folder: two classes, six training images each (one grey, one PNG), two validation images each."""
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(("ant", "bee")):
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                (root / split / name / f"{k}.JPEG").write_bytes(jpeg(picture(90, 70, 10 * label + k)))
    picture(90, 70).convert("L").save(root / "train/ant/grey.JPEG")
    picture(600, 300).save(root / "train/bee/large.png")
    return root


@pytest.fixture
def bad_data(tmp_path: Path) -> Path:
    (tmp_path / "bad/train/ant").mkdir(parents=True)
    (tmp_path / "bad/train/ant/good.JPEG").write_bytes(jpeg(picture(40, 30)))
    (tmp_path / "bad/train/ant/text.JPEG").write_bytes(b"no image")
    return tmp_path / "bad"


@pytest.fixture(scope="module")
def require_jpegtran() -> None:
    """libjpeg-turbo's program, or the test skips."""
    try:
        jpegtran()
    except JpegtranMissing as error:
        pytest.skip(str(error))


def refused(run: Any, *expected: str) -> None:
    """Exit code 2 and one sentence, no traceback."""
    assert run.code == 2, run.stderr
    assert "Traceback" not in run.stderr
    sentence = run.stderr.strip().splitlines()[-1]
    assert "error: " in sentence and all(part in sentence for part in expected), sentence


def test_both_splits_are_packed_and_summed_up(pack: Pack, data: Path, tmp_path: Path) -> None:
    run = pack("--data", data, "--out", tmp_path / "out", "--workers", 2)
    assert run.code == 0, run.stderr
    assert sorted(os.listdir(tmp_path / "out")) == [
        "train.beton",
        "train.beton.json",
        "val.beton",
        "val.beton.json",
    ]
    train, *rest = run.stdout.splitlines()
    assert (
        train.startswith(f"{tmp_path / 'out/train.beton'}: 14 images of 2 classes, ")
        and "img/s" in train
        and "MB" in train
    )
    assert sorted(rest[:2]) == [
        "  converted to RGB JPEG: 1 from L JPEG",
        "  converted to RGB JPEG: 1 from PNG",
    ]
    assert rest[2].startswith(f"{tmp_path / 'out/val.beton'}: 4 images of 2 classes, ")
    with Beton(tmp_path / "out/train.beton") as beton:
        assert sorted(beton.labels.tolist()) == [0] * 7 + [1] * 7
        assert max(beton.images["width"]) == 500


def test_help_names_every_option_with_its_default(pack: Pack) -> None:
    run = pack("--help")
    assert run.code == 0
    options = (
        "data out split max-resolution min-side quality restart-mcus mode workers shuffle-seed limit on-error"
    )
    assert all(f"--{option}" in run.stdout for option in options.split())
    assert all(
        f"(default: {value})" in run.stdout.replace("\n", " ")
        for value in (500, 90, Encoding.restart_mcus, "reencode", "raise")
    )


def test_one_split_alone_of_any_name_shares_the_training_labels(
    pack: Pack, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "extra").symlink_to(data / "val")
    (tmp_path / "train").symlink_to(data / "train")
    run = pack("--data", tmp_path, "--out", tmp_path / "out", "--split", "extra", "--workers", 1)
    assert run.code == 0, run.stderr
    assert sorted(os.listdir(tmp_path / "out")) == ["extra.beton", "extra.beton.json"]


def test_without_a_shuffle_a_limit_takes_the_first_images_by_class(
    pack: Pack, data: Path, tmp_path: Path
) -> None:
    run = pack(
        "--data",
        data,
        "--out",
        tmp_path,
        "--split",
        "train",
        "--shuffle-seed",
        "none",
        "--limit",
        8,
        "--workers",
        1,
    )
    assert run.code == 0, run.stderr
    with Beton(tmp_path / "train.beton") as beton:
        assert beton.labels.tolist() == [0] * 7 + [1]
        assert beton.sidecar is not None
        assert beton.sidecar["paths"] == [*(f"ant/{k}.JPEG" for k in range(6)), "ant/grey.JPEG", "bee/0.JPEG"]
        assert beton.sidecar["settings"]["shuffle_seed"] is None and beton.sidecar["settings"]["limit"] == 8


def test_another_shuffle_seed_is_another_order_of_the_same_images(
    pack: Pack, data: Path, tmp_path: Path
) -> None:
    orders = []
    for seed in (0, 1):
        assert (
            pack(
                "--data", data, "--out", tmp_path, "--split", "train", "--shuffle-seed", seed, "--workers", 1
            ).code
            == 0
        )
        orders.append(json.loads((tmp_path / "train.beton.json").read_text())["paths"])
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_raw_mode_and_sizes_reach_the_file(pack: Pack, data: Path, tmp_path: Path) -> None:
    run = pack(
        "--data",
        data,
        "--out",
        tmp_path,
        "--split",
        "train",
        "--mode",
        "raw",
        "--min-side",
        32,
        "--workers",
        1,
    )
    assert run.code == 0, run.stderr
    with Beton(tmp_path / "train.beton") as beton:
        assert set(beton.images["mode"].tolist()) == {1}
        assert min(beton.images["height"].min(), beton.images["width"].min()) == 32
        assert sorted(set(beton.sizes.tolist())) == [41 * 32 * 3, 64 * 32 * 3]


def test_quality_and_markers_reach_the_file(pack: Pack, data: Path, tmp_path: Path) -> None:
    sizes = []
    for k, options in enumerate(
        ({"quality": 90, "restart-mcus": 1}, {"quality": 90, "restart-mcus": 0}, {"quality": 30})
    ):
        flags = [text for name, value in options.items() for text in (f"--{name}", value)]
        assert (
            pack("--data", data, "--out", tmp_path / str(k), "--split", "val", *flags, "--workers", 1).code
            == 0
        )
        with Beton(tmp_path / f"{k}/val.beton") as beton:
            sizes.append(int(beton.sizes.sum()))
            assert (b"TILES" in beton.payload(0).tobytes()) == (k != 1)
    assert sizes[0] > sizes[1] > sizes[2]


def test_lossless_mode_keeps_every_jpegs_size_and_coefficients_and_says_what_it_encoded_anew(
    pack: Pack, data: Path, tmp_path: Path, require_jpegtran: None
) -> None:
    run = pack("--data", data, "--out", tmp_path, "--mode", "lossless", "--split", "train", "--workers", 2)
    assert run.code == 0, run.stderr
    assert run.stdout.splitlines()[1:] == [
        "  re-encoded at quality 90, for want of coefficients to keep: 1 from PNG"
    ]
    with Beton(tmp_path / "train.beton") as beton:
        assert beton.sidecar is not None
        assert beton.sidecar["converted"] == {"bee/large.png": "PNG"}
        assert (
            beton.sidecar["settings"]["mode"] == "lossless"
            and beton.sidecar["settings"]["max_resolution"] == 0
        )
        for k, path in enumerate(beton.sidecar["paths"]):
            stored = beton.payload(k).tobytes()
            if path == "bee/large.png":
                assert int(beton.images["width"][k]) == 600
            else:
                assert same_coefficients(stored, (data / "train" / path).read_bytes()), path


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--quality", 90), "--quality"),
        (("--max-resolution", 500), "--max-resolution"),
        (("--min-side", 0), "--min-side"),
        (("--max-resolution", 0, "--quality", 95), "--max-resolution and --quality"),
    ],
)
def test_what_shapes_pixels_does_not_go_with_lossless_mode(
    pack: Pack, data: Path, tmp_path: Path, options: tuple[object, ...], named: str
) -> None:
    run = pack("--data", data, "--out", tmp_path / "out", "--mode", "lossless", *options)
    refused(run, f"keeps every JPEG's own size and quality; pack without {named}, or with --mode reencode")
    assert not (tmp_path / "out").exists()


def test_lossless_mode_says_what_to_install_where_jpegtran_is_missing(
    pack: Pack, data: Path, tmp_path: Path
) -> None:
    run = pack("--data", data, "--out", tmp_path / "out", "--mode", "lossless", env={"PATH": str(tmp_path)})
    refused(
        run, "--mode lossless needs libjpeg-turbo's program jpegtran", "apt-get install libjpeg-turbo-progs"
    )
    assert not (tmp_path / "out").exists()


def test_a_damaged_jpeg_is_named_in_lossless_mode_too(
    pack: Pack, bad_data: Path, tmp_path: Path, require_jpegtran: None
) -> None:
    (bad_data / "train/ant/text.JPEG").write_bytes(jpeg(picture(40, 30))[:-30])
    run = pack("--data", bad_data, "--out", tmp_path / "out", "--mode", "lossless", "--workers", 2)
    refused(
        run,
        "ant/text.JPEG: jpegtran says: Premature end of JPEG file",
        "remove it, or pack with --on-error skip",
    )
    assert os.listdir(tmp_path / "out") == []


def test_unreadable_images_are_listed_when_skipped(pack: Pack, bad_data: Path, tmp_path: Path) -> None:
    run = pack("--data", bad_data, "--out", tmp_path / "out", "--on-error", "skip", "--workers", 1)
    assert run.code == 0, run.stderr
    assert f"skipped as unreadable: 1, listed in {tmp_path / 'out/train.beton'}.json" in run.stdout
    assert json.loads((tmp_path / "out/train.beton.json").read_text())["skipped"] == ["ant/text.JPEG"]


def test_an_unreadable_image_is_named(pack: Pack, bad_data: Path, tmp_path: Path) -> None:
    run = pack("--data", bad_data, "--out", tmp_path / "out", "--workers", 2)
    refused(run, "ant/text.JPEG", "remove it, or pack with --on-error skip")
    assert os.listdir(tmp_path / "out") == []


def test_a_missing_folder_is_refused(pack: Pack, tmp_path: Path) -> None:
    refused(pack("--data", tmp_path / "none", "--out", tmp_path), "none is not a folder", "train/<class>/*")


def test_a_folder_without_splits_is_told_how_to_name_one(pack: Pack, data: Path, tmp_path: Path) -> None:
    refused(pack("--data", data / "train", "--out", tmp_path), "has neither train/ nor val/", "--split NAME")


def test_a_missing_split_is_refused(pack: Pack, data: Path, tmp_path: Path) -> None:
    refused(pack("--data", data, "--out", tmp_path, "--split", "test"), "test is not a folder")


def test_a_split_without_classes_is_refused(pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "data/train").mkdir(parents=True)
    refused(pack("--data", tmp_path / "data", "--out", tmp_path), "has no class folders")


def test_a_class_without_images_is_refused(pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "data/train/ant").mkdir(parents=True)
    refused(pack("--data", tmp_path / "data", "--out", tmp_path), "ant holds no image")


def test_a_validation_class_unknown_to_training_is_refused_before_anything_is_packed(
    pack: Pack, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "data/val/wasp").mkdir(parents=True)
    (tmp_path / "data/val/wasp/0.JPEG").write_bytes(jpeg(picture(40, 30)))
    (tmp_path / "data/train").symlink_to(data / "train")
    refused(
        pack("--data", tmp_path / "data", "--out", tmp_path / "out"),
        "'wasp'",
        "the training split does not have",
    )
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_a_folder_is_refused(pack: Pack, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    refused(
        pack("--data", data, "--out", tmp_path / "file", "--workers", 1),
        "cannot write",
        "choose another --out",
    )


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--quality", "0", "0 is out of range, expected 1 to 100"),
        ("--quality", "101", "101 is out of range, expected 1 to 100"),
        ("--quality", "high", "invalid whole number value: 'high'"),
        ("--max-resolution", "-1", "out of range"),
        ("--min-side", "2.5", "invalid whole number"),
        ("--restart-mcus", "-4", "out of range"),
        ("--workers", "0", "out of range"),
        ("--limit", "0", "out of range"),
        ("--shuffle-seed", "some", "invalid whole number or 'none' value: 'some'"),
        ("--mode", "jpg", "invalid choice: 'jpg'"),
        ("--on-error", "ignore", "invalid choice: 'ignore'"),
        ("--nonsense", "1", "unrecognized arguments"),
    ],
)
def test_a_value_out_of_range_is_refused(
    pack: Pack, data: Path, tmp_path: Path, option: str, value: str, expected: str
) -> None:
    refused(pack("--data", data, "--out", tmp_path, option, value), expected)


def test_an_interrupted_packing_leaves_no_file_and_no_traceback(tmp_path: Path) -> None:
    """Ctrl-C reaches the packer and its workers alike."""
    (tmp_path / "data/train/ant").mkdir(parents=True)
    for k in range(3):
        (tmp_path / f"data/train/ant/{k}.png").parent.mkdir(exist_ok=True)
        picture(1200, 900, k).save(tmp_path / f"data/train/ant/{k}.png", compress_level=1)
    for k in range(3, 150):
        (tmp_path / f"data/train/ant/{k}.png").symlink_to(tmp_path / f"data/train/ant/{k % 3}.png")
    command = [
        sys.executable,
        ROOT / "tools/write_beton.py",
        "--data",
        tmp_path / "data",
        "--out",
        tmp_path / "out",
        "--workers",
        "2",
        "--max-resolution",
        "0",
    ]
    packer = subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell lets what it starts in the background ignore SIGINT, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    partial, patience = tmp_path / "out/train.beton.partial", time.monotonic() + 60
    while (
        not (partial.exists() and partial.stat().st_size > PAGE)
        and packer.poll() is None
        and time.monotonic() < patience
    ):
        time.sleep(0.05)
    os.killpg(packer.pid, signal.SIGINT)
    _, told = packer.communicate(timeout=60)
    assert packer.returncode == 130, told
    assert "interrupted" in told and "Traceback" not in told
    assert os.listdir(tmp_path / "out") == []
