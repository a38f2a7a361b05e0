"""Draw the rooms of the package from its imports, and check that each imports only what it may.

    python tools/draw_house.py            # print the picture of docs/design.md
    python tools/draw_house.py --write    # put it there

Exit code 1 if a rule is broken.  The rules are ROOMS, from the top of the house to its ground floor: a room may import the rooms in
its list, and of the heavy packages those that it names.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "alexnet_fast"
DESIGN = ROOT / "docs/design.md"
BEGIN, END = "<!-- rooms: python tools/draw_house.py --write -->", "<!-- end of rooms -->"
HEAVY = frozenset(
    ("torch", "numba", "llvmlite", "PIL", "matplotlib", "ffcv", "pydantic", "threading", "triton")
)
"""Packages that are slow to import, or that only some rooms should use."""


@dataclass(frozen=True)
class Room:
    """One folder of the package, or one of its modules at the top.

    Attributes:
        holds: what it is for, in a few words.
        imports: the rooms that it may import, in addition to errors and _version, which import nothing of ours.
        heavy: which of HEAVY it may import.
    """

    holds: str
    imports: str = ""
    heavy: str = ""

    def may_import(self, other: str) -> bool:
        return other in ("errors", "_version", *self.imports.split())

    def may_load(self, package: str) -> bool:
        return package not in HEAVY or package in self.heavy.split()


ROOMS = {
    "__main__": Room(
        "alexnet-fast COMMAND: imports a command when it runs",
        "common completion doctor export inspect_beton pack predict shipped_recipes sample train",
    ),
    "completion": Room(
        "tab completion for shells",
        "common doctor export inspect_beton pack_options predict shipped_recipes sample train_options",
    ),
    "train": Room(
        "the command that trains",
        "augment build common distributed modelzoo_flags models profile recipe recipe_toml synthetic torch_import train_options trainer",
    ),
    "doctor": Room(
        "checks of the machine, of a recipe's files and, with --card, of an accelerator at work",
        "beton build common decode devices distributed engine kernel_cache loader models profile recipe recipe_toml remote run shipped_recipes synthetic "
        "torch_import",
        "torch numba PIL",
    ),
    "profile": Room(
        "measures every stage alone and all together: the bottleneck, and how to remove it",
        "beton build common decode devices distributed engine loader packing recipe run",
        "torch PIL threading",
    ),
    "pack": Room(
        "the command that packs: a set of images to its betons",
        "beton common inspection pack_options packing",
        "",
    ),
    "sample": Room("the command that makes a small set of images", "common synthetic"),
    "predict": Room(
        "the command that says what a trained model sees", "common loader prediction torch_import"
    ),
    "export": Room(
        "the command that writes a trained model for other programs", "common prediction torch_import"
    ),
    "prediction": Room(
        "a trained model in use: its predictions, its network",
        "beton build common decode devices engine loader models packing recipe recipe_toml run",
        "torch threading",
    ),
    "inspect_beton": Room(
        "the command that looks into a file", "augment beton common inspection recipe recipe_toml"
    ),
    "trainer": Room(
        "a training run, to be read from top to bottom",
        "build common decode distributed engine kernel_cache loader models recipe run",
        "torch",
    ),
    "build": Room(
        "builds the parts of a run from a recipe",
        "augment beton common devices distributed engine loader models recipe run",
        "torch",
    ),
    "inspection": Room(
        "looks into a file: figures, pictures, verification",
        "augment beton common decode packing",
        "PIL matplotlib threading",
    ),
    "pack_options": Room("the flags of packing", "beton common packing"),
    "synthetic": Room("training sets without a dataset", "beton common packing recipe", "PIL"),
    "train_options": Room("the flags of training", "common modelzoo_flags"),
    "modelzoo_flags": Room(
        "the flags of ModelZoo's AlexNet",
        "common devices models shipped_recipes packing recipe recipe_toml",
        "torch",
    ),
    "run": Room(
        "a run's folder: checkpoints, log, report, one run at a time",
        "beton common devices distributed engine loader recipe recipe_toml",
        "torch",
    ),
    "recipe_toml": Room("reads, writes and checks a recipe's file", "common recipe", "pydantic"),
    "recipe": Room("the sections of a recipe", "augment common models", "pydantic"),
    "engine": Room(
        "a training step, and an evaluation", "beton common devices distributed loader models", "torch triton"
    ),
    "ffcv_ops": Room("our decoders in FFCV's own Loader", "beton common decode", "ffcv threading"),
    "loader": Room(
        "pixels to batches: order, threads, host buffers, copies to the device",
        "augment beton common decode devices kernel_cache",
        "torch numba threading",
    ),
    "distributed": Room("processes that train together", "common devices", "torch threading"),
    "devices": Room("everything that differs between devices", "common", "torch"),
    "augment": Room(
        "what is done to one decoded image: one operation or family a file",
        "common decode kernel_cache",
        "numba llvmlite",
    ),
    "decode": Room(
        "bytes to pixels: compiled kernels, without threads or torch",
        "beton common kernel_cache",
        "numba llvmlite",
    ),
    "packing": Room(
        "the writing side of a beton; starts without numba and torch", "beton common", "PIL threading"
    ),
    "beton": Room("the file format and its reader", "common remote", "llvmlite threading"),
    "remote": Room("files elsewhere, fetched into a cache on a local disk", "common", "threading"),
    "kernel_cache": Room("compiled kernels, kept on disk", "", "numba"),
    "models": Room("networks", "", "torch"),
    "shipped_recipes": Room("the recipes that come with the package", "common"),
    "torch_import": Room("what must be set before torch is imported", "", "torch"),
    "common": Room("what every room uses", "", "threading"),
    "_version": Room("the version number"),
    "errors": Room("what the user can fix, and how commands end"),
}


@dataclass(frozen=True)
class Import:
    """One import statement: where it is, and the room of ours or the package that it names."""

    path: Path
    line: int
    room: str
    target: str
    ours: bool


def imports(package: Path) -> Iterator[Import]:
    """Every import in the package's modules, anywhere in a file; those under TYPE_CHECKING are skipped."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        room = parts[1]
        if room == "__init__":  # the public names, imported on first use
            continue
        for node in _executed(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = [*parts[: -node.level], *(node.module.split(".") if node.module else [])]
                for name in [alias.name for alias in node.names] if len(base) == 1 else [base[1]]:
                    if name != room:
                        yield Import(path, node.lineno, room, name, True)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                )
                for module in modules:
                    yield Import(path, node.lineno, room, module.partition(".")[0], False)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """A module's nodes, without those that only a type checker reads."""
    yield node
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not typing_only:
            yield from _executed(child)


def broken_rules(package: Path = ROOT / PACKAGE) -> list[str]:
    """One sentence for each import that ROOMS does not allow, and for each room that it does not have."""
    strangers = sorted({found.room for found in imports(package)} - ROOMS.keys())
    faults = [f"the room {name} is not in tools/draw_house.py" for name in strangers]
    for found in imports(package):
        where = f"{found.path.relative_to(package.parent)}:{found.line}"
        room = ROOMS.get(found.room)
        if room and not (room.may_import(found.target) if found.ours else room.may_load(found.target)):
            faults.append(f"{where}: {found.room} may not import {found.target}")
    return faults


def climbing() -> list[str]:
    """The rules that point up: a room may import only rooms below it, so that there is no circle."""
    floors = {name: floor for floor, name in enumerate(ROOMS)}
    return [
        f"{name} may import {other}, which is above it"
        for name, room in ROOMS.items()
        for other in room.imports.split()
        if floors[other] <= floors[name]
    ]


def picture(package: Path = ROOT / PACKAGE) -> str:
    """The rooms from the top down: what each holds, and what it imports now."""
    arrows: dict[str, set[str]] = defaultdict(set)
    for found in imports(package):
        if found.ours and found.target not in ("errors", "_version"):
            arrows[found.room].add(found.target)
    lines = []
    for name, room in ROOMS.items():
        shown = f"{name}/" if (package / name).is_dir() else f"{name}.py"
        lines.append(f"{shown:19}{room.holds}")
        if below := " ".join(other for other in ROOMS if other in arrows[name]):
            lines.append(f"{'':19}-> {below}")
    return "\n".join(lines)


def written(design: str) -> str:
    """The design page with the current picture."""
    before, _, rest = design.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n```\n{picture()}\n```\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="put the picture into docs/design.md")
    if parser.parse_args().write:
        DESIGN.write_text(written(DESIGN.read_text()))
    else:
        print(picture())
    faults = [*climbing(), *broken_rules()]
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
