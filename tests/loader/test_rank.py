"""A Loader's share of every epoch, where torch.distributed decides it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from alexnet_fast import Loader
from betons import jpeg, picture, write

COUNT = 24


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("rank") / "a.beton", [jpeg(picture(60, 50))] * COUNT)


@pytest.fixture
def join() -> Iterator[object]:
    """join(rank, world_size): from then on this process has that place in a group, without the others."""

    def joined(rank: int, world_size: int) -> None:
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)

    yield joined
    if dist.is_initialized():
        dist.destroy_process_group()


def labels_of(loader: Loader) -> list[int]:
    return [int(label) for batch in loader for label in batch.labels]


def test_a_loader_opened_before_the_process_group_has_its_share(beton: Path, join, caplog) -> None:  # type: ignore[no-untyped-def]
    caplog.set_level(logging.INFO, "alexnet_fast")
    with Loader(beton, 4, train=True, size=16, threads=1) as loader:
        assert len(loader) == 6
        join(1, 3)
        assert len(loader) == 2 and len(loader.sampler) == 8
        own = labels_of(loader)
        assert len(own) == 8 and labels_of(loader)
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"this process reads share 1 of 3 of {beton}: torch.distributed's"]
    with Loader(beton, 4, train=True, size=16, threads=1, rank=1, world_size=3) as loader:
        assert own == labels_of(loader)


def test_without_a_process_group_a_loader_has_all(beton: Path, caplog) -> None:  # type: ignore[no-untyped-def]
    caplog.set_level(logging.INFO, "alexnet_fast")
    with Loader(beton, 4, train=True, size=16, threads=1) as loader:
        assert sorted(labels_of(loader)) == list(range(COUNT))
    assert not caplog.records


def test_one_that_is_told_to_read_all_within_a_group_warns_once(beton: Path, join, caplog) -> None:  # type: ignore[no-untyped-def]
    join(0, 2)
    with Loader(beton, 4, train=True, size=16, threads=1, rank=0, world_size=1) as loader:
        assert len(labels_of(loader)) == len(labels_of(loader)) == COUNT
    (record,) = caplog.records
    assert (
        record.levelname == "WARNING"
        and "each of the 2 processes of this group reads all of" in record.getMessage()
    )


def test_one_that_is_started_by_a_launcher_but_has_no_group_yet_warns(  # type: ignore[no-untyped-def]
    beton: Path, monkeypatch, caplog
) -> None:
    """Each process would silently read the whole set."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    with Loader(beton, 4, train=True, size=16, threads=1) as loader:
        labels_of(loader)
    (record,) = caplog.records
    assert "WORLD_SIZE is 4, but torch.distributed has no process group" in record.getMessage()
    caplog.clear()
    with Loader(beton, 4, train=True, size=16, threads=1, rank=0, world_size=4) as loader:
        labels_of(loader)
    assert not caplog.records


def test_a_group_too_large_for_the_set_is_an_error_when_the_epoch_starts(beton: Path, join) -> None:  # type: ignore[no-untyped-def]
    from alexnet_fast import UserError

    with Loader(beton, 10, train=True, size=16, threads=1) as loader:
        join(0, 4)
        with pytest.raises(UserError, match=r"fewer than one batch of 40 \(10 on each of 4 ranks\)"):
            iter(loader)
