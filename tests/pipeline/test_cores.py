"""How many cores may be used, by a made-up cgroup."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alexnet_fast.pipeline.cores import allowed_cores, cgroup_quota

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


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    assert allowed_cores(tmp_path) == AFFINITY


def test_a_quota_cuts_the_affinity_but_leaves_one(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000")
    assert allowed_cores(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("10000000 100000")
    assert allowed_cores(tmp_path) == AFFINITY
