"""Which class each of ImageNet's validation images is of: by the devkit, or by one of the lists that people have instead of it.

The images' own names do not say it; their order by name is that of the ground truth.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from ...common.untrusted import open_regular, printable, read_text
from .listing import FolderError, cannot
from .matlab import read_structs
from .tar_index import Inflated, members

DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH, META = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
LISTS = ("imagenet_2012_validation_synset_labels.txt", "LOC_val_solution.csv", "val.txt")
"""Names under which the lists of tensorflow, Kaggle and Caffe are known."""
MAX_BYTES = 64 << 20
WNID = re.compile(r"n\d{8}")
EXPECTED = (
    f"{DEVKIT}.tar.gz next to it, or a list of the classes: a line 'n01440764' for each image, in the order of their names, or "
    "'ILSVRC2012_val_00000001.JPEG n01440764'"
)


def labels_file(folder: Path, given: Path | None = None) -> Path:
    """What says which class each validation image is of: the devkit, packed or unpacked, or a list.

    Args:
        folder: where ImageNet's tars are.
        given: the one to use; by default whatever is in the folder.

    Raises:
        FolderError: there is none.
    """
    names = (f"{DEVKIT}.tar.gz", DEVKIT, *LISTS)
    if found := given or next((folder / name for name in names if (folder / name).exists()), None):
        return found
    raise FolderError(
        f"nothing in {folder} says which class each validation image is of; expected {EXPECTED}, named with --val-labels"
    )


def val_classes(file: Path, images: Sequence[str], trained: Sequence[str]) -> dict[str, str]:
    """The class of each validation image: its name -> its WordNet ID.

    Args:
        file: of ``labels_file``.
        images: names of the validation images, sorted.
        trained: the classes of the training images, sorted, for lists that number them; may be empty.

    Raises:
        FolderError: the file is not what is expected, or does not fit the images.
    """
    if file.is_dir():
        return _by_devkit({name: _bytes(file / name) for name in (TRUTH, META)}, file, images)
    if file.name.endswith((".gz", ".tgz")):
        return _by_devkit(_unpacked(file), file, images)
    return _by_list(file, images, trained)


def _by_devkit(found: dict[str, bytes], place: Path, images: Sequence[str]) -> dict[str, str]:
    for name in (TRUTH, META):
        if name not in found:
            raise FolderError(f"{place} has no {name}; expected ImageNet's {DEVKIT}.tar.gz")
    try:
        rows = read_structs(found[META], "synsets")
        wnid = {row["ILSVRC2012_ID"]: row["WNID"] for row in rows if row["num_children"] == 0}
    except (ValueError, KeyError, TypeError) as error:
        raise FolderError(f"cannot read {META} of {place}: {error}; download it again") from error
    classes = []
    for number in found[TRUTH].decode("ascii", "replace").split():
        wordnet_id = wnid.get(int(number)) if number.isdecimal() else None
        if not isinstance(wordnet_id, str):
            raise FolderError(
                f"{TRUTH} of {place} has {printable(repr(number))}, which is no class of its {META}; download it again"
            )
        classes.append(wordnet_id)
    return _paired(images, classes, f"{TRUTH} of {place}")


def _unpacked(archive: Path) -> dict[str, bytes]:
    found = {}
    try:
        with open_regular(archive) as file:
            stream = Inflated(file, MAX_BYTES)
            for member in members(stream, str(archive)):
                name = member.name.partition("/")[2]
                if name in (TRUTH, META):
                    found[name] = stream.read(member.offset, member.size)
    except OSError as error:
        raise cannot(f"read {archive}", error) from error
    return found


def _by_list(file: Path, images: Sequence[str], trained: Sequence[str]) -> dict[str, str]:
    """The classes by a list: of WordNet IDs in the order of the images, or of names and IDs or numbers."""
    lines = [line.strip() for line in _text(file).split("\n")]
    rows = [
        row
        for row in csv.reader(line for line in lines if line)
        if row[0].lower() not in ("imageid", "image", "filename")
    ]
    if all(len(row) == 1 and WNID.fullmatch(row[0]) for row in rows):
        return _paired(images, [row[0] for row in rows], str(file))
    suffix = {name.rpartition(".")[0]: name for name in images}
    found = dict[str, str]()
    for row in rows:
        name, *label = row if len(row) > 1 else row[0].split()
        label = label[0].split() if label else []
        name = suffix.get(name, name.rpartition("/")[2])
        if not label:
            raise FolderError(f"{file}: {printable(repr(','.join(row)))}; expected {EXPECTED}")
        found[name] = _class_of(label[0], trained, file)
    if missing := [name for name in images if name not in found]:
        raise FolderError(
            f"{file} does not say of which class {printable(repr(missing[0]))} is, and {len(missing) - 1:,} more; expected a line for "
            "each validation image"
        )
    return found


def _class_of(label: str, trained: Sequence[str], file: Path) -> str:
    if WNID.fullmatch(label):
        return label
    if label.isdecimal() and int(label) < len(trained):
        return trained[int(label)]
    what = (
        f"a number from 0 to {len(trained) - 1}"
        if trained
        else "a number, which only the training tar could explain"
    )
    raise FolderError(
        f"{file}: the class {printable(repr(label))} is neither a WordNet ID as n01440764 nor {what}"
    )


def _paired(images: Sequence[str], classes: Sequence[str], place: str) -> dict[str, str]:
    if len(images) != len(classes):
        raise FolderError(
            f"{place} has the classes of {len(classes):,} images, and there are {len(images):,} validation images; expected one for each"
        )
    return dict(zip(images, classes))


def _text(file: Path) -> str:
    try:
        return read_text(file, MAX_BYTES)
    except OSError as error:
        raise cannot(f"read {file}", error) from error
    except ValueError as error:
        raise FolderError(f"cannot read {file}: {error}; expected {EXPECTED}") from error


def _bytes(file: Path) -> bytes:
    try:
        with open_regular(file) as opened:
            return opened.read(MAX_BYTES)
    except OSError as error:
        raise cannot(f"read {file}", error) from error
    except ValueError as error:
        raise FolderError(f"cannot read {file}: {error}") from error
