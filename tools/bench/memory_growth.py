"""Whether a long run's memory grows: the private memory of the process after each epoch."""

from __future__ import annotations

from pathlib import Path

from alexnet_fast import Loader


def own_bytes() -> int:
    """Private memory of this process: without the pages of mapped files, which belong to the page cache."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))


def after_each_epoch(path: Path, epochs: int, batch_size: int, threads: int, size: int = 224) -> list[int]:
    """Bytes held after each of N epochs of training on a file."""
    found = []
    with Loader(path, batch_size, train=True, size=size, threads=threads) as loader:
        for _ in range(epochs):
            for _ in loader:
                pass
            found.append(own_bytes())
    return found
