"""Who runs: one line for each contestant, and the ratios that are reported."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contestant:
    """A way of making batches out of one input."""

    name: str
    peer: str
    """Module of ``bench.peers``; also the name that ``--python`` takes."""
    input: str
    """One of ``inputs.KINDS``."""
    label: str
    variant: str = ""
    one_thread_only: bool = False


# In the order in which they run in each round.
CONTESTANTS = (
    Contestant("ours", "ours", "tiles", "alexnet_fast"),
    Contestant("limit", "limit", "tiles", "limit: tiles to planes, no resampling", one_thread_only=True),
    Contestant("ffcv", "ffcv", "ffcv-jpeg", "FFCV", variant="own"),
    Contestant("ours-on-ffcv", "ours", "ffcv-jpeg", "alexnet_fast on FFCV's file"),
    Contestant("ffcv-ours", "ffcv", "tiles", "FFCV with our operation", variant="ours"),
    Contestant("ffcv-ours-import", "ffcv", "tiles", "FFCV with our operation, its flip", variant="import"),
    Contestant(
        "ffcv-ours-on-ffcv", "ffcv", "ffcv-jpeg", "FFCV with our operation on its file", variant="ours"
    ),
    Contestant("torchvision", "torchvision", "folder", "torchvision (PIL, DataLoader)"),
    Contestant("dali", "dali", "folder", "DALI (CPU)"),
    Contestant("pillow", "pillow", "folder", "Pillow alone"),
    Contestant("ours-raw", "ours", "raw", "alexnet_fast, raw"),
    Contestant("ffcv-raw", "ffcv", "ffcv-raw", "FFCV, raw", variant="own"),
)

NAMES = tuple(contestant.name for contestant in CONTESTANTS)
PEERS = tuple(dict.fromkeys(contestant.peer for contestant in CONTESTANTS))
OURS = ("ours", "limit")  # a peer may be absent; these may not
RAW_INPUTS = ("raw", "ffcv-raw")

# (faster, slower): the speed of the first over that of the second, at the same side and thread count.
RATIOS = (
    ("ours", "ffcv"),
    ("ours", "dali"),
    ("ours", "torchvision"),
    ("ours", "pillow"),
    ("ours", "limit"),
    ("ours-on-ffcv", "ffcv"),
    ("ffcv-ours", "ffcv"),
    ("ffcv-ours-import", "ffcv"),
    ("ffcv-ours-on-ffcv", "ffcv"),
    ("ours-raw", "ffcv-raw"),
)
