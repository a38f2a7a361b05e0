"""How many cores this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def allowed_cores(cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may use: its affinity mask, cut by the cgroup's CPU quota (at least 1).

    The count of processors misleads in containers and under job schedulers, where it names the
    whole machine: threads beyond the quota only take turns being throttled.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(cgroup_root)
    return affinity if quota is None else max(1, min(affinity, math.floor(quota)))


def cgroup_quota(root: Path) -> float | None:
    """CPU quota of this process's cgroup in cores, or None where there is none (v2 first, then v1)."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int((root / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((root / "cpu/cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 else None
    except (OSError, ValueError):
        return None
