"""Several processes, and processes that are killed: a file is fetched once, and what has arrived stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import command_line
from components import ROOT

from .conftest import BLOCK
from .test_cached_copy import BLOCKS, CONTENT, Fetched
from .web_server import Handler, WebServer


def begin(url: str, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "remote.fetching", url, str(BLOCK)],
        env=command_line.environment(
            {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "ALEXNET_FAST_CACHE": str(cache)}
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_fetch_resumes_with_the_blocks_that_are_missing(
    web: WebServer, cache: Path, fetched: Fetched
) -> None:
    reached, release = threading.Semaphore(0), threading.Event()

    def hold(handler: Handler, start: int, end: int) -> bool:
        """Half of the blocks arrive; the others begin and stop."""
        if start < 3 * BLOCK:
            return False
        handler.wfile.flush()
        reached.release()
        release.wait(60)
        handler.close_connection = True
        return True

    web.files["/a.beton"], web.fault = CONTENT, hold
    process = begin(f"{web.url}/a.beton", cache)
    try:
        for _ in range(2):  # both connections are at blocks that do not come, so the first three are complete
            assert reached.acquire(timeout=60)
    finally:
        process.kill()
        process.communicate()
        release.set()
    web.fault = None
    web.asked.clear()
    assert fetched(f"{web.url}/a.beton").read_bytes() == CONTENT
    assert web.ranges("/a.beton") == BLOCKS[3:]


def test_blocks_of_a_killed_fetch_whose_bytes_are_not_on_the_disk_are_fetched_again(
    web: WebServer, cache: Path, fetched: Fetched
) -> None:
    web.files["/a.beton"] = CONTENT
    path = fetched(f"{web.url}/a.beton")
    part = path.parent.with_name(f"{path.parent.name}.part")
    path.parent.rename(part)  # as before its last step
    lines = ["alexnet_fast blocks 1", str(len(CONTENT)), f"{BLOCK}\n"]
    import zlib

    journal = " ".join(lines) + "".join(
        f"{k} {zlib.crc32(CONTENT[start:end]):08x}\n" for k, (start, end) in enumerate(BLOCKS)
    )
    (part / "a.beton.journal").write_text(journal[:-3])  # the last line was cut off
    with open(part / "a.beton", "r+b") as file:
        file.seek(BLOCK + 5)
        file.write(bytes(100))  # a power cut: the line is there, its bytes are not
    web.asked.clear()
    assert fetched(f"{web.url}/a.beton").read_bytes() == CONTENT
    assert web.ranges("/a.beton") == [BLOCKS[1], BLOCKS[5]]


def test_two_processes_fetch_a_file_once(web: WebServer, cache: Path) -> None:
    first, release = threading.Event(), threading.Event()

    def hold(handler: Handler, start: int, end: int) -> bool:
        first.set()
        release.wait(60)
        return False

    web.files["/a.beton"], web.fault = CONTENT, hold
    one = begin(f"{web.url}/a.beton", cache)
    assert first.wait(60)
    two = begin(f"{web.url}/a.beton", cache)
    try:
        assert two.stderr is not None
        line = two.stderr.readline()
        while "waiting for another process that fetches" not in line:
            assert line, "the second process has ended"
            line = two.stderr.readline()
    finally:
        release.set()
    paths = {process.communicate(timeout=60)[0].strip() for process in (one, two)}
    assert len(paths) == 1 and Path(paths.pop()).read_bytes() == CONTENT
    assert web.ranges("/a.beton") == BLOCKS


def test_ctrl_c_ends_a_fetch_at_once_though_the_server_is_silent(web: WebServer, cache: Path) -> None:
    reached, release = threading.Event(), threading.Event()

    def stall(handler: Handler, start: int, end: int) -> bool:
        reached.set()
        release.wait(60)
        return False

    web.files["/a.beton"], web.fault = CONTENT, stall
    process = begin(f"{web.url}/a.beton", cache)
    try:
        assert reached.wait(60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=25)  # less than the 30 s after which the request would end
    finally:
        process.kill()
        release.set()
    assert err.rstrip().endswith("KeyboardInterrupt")
