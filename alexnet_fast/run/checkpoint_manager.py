"""The checkpoints in a run's folder: which are kept, and which one a run resumes from.

    checkpoint_last.pt               the newest
    checkpoint_e0003_s000120.pt ...  those before it, named by the epoch and step at which each resumes
    checkpoint_best.pt               the best by the task's first metric: a copy of one of these, or of one deleted since

The newest gets its numbered name once the next one is complete on the disk; only then the oldest is deleted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..distributed.world import World
from ..engine.precision import Precision
from ..errors import UserError
from . import checkpoint
from .checkpoint import BEST, LAST, CorruptCheckpoint, Cursor, ResumeState

NUMBERED = re.compile(r"checkpoint_e(\d{4,})_s(\d{6,})\.pt")


def numbered(cursor: Cursor) -> str:
    """The name of a checkpoint that is no longer the last."""
    return f"checkpoint_e{cursor['epoch']:04d}_s{cursor['step']:06d}.pt"


def list_checkpoints(folder: Path) -> list[Path]:
    """The run's checkpoints, newest first."""
    places = {path: found for path in folder.glob("*.pt") if (found := NUMBERED.fullmatch(path.name))}
    earlier = sorted(places, key=lambda path: [int(number) for number in places[path].groups()], reverse=True)
    return [path for path in (folder / LAST, *earlier) if path.exists()]


def load_latest_valid(folder: Path) -> tuple[Path, dict[str, Any], list[str]] | None:
    """The run's newest valid checkpoint, its content, and a note for each newer one that is corrupt; None without any.

    Raises UserError where all are corrupt.
    """
    found, notes = list_checkpoints(folder), list[str]()
    for at, path in enumerate(found):
        try:
            return path, checkpoint.load(path, is_ours=True), notes
        except CorruptCheckpoint as error:
            before = f"{found[at + 1]}, the one before it" if at + 1 < len(found) else None
            notes.append(f"{path} is corrupt ({error.reason}): using {before}")
            if before is None:
                raise UserError(
                    f"{path} is corrupt ({error.reason}), and {folder} has no other valid checkpoint: "
                    "move it away to start from scratch, or give --resume PATH"
                ) from error
    return None


def load(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`; raises UserError, which for a corrupt one names the valid one before it."""
    found = list_checkpoints(path.parent)
    try:
        return checkpoint.load(path, is_ours=path in found)
    except CorruptCheckpoint as error:
        before = found[found.index(path) + 1 :] if path in found else found
        valid = next(
            (other for other in before if checkpoint.check_integrity(other, is_ours=True) is None), None
        )
        if valid is None:
            raise
        raise UserError(
            f"the checkpoint {path} is corrupt ({error.reason}): {valid}, the one before it, is valid; give that one"
        ) from error


class CheckpointManager:
    """Writes a run's checkpoints into its folder, and keeps the last `keep`.

    Every rank has one and calls it; rank 0 writes.

    taken: the checkpoint that this run resumes from, saved at `cursor`; None for a fresh run.
    Checkpoints of other runs, best included, are deleted once this run's first checkpoint is complete.
    Partial files of a killed run are deleted at once.
    """

    def __init__(self, folder: Path, keep: int, world: World, taken: Path | None, cursor: Cursor) -> None:
        self._folder, self._keep, self._world = folder, keep, world
        self._past: list[str] = []  # the numbered ones of this run, oldest first
        self._last: Cursor | None = None  # the last one's, if it is this run's
        found = [path.name for path in list_checkpoints(folder)]
        if taken is not None and taken.name in found and taken.parent.resolve() == folder.resolve():
            self._past = [name for name in reversed(found[found.index(taken.name) :]) if name != LAST]
            self._last = cursor if taken.name == LAST else None
        self._best_is_known = self._last is not None  # to be this run's
        if world.is_rank0:
            for partial in folder.glob("checkpoint_*.partial"):
                partial.unlink(missing_ok=True)

    def save(
        self, precision: Precision, progress: ResumeState, recipe: dict[str, Any], is_best: bool = False
    ) -> bool:
        """Save the run's state as the last checkpoint; False, on all ranks, where a weight or momentum is not finite.

        is_best: save it as the best too, before the last one.  The last one records the best accuracy: in the other
        order, a run killed between the two would resume with a best accuracy that no file has.
        Writes nothing where the last one has the same cursor.  Raises UserError where it cannot be written.
        """
        if self._last == progress.cursor:  # never so after an evaluation, which advances the cursor
            return True
        snapshot = checkpoint.snapshot(precision, progress, recipe, self._world)
        fails = snapshot is not None and not is_finite(snapshot)
        if self._world.all_reduce_sum(torch.tensor(int(fails))):
            return False
        if snapshot is not None:
            self._write(snapshot, is_best)
        self._last = progress.cursor
        return True

    def _write(self, snapshot: dict[str, Any], is_best: bool) -> None:
        last = self._folder / LAST
        partial = checkpoint.write_partial(last, snapshot)
        if is_best:
            checkpoint.copy(partial, self._folder / BEST)
        self._remove_all_but(self._past)  # of another run: deleted before this run's first gets its name
        if self._last is not None and self._keep > 1 and last.exists():
            name = numbered(self._last)
            checkpoint.keep_as(last, self._folder / name)
            self._past = [*(other for other in self._past if other != name), name]
        checkpoint.commit(partial, last)
        if not (is_best or self._best_is_known or self._best_is_of(snapshot)):
            (self._folder / BEST).unlink(missing_ok=True)
        self._best_is_known = True
        self._past = self._past[-(self._keep - 1) :] if self._keep > 1 else []
        self._remove_all_but(self._past)

    def _best_is_of(self, snapshot: dict[str, Any]) -> bool:
        """Whether the best file has this run's best accuracy; True for one that cannot be read, so that it is kept."""
        best = self._folder / BEST
        key = checkpoint.best_key(snapshot)
        if snapshot[key] is None or not best.exists():
            return False
        try:
            return bool(checkpoint.load(best, is_ours=True).get(key) == snapshot[key])
        except UserError:
            return True

    def _remove_all_but(self, past: list[str]) -> None:
        for path in list_checkpoints(self._folder):
            if path.name not in (LAST, *past):
                path.unlink(missing_ok=True)


def is_finite(snapshot: dict[str, Any]) -> bool:
    """Whether all weights and momenta are finite."""
    momenta = (value for state in snapshot["optimizer"]["state"].values() for value in state.values())
    tensors = [value for value in (*snapshot["state_dict"].values(), *momenta) if isinstance(value, Tensor)]
    # In one pass: where a tensor holds a NaN, its minimum and maximum are NaN.
    return all(bool(torch.stack(tensor.aminmax()).isfinite().all()) for tensor in tensors if tensor.numel())
