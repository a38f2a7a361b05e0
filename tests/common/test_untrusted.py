"""Files from others, or things that are no files: no read blocks or never ends, and no text reaches a terminal unescaped."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from alexnet_fast.common.untrusted import open_regular, printable, read_json, read_text


def test_a_text_of_at_most_n_bytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("\ufeffaé\n".encode())
    assert read_text(path, 7) == "aé\n", "without the byte-order mark"
    with pytest.raises(ValueError, match="more than 6 bytes"):
        read_text(path, 6)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError):
        read_text(path, 9)


def test_what_is_not_a_regular_file_is_named_and_never_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path, "folder"), (tmp_path / "pipe", "pipe"), (Path("/dev/zero"), "device")):
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(ValueError, match=f"it is a {kind}"):
            open_regular(path)
        assert set(os.listdir("/proc/self/fd")) <= before, "it is closed again"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        with pytest.raises(ValueError, match="it is a socket"):
            open_regular(tmp_path / "socket")


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"[1]", b"", b"\x00", b'"\xed\xa0\x80"']
)
def test_json_that_is_not_an_object_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        read_json(path, 1 << 20)


def test_text_is_shown_on_one_line_and_cut() -> None:
    assert printable("a\nb\x1b[2J\x00é\ud800\u202e") == "a\\nb\\x1b[2J\\x00é\\ud800\\u202e"
    assert printable("x" * 1000) == "x" * 200 + "..."
