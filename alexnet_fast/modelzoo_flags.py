"""The reference's command line: Ascend ModelZoo's AlexNet, a port of the PyTorch ImageNet example.

Its flags set recipe keys, so that a line of its scripts works after `python -m alexnet_fast.train`:

    recipe < the reference's flags < --set section.key=value

Without a RECIPE the flags choose one (`choose_recipe`).  docs/reference.md lists scripts, flags and differences.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from . import shipped_recipes
from .common import cli
from .common.command_name import typed
from .common.cpus import allowed_cores
from .common.paths import check_text
from .devices.facts import CUDA, NPU
from .errors import UserError
from .packing.data_folder import find_or_pack
from .packing.sources.image_folder import SPLITS
from .recipe import Recipe
from .recipe_toml import toml

PORT = 29688  # where the reference's ranks meet, unless --dist-url names another
RECIPES = shipped_recipes.FOLDER


class Flag(NamedTuple):
    """A flag of the reference that sets one recipe key to its value."""

    names: tuple[str, ...]
    key: str
    type: Callable[[str], Any]
    metavar: str
    help: str = ""


def _loss_scale(text: str) -> float | str:
    """A number or 'dynamic'; the reference's -1 is 'dynamic' too."""
    return "dynamic" if text in ("dynamic", "-1", "-1.0") else float(text)


def _device(text: str) -> str:
    kind, colon, index = text.lower().partition(":")
    return ("cuda" if kind == "gpu" else kind) + colon + index


FLAGS = (
    Flag(("--seed",), "run.seed", int, "N"),
    Flag(("--device",), "run.device", _device, "KIND", "npu, gpu (= cuda), cpu or auto"),
    Flag(("--epochs",), "schedule.epochs", int, "N"),
    Flag(("-b", "--batch-size"), "data.global_batch_size", int, "N", "over all cards of all hosts"),
    Flag(("--learning-rate", "--lr"), "optim.lr", float, "LR"),
    Flag(("--mom", "--momentum"), "optim.momentum", float, "M"),
    Flag(("--weight-decay", "--wd"), "optim.weight_decay", float, "W"),
    Flag(("--label-smoothing",), "optim.label_smoothing", float, "S"),
    Flag(("-p", "--print-freq"), "log.print_freq", int, "N"),
    Flag(("--dist-backend",), "distributed.backend", str, "NAME", "hccl, nccl, gloo or auto"),
    Flag(("--opt-level",), "precision.level", str, "LEVEL", "O0, O1 or O2"),
    Flag(("--loss-scale", "--loss_scale"), "precision.loss_scale", _loss_scale, "SCALE", "a number or dynamic"),
)  # fmt: skip

# Flags of the example without a counterpart, and what to do instead.
INSTEAD = {
    "--pretrained": "give the weights with --set model.weights=PATH",
    "--start-epoch": "--resume PATH resumes at the epoch that the checkpoint names",
}


class Parser(cli.Parser):
    """The parser of a command line that has the reference's flags."""

    instead = INSTEAD


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the reference's flags, each with the recipe key that it sets, as a separate group."""
    group = parser.add_argument_group(
        "the reference's flags",
        "Ascend ModelZoo's AlexNet; each overrides the recipe, and --set overrides each",
    )
    add = group.add_argument
    add(
        "--data_path", "--data-path", type=cli.file_path, metavar="DIR",
        help="data.train and data.val: a folder of train.beton and val.beton, or of train/<class>/* and val/<class>/*, "
        "which is packed first, once",
    )  # fmt: skip
    add(
        "--beton-dir", type=cli.file_path, metavar="DIR",
        help="where a folder is packed to (not a flag of the reference; default: DIR-beton, next to --data_path)",
    )  # fmt: skip
    for flag in FLAGS:
        add(
            *flag.names, dest=flag.key, type=flag.type, metavar=flag.metavar,
            help=flag.key + (f": {flag.help}" if flag.help else ""),
        )  # fmt: skip
    add(
        "-j",
        "--workers",
        type=int,
        metavar="N",
        help="data.threads: decoding threads of all ranks of this host",
    )
    add(
        "--amp", action=argparse.BooleanOptionalAction,
        help="precision.level: O2, or O0 with --no-amp; without either, as the recipe says",
    )  # fmt: skip
    add("--gpu", type=int, metavar="N", help="run.device: train on this one card; distributed.nproc = 1")
    add(
        "--multiprocessing-distributed", action="store_true",
        help="distributed.nproc: a rank for each card of this host",
    )  # fmt: skip
    add(
        "--device_list",
        "--device-list",
        metavar="0,1,...",
        help="distributed.nproc: how many cards, from the first",
    )
    add("--world-size", type=int, metavar="N", help="distributed.hosts: how many hosts")
    add("--rank", type=int, metavar="N", help="distributed.host: this host's number, from 0")
    add("--addr", metavar="HOST", help="distributed.address: where host 0 is")
    add(
        "--dist-url",
        metavar="URL",
        help="distributed.address: tcp://host:port, or env:// for MASTER_ADDR and others",
    )
    add(
        "--dummy",
        action="store_true",
        help="data.synthetic: synthetic images for measuring, in place of --data_path",
    )
    add("-a", "--arch", metavar="NAME", help="model.name: the network")


def settle(arguments: argparse.Namespace, parser: Parser) -> argparse.Namespace:
    """Distinguish the positional arguments, a recipe or (as in the reference) the data; `recipe` becomes a Path or None."""
    given, arguments.recipe = arguments.recipe, None
    for text in map(str, given):
        is_data = os.path.isdir(text) or text.endswith(".beton")
        if not is_data and not os.path.exists(text):
            if hint := shipped_recipes.hint(text):
                parser.error(f"{text} does not exist: {hint}")
            text = shipped_recipes.find(text)
            if not text.endswith(".toml"):
                parser.error(
                    f"{text} does not exist: expected a recipe (a .toml file) or a folder of data; or the name of a recipe of the "
                    f"package, one of {', '.join(shipped_recipes.names())}"
                )
        name = "data_path" if is_data else "recipe"
        if getattr(arguments, name) is not None:
            parser.error(
                f"unexpected argument {text} after {getattr(arguments, name)}: give one recipe and one folder of data"
            )
        setattr(arguments, name, Path(text))
    if arguments.beton_dir is not None and arguments.data_path is None:
        parser.error(
            f"--beton-dir {arguments.beton_dir} says where --data_path is packed: give --data_path too"
        )
    if arguments.recipe is None and not arguments.keys and not _any_given(arguments):
        parser.error(f"expected a RECIPE, such as tiny: see {typed('recipes')}")
    return arguments


def _any_given(arguments: argparse.Namespace) -> bool:
    """Whether the arguments include a flag of the reference, so that the flags can choose the recipe."""
    flags = argparse.ArgumentParser()
    add_flags(flags)
    return any(getattr(arguments, name) != default for name, default in vars(flags.parse_args([])).items())


def choose_recipe(arguments: argparse.Namespace, folder: Path = RECIPES) -> Path:
    """The recipe of the reference's script that passes such flags.

    One card or eight by --multiprocessing-distributed, the performance run by --epochs=1, 8p_eval by --evaluate.
    """
    name = "8p" if arguments.multiprocessing_distributed else "1p"
    if arguments.eval:
        name = "8p_eval" if name == "8p" else name
    elif getattr(arguments, "schedule.epochs") == 1:
        name += "_perf"
    path = folder / f"{name}.toml"
    if not path.is_file():
        raise UserError(
            f"no RECIPE was given, and {path}, which these flags select, does not exist: give its path"
        )
    return path


def overrides(
    arguments: argparse.Namespace, base: Recipe, environ: Mapping[str, str] = os.environ
) -> list[str]:
    """What the flags set, except for the data, as section.key=value.

    base: the recipe that they override.
    Raises UserError for flags that contradict each other or name a device that is not available.
    """
    keys: dict[str, Any] = {
        flag.key: getattr(arguments, flag.key) for flag in FLAGS if getattr(arguments, flag.key) is not None
    }
    if arguments.arch is not None:
        keys["model.name"] = arguments.arch
    if arguments.dummy:
        keys["data.synthetic"] = True
    if arguments.amp is not None:
        keys.setdefault("precision.level", "O2" if arguments.amp else "O0")
    keys |= _cards(arguments, keys.get("run.device", base.run.device))
    if not {"RANK", "LOCAL_RANK"} <= environ.keys():  # torchrun sets the ranks, and where they meet, itself
        keys |= _hosts(arguments, base, environ)
    if arguments.workers is not None:
        # The flag counts threads of the host, the key those of a rank; with 0 each rank uses its share of the cores.
        nproc = keys.get("distributed.nproc", base.distributed.nproc)
        keys["data.threads"] = 0 if arguments.workers >= allowed_cores() else -(-arguments.workers // nproc)
    return _as_set(keys)


def data_overrides(
    arguments: argparse.Namespace, recipe: Recipe, say: Callable[[str], None] = print
) -> list[str]:
    """What --data_path sets, as section.key=value; packs a folder of images.

    recipe: the one that will run, except for its data.  Raises UserError for a folder without the sets that it needs.
    """
    given, evaluates = arguments.data_path, arguments.eval or recipe.eval.only
    _kind(recipe.run.device)  # report a missing device before half an hour of packing
    for flag, path in (("--data_path", given), ("--beton-dir", arguments.beton_dir or given)):
        check_text(os.path.abspath(path), flag)  # before packing: the recipe will hold these paths
    sets = find_or_pack(given, arguments.beton_dir, SPLITS[1:] if evaluates else SPLITS, say)
    if sets.train is None and not evaluates:
        raise UserError(f"--data_path {given} has nothing to train on: expected train/ or train.beton")
    if sets.val is None and evaluates:
        raise UserError(f"--data_path {given} has nothing to evaluate on: expected val/ or val.beton")
    keys: dict[str, Any] = {f"data.{split}": str(path) for split, path in sets._asdict().items() if path}
    if sets.val is None:
        say(f"{given} has no val/: nothing will be evaluated")
        keys["eval.every"] = 0
    return _as_set(keys)


def _as_set(keys: Mapping[str, Any]) -> list[str]:
    return [f"{key}={toml(value)}" for key, value in keys.items()]


def _cards(arguments: argparse.Namespace, device: str) -> dict[str, Any]:
    """Which devices of this host train: one by --gpu, all by --multiprocessing-distributed."""
    if not arguments.multiprocessing_distributed:
        if arguments.gpu is None:
            return {}
        kind = _kind(device)
        if kind == "cpu":
            raise UserError(f"--gpu {arguments.gpu} names a card, but the device is the CPU: remove --gpu")
        return {"run.device": f"{kind}:{arguments.gpu}", "distributed.nproc": 1}
    if arguments.gpu is not None:
        raise UserError(
            f"--gpu {arguments.gpu} (one card) and --multiprocessing-distributed (all cards) contradict each other: "
            "give one of them"
        )
    if arguments.device_list is not None:
        cards = arguments.device_list.split(",")
        if cards != [str(index) for index in range(len(cards))]:
            raise UserError(
                f"--device_list {arguments.device_list}: expected cards from 0 on, as 0,1,2; to use others set "
                f"{NPU.visible_variable} or {CUDA.visible_variable}"
            )
        return {"distributed.nproc": len(cards)}
    kind = _kind(device)
    if kind == "cpu":
        return {}  # as many ranks as the recipe says, since a CPU has no cards to count
    return {"run.device": kind, "distributed.nproc": _count(kind)}


def _kind(device: str) -> str:
    """cpu, cuda or npu: the kind of a recipe's device on this machine. Raises UserError where it is not available."""
    from .devices.registry import resolve

    return resolve(device.partition(":")[0]).kind


def _count(kind: str) -> int:
    """The number of cards of a kind that this process sees."""
    import torch

    return torch.get_device_module(kind).device_count()


def _hosts(arguments: argparse.Namespace, base: Recipe, environ: Mapping[str, str]) -> dict[str, Any]:
    """The number of hosts, which one this is, and where they meet."""
    url, count, number = arguments.dist_url, arguments.world_size, arguments.rank
    if url == "env://":
        count = _from(environ, "WORLD_SIZE") if count in (None, -1) else count
        number = _from(environ, "RANK") if number in (None, -1) else number
    keys: dict[str, Any] = {}
    if count not in (None, -1):
        keys["distributed.hosts"] = count
    hosts = keys.get("distributed.hosts", base.distributed.hosts)
    if number not in (None, -1):
        if not 0 <= number < hosts:
            raise UserError(
                f"--rank {number} is not the number of a host: with --world-size {hosts}, expected 0 to {hosts - 1}"
            )
        keys["distributed.host"] = number
    if hosts > 1 and (arguments.addr or url):
        keys["distributed.address"] = _meeting_place(arguments.addr, url, environ)
    return keys


def _meeting_place(addr: str | None, url: str | None, environ: Mapping[str, str]) -> str:
    """host:port of host 0.

    As in the reference on NPUs, --addr overrides the host of --dist-url, where its scripts leave 127.0.0.1.
    """
    host, port = None, PORT
    if url == "env://":
        host, port = environ.get("MASTER_ADDR"), _from(environ, "MASTER_PORT") or PORT
    elif url:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or PORT
        except ValueError:
            parts = None
        if parts is None or parts.scheme != "tcp" or not host:
            raise UserError(f"--dist-url {url}: expected tcp://host:port or env://")
    host = addr or host
    if not host:
        raise UserError("--dist-url env:// finds no MASTER_ADDR in the environment: set it, or give --addr")
    return f"{host}:{port}"


def _from(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise UserError(f"--dist-url env:// finds {name}={text} in the environment: expected a whole number")
    return int(text)
