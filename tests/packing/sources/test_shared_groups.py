"""Groups are unpacked once for all processes; a process that is killed while it unpacks leaves nothing that another takes for complete."""

from __future__ import annotations

import os
import pickle
import signal
from multiprocessing import get_context
from typing import BinaryIO

import numpy as np
import pytest

from alexnet_fast.errors import UserError
from alexnet_fast.packing.journal import read_at
from alexnet_fast.packing.sources.key_table import Archive, KeyTable
from alexnet_fast.packing.sources.shared_groups import HEAD_BYTES, SLOTS, SharedGroups


class Unpacked:
    """Writes a group's number, and counts how often."""

    def __init__(self) -> None:
        self.count: dict[int, int] = {}

    def read(self, groups: SharedGroups, group: int) -> bytes:
        def unpack(content: BinaryIO) -> None:
            self.count[group] = self.count.get(group, 0) + 1
            content.write(b"%08d" % group)

        return groups.read(group, unpack, lambda file: read_at(file, 100, HEAD_BYTES))


def test_a_group_is_unpacked_once_and_the_oldest_makes_room() -> None:
    groups, unpacked = SharedGroups(), Unpacked()
    for group in (0, 5, 0, 7, 5, 0):
        assert unpacked.read(groups, group) == b"%08d" % group
    assert unpacked.count == {0: 1, 5: 1, 7: 1} and SLOTS == 3
    assert unpacked.read(groups, 9) == b"00000009"  # in the place of 0
    assert unpacked.read(groups, 5) == b"00000005" and unpacked.count[5] == 1
    assert unpacked.read(groups, 0) == b"00000000" and unpacked.count[0] == 2


def test_other_processes_read_what_one_has_unpacked() -> None:
    groups, unpacked = SharedGroups(), Unpacked()
    unpacked.read(groups, 4)
    other, theirs = pickle.loads(pickle.dumps(groups)), Unpacked()
    assert theirs.read(other, 4) == b"00000004" and not theirs.count
    assert len(pickle.dumps(groups)) < 500


def test_what_cannot_be_unpacked_is_tried_again() -> None:
    groups, unpacked = SharedGroups(), Unpacked()

    def fails(content: BinaryIO) -> None:
        content.write(b"half")
        raise ValueError("it is corrupt")

    with pytest.raises(ValueError, match="it is corrupt"):
        groups.read(3, fails, lambda file: b"")
    assert unpacked.read(groups, 3) == b"00000003"


def die_while_unpacking(groups: SharedGroups) -> None:
    def unpack(content: BinaryIO) -> None:
        content.write(b"half")
        content.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    groups.read(3, unpack, lambda file: b"")


def test_a_process_that_is_killed_while_it_unpacks_blocks_no_other() -> None:
    groups, unpacked = SharedGroups(), Unpacked()
    child = get_context("fork").Process(
        target=die_while_unpacking, args=(pickle.loads(pickle.dumps(groups)),)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert unpacked.read(groups, 3) == b"00000003" and unpacked.count == {3: 1}


def test_a_table_finds_every_key_here_and_in_other_processes() -> None:
    keys = [f"class/{k}.JPEG" for k in range(1000)] + ["ä", "\udcff", ""]
    count = len(keys)
    columns = {
        "archive": np.arange(count) % 2,
        "at": np.arange(count) * (1 << 33),
        "size": np.arange(count),
        "label": np.arange(count) / 4,
    }
    archives = [Archive("a.tar", 5, 6), Archive("b\udcff.tar", 7, 8)]
    table = KeyTable(keys, {name: values.tolist() for name, values in columns.items()}, ["x"], archives)
    pickled = pickle.dumps(table)
    assert len(pickled) < 500
    for found in (table, pickle.loads(pickled)):
        assert len(found) == count and found.archives == archives and found.classes == ["x"]
        for k, key in enumerate(keys):
            assert found.find(key) == (k % 2, k << 33, k, k / 4)
        assert found.find("none") is None
    assert KeyTable.empty().find("none") is None
    with pytest.raises(UserError, match="'a' is there twice"):
        KeyTable(["a", "b", "a"], dict.fromkeys(columns, (0, 0, 0)), [], [])
