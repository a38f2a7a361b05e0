"""Whether a run's folder can be written and its disk has room for the checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from .text import size

BYTES_PER_NUMBER = 4  # in a checkpoint all is float32


class Room(NamedTuple):
    """found: the folder and its free space; remedy: what to do if it cannot be written or has no room, else empty."""

    found: str
    remedy: str


def room_for_checkpoints(folder: Path, files: int, parameters: int, tensors: int = 2) -> Room:
    """Whether N checkpoints (`files`) of a model with that many `parameters` fit into `folder`, which need not exist yet.

    tensors: how many numbers there are for each parameter: the master weight, and its momentum.
    Checkpoints that are in the folder already count as free space: a run that resumes replaces them.
    Raises OSError if the free space cannot be read.
    """
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Room(f"{folder}: {there} cannot be written", "--set run.out=FOLDER, one that can be")
    disk = os.statvfs(there)
    free = disk.f_frsize * disk.f_bavail
    present = {found.st_ino: found.st_size for found in map(os.stat, folder.glob("checkpoint_*.pt"))}
    wanted = files * BYTES_PER_NUMBER * tensors * parameters - sum(present.values())
    text = f"{folder}: {size(free)} free"
    if free >= wanted:
        return Room(text, "")
    return Room(f"{text}, checkpoints take {size(wanted)} more", "--set run.out=FOLDER, on a larger disk")
