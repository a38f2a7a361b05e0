"""The checkpoints in a run's folder: which are kept, and which one a run goes on from.

    checkpoint_last.pt               the newest
    checkpoint_e0003_s000120.pt ...  those before it, by the epoch and step that each goes on at
    checkpoint_best.pt               the best by the task's first metric: the same file as one of these, or as one long gone

The newest gets its numbered name when its successor lies whole on the disk, and only then the oldest goes.
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
    """The run's checkpoints, the newest first."""
    places = {path: found for path in folder.glob("*.pt") if (found := NUMBERED.fullmatch(path.name))}
    earlier = sorted(places, key=lambda path: [int(number) for number in places[path].groups()], reverse=True)
    return [path for path in (folder / LAST, *earlier) if path.exists()]


def load_latest_valid(folder: Path) -> tuple[Path, dict[str, Any], list[str]] | None:
    """The run's newest checkpoint that is not damaged, and what to say of newer ones that are; None without any.

    Raises UserError where all are damaged.
    """
    found, notes = list_checkpoints(folder), list[str]()
    for at, path in enumerate(found):
        try:
            return path, checkpoint.load(path, is_ours=True), notes
        except CorruptCheckpoint as error:
            before = f"{found[at + 1]}, the one before it" if at + 1 < len(found) else None
            notes.append(f"{path} is damaged ({error.reason}): taking {before}")
            if before is None:
                raise UserError(
                    f"{path} is damaged ({error.reason}), and {folder} has no other checkpoint that is whole: "
                    "move it away to begin anew, or give --resume PATH"
                ) from error
    return None


def load(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`; raises UserError, which for a damaged one names the one before it that is whole."""
    found = list_checkpoints(path.parent)
    try:
        return checkpoint.load(path, is_ours=path in found)
    except CorruptCheckpoint as error:
        before = found[found.index(path) + 1 :] if path in found else found
        whole = next(
            (other for other in before if checkpoint.check_integrity(other, is_ours=True) is None), None
        )
        if whole is None:
            raise
        raise UserError(
            f"the checkpoint {path} is damaged ({error.reason}): {whole}, the one before it, is whole; give that"
        ) from error


class CheckpointManager:
    """Writes a run's checkpoints into its folder, and keeps the last `keep`.

    Every rank has one, and calls it; the first writes.

    taken: the checkpoint of a run that this one goes on from, which stands at `cursor`; None where it begins anew.
    What lies in the folder and is none of this run's past, the best included, goes when its first checkpoint lies there whole.
    What a killed run left half-written goes at once.
    """

    def __init__(self, folder: Path, keep: int, world: World, taken: Path | None, cursor: Cursor) -> None:
        self._folder, self._keep, self._world = folder, keep, world
        self._past: list[str] = []  # the numbered ones of this run, the oldest first
        self._last: Cursor | None = None  # where the last one stands, if it is this run's
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
        """Make the run as it stands the last checkpoint; False, on all ranks, where a weight or momentum is not finite.

        is_best: make it the best as well, and that first: the last one says how good the best is, so that a run that
        is killed between the two and goes on from it would wait in vain to be as good again.
        Nothing is written where the last one stands there already.  Raises UserError where it cannot be written.
        """
        if self._last == progress.cursor:  # never so behind an evaluation, which moves the cursor on
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
        self._remove_all_but(self._past)  # what is of another past goes before this one's first is in place
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
        """Whether the best is as good as this run's past says; one that cannot be read is left to whoever reads it."""
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
    """Whether all weights and momenta are numbers."""
    momenta = (value for state in snapshot["optimizer"]["state"].values() for value in state.values())
    tensors = [value for value in (*snapshot["state_dict"].values(), *momenta) if isinstance(value, Tensor)]
    # In one pass: the least and the largest of what holds a NaN are NaN.
    return all(bool(torch.stack(tensor.aminmax()).isfinite().all()) for tensor in tensors if tensor.numel())
