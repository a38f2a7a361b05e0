"""How many cores this process may use, and which of them belong to a rank."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

CGROUP, SYSTEM = Path("/sys/fs/cgroup"), Path("/sys/devices/system")
MEMBERSHIP = Path("/proc/self/cgroup")


def allowed_cores(cgroup_root: Path = CGROUP) -> int:
    """Cores this process may use: its affinity mask, limited by the cgroup's CPU quota (at least 1).

    The processor count is wrong in containers and under job schedulers, where it is that of the complete machine: threads
    beyond the quota only throttle each other.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cut_by_quota(affinity, cgroup_root)


def cut_by_quota(cores: int, cgroup_root: Path = CGROUP, processes: int = 1) -> int:
    """How many of `cores` a process may keep busy if `processes` share the cgroup's quota (at least 1)."""
    quota = cgroup_quota(cgroup_root)
    return cores if quota is None else max(1, min(cores, math.floor(quota / processes)))


def cgroup_quota(root: Path = CGROUP, membership: Path = MEMBERSHIP) -> float | None:
    """The smallest CPU quota of this process's cgroups, in cores; None if there is none."""
    quotas = [folder_quota(folder) for folder in cgroup_folders("cpu", root, membership)]
    return min((quota for quota in quotas if quota is not None), default=None)


def folder_quota(folder: Path) -> float | None:
    """The CPU quota of one cgroup in cores; None if it has none (v2 first, then v1)."""
    with suppress(OSError, ValueError):  # ValueError: "max"
        quota_us, period_us = (folder / "cpu.max").read_text().split()
        return int(quota_us) / int(period_us)
    with suppress(OSError, ValueError):
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    return None


def cgroup_folders(controller: str, root: Path = CGROUP, membership: Path = MEMBERSHIP) -> Iterator[Path]:
    """The folders of this process's cgroups that may limit it, from the outermost in: a limit holds for all below it.

    Args:
        controller: "cpu" or "memory".
        root: where cgroups are mounted, v2 or v1.
        membership: the file that names this process's cgroups.
    """
    lines: list[list[str]] = []
    with suppress(OSError):
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    for _, controllers, path in [*lines, ["", controller, "/"], ["", "", "/"]]:
        if controllers and controller not in controllers.split(","):
            continue
        # In a container the path is the host's, but the mounted folder is the container's own.
        parts = [part for part in path.split("/") if part]
        for base in {root / (controllers or "unified"), root / controller, root}:
            for depth in range(len(parts) + 1):
                folder = base.joinpath(*parts[:depth])
                if folder.is_dir():
                    yield folder


LOCAL_RANKS = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
"""Where launchers say how many ranks they started on this host: torchrun and accelerate, mpirun, mpiexec.  srun binds its ranks."""


def local_ranks(environment: Mapping[str, str] = os.environ) -> int:
    """How many ranks a launcher says that it started on this host; 1 where none says so."""
    found = (environment.get(name, "") for name in LOCAL_RANKS)
    return next((int(text) for text in found if text.isdecimal() and int(text)), 1)


def fair_share(local_world_size: int, *, cgroup_root: Path = CGROUP) -> int:
    """How many threads one of so many ranks on this host may keep busy, so that together they do not exceed its cores.

    A process that is bound otherwise than its parent (``bind_rank``, numactl, srun) has cores of its own, and uses all of them.
    """
    if local_world_size == 1:
        return allowed_cores(cgroup_root)
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 1) // local_world_size)
    allowed = os.sched_getaffinity(0)
    cores = len(allowed) if allowed != _affinity_of_parent() else max(1, len(allowed) // local_world_size)
    return cut_by_quota(cores, cgroup_root, local_world_size)


def bind_rank(
    local_rank: int, local_world_size: int, *, system: Path = SYSTEM, cgroup_root: Path = CGROUP
) -> int:
    """Bind this process to its rank's share of the host's cores; returns how many threads it may keep busy there.

    Threads inherit the binding when they start, so call this before any does.  A process that is bound otherwise than its
    parent (by numactl, by torchrun's --numa-binding) keeps its binding.
    """
    if not hasattr(os, "sched_setaffinity"):
        return max(1, (os.cpu_count() or 1) // local_world_size)
    allowed = os.sched_getaffinity(0)
    if allowed == _affinity_of_parent():
        allowed = set(rank_cores(allowed, local_rank, local_world_size, system))
        os.sched_setaffinity(0, allowed)
    return cut_by_quota(len(allowed), cgroup_root, local_world_size)


def rank_cores(
    allowed: Iterable[int], local_rank: int, local_world_size: int, system: Path = SYSTEM
) -> list[int]:
    """The cores among `allowed` for this local rank: the same number for each rank (plus or minus one), near each other.

    Cores are assigned NUMA node by NUMA node, and the two hyperthreads of a physical core one after the other.  So each rank
    stays within a node if the nodes are a multiple of the ranks, or the ranks of the nodes.  With more ranks than cores,
    some share a core.
    """
    cores = _by_place(allowed, system)
    start, end = (len(cores) * rank // local_world_size for rank in (local_rank, local_rank + 1))
    return cores[start : max(end, start + 1)]


def _by_place(cores: Iterable[int], system: Path) -> list[int]:
    """Cores sorted by NUMA node, then by physical core."""
    node_of = {
        core: int(folder.name.removeprefix("node"))
        for folder in system.glob("node/node[0-9]*")
        for core in _listed(folder / "cpulist")
    }

    def place(core: int) -> tuple[int, int, int]:
        twins = _listed(system / f"cpu/cpu{core}/topology/thread_siblings_list")
        return node_of.get(core, 0), min(twins, default=core), core

    return sorted(cores, key=place)


def _listed(path: Path) -> list[int]:
    """The numbers in a file like "0-3,8,10-11"; none if it cannot be read."""
    try:
        ranges = [part.partition("-") for part in path.read_text().strip().split(",") if part]
        return [core for first, _, last in ranges for core in range(int(first), int(last or first) + 1)]
    except (OSError, ValueError):
        return []


def _affinity_of_parent() -> set[int] | None:
    try:
        return os.sched_getaffinity(os.getppid())
    except OSError:
        return None
