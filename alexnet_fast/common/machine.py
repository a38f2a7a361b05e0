"""What Linux reports about the machine: cores, memory and cards."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from . import cpus

NO_LIMIT = 1 << 60  # cgroup v1 writes the largest multiple of a page for "none"
CAP_IPC_LOCK = 1 << 14  # linux/capability.h
VENDORS = {"0x10de": "NVIDIA", "0x19e5": "Huawei"}
# PCI classes: 3D and VGA controllers, processing accelerators. Huawei makes network cards too.
CLASSES = {"NVIDIA": ("0x0300", "0x0302"), "Huawei": ("0x1200",)}


class Card(NamedTuple):
    """An accelerator on the PCI bus."""

    vendor: str
    node: int | None


class Quota(NamedTuple):
    """A cgroup's CPU quota in cores, and the share of its periods in which it was throttled."""

    cores: float
    folder: Path
    throttled: float | None


class MemoryLimit(NamedTuple):
    """A cgroup's limit and how much of it its processes use, without page cache that can be freed."""

    limit_bytes: int
    used_bytes: int


class Machine:
    """This machine; the folders are arguments, so that a test can describe another one."""

    def __init__(
        self,
        cgroup: Path = cpus.CGROUP,
        system: Path = cpus.SYSTEM,
        proc: Path = Path("/proc"),
        pci: Path = Path("/sys/bus/pci/devices"),
        dev: Path = Path("/dev"),
    ) -> None:
        self.cgroup, self.system, self.proc, self.pci, self.dev = cgroup, system, proc, pci, dev

    @property
    def processors(self) -> int:
        return os.cpu_count() or 1

    @property
    def affinity(self) -> set[int]:
        """The processors that this process may run on."""
        if hasattr(os, "sched_getaffinity"):
            return os.sched_getaffinity(0)
        return set(range(self.processors))

    @property
    def cores(self) -> int:
        """Cores that this process may keep busy: those of the affinity mask, limited by the tightest CPU quota."""
        return max(1, min(len(self.affinity), int(self.quota.cores) if self.quota else self.processors))

    @cached_property
    def quota(self) -> Quota | None:
        """The tightest CPU quota of the cgroups that this process is in, or None."""
        found = []
        for folder in self._cgroups("cpu"):
            limit = cpus.folder_quota(folder)
            if limit is not None:
                found.append(Quota(limit, folder, _throttled(folder)))
        return min(found, default=None)

    @cached_property
    def memory_limit(self) -> MemoryLimit | None:
        """The tightest memory limit of the cgroups that this process is in, or None."""
        found = []
        for folder in self._cgroups("memory"):
            for limit, usage, cache in (
                ("memory.max", "memory.current", "inactive_file"),
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            ):
                with suppress(OSError, ValueError):  # "max"
                    limit_bytes = int((folder / limit).read_text())
                    if limit_bytes < NO_LIMIT:
                        given_up = _fields(folder / "memory.stat").get(cache, 0)
                        found.append(MemoryLimit(limit_bytes, int((folder / usage).read_text()) - given_up))
        return min(found, default=None)

    @cached_property
    def memory(self) -> dict[str, int]:
        """/proc/meminfo in bytes, as `free` shows it."""
        return {name: 1024 * kib for name, kib in _fields(self.proc / "meminfo").items()}

    @property
    def memory_bytes(self) -> int:
        """The maximum memory that processes here may use."""
        total = self.memory["MemTotal"]
        return total if self.memory_limit is None else min(total, self.memory_limit.limit_bytes)

    @property
    def available_bytes(self) -> int:
        """Memory that is available, by the system and by the cgroup."""
        free = self.memory.get("MemAvailable", self.memory["MemFree"])
        limit = self.memory_limit
        return free if limit is None else max(0, min(free, limit.limit_bytes - limit.used_bytes))

    @property
    def lockable_bytes(self) -> int | None:
        """How much memory this process may lock; None = no limit."""
        soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        return None if soft == resource.RLIM_INFINITY or self.may_lock_beyond else soft

    @property
    def may_lock_beyond(self) -> bool:
        """Whether this process is privileged to lock more than its limit."""
        with suppress(OSError):
            if found := re.search(r"^CapEff:\s*(\w+)", (self.proc / "self/status").read_text(), re.MULTILINE):
                return bool(int(found[1], 16) & CAP_IPC_LOCK)
        return False

    @cached_property
    def nodes(self) -> dict[int, set[int]]:
        """NUMA node -> its processors; one node if the system reports none."""
        found = {}
        for folder in self.system.glob("node/node[0-9]*"):
            with suppress(OSError, ValueError):
                found[int(folder.name.removeprefix("node"))] = _numbers((folder / "cpulist").read_text())
        return found or {0: set(range(self.processors))}

    @cached_property
    def cards(self) -> list[Card]:
        """Accelerators of the kinds that we train on, also those that torch cannot use."""
        return sorted(self._cards())

    def _cards(self) -> Iterator[Card]:
        for folder in self.pci.glob("*"):
            with suppress(OSError, ValueError):
                vendor = VENDORS.get((folder / "vendor").read_text().strip(), "")
                if (folder / "class").read_text()[:6] in CLASSES.get(vendor, ()):
                    node = int((folder / "numa_node").read_text())
                    yield Card(vendor, node if node >= 0 else None)

    def device_files(self) -> list[str]:
        """The cards that the system lets this process open: /dev/nvidia0, /dev/davinci0 ..."""
        return [
            str(path) for name in ("nvidia", "davinci") for path in sorted(self.dev.glob(f"{name}[0-9]*"))
        ]

    def file_system(self, path: Path) -> str:
        """The kind of file system that `path` is on: ext4, overlay, nfs4 ..."""
        best, kind = "", "unknown"
        for line in (self.proc / "self/mountinfo").read_text().splitlines():
            fields, _, rest = line.partition(" - ")
            point = fields.split()[4].encode().decode("unicode_escape")
            inside = f"{path.resolve()}/".startswith(f"{point.rstrip('/')}/")
            if inside and len(point) >= len(best):
                best, kind = point, rest.split()[0]
        return kind

    def _cgroups(self, controller: str) -> Iterator[Path]:
        return cpus.cgroup_folders(controller, self.cgroup, self.proc / "self/cgroup")


def _throttled(folder: Path) -> float | None:
    counts = _fields(folder / "cpu.stat")
    return counts["nr_throttled"] / counts["nr_periods"] if counts.get("nr_periods") else None


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and an integer, as in memory.stat and meminfo."""
    try:
        return {
            name: int(value)
            for name, value in re.findall(r"^(\w+):?\s+(\d+)", path.read_text(), re.MULTILINE)
        }
    except OSError:
        return {}


def _numbers(text: str) -> set[int]:
    """ "0-1,8" -> {0, 1, 8}"""
    spans = [span.partition("-") for span in text.strip().split(",") if span]
    return {number for first, _, last in spans for number in range(int(first), int(last or first) + 1)}
