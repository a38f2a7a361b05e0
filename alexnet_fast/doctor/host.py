"""Cores, memory and the limits of this process."""

from __future__ import annotations

import os
import resource

from ..common.machine import Machine
from ..common.text import plural, size
from .finding import Finding, ok, warning

GIB = 1 << 30
MIN_MEMORY = 4 * GIB  # a rank with its weights, libraries and batches, and room for the page cache
MIN_SHARED = 1 * GIB  # what NCCL's manual recommends for a container: --shm-size=1g
MIN_LOCKED = 8 << 20  # the default of Linux since 5.16
MIN_LOCKED_WITH_CARDS = 64 << 20
MIN_FILES = 1024


def cores(machine: Machine) -> Finding:
    """The cores that can decode, and what limits them."""
    affinity, processors, usable = len(machine.affinity), machine.processors, machine.cores
    found = [f"{usable} of {plural(processors, 'processor')} can be kept busy"]
    remedies = []
    quota = machine.quota
    if quota is not None and quota.cores < affinity:
        waits = "" if quota.throttled is None else f", stopped in {quota.throttled:.0%} of its periods"
        found.append(f"the cgroup's CPU quota is {quota.cores:g} cores{waits}")
        remedies.append(
            "raise the CPU limit (docker run --cpus, Kubernetes resources.limits.cpu, systemd CPUQuota)"
        )
    if affinity < processors:
        found.append(f"the affinity mask holds {affinity}")
        remedies.append("widen the affinity (taskset, docker run --cpuset-cpus, Slurm --cpus-per-task)")
    text = "; ".join(found)
    if usable > 1 and not (quota is not None and quota.cores < affinity):
        return ok("cores", text)
    if usable == 1:
        text += "; decoding and the training step share one core"
        remedies = remedies or ["give the machine more processors"]
    return warning("cores", text, ", or ".join(remedies))


def numa(machine: Machine) -> Finding:
    """The NUMA nodes, and whether the allowed cores are on the same node as the cards."""
    nodes = machine.nodes
    ours = sorted(node for node, processors in nodes.items() if processors & machine.affinity)
    text = plural(len(nodes), "node")
    if len(nodes) == 1:
        return ok("NUMA", text)
    text += f"; the allowed cores are on {_listed(ours)}"
    with_cards = sorted({card.node for card in machine.cards if card.node is not None})
    if not with_cards:
        return ok("NUMA", text)
    text += f", the cards on {_listed(with_cards)}"
    if set(ours) & set(with_cards):
        return ok("NUMA", text)
    remedy = f"run on the cards' node: numactl --cpunodebind={with_cards[0]} --membind={with_cards[0]}"
    return warning("NUMA", f"{text}: every batch crosses between them", remedy)


def memory(machine: Machine) -> Finding:
    """Memory, as the system and the cgroup report it."""
    text = f"{size(machine.available_bytes)} of {size(machine.memory_bytes)} available"
    if (limit := machine.memory_limit) is not None and limit.limit_bytes < machine.memory["MemTotal"]:
        text += f" (the cgroup's limit; the machine has {size(machine.memory['MemTotal'])})"
    if machine.available_bytes >= MIN_MEMORY:
        return ok("memory", text)
    return warning(
        "memory",
        text,
        f"a run needs about {size(MIN_MEMORY)}: end other programs or raise the container's limit",
    )


def locked_memory(machine: Machine) -> Finding:
    """How much memory may be locked, as memory must be that network cards read and write directly."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return ok("locked memory", "no limit")
    text = f"limit {size(soft)}"
    if machine.may_lock_beyond:
        return ok("locked memory", f"{text}, which does not apply to this process (it has CAP_IPC_LOCK)")
    cards = machine.cards or machine.device_files()
    if soft >= (MIN_LOCKED_WITH_CARDS if cards else MIN_LOCKED):
        return ok("locked memory", text)
    how = (
        "ulimit -l unlimited"
        if hard == resource.RLIM_INFINITY
        else "memlock unlimited in /etc/security/limits.conf"
    )
    return warning(
        "locked memory",
        f"{text}, too little for collectives over RDMA (nccl, hccl between hosts) and for drivers that count pinned batches",
        f"{how} (docker run --ulimit memlock=-1, systemd LimitMEMLOCK=infinity)",
    )


def shared_memory(machine: Machine) -> Finding:
    """/dev/shm, through which ranks of one host exchange gradients."""
    path = machine.dev / "shm"
    name, remedy = (
        "shared memory",
        "enlarge it: docker run --shm-size=1g, or mount -o remount,size=1g /dev/shm",
    )
    try:
        found = os.statvfs(path)
    except FileNotFoundError:
        return warning(name, f"there is no {path}, which packing and several ranks need", remedy)
    total, free = found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail
    text = f"{path} has {size(free)} of {size(total)} free"
    if not os.access(path, os.W_OK):
        return warning(
            name, f"{text}, but cannot be written, as packing and several ranks need", f"chmod 1777 {path}"
        )
    if free >= MIN_SHARED:
        return ok(name, text)
    return warning(name, f"{text}; nccl and hccl fail to start several ranks on too little", remedy)


def open_files(machine: Machine) -> Finding:
    """How many files and sockets a process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MIN_FILES:
        return ok("open files", "no limit" if soft == resource.RLIM_INFINITY else f"limit {soft:,}")
    most = MIN_FILES if hard == resource.RLIM_INFINITY else min(hard, 65536)
    return warning(
        "open files", f"limit {soft:,}, too few for ranks and packing workers", f"ulimit -n {most}"
    )


def _listed(nodes: list[int]) -> str:
    return f"node{'s' if len(nodes) > 1 else ''} {', '.join(map(str, nodes))}"
