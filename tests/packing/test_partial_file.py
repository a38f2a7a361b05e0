"""A packing that is interrupted at any point resumes there, and its file equals that of an uninterrupted packing."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import components
from alexnet_fast.beton.reader import Beton, BetonError
from alexnet_fast.packing import journal, manifest, partial_file, sources
from alexnet_fast.packing.encode import Encoding, UnreadableImage
from alexnet_fast.packing.errors import (
    InputChanged,
    InputUnreadable,
    OutputExists,
    OutputLocked,
    OutputUnwritable,
    PackingError,
)
from alexnet_fast.packing.journal import Journal
from alexnet_fast.packing.writer import ImageFolder, PackResult, left_aside, scan_folder, write_beton
from betons import jpeg, picture
from folders import fill, listed

SMALL = Encoding(max_resolution=64)
COMPLETE = ["a.beton", "a.beton.json"]
REST = ["a.beton.journal", "a.beton.partial"]


class Stop(BaseException):
    """What Ctrl-C raises, without the signal."""


@pytest.fixture(autouse=True)
def every_image_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_file, "LOG_EVERY_S", 0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dozen images of three classes; three that are converted, one of them scaled, one that is corrupt, two that are broken."""
    root = fill(tmp_path_factory.mktemp("images") / "train", {"cat": 8, "ant": 6, "bee": 6})
    picture(60, 40).convert("L").save(root / "ant/grey.JPEG")
    picture(60, 40).save(root / "bee/png.JPEG", "PNG")
    Image.fromarray(np.arange(4000, dtype=np.uint16).reshape(50, 80)).save(root / "cat/cat_1.JPEG", "PNG")
    intact = (root / "bee/bee_1.JPEG").read_bytes()
    (root / "bee/bee_1.JPEG").write_bytes(intact[: len(intact) // 2] + b"\xff\xd9")
    (root / "ant/ant_2a.JPEG").write_bytes(b"no image")
    (root / "cat/cat_3a.JPEG").write_bytes(jpeg(picture(90, 70))[:1500])
    return root


@pytest.fixture(scope="module")
def split(folder: Path) -> ImageFolder:
    return scan_folder(folder).shuffled(0)


def pack(split: ImageFolder, out: Path, stop_at: int | None = None, **options: object) -> PackResult:
    """Pack into ``out``/a.beton, and stop when N images are done."""

    def progress(done: int) -> None:
        if done == stop_at:
            raise Stop

    chosen = {"workers": 1, "on_error": "skip", "encoding": SMALL, "progress": progress, **options}
    return write_beton(split, out / "a.beton", **chosen)  # type: ignore[arg-type]


def stopped(split: ImageFolder, out: Path, stop_at: int = 10, **options: object) -> Path:
    """A folder in which a packing was interrupted."""
    with pytest.raises(Stop):
        pack(split, out, stop_at, **options)
    assert listed(out) == REST
    return out


def content(out: Path) -> list[bytes]:
    assert listed(out) == COMPLETE
    return [(out / name).read_bytes() for name in COMPLETE]


@pytest.fixture(scope="module")
def alone(split: ImageFolder, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The file and the json of an uninterrupted packing."""
    out = tmp_path_factory.mktemp("alone")
    pack(split, out)
    return content(out)


@pytest.mark.parametrize(("first", "then"), [(1, 1), (1, 3), (2, 1)])
def test_it_resumes_where_it_was_with_any_number_of_workers(
    split: ImageFolder, alone: list[bytes], tmp_path: Path, first: int, then: int
) -> None:
    stopped(split, tmp_path, workers=first)
    reported: list[int] = []
    packed = pack(split, tmp_path, workers=then, progress=reported.append)
    assert reported == list(range(10, 25)) and packed.resumed == 10
    assert content(tmp_path) == alone


def test_interrupted_after_every_single_image_it_is_still_the_same_file(
    split: ImageFolder, alone: list[bytes], tmp_path: Path
) -> None:
    for done in range(1, 25):
        stopped(split, tmp_path, done)
    assert pack(split, tmp_path).resumed == 24
    assert content(tmp_path) == alone


def test_pages_that_grew_before_an_interruption_are_as_large_after_it(tmp_path: Path) -> None:
    sizes = [(500, 500), (2000, 1500), (500, 500), (500, 500), (3000, 2500), (400, 400)]
    for k, size in enumerate(sizes):
        picture(100, 80, k).resize(size).save(tmp_path / f"{k}.bmp")
    split = ImageFolder(tmp_path, [f"{k}.bmp" for k in range(6)], [0] * 6, ["only"])
    raw = Encoding(mode="raw", max_resolution=0)
    pack(split, tmp_path / "alone", encoding=raw)
    for done in range(1, 7):
        stopped(split, tmp_path / "out", done, encoding=raw)
    pack(split, tmp_path / "out", encoding=raw)
    assert content(tmp_path / "out") == content(tmp_path / "alone")
    assert Beton(tmp_path / "out/a.beton").page_size == 1 << 25


ENDING = {"fsync": 4, "replace": 2, "open": 2}  # how often each is called; of open, for the folder


@pytest.mark.parametrize(
    ("function", "call"), [(name, call) for name, calls in ENDING.items() for call in range(calls)]
)
def test_a_finish_that_is_interrupted_at_any_step_is_repeated(
    split: ImageFolder,
    alone: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    call: int,
) -> None:
    """The file is synced, the json written next to it and renamed, the folder synced, then the file renamed, the folder synced,
    the journal deleted."""
    stopped(split, tmp_path, 24)
    real, calls = getattr(os, function), 0

    def dies(*arguments: object, **options: object) -> object:
        nonlocal calls
        if function != "open" or arguments[0] == tmp_path:
            calls += 1
            if calls > call:
                raise Stop
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, dies)
        with pytest.raises(Stop):
            pack(split, tmp_path)
        assert listed(tmp_path) != COMPLETE
    if (tmp_path / "a.beton").exists():
        with Beton(tmp_path / "a.beton") as beton:
            assert len(beton) == 22
    assert pack(split, tmp_path).resumed == 24
    assert content(tmp_path) == alone


def test_an_interruption_after_the_last_rename_leaves_the_finished_file_as_it_is(
    split: ImageFolder, alone: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def replace_and_die(source: Path, target: Path) -> None:
        real(source, target)
        if target.suffix == ".beton":
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(os, "replace", replace_and_die)
        pack(split, tmp_path)
    assert [(tmp_path / name).read_bytes() for name in COMPLETE] == alone
    assert pack(split, tmp_path).resumed == 24
    assert content(tmp_path) == alone


def test_no_file_is_renamed_before_the_one_that_it_needs_is_on_the_disk(
    split: ImageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    replace_now, fsync, unlink = os.replace, os.fsync, Path.unlink

    def watched_replace(source: Path, target: Path) -> None:
        replace_now(source, target)
        steps.append(f"{target.name} is named")

    def watched_fsync(file: int) -> None:
        fsync(file)
        if stat.S_ISDIR(os.fstat(file).st_mode):
            steps.append(f"synced: {' '.join(listed(tmp_path))}")

    def watched_unlink(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        steps.append(f"{path.name} is deleted")

    monkeypatch.setattr(os, "replace", watched_replace)
    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "unlink", watched_unlink)
    pack(split, tmp_path)
    assert steps == [
        "synced: a.beton.journal a.beton.partial",
        "a.beton.json is named",
        "synced: a.beton.journal a.beton.json a.beton.partial",
        "a.beton is named",
        "synced: a.beton a.beton.journal a.beton.json",
        "a.beton.journal is deleted",
    ]


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_an_error_while_the_journal_is_read_costs_no_image(
    split: ImageFolder,
    alone: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
) -> None:
    stopped(split, tmp_path)

    def fails(*_: object) -> bytes:
        raise raised

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, OutputUnwritable)):
        patch.setattr(journal, "read_at", fails)
        pack(split, tmp_path)
    assert listed(tmp_path) == REST
    assert pack(split, tmp_path).resumed == 10
    assert content(tmp_path) == alone


def test_what_is_reported_of_an_image_survives_an_interruption(split: ImageFolder, tmp_path: Path) -> None:
    components.require("turbojpeg")  # finds corrupt images
    reported = []
    for stop_at in (None, 23):
        if stop_at:
            stopped(split, tmp_path / "stopped", stop_at)
        packed = pack(split, tmp_path / ("stopped" if stop_at else "alone"))
        sidecar = json.loads(packed.path.with_name("a.beton.json").read_text())
        reported.append([packed.corrupt, packed.scaled, sidecar["corrupt"], sidecar["scaled"]])
    assert reported[0] == reported[1]
    assert list(reported[0][0]) == ["bee/bee_1.JPEG"] and reported[0][1] == {"cat/cat_1.JPEG": (0, 4095)}


def test_a_packing_that_version_0_1_started_is_resumed(
    split: ImageFolder, alone: list[bytes], tmp_path: Path
) -> None:
    """Its notes are texts: it did not look for anything else."""
    stopped(split, tmp_path, 24)
    log = (tmp_path / REST[0]).read_bytes()
    at, old = 0, b""
    while at < len(log):
        _, size, _ = journal.FRAME.unpack_from(log, at)
        body = log[at + journal.FRAME.size :][:size]
        if at:
            safe, images, notes = journal.COUNTS.unpack_from(body)
            found = json.loads(body[-notes:]) if notes else {}
            texts = {i: note if isinstance(note, str) else note[0] for i, note in found.items()}
            notes_then = json.dumps({i: text for i, text in texts.items() if text}).encode() if found else b""
            entries = body[journal.COUNTS.size : len(body) - notes]
            body = journal.COUNTS.pack(safe, images, len(notes_then)) + entries + notes_then
        old += journal.FRAME.pack(journal.MAGIC, len(body), zlib.crc32(body)) + body
        at += journal.FRAME.size + size
    (tmp_path / REST[0]).write_bytes(old)
    packed = pack(split, tmp_path)
    assert packed.resumed == 24 and (tmp_path / COMPLETE[0]).read_bytes() == alone[0]
    assert packed.corrupt == {} and packed.scaled == {}
    assert packed.converted["bee/png.JPEG"] == "PNG named .JPEG"


def _another_field(body: bytes) -> bytes:
    return zlib.compress(json.dumps({**json.loads(zlib.decompress(body)), "colour": "mauve"}).encode())


@pytest.mark.parametrize(
    "rewritten", [_another_field, lambda body: b"not compressed", lambda body: zlib.compress(b"not json")]
)
def test_a_packing_that_another_version_started_is_refused_and_kept(
    split: ImageFolder, alone: list[bytes], tmp_path: Path, rewritten: Callable[[bytes], bytes]
) -> None:
    stopped(split, tmp_path)
    log = (tmp_path / REST[0]).read_bytes()
    magic, size, _ = journal.FRAME.unpack_from(log)
    body = rewritten(log[journal.FRAME.size :][:size])
    rest = log[journal.FRAME.size + size :]
    (tmp_path / REST[0]).write_bytes(journal.FRAME.pack(magic, len(body), zlib.crc32(body)) + body + rest)
    before = [(tmp_path / name).read_bytes() for name in REST]
    with pytest.raises(
        InputChanged, match="started by another version of the packer; .*start from scratch with --fresh"
    ):
        pack(split, tmp_path)
    assert [(tmp_path / name).read_bytes() for name in REST] == before
    assert journal.images_logged(tmp_path / "a.beton") == 0
    assert pack(split, tmp_path, fresh=True).resumed == 0
    assert content(tmp_path) == alone


def test_a_disk_that_fails_during_a_background_sync_gets_no_finished_file(
    split: ImageFolder, alone: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The background sync fails when the last image is written, and the kernel reports that only once."""
    last = threading.Event()

    def fdatasync(_: int) -> None:
        assert last.wait(10)
        raise OSError(errno.EIO, "Input/output error")

    def progress(done: int) -> None:
        if done == 24:
            last.set()

    with monkeypatch.context() as patch:
        patch.setattr(partial_file, "SYNC_EVERY_S", 0.0)
        patch.setattr(os, "fdatasync", fdatasync)
        with pytest.raises(OutputUnwritable, match=r"cannot write .*a\.beton: Input/output error"):
            pack(split, tmp_path, progress=progress)
    assert listed(tmp_path) == REST
    assert pack(split, tmp_path).resumed == 24
    assert content(tmp_path) == alone


def test_an_older_file_next_to_the_new_ones_json_is_detected_and_the_same_command_fixes_it(
    split: ImageFolder, alone: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the two renames: the sidecar is new, the beton is not."""
    pack(split, tmp_path, encoding=Encoding(max_resolution=32))
    replace_now = os.replace

    def dies(source: Path, target: Path) -> None:
        if target.suffix == ".beton":
            raise Stop
        replace_now(source, target)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(os, "replace", dies)
        pack(split, tmp_path, fresh=True)
    with (
        Beton(tmp_path / "a.beton") as beton,
        pytest.raises(BetonError, match="written for another file than this"),
    ):
        assert beton.sidecar
    assert pack(split, tmp_path).resumed == 24
    assert content(tmp_path) == alone
    with Beton(tmp_path / "a.beton") as beton:
        assert beton.sidecar is not None


def test_a_journal_that_was_torn_anywhere_loses_no_more_than_its_end(
    split: ImageFolder, alone: list[bytes], tmp_path: Path
) -> None:
    stopped(split, tmp_path, 12)
    log, payload = ((tmp_path / name).read_bytes() for name in REST)
    frames = [found.start() for found in re.finditer(journal.MAGIC, log)]
    assert len(frames) == 13
    for length in [0, 3, frames[1] - 1, frames[1], frames[1] + 5, frames[7] + 20, len(log) - 1]:
        (tmp_path / REST[0]).write_bytes(log[:length])
        (tmp_path / REST[1]).write_bytes(payload)
        complete = sum(frame <= length for frame in [*frames[1:], len(log)]) - 1
        assert pack(split, tmp_path).resumed == max(0, complete)
        assert content(tmp_path) == alone
        (tmp_path / "a.beton").unlink()


@pytest.mark.parametrize("loss", ["cut", "zeros"])
def test_what_the_journal_claims_and_the_file_lost_in_a_power_cut_is_packed_again(
    split: ImageFolder, alone: list[bytes], tmp_path: Path, loss: str
) -> None:
    stopped(split, tmp_path, 20)
    partial = tmp_path / REST[1]
    content_now = partial.read_bytes()
    kept = len(content_now) - 4000
    partial.write_bytes(content_now[:kept] + (bytes(4000) if loss == "zeros" else b""))
    assert 10 < pack(split, tmp_path).resumed < 20
    assert content(tmp_path) == alone


class AtOnce(ThreadPoolExecutor):
    """An executor whose submit runs the work before it returns."""

    def submit(self, *given: Any, **options: Any) -> Future[Any]:
        future = super().submit(*given, **options)
        future.exception()
        return future


def test_what_was_synced_is_recorded_in_later_frames(
    split: ImageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_file, "SYNC_EVERY_S", 0.0)
    monkeypatch.setattr(partial_file, "ThreadPoolExecutor", AtOnce)
    stopped(split, tmp_path, 20)
    with Journal(tmp_path / "a.beton") as log:
        found = log.read()
    assert (
        found is not None and found[1].safe == 18
    )  # when the 20th was logged, the sync after the 18th was known


def test_a_file_that_lost_what_was_safe_on_the_disk_does_not_resume(
    split: ImageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_file, "SYNC_EVERY_S", math.inf)
    stopped(split, tmp_path, 20)
    with Journal(tmp_path / "a.beton") as log:
        found = log.read()
        assert found is not None and found[1].safe == 0  # nothing was synced
        log.go_on(found[1])
        log.enter(found[1].entries[:0], {}, safe=18)
    partial = tmp_path / REST[1]
    partial.write_bytes(bytes(partial.stat().st_size))
    with pytest.raises(
        InputChanged, match="does not contain what its journal says: .*; start from scratch with --fresh"
    ):
        pack(split, tmp_path)


@pytest.mark.parametrize("lost", REST)
def test_a_file_without_journal_and_a_journal_without_file_are_ignored(
    split: ImageFolder, alone: list[bytes], tmp_path: Path, lost: str
) -> None:
    (stopped(split, tmp_path) / lost).unlink()
    assert pack(split, tmp_path).resumed == 0
    assert content(tmp_path) == alone


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"encoding": replace(SMALL, quality=80)}, "quality was 90 and is 80"),
        ({"encoding": replace(SMALL, max_resolution=32, restart_mcus=4)}, "max_resolution was 64 and is 32, restart_mcus was 2 and is 4"),
        ({"encoding": replace(SMALL, mode="raw")}, "mode was reencode and is raw"),
        ({"settings": {"shuffle_seed": 1}}, "shuffle_seed was None and is 1"),
    ],
)  # fmt: skip
def test_other_settings_are_refused_and_named(
    split: ImageFolder, tmp_path: Path, options: dict[str, object], difference: str
) -> None:
    stopped(split, tmp_path)
    before = [(tmp_path / name).read_bytes() for name in REST]
    with pytest.raises(
        InputChanged,
        match=f"{re.escape(difference)}; give the same ones to resume, or start from scratch with --fresh",
    ):
        pack(split, tmp_path, **options)
    assert [(tmp_path / name).read_bytes() for name in REST] == before


def test_another_encoder_is_refused_and_named(
    split: ImageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(split, tmp_path)
    monkeypatch.setattr(manifest, "encoder_versions", lambda _: {"pillow": "1.0"})
    with pytest.raises(
        InputChanged,
        match="another encoder, .*: pillow was .* and is 1.0, libjpeg was .* and is None; install",
    ):
        pack(split, tmp_path)


def _add(root: Path) -> None:
    (root / "ant/new.JPEG").write_bytes(jpeg(picture(40, 30)))


def _remove(root: Path) -> None:
    (root / "ant/ant_0.JPEG").unlink()
    (root / "ant/ant_1.JPEG").unlink()


def _rename(root: Path) -> None:
    (root / "bee/bee_1.JPEG").rename(root / "bee/wasp.JPEG")


def _resize(root: Path) -> None:
    (root / "cat/cat_1.JPEG").write_bytes(jpeg(picture(40, 30)))


def _touch(root: Path) -> None:
    os.utime(root / "cat/cat_1.JPEG", (0, 0))


def _new_class(root: Path) -> None:
    (root / "ape").mkdir()
    (root / "bee/bee_1.JPEG").rename(root / "ape/bee_1.JPEG")


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (_add, "1 image (ant/new.JPEG) added"),
        (_remove, "2 images (ant/ant_0.JPEG and 1 more) removed"),
        (_rename, "1 image (bee/wasp.JPEG) added, 1 image (bee/bee_1.JPEG) removed"),
        (_resize, "1 image (cat/cat_1.JPEG) of another size"),
        (_touch, "1 image (cat/cat_1.JPEG) modified"),
        (_new_class, "1 image (ape/bee_1.JPEG) added, 1 image (bee/bee_1.JPEG) removed"),
    ],
)
def test_another_folder_is_refused_and_the_difference_named(
    tmp_path: Path, change: Callable[[Path], None], difference: str
) -> None:
    root = fill(tmp_path / "images", {"ant": 3, "bee": 3, "cat": 3})
    stopped(scan_folder(root), tmp_path / "out", 2)
    change(root)
    with pytest.raises(
        InputChanged,
        match=f"images has changed since .* interrupted: {re.escape(difference)}; restore it to resume, or",
    ):
        pack(scan_folder(root), tmp_path / "out")
    assert pack(scan_folder(root), tmp_path / "out", fresh=True).resumed == 0
    assert listed(tmp_path / "out") == COMPLETE


def test_an_unreadable_image_that_ended_a_packing_is_skipped_when_it_resumes_with_skip(
    split: ImageFolder, alone: list[bytes], tmp_path: Path
) -> None:
    with pytest.raises(UnreadableImage) as caught:
        pack(split, tmp_path, on_error="raise")
    assert "; pack with --on-error skip to skip it, or" in str(caught.value)
    assert pack(split, tmp_path).resumed > 0
    assert content(tmp_path) == alone


def test_an_image_that_was_skipped_is_an_error_when_it_resumes_without_skip(
    split: ImageFolder, tmp_path: Path
) -> None:
    stopped(split, tmp_path, 23)
    with pytest.raises(UnreadableImage, match="cannot read the image"):
        pack(split, tmp_path, on_error="raise")
    assert listed(tmp_path) == REST


def test_a_finished_file_is_not_packed_again_unless_asked_for(
    tmp_path: Path,
) -> None:
    split = scan_folder(fill(tmp_path / "images", {"ant": 3}))
    first = pack(split, tmp_path / "out")
    written = (tmp_path / "out/a.beton").stat().st_mtime_ns
    reported: list[int] = []
    again = pack(split, tmp_path / "out", progress=reported.append)
    assert (again.resumed, again.seconds, reported) == (3, 0.0, [3])
    assert replace(again, resumed=0) == replace(first, seconds=0.0)
    assert (tmp_path / "out/a.beton").stat().st_mtime_ns == written
    assert pack(split, tmp_path / "out", fresh=True).resumed == 0
    with pytest.raises(
        OutputExists, match="a.beton is finished with max_resolution = 64, asked for 32; give"
    ):
        pack(split, tmp_path / "out", encoding=replace(SMALL, max_resolution=32))
    os.utime(tmp_path / "images/ant/ant_0.JPEG", ns=(2**62, 2**62))
    with pytest.raises(OutputExists, match=r"1 image \(ant/ant_0.JPEG\) modified since; give another --out"):
        pack(split, tmp_path / "out")
    assert listed(tmp_path / "out") == COMPLETE
    assert pack(split, tmp_path / "out", fresh=True).resumed == 0


def test_an_interrupted_packing_that_replaces_a_finished_file_resumes(
    split: ImageFolder, tmp_path: Path
) -> None:
    pack(split, tmp_path, encoding=Encoding(max_resolution=32))
    with pytest.raises(Stop):
        pack(split, tmp_path, 10, fresh=True)
    assert pack(split, tmp_path).resumed == 10


def test_if_a_folder_has_the_files_name_nothing_is_started(split: ImageFolder, tmp_path: Path) -> None:
    (tmp_path / "a.beton").mkdir()
    with pytest.raises(OutputUnwritable, match="a.beton: it is a folder"):
        pack(split, tmp_path, fresh=True)
    assert listed(tmp_path) == ["a.beton"]


def test_a_second_packing_into_the_same_file_is_refused(
    split: ImageFolder, alone: list[bytes], tmp_path: Path
) -> None:
    stopped(split, tmp_path)
    with Journal(tmp_path / "a.beton"), pytest.raises(OutputLocked) as caught:
        pack(split, tmp_path)
    assert str(caught.value) == (
        f"another process is packing into {tmp_path}/a.beton; wait for it to end, or pack into another --out"
    )
    assert isinstance(caught.value, PackingError) and pack(split, tmp_path).resumed == 10
    assert content(tmp_path) == alone


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("change", ["replaced", "touched", "removed", "broken"])
def test_an_image_that_changed_since_the_packing_started_ends_it_when_it_is_read(
    tmp_path: Path, change: str, on_error: str
) -> None:
    """Else the file would contain an image that its json does not describe, and the next run would refuse a file that --verify accepts."""
    split = scan_folder(fill(tmp_path / "images", {"ant": 6}))
    victim = split.root / "ant/ant_4.JPEG"

    def progress(done: int) -> None:
        if done == 2:
            _change(victim, change)

    with pytest.raises(InputChanged) as caught:
        pack(split, tmp_path / "out", on_error=on_error, progress=progress)
    assert (
        caught.value.what == f"1 image (ant/ant_4.JPEG) of {split.root} changed while the folder was packed"
    )
    assert listed(tmp_path / "out") == REST
    with pytest.raises(InputChanged, match=r"has changed since .* interrupted: 1 image \(ant/ant_4.JPEG\)"):
        pack(scan_folder(split.root), tmp_path / "out", on_error=on_error)


def _change(image: Path, change: str) -> None:
    if change == "removed":
        image.unlink()
    elif change == "touched":
        os.utime(image, ns=(0, 0))
    else:
        image.write_bytes(jpeg(picture(90, 70, 77))[: None if change == "replaced" else 999])


@pytest.mark.parametrize("change", ["replaced", "touched", "removed"])
def test_an_image_that_changed_after_it_was_read_ends_the_packing_before_the_file_is_renamed(
    tmp_path: Path, change: str
) -> None:
    """The finished file is newer than such an image, so no later run could detect it."""
    split = scan_folder(fill(tmp_path / "images", {"ant": 6}))

    def progress(done: int) -> None:
        if done == 6:
            _change(split.root / "ant/ant_1.JPEG", change)

    with pytest.raises(
        InputChanged, match=r"1 image \(ant/ant_1.JPEG\) of .* changed while the folder was packed"
    ):
        pack(split, tmp_path / "out", progress=progress)
    assert listed(tmp_path / "out") == REST
    split = scan_folder(split.root)
    assert pack(split, tmp_path / "out", fresh=True).samples == len(split.paths)


def test_an_image_whose_disk_does_not_respond_did_not_change(
    split: ImageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short network failure must not cost a packing that is done except for the rename."""
    status = os.stat

    def stale(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith(split.paths[3]):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return status(path, **options)

    def progress(done: int) -> None:
        if done == len(split.paths):
            monkeypatch.setattr(sources.os, "stat", stale)

    with pytest.raises(
        InputUnreadable, match="Stale file handle; 24 of 24 images of .* are packed, and the same"
    ):
        pack(split, tmp_path, progress=progress)
    monkeypatch.undo()
    assert pack(split, tmp_path).resumed == 24


def test_a_journal_and_a_json_hold_what_version_0_1_wrote_and_more_where_there_is_more(
    tmp_path: Path,
) -> None:
    """So that for an ordinary folder either version resumes the other's packing."""
    root = fill(tmp_path / "images", {"ant": 3, "bee": 3})
    keys_0_1 = ["settings", "encoder", "classes", "paths", "labels", "sizes", "changed_ns"]
    ordinary = manifest.Manifest.of(scan_folder(root), SMALL, {})
    assert list(json.loads(ordinary.to_json())) == keys_0_1
    pack(scan_folder(root), tmp_path / "out")
    sidecar = json.loads((tmp_path / "out/a.beton.json").read_text())
    assert not {"ignored", "in_several_classes"} & set(sidecar)

    before = (tmp_path / "out/a.beton").read_bytes()
    (root / "ant/notes.txt").write_text("of that day")
    (root / "bee/.hidden").touch()
    split = scan_folder(root)
    assert manifest.Manifest.of(split, SMALL, {}) == manifest.Manifest.from_json(ordinary.to_json()), (
        "no reason not to resume"
    )
    packed = pack(split, tmp_path / "out", fresh=True)
    assert (tmp_path / "out/a.beton").read_bytes() == before
    assert packed.ignored == {".txt": 1, "hidden": 1}
    sidecar = json.loads((tmp_path / "out/a.beton.json").read_text())
    assert sidecar["ignored"] == {
        "counts": {".txt": 1, "hidden": 1},
        "paths": ["ant/notes.txt", "bee/.hidden"],
    }
    assert pack(split, tmp_path / "out").ignored == packed.ignored, "reported again for a finished file"


def test_an_image_in_two_classes_by_links_is_listed_in_the_json(tmp_path: Path) -> None:
    root = fill(tmp_path / "images", {"ant": 3, "bee": 3})
    (root / "ant/also.jpg").symlink_to("../bee/bee_1.JPEG")
    packed = pack(scan_folder(root), tmp_path / "out")
    assert (packed.samples, packed.in_several_classes) == (7, 2)
    sidecar = json.loads((tmp_path / "out/a.beton.json").read_text())
    assert sidecar["in_several_classes"] == ["ant/also.jpg", "bee/bee_1.JPEG"]
    assert left_aside(packed) == [
        f"in several classes by links: 2 images; listed in {tmp_path}/out/a.beton.json"
    ]


def test_many_kinds_of_other_files_are_one_line(tmp_path: Path) -> None:
    packed = PackResult(tmp_path / "a.beton", ignored={f".{k:04d}": k for k in range(1, 10)})
    assert left_aside(packed) == [
        f"not packed: 9 .0009, 8 .0008, 7 .0007, 6 .0006, 5 .0005, 4 .0004 and 3 other kinds; "
        f"listed in {tmp_path}/a.beton.json"
    ]
