"""One set of images from every source: the same payloads and labels; each resumes to the same bytes, and is verified."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from alexnet_fast import pack as pack_module
from alexnet_fast.beton.reader import Beton
from alexnet_fast.errors import exit_code
from alexnet_fast.pack import main
from alexnet_fast.packing.journal import progress_sentence
from components import ROOT
from imagenet_tars import make_tars
from sources_made import KINDS, Flags, make

TRAIN, VAL = 14, 9


@pytest.fixture(scope="module")
def tars(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tars(tmp_path_factory.mktemp("every") / "tars", photos, TRAIN, VAL)


@pytest.fixture(scope="module")
def expected(tars: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple[bytes, int]]]:
    """By split: name of each image -> payload and label, as packed from the tars."""
    out = tmp_path_factory.mktemp("expected")
    assert run("--data", tars, "--out", out)[0] == 0
    return {split: samples(out / f"{split}.beton") for split in ("train", "val")}


def run(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = exit_code(lambda: main([*map(str, arguments), "--workers", "1"]))
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def samples(path: Path) -> dict[str, tuple[bytes, int]]:
    with Beton(path) as beton:
        return {
            str(beton.source_path(k)).rpartition("/")[2]: (beton.payload(k).tobytes(), int(beton.labels[k]))
            for k in range(len(beton))
        }


def named_to_verify(flags: Flags) -> Flags:
    return tuple("--source" if flag == "--data" else flag for flag in flags)


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_payloads_and_labels_and_is_verified(
    kind: str, tars: Path, tmp_path: Path, expected: dict[str, dict[str, tuple[bytes, int]]]
) -> None:
    flags = make(kind, tars, tmp_path)
    code, out, err = run(*flags, "--out", tmp_path / "out")
    assert code == 0, err
    splits = ["train"] if kind == "list" else ["train", "val"]
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.beton")) == splits
    for split in splits:
        assert samples(tmp_path / f"out/{split}.beton") == expected[split]
        told = json.loads((tmp_path / f"out/{split}.beton.json").read_text())
        assert told["counts"]["converted"] == {"CMYK JPEG": 1, "L JPEG": 1, "PNG named .JPEG": 1}
        assert kind in ("folder", "list") or told["settings"]["classes_from"]
    assert "packed before" in run(*flags, "--out", tmp_path / "out")[1]
    code, out, err = run("--verify", tmp_path / "out/train.beton", *named_to_verify(flags))
    assert code == 0 and f"{TRAIN} samples, no fault" in out and "equals its source encoded again" in out, (
        out + err
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_resumes_where_it_was_interrupted(
    kind: str, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = make(kind, tars, tmp_path)
    real = pack_module.write_beton

    def interrupted(*arguments: object, **options: object) -> object:
        def progress(done: int) -> None:
            if done == 6:
                raise KeyboardInterrupt

        return real(*arguments, **{**options, "progress": progress})  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(pack_module, "write_beton", interrupted)
        code, _, err = run(*flags, "--out", tmp_path / "out", "--split", "train")
        assert code == 130 and "6 of 14 images of" in err
    code, out, err = run(*flags, "--out", tmp_path / "out", "--split", "train")
    assert code == 0 and "after 6 of an interrupted packing" in out, err
    assert run(*flags, "--out", tmp_path / "whole", "--split", "train")[0] == 0
    for name in ("train.beton", "train.beton.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


SLOWLY = """
import sys, time
sys.path.insert(0, {root!r})
from alexnet_fast.packing import encode
at_once = encode.encode_jpeg
def slowly(*given):
    time.sleep(0.3)
    return at_once(*given)
encode.encode_jpeg = slowly
"""


def start_slowly(flags: Flags, out: Path, site: Path, workers: int) -> subprocess.Popen[str]:
    """A packing in a process group of its own that has packed something and has more to do."""
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SLOWLY.format(root=str(ROOT)))  # for the workers too
    command = [
        sys.executable,
        "-m",
        "alexnet_fast.pack",
        *flags,
        "--out",
        out,
        "--split",
        "train",
        "--workers",
        workers,
    ]
    before = progress_sentence(out / "train.beton", TRAIN)
    process = subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    patience = time.monotonic() + 240
    while progress_sentence(out / "train.beton", TRAIN) == before:
        assert process.poll() is None and time.monotonic() < patience, process.communicate()
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(
    "kind",
    [
        "webdataset-gz",
        *(pytest.param(kind, marks=pytest.mark.long) for kind in KINDS if kind != "webdataset-gz"),
    ],
)
def test_every_source_that_is_killed_resumes_to_the_same_bytes(kind: str, tars: Path, tmp_path: Path) -> None:
    flags, out = make(kind, tars, tmp_path), tmp_path / "out"
    process = start_slowly(flags, out, tmp_path / "site", 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert sorted(os.listdir(out)) == ["train.beton.journal", "train.beton.partial"]
    code, printed, err = run(*flags, "--out", out, "--split", "train")
    assert code == 0 and re.search(r"after \d+ of an interrupted packing", printed), err
    assert run(*flags, "--out", tmp_path / "whole", "--split", "train")[0] == 0
    for name in ("train.beton", "train.beton.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["imagenet", "webdataset-gz", "parquet"])
def test_a_worker_that_dies_is_named_with_its_image_in_the_archive(
    kind: str, tars: Path, tmp_path: Path
) -> None:
    flags = make(kind, tars, tmp_path)
    process = start_slowly(flags, tmp_path / "out", tmp_path / "site", 2)
    victim = workers_of(process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 2 and "Traceback" not in err
    assert re.search(
        rf"worker process {victim} was killed by SIGKILL \(9\) while encoding {tmp_path if kind != 'imagenet' else tars}/.*\d\.JPEG;",
        err,
    ), err


def workers_of(leader: int) -> list[int]:
    """The processes that the forkserver of a packing started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == leader:  # of the group
            parents[int(stat.parent.name)] = int(fields[1])
    servers = [pid for pid in parents if pid in parents.values() and pid != leader]
    return [pid for pid, parent in parents.items() if parent in servers]


@pytest.mark.parametrize("kind", ["imagenet", "webdataset", "webdataset-gz", "parquet", "arrow"])
def test_an_archive_that_changed_is_not_the_one_that_was_packed(
    kind: str, tmp_path: Path, photos: Path
) -> None:
    tars = make_tars(tmp_path / "tars", photos)
    flags, out = make(kind, tars, tmp_path), tmp_path / "out"
    assert run(*flags, "--out", out, "--split", "train")[0] == 0
    where = {"imagenet": tars, "arrow": tmp_path / "arrow/train"}.get(kind, tmp_path / kind)
    archive = min(
        path for path in where.rglob("*") if path.is_file() and "train" in str(path.relative_to(tmp_path))
    )
    later = archive.stat().st_mtime_ns + 10_000_000_000
    os.utime(archive, ns=(later, later))
    code, _, err = run(*flags, "--out", out, "--split", "train")
    assert code == 2 and "is not what it was packed from" in err and "modified since" in err, err
    with open(
        archive, "ab"
    ) as file:  # of another size, and as old as before: a tar may have anything after its end
        file.write(bytes(1024))
    os.utime(archive, ns=(later - 10_000_000_000,) * 2)
    code, _, err = run(*flags, "--out", out, "--split", "train")
    assert code == 2 and ("archive_bytes = " in err or "cannot read " in err or "is corrupt" in err), err
