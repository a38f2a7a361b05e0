"""python -m alexnet_fast.pack as people run it; in a checkout tools/write_beton.py is the same."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import components
from alexnet_fast import pack as pack_module
from alexnet_fast.beton.reader import Beton
from alexnet_fast.errors import exit_code
from alexnet_fast.pack import main
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.journal import progress_sentence
from alexnet_fast.packing.lossless import JpegtranMissing, jpegtran
from alexnet_fast.packing.sources import image_folder
from betons import jpeg, picture, write
from coefficients import same_coefficients
from components import ROOT
from folders import fill

Pack = Callable[..., Any]
"""pack("--data", folder, ...) runs the command: its code, stdout and stderr."""


class Ran(NamedTuple):
    """The output of a command, and its exit code."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def pack() -> Pack:
    """The command's own main in this process, which spares the start of another."""

    def run(*arguments: object) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = exit_code(lambda: main(list(map(str, arguments))))
            except SystemExit as stop:  # argparse
                code = int(stop.code or 0)
        return Ran(code, out.getvalue(), err.getvalue())

    return run


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
    assert sentence.startswith("error: ") and all(part in sentence for part in expected), sentence


def test_both_splits_are_packed_and_summed_up(
    data: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    components.require("turbojpeg")  # finds corrupt images
    run = run_cli("tools/write_beton.py", "--data", data, "--out", tmp_path / "out", "--workers", 2)
    assert run.code == 0, run.stderr
    assert sorted(os.listdir(tmp_path / "out")) == [
        "train.beton",
        "train.beton.json",
        "val.beton",
        "val.beton.json",
    ]
    train, *rest = run.stdout.splitlines()
    with Beton(tmp_path / "out/train.beton") as beton:
        file_mb, image_mb = len(beton.map) / 1e6, beton.sizes.sum() / 1e6
    assert train.startswith(
        f"{tmp_path / 'out/train.beton'}: 14 images of 2 classes, {file_mb:.1f} MB, {image_mb:.1f} MB of it images "
        f"({1000 * image_mb / 14:.1f} kB each), "
    )
    assert "img/s" in train
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
        "data out split max-resolution min-side quality restart-mcus mode workers shuffle-seed limit on-error "
        "fresh verify source"
    )
    assert all(f"--{option}" in run.stdout for option in options.split())
    assert "(default: None)" not in run.stdout and "(default: False)" not in run.stdout
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
        options = ("--out", tmp_path / str(seed), "--split", "train", "--shuffle-seed", seed)
        assert pack("--data", data, *options, "--workers", 1).code == 0
        orders.append(json.loads((tmp_path / f"{seed}/train.beton.json").read_text())["paths"])
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_raw_mode_and_sizes_reach_the_file(pack: Pack, data: Path, tmp_path: Path) -> None:
    components.require("turbojpeg")  # finds corrupt images
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
    assert sorted(run.stdout.splitlines()[1:]) == [
        "  stored as RGB: 1 from L JPEG",
        "  stored as RGB: 1 from PNG",
    ]
    run_verify = pack("--verify", tmp_path, "--source", data, "--workers", 1)
    assert run_verify.stdout.endswith("matches its checksum and has its source's pixels\n")
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


def test_lossless_mode_keeps_every_jpegs_size_and_coefficients_and_says_what_it_re_encoded(
    pack: Pack, data: Path, tmp_path: Path, require_jpegtran: None
) -> None:
    run = pack("--data", data, "--out", tmp_path, "--mode", "lossless", "--split", "train", "--workers", 2)
    assert run.code == 0, run.stderr
    assert run.stdout.splitlines()[1:] == [
        "  re-encoded at quality 90, without coefficients to keep: 1 from PNG"
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
    data: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    options = ("--data", data, "--out", tmp_path / "out", "--mode", "lossless")
    run = run_cli("tools/write_beton.py", *options, env={"PATH": str(tmp_path)})
    refused(
        run, "--mode lossless needs libjpeg-turbo's program jpegtran", "apt-get install libjpeg-turbo-progs"
    )
    assert not (tmp_path / "out").exists()


def test_a_corrupt_jpeg_is_named_in_lossless_mode_too(
    pack: Pack, bad_data: Path, tmp_path: Path, require_jpegtran: None
) -> None:
    (bad_data / "train/ant/text.JPEG").write_bytes(jpeg(picture(40, 30))[:-30])
    run = pack("--data", bad_data, "--out", tmp_path / "out", "--mode", "lossless", "--workers", 2)
    refused(
        run,
        "ant/text.JPEG: jpegtran says: Premature end of JPEG file",
        "pack with --on-error skip",
    )
    assert not (tmp_path / "out/train.beton").exists()


@pytest.mark.parametrize("mode", ["reencode", "lossless"])
def test_corrupt_images_are_counted_and_listed_or_errors(
    pack: Pack, bad_data: Path, tmp_path: Path, mode: str, require_jpegtran: None
) -> None:
    intact = jpeg(picture(203, 149))
    (bad_data / "train/ant/text.JPEG").write_bytes(intact[: len(intact) // 2] + b"\xff\xd9")
    command = ("--data", bad_data, "--mode", mode, "--workers", 1)
    run = pack(*command, "--out", tmp_path / "out")
    assert run.code == 0, run.stderr
    assert (
        f"corrupt, packed as their decoders read them: 1, listed in {tmp_path / 'out/train.beton'}.json"
        in run.stdout
    )
    assert list(json.loads((tmp_path / "out/train.beton.json").read_text())["corrupt"]) == ["ant/text.JPEG"]
    run = pack(*command, "--out", tmp_path / "other", "--on-corrupt", "error")
    refused(
        run,
        "ant/text.JPEG is corrupt: ",
        "pack with --on-error skip to skip it, or without --on-corrupt error",
    )
    run = pack(*command, "--out", tmp_path / "other", "--on-corrupt", "error", "--on-error", "skip")
    assert run.code == 0 and "skipped as unreadable: 1" in run.stdout and "corrupt, packed" not in run.stdout
    run = pack(*command, "--out", tmp_path / "out", "--on-corrupt", "error")
    refused(run, "is finished with on_corrupt = none, asked for error")


def test_images_of_more_than_8_bits_are_counted(pack: Pack, bad_data: Path, tmp_path: Path) -> None:
    Image.fromarray(np.arange(4000, dtype=np.uint16).reshape(50, 80)).save(
        bad_data / "train/ant/text.JPEG", "PNG"
    )
    run = pack("--data", bad_data, "--out", tmp_path / "out", "--workers", 1)
    assert run.code == 0, run.stderr
    assert "scaled from more than 8 bits to 8: 1, with the values of black and white in " in run.stdout


def test_unreadable_images_are_listed_when_skipped(pack: Pack, bad_data: Path, tmp_path: Path) -> None:
    run = pack("--data", bad_data, "--out", tmp_path / "out", "--on-error", "skip", "--workers", 1)
    assert run.code == 0, run.stderr
    assert f"skipped as unreadable: 1, listed in {tmp_path / 'out/train.beton'}.json" in run.stdout
    assert json.loads((tmp_path / "out/train.beton.json").read_text())["skipped"] == ["ant/text.JPEG"]


def test_an_unreadable_image_is_named(pack: Pack, bad_data: Path, tmp_path: Path) -> None:
    run = pack("--data", bad_data, "--out", tmp_path / "out", "--workers", 2)
    refused(run, "ant/text.JPEG", "pack with --on-error skip")
    assert not (tmp_path / "out/train.beton").exists()
    run = pack("--data", bad_data, "--out", tmp_path / "out", "--on-error", "skip")
    assert run.code == 0 and sorted(os.listdir(tmp_path / "out")) == ["train.beton", "train.beton.json"]


def test_a_missing_folder_is_refused(pack: Pack, tmp_path: Path) -> None:
    refused(pack("--data", tmp_path / "none", "--out", tmp_path), "none is not a folder", "train/<class>/*")


def test_for_a_folder_without_splits_the_error_says_how_to_name_one(
    pack: Pack, data: Path, tmp_path: Path
) -> None:
    refused(pack("--data", data / "train", "--out", tmp_path), "has neither train/ nor val/", "--split NAME")


def test_a_missing_split_is_refused(pack: Pack, data: Path, tmp_path: Path) -> None:
    refused(pack("--data", data, "--out", tmp_path, "--split", "test"), "test is not a folder")


def test_a_split_without_classes_is_refused(pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "data/train").mkdir(parents=True)
    refused(pack("--data", tmp_path / "data", "--out", tmp_path), "has no class folders")


def test_a_class_without_images_is_refused(pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "data/train/ant").mkdir(parents=True)
    refused(pack("--data", tmp_path / "data", "--out", tmp_path), "ant contains no image")


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
        f"--out {tmp_path / 'file'} is a file: give a folder",
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
        ("--nonsense", "1", "unknown flag --nonsense"),
        ("--qualty", "90", "error: unknown flag --qualty; did you mean --quality?"),
        ("--fresh", "x", "error: unexpected argument x"),
    ],
)
def test_a_value_out_of_range_is_refused(
    pack: Pack, data: Path, tmp_path: Path, option: str, value: str, expected: str
) -> None:
    refused(pack("--data", data, "--out", tmp_path, option, value), expected)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that takes some seconds to pack: 70 links to two images."""
    root = tmp_path_factory.mktemp("slow")
    (root / "train/ant").mkdir(parents=True)
    for k in range(2):
        picture(120, 80, k).resize((900, 600)).save(root / f"train/ant/{k}.png", compress_level=1)
    for k in range(2, 70):
        (root / f"train/ant/{k}.png").symlink_to(root / f"train/ant/{k % 2}.png")
    return root


SLOWLY = """
import time
from alexnet_fast.packing import encode

def slowly(*given, at_once=encode.encode_jpeg):
    time.sleep(0.1)
    return at_once(*given)

encode.encode_jpeg = slowly
"""


class Started:
    """A packing with two slow workers in a process group of its own, which has packed something."""

    def __init__(self, data: Path, out: Path) -> None:
        (site := out / "../site").mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(SLOWLY)  # for the workers too
        command = [sys.executable, ROOT / "tools/write_beton.py", "--data", data, "--out", out]
        before = progress_sentence(out / "train.beton", 70)
        self.process = subprocess.Popen(
            [*map(str, command), "--workers", "2", "--max-resolution", "0"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (site.resolve(), ROOT)))},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        patience = time.monotonic() + 120
        while progress_sentence(out / "train.beton", 70) == before:
            assert self.process.poll() is None and time.monotonic() < patience
            time.sleep(0.02)

    def workers(self) -> list[int]:
        """Those that work at an image, or wait for one."""
        found = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.process.pid:  # of the group
                    found[int(stat.parent.name)] = int(fields[1])
            except OSError:
                continue
        server = [pid for pid in found if pid in found.values() and pid != self.process.pid]
        return [pid for pid, parent in found.items() if parent in server]

    def end(self, number: int, pid: int | None = None) -> tuple[int, str]:
        """Send a signal to one process, or to the group; the packer's code and what it printed."""
        os.kill(pid, number) if pid else os.killpg(self.process.pid, number)
        _, printed = self.process.communicate(timeout=120)
        return self.process.returncode, printed

    def group_is_gone(self) -> bool:
        patience = time.monotonic() + 120
        while time.monotonic() < patience:
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.02)
        return False


def test_a_packing_that_is_stopped_in_any_way_any_number_of_times_says_so_and_resumes(
    pack: Pack, slow: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    out, options = tmp_path / "out", ("--data", slow, "--max-resolution", 0, "--workers", 2)
    unfinished, beton = ["train.beton.journal", "train.beton.partial"], f"{tmp_path}/out/train.beton"

    # A file that may not grow further is reported like a full disk.
    limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9 << 20, 9 << 20)); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    run = run_cli("-c", limit, "tools/write_beton.py", *options, "--out", out)
    refused(run, f"cannot write {beton}: File too large, about", "MB more are needed", "make room first")
    assert sorted(os.listdir(out)) == unfinished

    run = pack(*options, "--out", out, "--quality", 80, "--limit", 5)
    refused(run, "quality was 90 and is 80, limit was None and is 5", "or start from scratch with --fresh")

    # Ctrl-C and a scheduler's SIGTERM reach the packer and its workers alike.
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        started = Started(slow, out)
        ended, printed = started.end(number)
        assert ended == code and "Traceback" not in printed, printed
        assert re.search(
            rf"stopped by {number.name} while packing: \d+ of 70 images of {beton} are packed, and the same",
            printed,
        )
        assert started.group_is_gone() and sorted(os.listdir(out)) == unfinished

    started = Started(slow, out)
    victim = started.workers()[0]
    code, printed = started.end(signal.SIGKILL, victim)
    assert code == 2 and "Traceback" not in printed
    assert f"worker process {victim} was killed by SIGKILL (9) while encoding {slow}/train/ant/" in printed
    assert f" of 70 images of {beton} are packed, " in printed and "use fewer --workers" in printed
    assert started.group_is_gone()

    # The packer alone: its workers notice.
    started = Started(slow, out)
    assert len(started.workers()) == 2
    started.end(signal.SIGKILL, started.process.pid)
    assert started.group_is_gone() and sorted(os.listdir(out)) == unfinished

    run = pack(*options[:-1], 1, "--out", out)
    assert run.code == 0 and " of an interrupted packing" in run.stdout
    assert "packed before" in pack(*options, "--out", out).stdout
    assert pack(*options, "--out", tmp_path / "alone").code == 0
    for name in ("train.beton", "train.beton.json"):
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_whatever_it_does_a_signal_is_named_and_its_code_is_the_shells(
    pack: Pack, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    assert pack("--data", data, "--out", tmp_path, "--split", "val", "--workers", 1).code == 0

    @contextmanager
    def bar(*_: object) -> Iterator[Callable[..., None]]:
        yield lambda *done: signal.raise_signal(number)

    def scan(*_: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(pack_module, "progress_bar", bar)
    monkeypatch.setattr(image_folder, "scan_folder", scan)
    before = signal.signal(
        number, pack_module._terminate if number == signal.SIGTERM else signal.default_int_handler
    )
    try:
        verifying = pack("--verify", tmp_path / "val.beton", "--workers", 1)
        scanning = pack("--data", data, "--out", tmp_path)
    finally:
        signal.signal(number, before)
    assert verifying == (code, "", f"stopped by {number.name} while verifying\n")
    assert scanning == (code, "", f"stopped by {number.name} while no image was being packed\n")


def test_verify_distinguishes_no_fault_faults_and_misuse(pack: Pack, data: Path, tmp_path: Path) -> None:
    assert pack("--data", data, "--out", tmp_path).code == 0
    files = [tmp_path / "train.beton", tmp_path / "val.beton"]
    run = pack("--verify", *files, "--source", data, "--workers", 1)
    assert run.code == 0, run.stderr
    assert pack("--verify", tmp_path, "--source", data, "--workers", 1).stdout == run.stdout
    assert run.stdout.splitlines() == [
        f"{file}: {count} samples, no fault: every sample decodes completely, matches its checksum and "
        "equals its source encoded again"
        for file, count in zip(files, (14, 4))
    ]
    with Beton(files[0]) as beton:
        at = int(beton.images["data_ptr"][3]) + 700
    content = bytearray(files[0].read_bytes())
    content[at] ^= 4
    files[0].write_bytes(content)
    run = pack("--verify", *files, "--workers", 1)
    assert run.code == 1 and f"{files[0]}: sample 3 (" in run.stdout and "CRC-32" in run.stdout
    assert f"{files[1]}: 4 samples, no fault" in run.stdout
    files[0].write_bytes(content[:5000])
    run = pack("--verify", files[0])
    assert run.code == 1 and run.stdout.startswith(f"{files[0]} is truncated: it has 5000 bytes")
    assert run.stdout.count(str(files[0])) == run.stdout.count("\n") == 1 and "0 samples" not in run.stdout
    (tmp_path / "empty").mkdir()
    refused(pack("--verify", tmp_path / "empty"), f"{tmp_path}/empty contains no .beton file")
    refused(pack("--verify", tmp_path / "none.beton"), "none.beton does not exist")
    refused(pack("--verify", *files, "--data", data), "--verify packs nothing")
    refused(pack("--data", data, "--out", tmp_path, "--source", data), "--source goes with --verify")
    refused(pack("--data", data), "packing needs --data and --out")


def test_a_finished_file_is_not_replaced_unasked_and_the_difference_is_named(
    pack: Pack, data: Path, tmp_path: Path
) -> None:
    """Of any split: nothing is packed where a later one could not be."""
    out = tmp_path / "packed"
    options = ("--data", data, "--out", out, "--workers", 1)
    assert pack(*options, "--split", "val").code == 0

    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in out.iterdir()}

    before = contents()
    remedy = "; give another --out, or --fresh to replace it"
    for flags, difference in (
        (("--quality", 95), "quality = 90, asked for 95"),
        (("--limit", 3, "--mode", "raw"), "mode = reencode, asked for raw, and limit = none, asked for 3"),
    ):
        run = pack(*options, *flags)
        assert run == (2, "", f"error: {out}/val.beton is finished with {difference}{remedy}\n")
    shutil.copytree(data, tmp_path / "other")
    (tmp_path / "other/val/ant/1.JPEG").rename(tmp_path / "other/val/ant/2.JPEG")
    refused(
        pack("--data", tmp_path / "other", *options[2:]),
        f"{out}/val.beton is finished, and {tmp_path}/other/val is not what it was packed from: ",
        "1 image (ant/2.JPEG) added, 1 image (ant/1.JPEG) removed",
        remedy,
    )
    assert contents() == before

    run = pack(*options)  # as before
    assert run.code == 0 and run.stdout.count("packed before") == 1
    assert pack(*options, "--quality", 95, "--fresh").code == 0
    for name, fault in (
        ("val.beton.json", "without a val.beton.json that says"),
        ("val.beton", "is not a complete beton"),
    ):
        (out / name).unlink()
        (out / "val.beton").touch()
        refused(pack(*options, "--quality", 95), f"{out}/val.beton exists already", fault, remedy)
    assert pack(*options, "--quality", 95, "--fresh").code == 0
    assert pack("--verify", out, "--source", data, "--workers", 1).code == 0


@pytest.mark.parametrize("tool", ["write_beton", "inspect_beton", "make_sample"])
def test_to_a_python_without_the_package_the_error_says_what_to_run(tool: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-I", "-S", ROOT / f"tools/{tool}.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == (
        f"error: alexnet_fast is not installed in {sys.executable}: run make setup, then "
        f".venv/bin/python tools/{tool}.py ...\n"
    )


@pytest.mark.parametrize(
    ("tool", "module"),
    [("write_beton", "pack"), ("inspect_beton", "inspect_beton"), ("make_sample", "sample")],
)
def test_each_tool_and_its_module_are_one_command_under_two_names(
    tool: str, module: str, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    as_tool = run_cli(ROOT / f"tools/{tool}.py", "--help", cwd=tmp_path)
    as_module = run_cli("-m", f"alexnet_fast.{module}", "--help", cwd=tmp_path)
    assert as_tool.code == as_module.code == 0 and as_tool.stderr == as_module.stderr == ""
    assert as_tool.stdout.startswith(f"usage: {tool}.py ")
    assert as_module.stdout.startswith(f"usage: python -m alexnet_fast.{module} ")
    assert _options(as_tool.stdout) == _options(as_module.stdout)


def _options(text: str) -> list[str]:
    """The text of a help after its usage, whose line breaks depend on the command's name."""
    return text[text.index("\n\n") :].split()


def test_both_commands_end_with_the_code_of_a_users_mistake(
    tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    for command in (("tools/write_beton.py",), ("-m", "alexnet_fast.pack")):
        refused(run_cli(*command, "--data", tmp_path / "none", "--out", tmp_path), "none is not a folder")
    for command in (("tools/inspect_beton.py",), ("-m", "alexnet_fast.inspect_beton")):
        refused(run_cli(*command, tmp_path / "none.beton"), "pack one with python -m alexnet_fast.pack")


def test_verify_takes_the_names_of_fields_and_packing_does_not(pack: Pack, tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(90, 70))] * 3, more=[("index", [5, 6, 7])])
    run = pack("--verify", path, "--workers", 1)
    assert run.code == 2 and "has 2 int fields" in run.stderr and run.stdout == ""
    run = pack("--verify", path, "--label-field", "index", "--workers", 1)
    assert run.code == 0 and "3 samples, no fault" in run.stdout
    run = pack("--data", tmp_path, "--out", tmp_path / "out", "--label-field", "index")
    assert run.code == 2 and "go with --verify" in run.stderr


def test_an_existing_file_with_other_fields_is_reported_as_such(
    pack: Pack, data: Path, tmp_path: Path
) -> None:
    write(tmp_path / "train.beton", [jpeg(picture(90, 70))] * 3, more=[("index", [5, 6, 7])])
    run = pack("--data", data, "--out", tmp_path, "--split", "train")
    assert run.code == 2 and "exists already, with other fields than this packer writes" in run.stderr


def labels_of(path: Path) -> dict[str, int]:
    """The label of each class folder."""
    with Beton(path) as beton:
        return {str(beton.source_path(i)).split("/")[0]: int(beton.labels[i]) for i in range(len(beton))}


def test_a_val_split_that_lacks_a_class_is_numbered_as_train_and_the_class_is_named(
    pack: Pack, tmp_path: Path
) -> None:
    fill(tmp_path / "data/train", {"ant": 1, "bee": 1, "cat": 1})
    fill(tmp_path / "data/val", {"ant": 1, "cat": 1})
    run = pack("--data", tmp_path / "data", "--out", tmp_path, "--workers", 1)
    assert run.code == 0 and run.stdout.count("no image of 'bee', of 3 classes") == 1
    assert labels_of(tmp_path / "val.beton") == {"ant": 0, "cat": 2}
    assert (
        "no image"
        not in pack(
            "--data", tmp_path / "data", "--out", tmp_path / "few", "--limit", 1, "--workers", 1
        ).stdout
    )


def test_a_val_split_without_train_is_numbered_as_the_train_that_was_packed_before(
    pack: Pack, tmp_path: Path
) -> None:
    fill(tmp_path / "one/train", {"ant": 1, "bee": 1, "cat": 1})
    fill(tmp_path / "two/val", {"ant": 1, "cat": 1})
    assert pack("--data", tmp_path / "one", "--out", tmp_path, "--workers", 1).code == 0
    run = pack("--data", tmp_path / "two", "--out", tmp_path, "--workers", 1)
    assert run.code == 0 and labels_of(tmp_path / "val.beton") == {"ant": 0, "cat": 2}
    assert (
        f"{tmp_path}/two has no train/: labels are numbered as in {tmp_path}/train.beton, of 3 classes"
        in run.stdout
    )
    assert "packed before" in pack("--data", tmp_path / "two", "--out", tmp_path, "--workers", 1).stdout
    run = pack("--data", tmp_path / "two", "--out", tmp_path / "alone", "--workers", 1)
    assert run.code == 0 and "no train/" not in run.stdout
    assert labels_of(tmp_path / "alone/val.beton") == {"ant": 0, "cat": 1}
    fill(tmp_path / "three/val", {"ant": 1, "wasp": 1})
    run = pack("--data", tmp_path / "three", "--out", tmp_path, "--fresh", "--workers", 1)
    assert run.code == 2 and f"has the class 'wasp', which {tmp_path}/train.beton does not have" in run.stderr


@pytest.mark.parametrize("split", ["../other", "train/../train", ".", "..", "", "/", "train/a", "./train"])
def test_a_split_is_the_name_of_a_folder_and_leads_nowhere_else(
    pack: Pack, data: Path, tmp_path: Path, split: str
) -> None:
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(data / "val", tmp_path / "other")
    run = pack("--data", tmp_path / "data", "--out", tmp_path / "out", f"--split={split}", "--workers", 1)
    refused(run, f"argument --split: {split!r} is not the name of a folder in --data")
    assert not list(tmp_path.rglob("*.beton*"))


def test_a_split_may_end_as_a_shell_completes_it(pack: Pack, data: Path, tmp_path: Path) -> None:
    assert pack("--data", data, "--out", tmp_path, "--split", "val/", "--workers", 1).code == 0
    assert sorted(os.listdir(tmp_path)) == ["val.beton", "val.beton.json"]
    assert "packed before" in pack("--data", data, "--out", tmp_path, "--split", "val").stdout


def test_paths_may_start_at_home_and_are_not_empty(
    pack: Pack, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data / "val", tmp_path / "images/val")
    assert pack("--data", "~/images", "--out", "~/betons", "--workers", 1).code == 0
    assert pack("--verify", "~/betons", "--source=~/images", "--workers", 1).code == 0
    assert sorted(os.listdir(tmp_path)) == ["betons", "images"]
    for flags in (("--data", "", "--out", "x"), ("--data", "~/images", "--out", ""), ("--verify", "")):
        refused(pack(*flags), "an empty path: give one")
    refused(
        pack("--data", "images", "--out", "~no-such-user-here/x"), "a user that this machine does not know"
    )
    assert sorted(os.listdir(tmp_path)) == ["betons", "images"]


def test_a_flat_val_is_refused_with_its_remedy_before_anything_is_packed(
    pack: Pack, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data/val")
    shutil.copytree(data / "val/ant", tmp_path / "data/val")
    refused(
        pack("--data", tmp_path / "data", "--out", tmp_path / "out"),
        "it contains 2 images itself",
        "valprep.sh",
    )
    assert not (tmp_path / "out").exists()


def test_what_is_not_packed_is_counted_in_one_line(pack: Pack, data: Path, tmp_path: Path) -> None:
    components.require("turbojpeg")  # finds corrupt images
    shutil.copytree(data / "val", tmp_path / "data/val")
    for name in ("ant/a.heic", "ant/\x1b[31m.x\x1b[2J", "bee/readme.txt"):
        (tmp_path / "data/val" / name).touch()
    os.mkfifo(tmp_path / "data/val/ant/pipe.jpg")
    options = ("--data", tmp_path / "data", "--out", tmp_path, "--workers", 1)
    refused(pack(*options), "pipe.jpg: it is a pipe")
    for _ in range(2):  # packed, and packed before
        lines = pack(*options, "--on-error", "skip").stdout.splitlines()
        assert lines[1:] == [
            f"  skipped as unreadable: 1, listed in {tmp_path}/val.beton.json",
            rf"  not packed: 1 .heic, 1 .txt, 1 .x\x1b[2j; listed in {tmp_path}/val.beton.json",
        ]


@pytest.mark.parametrize("flag", ["--data", "--out", "--split", "--verify"])
def test_a_name_of_300_bytes_is_one_sentence(pack: Pack, data: Path, tmp_path: Path, flag: str) -> None:
    given = {"--data": str(data), "--out": str(tmp_path), flag: "x" * 300}
    if flag == "--verify":
        given = {flag: "x" * 300}
    refused(pack(*[text for pair in given.items() for text in pair]), "File name too long")


def test_a_message_never_carries_what_a_terminal_obeys(pack: Pack, tmp_path: Path) -> None:
    for name in ("\x1b[31mred.jpg", "a\nerror: all is well.jpg", os.fsdecode(b"caf\xe9.jpg")):
        folder = tmp_path / "data/train/ant"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no image")
        run = pack("--data", tmp_path / "data", "--out", tmp_path / "out", "--workers", 1)
        refused(run, "its format is none of JPEG")
        assert run.stderr.rstrip("\n").isprintable()
        (folder / name).unlink()


@pytest.mark.parametrize(
    "command", [("tools/write_beton.py", "--help"), ("-m", "alexnet_fast.train", "--keys")]
)
def test_output_that_is_cut_as_by_head_ends_quietly(command: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-u", *command], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(writer)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr and done.returncode in (0, 141)


def test_the_labels_of_a_val_alone_are_those_of_a_train_that_has_classes(
    pack: Pack, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "val", tmp_path / "data/val")
    (tmp_path / "data/train").mkdir()
    options = ("--data", tmp_path / "data", "--out", tmp_path, "--split", "val", "--workers", 1)
    refused(pack(*options), f"{tmp_path}/data/train has no class folders")
    for name in ("aaa", "ant", "bee"):
        (tmp_path / "data/train" / name).mkdir()
    assert pack(*options).code == 0
    with Beton(tmp_path / "val.beton") as beton:
        assert set(beton.labels.tolist()) == {1, 2}
