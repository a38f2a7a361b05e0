"""The betons of a data folder: betons in it are used as they are, images are packed once.

    DATA/train.beton, DATA/val.beton        used as they are; also DATA/train.index.json, DATA/val.index.json
    DATA/train/<class>/*, DATA/val/<class>/*   packed into DATA-beton/ next to it, or into another folder
    DATA/ILSVRC2012_img_train.tar, ...      the same, as for all that ``sources.kind_of_folder`` recognises

A second start finds what the first one packed.  If several processes start at once, one packs and the others wait.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from ..beton.classes import packed_classes
from ..beton.errors import BetonError
from ..beton.index_file import SUFFIX, index_path, read_index
from ..beton.reader import Beton
from ..common.command_name import typed
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
from .sources import FOLDER, Dataset, Source, described, kind_of_folder, open_dataset
from .sources.image_folder import SPLITS, FolderError, splits_in

SHUFFLE_SEED = 0  # shuffled, so that neighbours in the file belong to different classes

Say = Callable[[str], None]


class BetonPaths(NamedTuple):
    """The betons of a data folder; None for a split that it does not have."""

    train: Path | None
    val: Path | None


def find_or_pack(
    data: Path, beton_dir: Path | None = None, wanted: Sequence[str] = SPLITS, say: Say = print
) -> BetonPaths:
    """The betons of `data`: a folder of betons, a beton file, or a folder of images, which is packed first.

    beton_dir: where packed files go; default: <folder>-beton next to the folder.
    wanted: the splits that are needed; others are not packed.
    say: called with a sentence for each file that was found or packed.
    Raises UserError for anything else, or if the output cannot be written.
    """
    data = Path(os.path.abspath(data))  # not resolved: "next to" a link means next to the link itself
    if os.path.isfile(data) and (data.suffix == ".beton" or data.name.endswith(SUFFIX)):
        return _next_to(data)
    if not os.path.isdir(data):
        raise UserError(
            f"--data_path {data} does not exist or cannot be read: expected a folder with train/<class>/* and val/<class>/*, or with "
            "train.beton and val.beton"
        )
    betons = {split: _or_index(data / f"{split}.beton") for split in SPLITS}
    if any(path.exists() for path in betons.values()):
        return BetonPaths(*(betons[split] if betons[split].exists() else None for split in SPLITS))
    dataset = open_dataset(kind := kind_of_folder(data), data)
    there = splits_in(data) if kind == FOLDER else [split for split in dataset.splits() if split in SPLITS]
    if not there:
        raise UserError(
            f"--data_path {data} has neither train/ and val/ (folders of classes) nor train.beton and val.beton: give "
            "the folder that contains them"
        )
    target = beton_dir or data.with_name(data.name + "-beton")
    packed = {split: target / f"{split}.beton" for split in there if split in wanted}
    if kind != FOLDER and all(path.exists() for path in packed.values()):
        # To list archives again would take longer than it may change.
        classes = next((found for path in packed.values() if (found := packed_classes(path))), [])
    else:
        classes = shared_classes(dataset, there, target, say) or dataset.class_names(there[0])
    if not all(path.exists() for path in packed.values()):
        with _alone_in(target, say):
            missing = {split: path for split, path in packed.items() if not path.exists()}
            for split in packed.keys() - missing.keys():
                _check(packed[split], data, split, classes)  # before the other takes hours to pack
            folders = {split: dataset.open(split, classes).shuffled(SHUFFLE_SEED) for split in missing}
            for split, path in missing.items():
                _pack(folders[split], split, path, data, say, described(dataset, split))
    for split, path in packed.items():
        say(_check(path, data, split, classes))
    return BetonPaths(packed.get("train"), packed.get("val"))


def _next_to(beton: Path) -> BetonPaths:
    """A beton file, or an index, as the training set, with that of val next to it; the one of val as the set to evaluate on."""
    val = beton.with_name("val.beton")
    if beton in (val, index_path(val)):
        return BetonPaths(None, beton)
    val = _or_index(val)
    return BetonPaths(beton, val if val.exists() else None)


def _or_index(beton: Path) -> Path:
    """A beton, or the index of its parts where only that exists."""
    index = index_path(beton)
    return index if index.exists() and not beton.exists() else beton


def shared_classes(
    dataset: Dataset, splits: Sequence[str], packed_dir: Path, say: Say = print
) -> list[str] | None:
    """The classes that labels of every split mean: those of the training split, from the dataset or from `packed_dir`.

    splits: the splits to pack.
    Returns None if there is no training split: each split then numbers its own classes.  An empty list means that labels are numbers.
    Raises FolderError for a split with a class that the packed training split does not have.
    """
    train = SPLITS[0]
    if train in splits or train in dataset.splits():
        return dataset.class_names(train)
    if (classes := packed_classes(packed := _packed(packed_dir / f"{train}.beton"))) is None:
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


def _packed(path: Path) -> Path:
    """A packed split, or the first part of one that was packed in parts: all of them have the same classes."""
    if not path.exists():
        with suppress(BetonError):
            index = read_index(index_path(path))
            return index.place(index.parts[0])
    return path


def _pack(
    images: Source, split: str, path: Path, data: Path, say: Say, more: Mapping[str, object] | None = None
) -> None:
    """Pack one split with the defaults of ``python -m alexnet_fast.pack``, and ``more`` settings to record."""
    from ..beton.classes import without_images
    from .encode import Encoding  # imported here: only packing needs Pillow
    from .forecast import forecast
    from .journal import progress_sentence
    from .writer import left_aside, write_beton

    count, classes = len(images.keys), len(images.classes)
    missing = without_images(images.labels, images.classes)
    say(
        f"packing {images.reader.place} into {path}, once: {count:,} images of {classes:,} classes"
        + (f"; {missing}" if missing else "")
    )
    if takes := forecast(images, path, Encoding()):
        say(str(takes))
    settings = {"split": split, "shuffle_seed": SHUFFLE_SEED, "limit": None, **(more or {})}
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
    """What to do about an error, for a user who did not start the packer directly."""
    from .partial_file import partial_path

    if isinstance(error, UnreadableImage):
        by_hand = f"{typed('pack')} --data {data} --out {path.parent} --on-error skip"
        return f"skip it with '{by_hand}', which resumes there, or remove the image and {partial_path(path)}"
    if isinstance(error, InputChanged):
        return f"restore it to resume, or remove {partial_path(path)} to start from scratch"
    if isinstance(error, OutputExists):
        return f"remove {path} to pack it again, or name another folder with --beton-dir"
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
    """A sentence on a packed file that is about to be used; raises UserError if it was packed from other classes."""
    from .encode import Encoding

    with Beton(path) as beton:
        sidecar, samples = beton.sidecar, beton.num_samples
    if sidecar is None:
        return (
            f"uses {path}: {samples:,} images (without a {path.name}.json that says what it was packed from)"
        )
    settings = sidecar.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    if settings.get("split", split) != split or sidecar.get("classes") != classes:
        raise UserError(
            f"{path} was packed from other classes than {data / split} has now: remove it to pack it again, or "
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
    """Hold the folder's lock while the body runs; first waits for a process that packs into the folder now."""
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
