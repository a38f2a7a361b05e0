"""The folder of a run's results: created, locked for one run, written to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch

from ..common.files import write_text
from ..distributed.world import World
from ..errors import UserError
from ..recipe import Recipe
from ..recipe_toml import dump
from .report import EVALUATION, REPORT
from .run_lock import run_lock


def make_folder(recipe: Recipe, begins: bool = False) -> Path:
    """Create the run's folder with the resolved recipe in it, and return it; begins: delete the results of an earlier run."""
    with writing(recipe.folder):
        for name in (REPORT, EVALUATION) if begins else ():
            (recipe.folder / name).unlink(missing_ok=True)
        write_text(recipe.folder / "recipe.toml", dump(recipe))
    return recipe.folder


def hold_run_folder(recipe: Recipe, world: World, stack: ExitStack) -> None:
    """Lock the run's folder for this run until `stack` closes; waits for a run that still saves there.

    Every rank has to call this; rank 0 takes the lock.  Raises UserError where another run does not end in time.
    """
    if world.is_rank0:
        with writing(recipe.folder):
            patience_s = recipe.distributed.stop_s  # the time that a signalled run has to save
            stack.enter_context(run_lock(recipe.folder, patience_s, partial(print, flush=True)))
    world.all_reduce_sum(torch.zeros(1))  # no rank looks for checkpoints before


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Create the run's folder; while the body runs, an OSError becomes a UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be written ({error}): set run.out") from error
