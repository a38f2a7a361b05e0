"""The process of one contestant: it opens its peer once, then runs a round for each line on stdin.

    python -m bench.child TASK      TASK is a peer.Task as JSON

Replies are lines of JSON on stdout: first ``{"versions": ...}`` or ``{"absent": reason}``, then one a round.
What libraries print goes to stderr. Standard library only, except for the peer's own module.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

from bench.competitors import OURS
from bench.peer import Peer, Task
from bench.proc import cpu_s, tree


def main() -> None:
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print; the channel must stay clean
    fields = json.loads(sys.argv[1])
    task = Task(**{**fields, "cores": tuple(fields["cores"])})
    # Before the first import of a library: they size their pools by the cores they see.
    os.sched_setaffinity(0, task.cores)
    try:
        module = importlib.import_module(f"bench.peers.{task.peer}")
    except (ImportError, OSError, RuntimeError) as error:  # OSError: one of its shared libraries is missing
        if task.peer in OURS:
            raise
        print(json.dumps({"absent": f"{type(error).__name__}: {error}".splitlines()[0]}), file=channel)
        return
    peer: Peer = module.open_peer(task)
    print(json.dumps({"versions": {"python": sys.version.split()[0], **module.versions()}}), file=channel)
    resting_since_s = cpu_s(tree(os.getpid()))
    for line in sys.stdin:
        rest_cpu_s = cpu_s(tree(os.getpid())) - resting_since_s
        reply = {"rest_cpu_s": rest_cpu_s, **run_round(peer, **json.loads(line))}
        print(json.dumps(reply), file=channel)
        resting_since_s = cpu_s(tree(os.getpid()))


def run_round(peer: Peer, first_epoch: int, epochs: int) -> dict[str, Any]:
    """One timed round: what was delivered, in what wall and CPU time."""
    peer.prepare(first_epoch)
    # Listing the processes takes milliseconds, so nothing but reading their clocks is done inside the interval.
    pids = tree(os.getpid())
    # Wall time is read before the CPU clock, and at the end after it, so that all CPU time is inside the interval.
    begin_s = time.perf_counter()
    cpu_begin_s = cpu_s(pids)
    tally = peer.run(epochs)
    used_s = cpu_s(pids) - cpu_begin_s
    wall_s = time.perf_counter() - begin_s
    used_s += cpu_s(set(tree(os.getpid())) - set(pids))  # workers that the round itself has started
    peer.rest()
    return {
        "images": tally.images,
        "labels": tally.labels,
        "shape": tally.shape,
        "dtype": tally.dtype,
        "wall_s": wall_s,
        "cpu_s": used_s,
    }


if __name__ == "__main__":
    main()
