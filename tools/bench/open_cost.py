"""What it costs to open a beton: ``python -m bench.open_cost FILE``, a process of its own, prints it as JSON.

Memory is the peak of the process while it opened the file, less what it held before, in bytes. It counts the
file's own pages too, though the kernel can take those back and processes that open the same file share them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.runner import TOOLS, child_environment

OPENED = ("Beton", "Loader")


def measure(path: Path) -> dict[str, dict[str, float]]:
    """Seconds and bytes of opening ``path`` by Beton and by Loader, each in a fresh process."""
    return {what: _child(path, what) for what in OPENED}


def _child(path: Path, what: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.open_cost", str(path.resolve()), what]
    done = subprocess.run(
        command, cwd=TOOLS, env=child_environment(1), capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def _beton(path: Path) -> object:
    from alexnet_fast.beton.reader import Beton

    return Beton(path)


def _loader(path: Path) -> object:
    from alexnet_fast import Loader

    # Its thread decodes at once, and the pages that it touches would count: small batches, few pages.
    return Loader(path, 16, train=True, threads=1)


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def main(path: Path, what: str) -> None:
    from bench.large_files import write_sparse

    opener = {"Beton": _beton, "Loader": _loader}[what]
    small = write_sparse(path.with_name(f"small-{what}.beton"), 256)
    warm_up: Any = opener(small)  # imports, compiled code
    warm_up.close()
    small.unlink()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is held now
    before, own_before = _status_bytes("VmRSS"), _status_bytes("RssAnon")
    started = time.perf_counter()
    opened: Any = opener(path)
    seconds = time.perf_counter() - started
    peak, own = _status_bytes("VmHWM") - before, _status_bytes("RssAnon") - own_before
    found = {"seconds": seconds, "peak_bytes": peak, "own_bytes": own}
    if what == "Loader":
        from alexnet_fast.loader.sampler import epoch_permutation

        epoch_permutation(256, 0, 0)
        started = time.perf_counter()
        epoch_permutation(opened.num_samples, 0, 0)
        found["order_s"] = time.perf_counter() - started
    opened.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
