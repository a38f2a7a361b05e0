"""Train AlexNet by a recipe: ``python -m alexnet_fast.train RECIPE [--set section.key=value ...]``.

The flags of the reference, Ascend ModelZoo's AlexNet, work too (modelzoo_flags.py).
Exit codes: 0 done, 1 a rank failed (its error on stderr), 2 a mistake that the user can fix (one sentence on
stderr), 143 stopped by SIGTERM, 130 by SIGINT (Ctrl-C).  Both signals finish the step, save and exit, and
``--resume auto`` resumes from there; an evaluation that they interrupt is run again.  After the first signal SIGTERM
has no effect, and SIGINT ends the run at once, without a save.  This holds for one rank and for many.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from .errors import UserError, exit_code
from .torch_import import import_torch, prefer_passive_openmp

prefer_passive_openmp()

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while torch is imported ends without a traceback

try:
    import_torch()
except UserError as error:
    if __name__ != "__main__":
        raise
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

from . import modelzoo_flags
from .build import fetch_sets, launch_config
from .distributed import launcher
from .errors import escaped
from .models import spec_of
from .recipe import Recipe
from .recipe_toml import keys, load
from .synthetic import dataset
from .train_options import parse
from .trainer import evaluate_only, train


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code.

    argv: arguments in place of the command line's.  Ranks run the command line of this process again or, where `argv` is
    given, ``python -m alexnet_fast.train`` with those arguments.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # from here on Ctrl-C is reported in one line
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def run() -> int:
        arguments = parse(argv)
        if arguments.keys:
            from .augment.operations import described, of_recipes

            print("| key | type | default | what it does |\n|---|---|---|---|")
            print(
                "\n".join(
                    f"| `{key.name}` | {key.type} | `{key.default}` | {key.description} |" for key in keys()
                )
            )
            print("\nThe operations of `augment.operations`, with their parameters:\n")
            print("\n".join(f"- {described(kind)}" for kind in of_recipes().values()))
            return 0
        recipe = settled_recipe(arguments)

        def entry() -> object:
            if arguments.profile:
                from .profile.profiler import profile  # imports Pillow, which training does not need

                return profile(recipe, *([arguments.seconds] if arguments.seconds else []))
            if arguments.eval or recipe.eval.only:
                return evaluate_only(recipe, arguments.resume)
            return train(recipe, arguments.resume)

        command = None if argv is None else (sys.executable, "-m", "alexnet_fast.train", *argv)
        return launcher.launch(launch_config(recipe), entry, command, shared=recipe.model_dump_json())

    return exit_code(run)


def settled_recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe to run: the file's, overridden by flags and --set; packs, makes or fetches images where they are asked for.

    The launcher does this once; its ranks receive the result.
    """
    if (shared := launcher.shared_text()) is not None:
        return Recipe.model_validate_json(shared)
    path = arguments.recipe or modelzoo_flags.choose_recipe(arguments)
    flags = modelzoo_flags.overrides(arguments, load(path, arguments.set))
    recipe = load(path, [*flags, *arguments.set])
    launch_config(recipe)  # mistakes are found before images are packed
    spec_of(recipe.model.name).check()
    if recipe.data.synthetic:
        recipe = load(path, [*flags, *arguments.set, *dataset.overrides(recipe, say)])
    elif arguments.data_path:
        flags += modelzoo_flags.data_overrides(arguments, recipe, say)
        recipe = load(path, [*flags, *arguments.set])
    fetch_sets(recipe)
    return recipe


def say(sentence: str) -> None:
    """Print a sentence, once for all ranks, which torchrun may have started."""
    if os.environ.get("RANK", "0") == "0":
        print(escaped(sentence), flush=True)


if __name__ == "__main__":
    sys.exit(main())
