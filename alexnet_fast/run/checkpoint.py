"""Checkpoints: written atomically, loaded as data and never as code.

A checkpoint is a torch file with these keys:

    format           2 (1, of one rank only, is read as well)
    state_dict       the model's weights, float32, torchvision's AlexNet keys
    optimizer        the state of torch's SGD or AdamW: the momenta, numbered as the model has its parameters; of its settings only
                     the last step's learning rate is read, for the log
    ema              {"steps": n, "state_dict": the average of the weights, float32}, with optim.ema alone
    scaler           the GradScaler's state; a dynamic loss scale is read from it; empty where nothing is scaled
    skipped          number of steps skipped because a gradient overflowed
    cursor           {"epoch": e, "step": s}: the next step is step s of epoch e
    meter            per rank, its sums of the epoch so far
    rng              per rank, {"cpu": state, "device": state or None}: dropout resumes exactly
    best_acc1        the best top-1 so far in percent, or None; of another task, its first metric: best_mse
    skipped_samples  samples that data.on_error = "skip" has skipped: index, path, reason, epoch; absent in older files
    classes          class names of labels 0, 1, ..., from the training set's sidecar; absent without them, and in older files
    train_set        {"samples": n, "labels": checksum} of the training set, with the block order also "pages"; absent in older files
    fast_paths       names of the fast paths of engine.* that were on; absent in older files
    recipe           the resolved recipe

The learning rate is a pure function of the step (engine/lr_schedule.py), so a resume needs none from here.  The weights
are the float32 masters; a resume rounds them to the model's half precision.  torch writes a CRC-32 of each record but does
not check it when it loads.  `load` does (0.14 s for the 456 MB of ten classes), so a flipped bit in a weight is noticed.

Weights alone (a state_dict, or a dict that holds one under "state_dict", with or without DataParallel's prefix
"module.") load as well: they have no cursor, so they start a run or are evaluated.
Files of the PyTorch ImageNet example and of its ports hold more: "epoch" (the next one, from 0), "best_acc1" and
"optimizer"; import_reference.py resumes from them.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from ..beton.sidecar import names
from ..common.files import sync_folder
from ..common.untrusted import printable
from ..devices.device import Device
from ..distributed.world import World
from ..engine.precision import Precision, check_fits
from ..errors import UserError
from ..loader.bad_samples import SkippedSample

FORMAT = 2
LAST, BEST = "checkpoint_last.pt", "checkpoint_best.pt"
BEST_OF = "best_"
WRAPPER = re.compile(
    r"(^|\.)module\."
)  # the prefix that DataParallel and DDP add to the model, or the part, that they wrap


class CorruptCheckpoint(UserError):
    """A truncated checkpoint, or one in which bits have changed.  reason: what was found, in a few words."""

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the checkpoint {path} is corrupt ({reason}): give another one, such as {BEST}")


class Cursor(TypedDict):
    """Where a run resumes: the next step is step `step` of epoch `epoch`, both counted from 0."""

    epoch: int
    step: int


@dataclass(frozen=True)
class ResumeState:
    """What a checkpoint holds of a run besides weights and optimizer.

    meters: this rank's sums of the epoch so far; several where it also has those of other ranks.
    best: the best value of the task's first metric so far; None before an evaluation.
    skipped_samples: of all ranks; only rank 0's value is saved.
    classes: class names of labels 0, 1, ...; empty where they are unknown; only rank 0's value is saved.
    train_set: the training set's `same_set.identity`; None in checkpoints that do not hold it.
    fast_paths: names of the engine's fast paths that were on; None in checkpoints that do not say.
    """

    cursor: Cursor
    meters: list[dict[str, Any]]
    best: float | None
    skipped_samples: Sequence[SkippedSample] = ()
    classes: Sequence[str] = ()
    train_set: dict[str, Any] | None = None
    metric: str = "acc1"
    fast_paths: Sequence[str] | None = None


def snapshot(
    precision: Precision, progress: ResumeState, recipe: dict[str, Any], world: World | None = None
) -> dict[str, Any] | None:
    """The state of the run between two steps, with all tensors on the CPU; None on ranks other than rank 0.

    Every rank has to call it: each has its own random generators and its part of the epoch's sums.
    """
    generators = {"cpu": torch.get_rng_state(), "device": precision.device.random_state()}
    ranks = (world or World()).gather_object((progress.meters, generators))
    if ranks is None:
        return None
    weights, average = precision.state_dict(), precision.average
    optional = {"classes": list(progress.classes), "train_set": progress.train_set}
    return {
        "format": FORMAT,
        "state_dict": weights,
        "optimizer": _to_cpu(precision.optimizer_state()),
        "scaler": precision.scaler.state_dict(),
        **({} if average is None else {"ema": average.state_dict(weights)}),
        "skipped": int(precision.skipped),
        "cursor": dict(progress.cursor),
        "meter": [meters for meters, _ in ranks],
        "rng": [generators for _, generators in ranks],
        f"{BEST_OF}{progress.metric}": progress.best,
        "skipped_samples": [asdict(sample) for sample in progress.skipped_samples],
        **{key: value for key, value in optional.items() if value},
        **({} if progress.fast_paths is None else {"fast_paths": list(progress.fast_paths)}),
        "recipe": recipe,
    }


def restore(
    checkpoint: dict[str, Any], precision: Precision, device: Device, world: World | None = None
) -> ResumeState:
    """Restore the state that `snapshot` saved; raises UserError for a checkpoint of another model.

    Settings of the optimizer and of the loss scale are the recipe's, also where they have changed since.
    With the number of ranks that saved it, the run resumes bit for bit.  With another number, rank 0 takes all
    sums, and added ranks keep the random state that they have.
    """
    world = world or World()
    precision.load_state_dict(checkpoint["state_dict"])
    optimizer = checkpoint["optimizer"]
    # Not torch's load_state_dict: it would also restore the saved momentum, weight decay and choice of kernels.
    if not precision.load_slots(slots_of(optimizer)) and optimizer["state"]:
        raise UserError(
            "the checkpoint's momenta do not fit its weights: another program wrote or changed it"
        )
    precision.learning_rate = float(optimizer["param_groups"][0]["lr"])  # that of the last step, for the log
    restore_average(checkpoint, precision)
    precision.load_scale(checkpoint["scaler"])
    precision.skipped.fill_(checkpoint["skipped"])
    meters, generators = checkpoint["meter"], checkpoint["rng"]
    if world.rank < len(generators):
        torch.set_rng_state(generators[world.rank]["cpu"])
        device.set_random_state(generators[world.rank]["device"])
    if len(meters) == world.world_size:
        own = meters[world.rank]
    else:
        own = [meter for rank in meters for meter in rank] if world.is_rank0 else []
    skipped_samples = tuple(SkippedSample(**sample) for sample in checkpoint.get("skipped_samples", ()))
    classes, train_set = tuple(names(checkpoint, "classes")), checkpoint.get("train_set")
    best = best_key(checkpoint)
    return ResumeState(
        checkpoint["cursor"],
        own,
        checkpoint[best],
        skipped_samples,
        classes,
        train_set,
        best.removeprefix(BEST_OF),
        tuple(names(checkpoint, "fast_paths")) if "fast_paths" in checkpoint else None,
    )


def best_key(checkpoint: Mapping[str, Any]) -> str:
    """The key of the best value so far in a run's checkpoint."""
    return next((key for key in checkpoint if key.startswith(BEST_OF)), f"{BEST_OF}acc1")


def restore_average(checkpoint: Mapping[str, Any], precision: Precision) -> bool:
    """Resume the average of the weights, where the run has one and the checkpoint too; else it begins with the weights.

    Returns whether it was resumed.  Raises UserError for the average of another model.
    """
    average, saved = precision.average, checkpoint.get("ema")
    if average is None or saved is None:
        return False
    check_fits(saved["state_dict"], precision.model, precision.title)
    average.load_state_dict(saved)
    return True


def slots_of(optimizer: Any) -> list[Any]:
    """What a saved optimizer of torch kept of each parameter, in the order of the model's; empty where it kept nothing of some."""
    try:
        # Torch numbers them in the order of its groups, which is the model's where there is one; we number them as the model does.
        order = sorted(key for group in optimizer["param_groups"] for key in group["params"])
        return [optimizer["state"][key] for key in order]
    except (KeyError, TypeError):
        return []


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write `checkpoint` atomically: at any moment `path` is the old file or the new one, also after a power cut.

    Raises UserError where it cannot be written.
    """
    commit(write_partial(path, checkpoint), path)


def write_partial(path: Path, checkpoint: dict[str, Any]) -> Path:
    """Write and sync `checkpoint` next to `path`, as PATH.partial; `commit` then gives it its name.  Returns the path."""
    partial = path.with_name(path.name + ".partial")
    with _writing(path, partial), open(partial, "wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
    return partial


def commit(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`, and sync the folder."""
    with _writing(path, partial):
        os.replace(partial, path)
        sync_folder(path.parent)


def keep_as(path: Path, name: Path) -> None:
    """Hard-link the file at `path` as `name` too; a file system without hard links renames it."""
    with _writing(name):
        name.unlink(missing_ok=True)
        try:
            os.link(path, name)
        except OSError:  # a file system without hard links
            os.rename(path, name)


def copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, by a hard link where the file system has them; replaces it atomically."""
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:  # a file system without hard links
        save(target, load(source))
        return
    commit(partial, target)


@contextmanager
def _writing(path: Path, partial: Path | None = None) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise UserError(
            f"the checkpoint {path} could not be written ({_why(error, path)}): free disk space, or set run.out"
        ) from error


def load(path: Path, is_ours: bool = False) -> dict[str, Any]:
    """The checkpoint at `path`, with its tensors on the CPU; weights alone are returned as {"state_dict": ...}.

    is_ours: as for `check_integrity`.
    Raises UserError where the file is missing or holds no weights, CorruptCheckpoint where it is corrupt.  Only data is
    loaded (`weights_only`), so an untrusted checkpoint cannot run code.
    """
    if not path.is_file():
        raise UserError(
            f"there is no checkpoint {path}: give the path of a checkpoint_*.pt, or --resume auto"
        )
    if (fault := check_integrity(path, is_ours)) is not None:
        raise CorruptCheckpoint(path, fault)
    try:
        with torch.serialization.safe_globals(NPU_GLOBALS):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} does not hold plain data only ({_first_line(error)}): it is corrupt, or holds objects "
            "that run code when they are loaded"
        ) from error
    except Exception as error:  # torch raises many kinds for garbage
        _refuse_if_unread(path, error)
        raise CorruptCheckpoint(
            path, f"torch cannot read it: {type(error).__name__} {_first_line(error)}"
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
            f"{path} holds no weights: expected a state_dict, or a dict with one under 'state_dict'"
        )
    state = dict[str, Tensor]()
    for key, tensor in weights.items():
        name = WRAPPER.sub(r"\1", str(key))
        if name in state:
            raise UserError(
                f"{path} holds {printable(repr(name))} twice, with 'module.' and without: save the weights of one model only"
            )
        state[name] = tensor
    if loaded.get("format") == FORMAT:
        return {**loaded, "state_dict": state}
    if loaded.get("format") == 1:
        meters = [loaded["meter"]] if loaded["meter"] else []
        return {**loaded, "state_dict": state, "meter": [meters], "rng": [loaded["rng"]]}
    if "format" in loaded and "cursor" in loaded:
        raise UserError(
            f"{path} has checkpoint format {loaded['format']}, but this version reads formats up to {FORMAT}: update alexnet_fast"
        )
    if "state_dict" in loaded and isinstance(loaded.get("epoch"), int):
        return {key: loaded.get(key) for key in ("epoch", "best_acc1", "optimizer")} | {"state_dict": state}
    return {"state_dict": state}


def check_integrity(path: Path, is_ours: bool = False) -> str | None:
    """What is wrong with the bytes of a file in torch's zip format, in a few words; None where nothing is.

    Files that are not a zip, such as those of torch before 1.6, have no checksums, so nothing is checked in them.
    is_ours: alexnet_fast wrote it, so a file that is not a zip is corrupt.
    Raises UserError where the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if file.read(4) != b"PK\x03\x04":
                if not file.tell():
                    return "it is empty"
                return "it does not start like a checkpoint" if is_ours else None
        with zipfile.ZipFile(path) as records:
            corrupt = records.testzip()
    except Exception as error:  # a corrupt directory raises many kinds
        _refuse_if_unread(path, error)
        return (
            "it is truncated, or its directory is corrupt"
            if isinstance(error, zipfile.BadZipFile)
            else _first_line(error)
        )
    return None if corrupt is None else f"the checksum of its record {corrupt} is wrong"


def _refuse_if_unread(path: Path, error: Exception) -> None:
    """Raise UserError for an error of the disk or of memory: taken for corruption, it would cost a valid checkpoint."""
    if isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
    ):
        raise UserError(
            f"the checkpoint {path} could not be read ({type(error).__name__}: {_first_line(error)}), so whether it is "
            "valid is unknown: check the disk and the memory, and try again"
        ) from error


def holds_run(checkpoint: dict[str, Any]) -> bool:
    """Whether a run can resume from it; otherwise it is weights alone, or a checkpoint of the reference."""
    return "cursor" in checkpoint


def _npu_tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """A tensor that torch_npu saved: its bytes are in the file as those of a CPU tensor."""
    return torch._utils._rebuild_tensor(storage, offset, size, stride)


# torch_npu pickles a tensor on the NPU as a call of a function of its own, with the NPU's layout as its last
# argument (a number, later an enumeration).  With these stand-ins such a file needs neither torch_npu nor an NPU.
NPU_GLOBALS: list[Any] = [
    (_npu_tensor, "torch_npu.utils.storage._rebuild_npu_tensor"),
    (_npu_tensor, "torch._utils._rebuild_npu_tensor"),  # Ascend's own torch 1.5
    (int, "torch_npu.npu._format.Format"),
]


def _to_cpu(value: Any) -> Any:
    """`value` with every tensor in its dicts and lists copied to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_cpu(item) for item in value]
    return value


def _why(error: Exception, path: Path) -> str:
    """Why a checkpoint could not be written; for a full disk torch reports only an unexpected position."""
    with suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        if getattr(error, "errno", None) == errno.ENOSPC or "unexpected pos" in str(error):
            return f"the disk is full: {free / 1e6:,.0f} MB are free"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
