"""What a data folder holds to train on: betons as they are, or those packed from its images, once.

    DATA/train.beton, DATA/val.beton        taken as they are
    DATA/train/<class>/*, DATA/val/<class>/*   packed into DATA-beton/ beside it, or into another folder

The second start finds what the first one packed.  However many processes ask at once, one packs and the
others wait for it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from ..beton.classes import packed_classes
from ..beton.reader import Beton
from ..common.cpus import allowed_cores
from ..common.files import hold_lock
from ..common.progress import progress_bar
from ..common.untrusted import printable
from ..errors import StoppedBySignal, UserError
from .errors import (
    InputChanged,
    OutputExists,
    OutputLocked,
    OutputUnwritable,
    PackingError,
    UnreadableImage,
    WorkerDied,
)
from .image_folder import SPLITS, FolderDataset, FolderError, splits_in
from .sources import Dataset, Source

SHUFFLE_SEED = 0  # neighbours in the file are of mixed classes

Say = Callable[[str], None]


class BetonPaths(NamedTuple):
    """The betons of a data folder; None where it has no such split."""

    train: Path | None
    val: Path | None


def find_or_pack(
    data: Path, beton_dir: Path | None = None, wanted: Sequence[str] = SPLITS, say: Say = print
) -> BetonPaths:
    """The betons of `data`, a folder of betons, one beton file or a folder of images, which is packed first.

    beton_dir: where what is packed goes; without it, beside the folder, in <folder>-beton.
    wanted: the splits that are needed; others are not packed.
    say: told what was found or packed, a sentence at a time.
    Raises UserError for a folder that is none of these, or a place that cannot be written.
    """
    data = Path(os.path.abspath(data))  # not resolved: beside a link is where its name stands
    if os.path.isfile(data) and data.suffix == ".beton":
        return _beside(data)
    if not os.path.isdir(data):
        raise UserError(
            f"--data_path {data} does not exist or cannot be read: expected a folder with train/<class>/* and val/<class>/*, or with "
            "train.beton and val.beton"
        )
    betons = {split: data / f"{split}.beton" for split in SPLITS}
    if any(path.exists() for path in betons.values()):
        return BetonPaths(*(betons[split] if betons[split].exists() else None for split in SPLITS))
    there = splits_in(data)
    if not there:
        raise UserError(
            f"--data_path {data} has neither train/ and val/ (folders of classes) nor train.beton and val.beton: give "
            "the folder that holds them"
        )
    target = beton_dir or data.with_name(data.name + "-beton")
    packed = {split: target / f"{split}.beton" for split in there if split in wanted}
    dataset = FolderDataset(data)
    classes = shared_classes(dataset, there, target, say) or dataset.class_names(there[0])
    if not all(path.exists() for path in packed.values()):
        with _alone_in(target, say):
            missing = {split: path for split, path in packed.items() if not path.exists()}
            for split in packed.keys() - missing.keys():
                _check(packed[split], data, split, classes)  # before hours are spent on the other
            folders = {split: dataset.open(split, classes).shuffled(SHUFFLE_SEED) for split in missing}
            for split, path in missing.items():
                _pack(folders[split], split, path, data, say)
    for split, path in packed.items():
        say(_check(path, data, split, classes))
    return BetonPaths(packed.get("train"), packed.get("val"))


def _beside(beton: Path) -> BetonPaths:
    """A beton file as the training set, with val.beton beside it; val.beton itself as the set to evaluate on."""
    val = beton.with_name("val.beton")
    return BetonPaths(None, beton) if beton == val else BetonPaths(beton, val if val.exists() else None)


def shared_classes(
    dataset: Dataset, splits: Sequence[str], packed_dir: Path, say: Say = print
) -> list[str] | None:
    """What labels mean in every split: the classes of the training split, be it there or packed in `packed_dir` before.

    splits: those that are to be packed.
    Returns None where there is no training split: each split then numbers its own classes.  An empty list says that labels are numbers.
    Raises FolderError for a split with a class that the packed training split does not have.
    """
    train = SPLITS[0]
    if train in splits or train in dataset.splits():
        return dataset.class_names(train)
    if (classes := packed_classes(packed := packed_dir / f"{train}.beton")) is None:
        return None
    if not classes:
        say(f"{dataset.without_train}: labels are numbers as in {packed}")
        return classes
    for split in splits:
        if unknown := sorted(set(dataset.class_names(split)) - set(classes)):
            raise FolderError(
                f"{dataset.reader(split).place} has the class {unknown[0]!r}, which {packed} does not have, and "
                f"{dataset.without_train}; remove or rename it, or pack into another folder"
            )
    say(f"{dataset.without_train}: labels are numbered as in {packed}, of {len(classes):,} classes")
    return classes


def _pack(images: Source, split: str, path: Path, data: Path, say: Say) -> None:
    """Pack one split with the defaults of ``python -m alexnet_fast.pack``."""
    from ..beton.classes import without_images
    from .encode import Encoding  # here: who does not pack needs no Pillow
    from .journal import progress_sentence
    from .writer import left_aside, write_beton

    count, classes = len(images.keys), len(images.classes)
    missing = without_images(images.labels, images.classes)
    say(
        f"packing {images.reader.place} into {path}, once: {count:,} images of {classes:,} classes"
        + (f"; {missing}" if missing else "")
    )
    settings = {"split": split, "shuffle_seed": SHUFFLE_SEED, "limit": None}
    try:
        with progress_bar(f"packing {split}", count) as progress:
            packed = write_beton(
                images, path, Encoding(), workers=allowed_cores(), settings=settings, progress=progress
            )
    except KeyboardInterrupt:
        raise StoppedBySignal(signal.SIGINT, f"while packing: {progress_sentence(path, count)}") from None
    except PackingError as error:  # the packer's own advice is for its own command line
        raise UserError(f"{error.what}; {_remedy(error, data, path)}") from error
    say(f"packed {path}: {packed.file_bytes / 1e6:,.1f} MB in {packed.seconds:.0f} s")
    if packed.corrupt:
        say(f"warning: {len(packed.corrupt):,} of {count:,} images are corrupt, listed in {path}.json")
    for line in left_aside(packed):
        say(line)


def _remedy(error: PackingError, data: Path, path: Path) -> str:
    """What somebody can do who did not call the packer himself."""
    from .partial_file import partial_path

    begin_anew = f"remove {partial_path(path)} to begin anew"
    if isinstance(error, UnreadableImage):
        by_hand = f"python -m alexnet_fast.pack --data {data} --out {path.parent} --on-error skip"
        return f"leave it out with '{by_hand}', which goes on there, or remove the image and {partial_path(path)}"
    if isinstance(error, InputChanged):
        return f"put it back as it was to go on, or {begin_anew}"
    if isinstance(error, OutputExists):
        return f"remove {path} to have it packed again, or name another folder with --beton-dir"
    if isinstance(error, OutputUnwritable):
        return "make room, or name another folder with --beton-dir"
    if isinstance(error, WorkerDied):
        return "if nobody killed it, memory ran out: free some"
    return (
        "wait for it to end, or name another folder with --beton-dir"
        if isinstance(error, OutputLocked)
        else error.remedy
    )


def _check(path: Path, data: Path, split: str, classes: list[str]) -> str:
    """A sentence on a packed file that is about to be used; UserError where it was packed from something else."""
    from .encode import Encoding

    with Beton(path) as beton:
        sidecar, samples = beton.sidecar, beton.num_samples
    if sidecar is None:
        return f"uses {path}: {samples:,} images (no {path.name}.json tells what it was packed from)"
    settings = sidecar.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    if settings.get("split", split) != split or sidecar.get("classes") != classes:
        raise UserError(
            f"{path} was packed from other classes than {data / split} has now: remove it to have it packed again, or "
            "name another folder with --beton-dir"
        )
    usual = {**asdict(Encoding()), "shuffle_seed": SHUFFLE_SEED, "limit": None}
    unusual = [
        printable(f"{key} = {settings[key]}")
        for key in usual
        if key in settings and settings[key] != usual[key]
    ]
    return (
        f"uses {path}: {samples:,} images, packed by {printable(str(sidecar.get('packer', 'an unknown packer')))}"
        + (f" with {', '.join(unusual)}" if unusual else "")
    )


@contextmanager
def _alone_in(folder: Path, say: Say) -> Iterator[None]:
    """Hold the folder's lock, waiting for whoever packs into it now; the lock goes when all is packed."""
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            waits = f"another process is packing into {folder}: waiting for it"
            stack.enter_context(hold_lock(folder / "packing.lock", lambda: say(waits)))
        except OSError as error:
            raise UserError(
                f"cannot write {folder} ({error.strerror}): name a folder for the packed images with --beton-dir"
            ) from error
        yield
