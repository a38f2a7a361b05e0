"""Files of a web server through the cache: fetched once, whole, and again only where they changed."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_fast.errors import UserError
from alexnet_fast.remote import cached_copy as module
from alexnet_fast.remote.fetch import FetchOptions

from .conftest import BLOCK, QUICK
from .web_server import Handler, WebServer

CONTENT = random.Random(0).randbytes(5 * BLOCK + 1000)
BLOCKS = [(k * BLOCK, min((k + 1) * BLOCK, len(CONTENT))) for k in range(6)]

Fetched = Callable[..., Path]


def once(action: Callable[[Handler, int, int], bool], times: int = 1) -> Callable[[Handler, int, int], bool]:
    """A fault that happens so many times, then no more."""
    left = [times]

    def fault(handler: Handler, start: int, end: int) -> bool:
        with handler.served.lock:
            left[0] -= 1
            if left[0] < 0:
                return False
        return action(handler, start, end)

    return fault


def test_a_file_is_fetched_in_ranges_and_then_never_again(web: WebServer, fetched: Fetched) -> None:
    web.files["/a.beton"] = CONTENT
    path = fetched(f"{web.url}/a.beton")
    assert path.read_bytes() == CONTENT and path.name == "a.beton"
    assert web.ranges("/a.beton") == BLOCKS
    contacts = web.contacts
    assert fetched(f"{web.url}/a.beton") == path
    assert web.contacts == contacts, "a copy that was just checked is used without a question"


def test_its_sidecar_comes_with_it(web: WebServer, fetched: Fetched) -> None:
    web.files |= {"/a.beton": CONTENT, "/a.beton.json": b'{"classes": []}'}
    path = fetched(f"{web.url}/a.beton", ".json")
    assert path.with_name("a.beton.json").read_bytes() == b'{"classes": []}'
    assert not list(path.parent.glob("*.journal*"))


def cut(handler: Handler, start: int, end: int) -> bool:
    handler.cut(CONTENT, start, end, 1000)
    return True


def unavailable(handler: Handler, start: int, end: int) -> bool:
    handler.refuse(503)
    return True


def short(handler: Handler, start: int, end: int) -> bool:
    handler.send(CONTENT, start, start + 1000)
    return True


def another_range(handler: Handler, start: int, end: int) -> bool:
    handler.send(CONTENT, start + 10, end)
    return True


def nothing(handler: Handler, start: int, end: int) -> bool:
    handler.close_connection = True
    handler.connection.shutdown(2)
    return True


@pytest.mark.parametrize("fault", [cut, unavailable, short, another_range, nothing])
def test_a_failure_costs_another_request_and_no_byte(
    web: WebServer, fetched: Fetched, fault: Callable[[Handler, int, int], bool]
) -> None:
    web.files["/a.beton"], web.fault = CONTENT, once(fault, 3)
    assert fetched(f"{web.url}/a.beton").read_bytes() == CONTENT
    assert len(web.asked) == 6 + 3


def test_a_connection_that_was_cut_goes_on_after_its_last_byte(web: WebServer, fetched: Fetched) -> None:
    web.files["/a.beton"], web.fault = CONTENT, once(cut)
    fetched(f"{web.url}/a.beton", options=FetchOptions(pause_s=0.0, connections=1, block_bytes=BLOCK))
    assert web.ranges("/a.beton") == sorted([*BLOCKS, (1000, BLOCK)])


def test_a_server_that_stalls_is_asked_again(web: WebServer, fetched: Fetched) -> None:
    import threading

    end = threading.Event()

    def stall(handler: Handler, start: int, stop: int) -> bool:
        end.wait(60)
        handler.close_connection = True
        return True

    web.files["/a.beton"], web.fault = CONTENT, once(stall)
    try:
        options = FetchOptions(stall_s=0.5, tries=50, pause_s=0.0, block_bytes=BLOCK)
        assert fetched(f"{web.url}/a.beton", options=options).read_bytes() == CONTENT
    finally:
        end.set()


def test_wrong_bytes_are_found_by_the_servers_checksum_of_the_block(web: WebServer, fetched: Fetched) -> None:
    def wrong(handler: Handler, start: int, end: int) -> bool:
        handler.send(CONTENT, start, end, bytes(end - start))
        return True

    web.files["/a.beton"], web.fault, web.has_digests = CONTENT, once(wrong, 2), True
    assert fetched(f"{web.url}/a.beton").read_bytes() == CONTENT
    assert len(web.asked) == 6 + 2


def test_wrong_bytes_are_found_by_a_check_of_the_file_and_only_their_blocks_are_fetched_again(
    web: WebServer, fetched: Fetched, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(handler: Handler, start: int, end: int) -> bool:
        if start != BLOCK:
            return False
        handler.send(CONTENT, start, end, bytes(end - start))
        handler.served.fault = None
        return True

    def check(path: Path) -> tuple[list[tuple[int, int]], str]:
        found = path.read_bytes()
        bad = [k for k in range(len(CONTENT)) if found[k] != CONTENT[k]]
        return [(bad[0], bad[-1] + 1)] if bad else [], "some bytes are wrong" if bad else ""

    web.files["/a.beton"], web.fault = CONTENT, wrong
    assert fetched(f"{web.url}/a.beton", check=check).read_bytes() == CONTENT
    assert web.ranges("/a.beton") == sorted([*BLOCKS, BLOCKS[1]])
    assert "some bytes are wrong: those bytes are fetched again" in caplog.text


def test_bytes_that_are_wrong_twice_are_an_error_and_no_copy(web: WebServer, fetched: Fetched) -> None:
    web.files["/a.beton"] = CONTENT
    with pytest.raises(UserError, match="sample 3 is wrong, although those bytes were fetched twice"):
        fetched(f"{web.url}/a.beton", check=lambda path: ([(0, 1)], "sample 3 is wrong"))
    assert module.copy_there(f"{web.url}/a.beton") is None
    assert web.ranges("/a.beton") == sorted([*BLOCKS, BLOCKS[0]])


def test_a_server_without_ranges_sends_the_file_in_one_stream(web: WebServer, fetched: Fetched) -> None:
    def cut_whole(handler: Handler, start: int, end: int) -> bool:
        handler.send_response(200)
        handler.begin(CONTENT, len(CONTENT))
        handler.end_headers()
        handler.wfile.write(CONTENT[: 2 * BLOCK + 5])
        handler.close_connection = True
        return True

    web.files["/a.beton"], web.has_ranges = CONTENT, False
    questions = iter([False, True])
    web.fault = lambda handler, start, end: next(questions, False) and cut_whole(handler, start, end)
    assert fetched(f"{web.url}/a.beton").read_bytes() == CONTENT


def test_a_server_that_ignores_the_ranges_of_some_requests_is_taken_as_one_without(
    web: WebServer, fetched: Fetched
) -> None:
    def ignores(handler: Handler, start: int, end: int) -> bool:
        handler.send_whole(CONTENT)
        return True

    web.files["/a.beton"], web.fault = CONTENT, ignores
    assert fetched(f"{web.url}/a.beton").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (404, "/a.beton does not exist: the server answered 404"),
        (403, "/a.beton may not be read: the server answered 403 Forbidden; check the credentials"),
        (400, "/a.beton cannot be read: the server answered 400"),
    ],
)
def test_a_refusal_is_said_in_words_and_not_tried_again(
    web: WebServer, fetched: Fetched, status: int, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Handler, "do_GET", lambda self: (self.served.asked.append(("", 0, 0)), self.refuse(status))
    )
    with pytest.raises(UserError, match=sentence):
        fetched(f"{web.url}/a.beton")
    assert len(web.asked) == 1


def test_a_server_that_never_answers_is_given_up_and_what_arrived_is_kept(
    web: WebServer, fetched: Fetched
) -> None:
    def fails_late(handler: Handler, start: int, end: int) -> bool:
        return start >= 3 * BLOCK and unavailable(handler, start, end)

    web.files["/a.beton"], web.fault = CONTENT, fails_late
    one = FetchOptions(tries=3, pause_s=0.0, connections=1, block_bytes=BLOCK)
    with pytest.raises(
        UserError, match=r"the server answered 503 .* \(3 times in a row\); check the network"
    ):
        fetched(f"{web.url}/a.beton", options=one)
    web.fault = None
    web.asked.clear()
    assert fetched(f"{web.url}/a.beton").read_bytes() == CONTENT
    assert web.ranges("/a.beton") == BLOCKS[3:], "only what was missing"


def test_a_file_that_changes_meanwhile_is_fetched_as_the_new_one(
    web: WebServer, fetched: Fetched, caplog: pytest.LogCaptureFixture
) -> None:
    other = CONTENT[::-1]

    def changes(handler: Handler, start: int, end: int) -> bool:
        if start >= 2 * BLOCK:
            handler.served.files["/a.beton"] = other
        return False

    web.files["/a.beton"], web.fault = CONTENT, changes
    one = FetchOptions(tries=3, pause_s=0.0, connections=1, block_bytes=BLOCK)
    assert fetched(f"{web.url}/a.beton", options=one).read_bytes() == other
    assert "changed while it was fetched" in caplog.text


def make_old(path: Path) -> None:
    """As if the copy had been checked an hour ago."""
    os.utime(path.parent / "record.json", (1e9, 1e9))


def test_an_old_copy_is_checked_and_replaced_if_the_server_has_another(
    web: WebServer, fetched: Fetched
) -> None:
    web.files["/a.beton"] = CONTENT
    path = fetched(f"{web.url}/a.beton", keeper=(held := Keeper()))
    make_old(path)
    web.asked.clear()
    assert fetched(f"{web.url}/a.beton", keeper=held) == path and not web.asked
    make_old(path)
    web.files["/a.beton"] = CONTENT[:-7]
    newer = fetched(f"{web.url}/a.beton", keeper=held)
    assert newer.read_bytes() == CONTENT[:-7]
    assert path.read_bytes() == CONTENT, "whoever has the old one open keeps it"


class Keeper:
    """Something that uses a file."""


def test_offline_a_complete_copy_is_used_and_said(
    web: WebServer, fetched: Fetched, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files["/a.beton"] = CONTENT
    path = fetched(f"{web.url}/a.beton")
    make_old(path)
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.refuse(403))
    caplog.set_level(logging.WARNING)
    assert fetched(f"{web.url}/a.beton") == path
    assert "403 Forbidden" in caplog.text and "the copy that was fetched at" in caplog.text
    monkeypatch.setenv("ALEXNET_FAST_OFFLINE", "1")
    contacts = web.contacts
    assert fetched(f"{web.url}/a.beton") == path and web.contacts == contacts
    with pytest.raises(UserError, match="is not in the cache .*, and ALEXNET_FAST_OFFLINE is set"):
        fetched(f"{web.url}/b.beton")


def test_a_rank_of_our_launcher_uses_the_copy_that_the_launcher_checked(
    web: WebServer, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files["/a.beton"] = CONTENT
    path = fetched(f"{web.url}/a.beton")
    make_old(path)
    web.files["/a.beton"] = CONTENT[::-1]
    monkeypatch.setenv("ALEXNET_FAST_RANKS", "a folder")
    assert fetched(f"{web.url}/a.beton") == path and path.read_bytes() == CONTENT


def test_without_a_server_the_sentence_says_so(fetched: Fetched) -> None:
    with pytest.raises(
        UserError, match=r"http://127.0.0.1:9/a.beton cannot be fetched: .* \(4 times in a row\)"
    ):
        fetched("http://127.0.0.1:9/a.beton")


def test_an_empty_file_and_an_unknown_protocol_are_refused(web: WebServer, fetched: Fetched) -> None:
    with pytest.raises(UserError, match=r"nosuch:// is not a protocol that fsspec knows"):
        fetched("nosuch://bucket/a.beton")
    web.files["/a.beton"], web.has_ranges = b"", False
    with pytest.raises(UserError, match="is empty"):
        fetched(f"{web.url}/a.beton")


def test_no_message_shows_a_password_or_a_signature(
    web: WebServer, fetched: Fetched, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    port = web.url.rpartition(":")[2]
    secret = f"http://me:PASSWORD@127.0.0.1:{port}/a.beton?X-Amz-Signature=SIGNED"
    with pytest.raises(UserError) as raised:
        fetched(secret)
    web.files["/a.beton"] = CONTENT
    path = fetched(secret)
    kept = "".join(each.read_text() for each in path.parent.glob("record.json"))
    assert any(headers.get("Authorization", "").startswith("Basic ") for headers in web.headers)
    shown = f"{raised.value}{caplog.text}{capsys.readouterr()}{kept}{path}"
    assert "PASSWORD" not in shown and "SIGNED" not in shown
    signed_again = f"http://127.0.0.1:{port}/a.beton?X-Amz-Signature=AGAIN"
    assert fetched(signed_again) == path, "the same file, signed again"


def test_a_full_disk_is_said_in_words_and_what_arrived_is_kept(
    web: WebServer, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from alexnet_fast.remote import blocks

    real, written = os.pwrite, []

    def pwrite(file: int, data: bytes, at: int) -> int:
        if at >= 3 * BLOCK:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(at)
        return real(file, data, at)

    web.files["/a.beton"] = CONTENT
    one = FetchOptions(connections=1, block_bytes=BLOCK)
    with monkeypatch.context() as full:
        full.setattr(blocks.os, "pwrite", pwrite)
        with pytest.raises(
            UserError, match=r"the disk of .* is full, and 129 KiB of a.beton are missing: make room"
        ):
            fetched(f"{web.url}/a.beton", options=one)
    web.asked.clear()
    assert fetched(f"{web.url}/a.beton", options=QUICK).read_bytes() == CONTENT
    assert web.ranges("/a.beton") == BLOCKS[3:]
