"""One start, in its own process, which reports when each of its stages was over.

    python -m bench.start torch
    python -m bench.start loader BETON BATCH_SIZE THREADS
    python -m bench.start train BETON BATCH_SIZE THREADS FOLDER

Prints one line of JSON: [stage, seconds on the monotonic clock (which all processes share), CPU seconds], ...
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

STAGES: list[tuple[str, float, float]] = []


def over(stage: str) -> None:
    """A stage of the start ends here."""
    STAGES.append((stage, time.monotonic(), time.process_time()))


class FirstStep(Exception):
    """The training's first step is done."""


def torch_alone() -> None:
    import torch  # noqa: F401

    over("torch")


def loader(path: str, batch_size: int, threads: int) -> None:
    import torch  # noqa: F401

    over("torch")
    import numba  # noqa: F401

    over("numba")
    from alexnet_fast import Loader
    from alexnet_fast.loader.preload import kernels

    over("our modules")
    with Loader(path, batch_size, train=True, threads=threads) as batches:
        first = iter(batches)
        over("open")
        kernels.wait(give_up=lambda: False)
        over("kernels")
        next(first)
        over("first batch")


def train(path: str, batch_size: int, threads: int, folder: str) -> None:
    from alexnet_fast.torch_import import import_torch, prefer_passive_openmp

    prefer_passive_openmp()
    import_torch()
    over("torch")
    import numba  # noqa: F401

    over("numba")
    from alexnet_fast import train as command  # noqa: F401 (what the command imports)
    from alexnet_fast.recipe_toml import load
    from alexnet_fast.trainer import Trainer

    over("our modules")
    recipe = Path(folder) / "start.toml"
    recipe.write_text(
        f'[run]\nname = "start"\ndevice = "cpu"\nout = {json.dumps(folder)}\n'
        f"[data]\ntrain = {json.dumps(path)}\nthreads = {threads}\nglobal_batch_size = {batch_size}\n"
        "[eval]\nevery = 0\n[schedule]\nepochs = 1\n"
    )

    class Started(Trainer):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            over("set-up")
            setattr(self.clock, "step", self.stop)  # noqa: B010 (a method, for this run alone)

        def stop(self, *_: object) -> None:
            over("first step")
            raise FirstStep

    loaded = load(recipe, [])
    over("recipe")
    with ExitStack() as stack, suppress(FirstStep):
        Started(loaded, None, stack).run()


def main(kind: str, *arguments: str) -> None:
    over("interpreter")
    numbers = [int(argument) if argument.isdigit() else argument for argument in arguments]
    starts: dict[str, Any] = {"torch": torch_alone, "loader": loader, "train": train}
    starts[kind](*numbers)
    print(json.dumps(STAGES))


if __name__ == "__main__":
    main(*sys.argv[1:])
