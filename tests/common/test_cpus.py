"""How many cores may be used, in a synthetic cgroup."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alexnet_fast.common import cpus
from alexnet_fast.common.cpus import (
    allowed_cores,
    bind_rank,
    cgroup_quota,
    cut_by_quota,
    fair_share,
    local_ranks,
    rank_cores,
)

AFFINITY = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("max 100000", None),
        ("150000 100000", 1.5),
        ("400000 100000", 4.0),
        ("5000 100000", 0.05),
        ("", None),
        ("x y", None),
    ],
)
def test_the_quota_of_cgroup_2_is_read(tmp_path: Path, text: str, quota: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert cgroup_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota_us", "quota"), [(-1, None), (150_000, 1.5)])
def test_the_quota_of_cgroup_1_is_read(tmp_path: Path, quota_us: int, quota: float | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(str(quota_us))
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    assert cgroup_quota(tmp_path) == quota


@pytest.mark.parametrize(
    "inner, tightest", [("150000 100000", 1.5), ("800000 100000", 4.0), ("max 100000", 4.0)]
)
def test_a_job_within_a_cgroup_is_bound_by_the_tightest_quota_above_it(
    tmp_path: Path, inner: str, tightest: float
) -> None:
    """As under systemd's CPUQuota or Slurm without a cgroup namespace: the root has no quota, the job's folders have."""
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    (root / "slurm/job").mkdir(parents=True)
    (root / "slurm/cpu.max").write_text("400000 100000")
    (root / "slurm/job/cpu.max").write_text(inner)
    membership.write_text("0::/slurm/job\n")
    assert cgroup_quota(root, membership) == tightest


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    assert allowed_cores(tmp_path) == AFFINITY


def test_a_quota_cuts_the_affinity_but_leaves_one(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000")
    assert allowed_cores(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("10000000 100000")
    assert allowed_cores(tmp_path) == AFFINITY


def make_host(root: Path, nodes: list[str], twins_apart: int) -> Path:
    """A /sys/devices/system: each node's cores as "0-3,8-11"; cores i and i + `twins_apart` are hyperthreads of one core, if that is not 0."""
    for number, listed in enumerate(nodes):
        (root / f"node/node{number}").mkdir(parents=True)
        (root / f"node/node{number}/cpulist").write_text(listed + "\n")
    for core in range(2 * twins_apart):
        (root / f"cpu/cpu{core}/topology").mkdir(parents=True)
        first = core % twins_apart
        (root / f"cpu/cpu{core}/topology/thread_siblings_list").write_text(f"{first},{first + twins_apart}\n")
    return root


def shares(allowed: range, ranks: int, system: Path) -> list[list[int]]:
    return [rank_cores(allowed, rank, ranks, system) for rank in range(ranks)]


def test_ranks_stay_within_a_numa_node_and_the_hyperthreads_of_a_core_stay_together(tmp_path: Path) -> None:
    system = make_host(tmp_path, ["0-3,8-11", "4-7,12-15"], twins_apart=8)
    assert shares(range(16), 2, system) == [[0, 8, 1, 9, 2, 10, 3, 11], [4, 12, 5, 13, 6, 14, 7, 15]]
    assert shares(range(16), 4, system) == [[0, 8, 1, 9], [2, 10, 3, 11], [4, 12, 5, 13], [6, 14, 7, 15]]


def test_a_rank_gets_two_nodes_if_there_are_half_as_many_ranks_as_nodes(tmp_path: Path) -> None:
    system = make_host(tmp_path, ["0,4", "1,5", "2,6", "3,7"], twins_apart=0)
    assert shares(range(8), 2, system) == [[0, 4, 1, 5], [2, 6, 3, 7]]


@pytest.mark.parametrize(
    ("allowed", "ranks"), [(range(7), 3), (range(2, 12), 4), (range(5), 5), (range(1), 1)]
)
def test_every_core_belongs_to_one_rank_and_shares_differ_by_one_at_most(
    tmp_path: Path, allowed: range, ranks: int
) -> None:
    dealt = shares(allowed, ranks, tmp_path)
    assert sorted(core for share in dealt for core in share) == list(allowed)
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_more_ranks_than_cores_share_them(tmp_path: Path) -> None:
    assert shares(range(2), 5, tmp_path) == [[0], [0], [0], [1], [1]]


def test_ranks_divide_the_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("600000 100000")
    assert [cut_by_quota(8, tmp_path, processes) for processes in (1, 2, 4, 12)] == [6, 3, 1, 1]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_a_rank_is_bound_to_its_share_unless_it_is_bound_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound: list[set[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, mask: bound.append(set(mask)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert bind_rank(1, 2, system=tmp_path, cgroup_root=tmp_path) == 4 and bound == [{4, 5, 6, 7}]
    monkeypatch.setattr(cpus, "_affinity_of_parent", lambda: set(range(64)))
    assert bind_rank(1, 2, system=tmp_path, cgroup_root=tmp_path) == 8 and len(bound) == 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinity is Linux's")
def test_ranks_that_nobody_bound_share_the_hosts_cores_fairly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert [fair_share(ranks, cgroup_root=tmp_path) for ranks in (1, 2, 3, 8, 16)] == [8, 4, 2, 1, 1]
    (tmp_path / "cpu.max").write_text("600000 100000")
    assert [fair_share(ranks, cgroup_root=tmp_path) for ranks in (1, 2, 6)] == [6, 3, 1]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinity is Linux's")
def test_a_rank_that_is_bound_to_cores_of_its_own_uses_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpus, "_affinity_of_parent", lambda: set(range(64)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert fair_share(8, cgroup_root=tmp_path) == 8


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({}, 1),
        ({"LOCAL_WORLD_SIZE": "8"}, 8),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, 4),
        ({"LOCAL_WORLD_SIZE": "2", "MPI_LOCALNRANKS": "4"}, 2),
        ({"LOCAL_WORLD_SIZE": "many"}, 1),
        ({"LOCAL_WORLD_SIZE": "0"}, 1),
    ],
)
def test_launchers_say_how_many_ranks_this_host_has(environment: dict[str, str], ranks: int) -> None:
    assert local_ranks(environment) == ranks
