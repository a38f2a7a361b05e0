"""The folder of a run's results: made, held for one run alone, written to."""

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
    """The run's folder, with the resolved recipe in it; begins: and without the results of an earlier run."""
    with writing(recipe.folder):
        for name in (REPORT, EVALUATION) if begins else ():
            (recipe.folder / name).unlink(missing_ok=True)
        write_text(recipe.folder / "recipe.toml", dump(recipe))
    return recipe.folder


def hold_run_folder(recipe: Recipe, world: World, stack: ExitStack) -> None:
    """Have the run's folder for this run alone until `stack` closes, once a run that still saves there has ended.

    Every rank has to call this; the first claims it.  Raises UserError where another run stays there.
    """
    if world.is_rank0:
        with writing(recipe.folder):
            patience_s = recipe.distributed.stop_s  # which is what a run that is told to stop may take
            stack.enter_context(run_lock(recipe.folder, patience_s, partial(print, flush=True)))
    world.all_reduce_sum(torch.zeros(1))  # nobody looks for checkpoints before


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """The run's folder, there to be written to; an OSError is the user's to mend."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be written ({error}): set run.out") from error
