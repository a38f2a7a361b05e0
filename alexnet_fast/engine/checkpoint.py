"""Checkpoints: written whole or not at all, read as data and never as code.

A checkpoint is a torch file with these keys:

    format           1
    state_dict       the model's weights, float32, torchvision's AlexNet keys
    optimizer        torch's SGD state (the momenta)
    scaler           the loss scale's state; empty where nothing is scaled
    skipped          steps left out because a gradient overflowed
    cursor           {"epoch": e, "step": s}: the next step is step s of epoch e
    meter            what the epoch had counted so far
    rng              {"cpu": state, "device": state or None}: dropout goes on where it was
    best_acc1        the best top-1 so far in percent, or None
    recipe           the resolved recipe

The weights alone (a state_dict, or a dict that holds one under "state_dict", with or without the prefix
"module." that DataParallel gives) load as well: they have no cursor, so they start a run or are evaluated.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from ..errors import UserError
from .device import Device
from .precision import Precision

FORMAT = 1
LAST, BEST = "checkpoint_last.pt", "checkpoint_best.pt"


class Cursor(TypedDict):
    """Where a run goes on: the next step is step `step` of epoch `epoch`, both counted from 0."""

    epoch: int
    step: int


@dataclass(frozen=True)
class Progress:
    """What a run has to remember besides weights and optimizer."""

    cursor: Cursor
    meter: dict[str, Any]
    best_acc1: float | None


def snapshot(precision: Precision, progress: Progress, recipe: dict[str, Any]) -> dict[str, Any]:
    """The run as it stands between two steps, on the CPU."""
    return {
        "format": FORMAT,
        "state_dict": precision.state_dict(),
        "optimizer": _to_cpu(precision.optimizer.state_dict()),
        "scaler": precision.scaler.state_dict(),
        "skipped": int(precision.skipped),
        "cursor": dict(progress.cursor),
        "meter": progress.meter,
        "rng": {"cpu": torch.get_rng_state(), "device": precision.device.random_state()},
        "best_acc1": progress.best_acc1,
        "recipe": recipe,
    }


def restore(checkpoint: dict[str, Any], precision: Precision, device: Device) -> Progress:
    """Put the run back where `snapshot` took it; raises UserError where it was another model's."""
    precision.load_state_dict(checkpoint["state_dict"])
    precision.optimizer.load_state_dict(checkpoint["optimizer"])
    if checkpoint["scaler"] and precision.scaler.is_enabled():
        precision.scaler.load_state_dict(checkpoint["scaler"])
    precision.skipped.fill_(checkpoint["skipped"])
    torch.set_rng_state(checkpoint["rng"]["cpu"])
    device.set_random_state(checkpoint["rng"]["device"])
    return Progress(checkpoint["cursor"], checkpoint["meter"], checkpoint["best_acc1"])


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write `checkpoint` so that `path` is at any moment the old file or the new one, also after a power cut.

    Raises UserError where it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        partial.unlink(missing_ok=True)
        raise UserError(
            f"the checkpoint {path} could not be written ({error}): make room or set run.out"
        ) from error


def copy(source: Path, target: Path) -> None:
    """Make `target` the same whole file as `source`, by a link where the file system has them."""
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:  # a file system without hard links
        save(target, load(source))
        return
    os.replace(partial, target)
    _sync_folder(target.parent)


def load(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`, its tensors on the CPU; weights alone come as {"state_dict": ...}.

    Raises UserError where the file is missing, damaged, or holds no weights.  Only data is loaded
    (`weights_only`), so that a checkpoint from elsewhere cannot run anything.
    """
    if not path.is_file():
        raise UserError(
            f"there is no checkpoint {path}: give the path of a checkpoint_*.pt, or --resume auto"
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no checkpoint of data alone ({_first_line(error)}): it is damaged, or holds objects "
            "that loading would have to run"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the checkpoint {path} is damaged ({_first_line(error)}): give another one, such as {BEST}"
        ) from error
    if not isinstance(loaded, Mapping):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a checkpoint or a state_dict")
    weights = loaded.get("state_dict", loaded)
    if (
        not isinstance(weights, Mapping)
        or not weights
        or not all(isinstance(v, Tensor) for v in weights.values())
    ):
        raise UserError(
            f"{path} holds no weights: neither a state_dict nor a dict with one under 'state_dict'"
        )
    state = {str(key).removeprefix("module."): tensor for key, tensor in weights.items()}
    if loaded.get("format") == FORMAT:
        return {**loaded, "state_dict": state}
    if "format" in loaded and "cursor" in loaded:
        raise UserError(
            f"{path} has checkpoint format {loaded['format']}, but this version reads {FORMAT}: update it"
        )
    return {"state_dict": state}


def holds_run(checkpoint: dict[str, Any]) -> bool:
    """Whether a run can go on from it; otherwise it is weights alone."""
    return "cursor" in checkpoint


def _to_cpu(value: Any) -> Any:
    """`value` with every tensor in its dicts and lists copied to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_cpu(item) for item in value]
    return value


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
