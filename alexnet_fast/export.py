"""A trained model for other programs: its weights under torchvision's keys (.pt), or ONNX (.onnx).

    python -m alexnet_fast.export runs/tiny alexnet.onnx

The ONNX model is in float32.  Its input ``images`` is (N, 3, size, size), RGB: bytes as the loader gives them with --input uint8, which
it normalizes itself, or float32, normalized with ImageNet's mean and standard deviation.  Its output ``outputs`` is (N, classes): logits.
Class names are in its metadata under "classes", as JSON.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from .common.cli import Defaults, Parser, add_set_flag, file_path
from .errors import exit_code
from .torch_import import import_torch, prefer_passive_openmp

PROG = "python -m alexnet_fast.export"


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> None:
    """The command line.

    Raises:
        UserError: see ``errors.exit_code``, which turns it into a sentence and a code.
    """
    arguments = parse(argv, prog)
    prefer_passive_openmp()
    import_torch()
    from .prediction.exports import export_onnx, export_weights
    from .prediction.trained import load_trained

    model = load_trained(arguments.model, arguments.recipe, arguments.set, "cpu", arguments.ema)
    if arguments.out.suffix == ".onnx":
        export_onnx(model, arguments.out, takes_bytes=arguments.input == "uint8")
    else:
        export_weights(model, arguments.out)
    print(f"{arguments.out}: {model.describe()}, from {model.path}")


def parser(prog: str) -> Parser:
    """The command line's parser."""
    made = Parser(prog=prog, description=__doc__.split("\n\n")[0], formatter_class=Defaults)
    add = made.add_argument
    add("model", type=file_path, metavar="CHECKPOINT", help="a checkpoint, or a run's folder: its best")
    add("out", type=file_path, metavar="FILE", help="what to write: a .pt or an .onnx")
    add("--input", choices=("float32", "uint8"), default="float32", help="what the ONNX model takes")
    add("--ema", action="store_true", help="with the average of the weights (optim.ema)")
    add("--recipe", type=file_path, metavar="FILE", help="for a checkpoint that holds weights alone")
    add_set_flag(made, "override a key of the recipe, such as eval.size")
    return made


def parse(argv: Sequence[str] | None, prog: str = PROG) -> Namespace:
    reader = parser(prog)
    arguments = reader.parse(argv)
    if arguments.out.suffix not in (".pt", ".onnx"):
        reader.error(
            f"{arguments.out} ends in neither .pt (weights) nor .onnx (the network): give one of them"
        )
    return arguments


def command(prog: str = PROG) -> int:
    """The entry point: ``main`` with this process's arguments; returns the exit code."""
    return exit_code(lambda: main(prog=prog))


if __name__ == "__main__":
    sys.exit(command())
