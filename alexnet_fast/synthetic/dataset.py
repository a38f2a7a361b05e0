"""Training sets without a dataset: made-up photos, to measure with.

They are made once a machine and kept in a folder of the user's own below the temporary folder (TMPDIR), whose name
changes with all that their bytes depend on.  However many processes ask at once, one makes them and the others wait.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .._version import __version__
from ..beton import format as fmt
from ..beton.reader import Beton, BetonError
from ..beton.target_fields import TARGETS
from ..common.cpus import allowed_cores
from ..common.files import hold_lock
from ..common.progress import progress_bar
from ..errors import UserError
from ..packing.image_folder import SPLITS
from ..packing.layout import ENTRY, BetonLayout
from ..packing.worker_pool import ordered_map
from ..recipe import Recipe

STEPS = 100  # of an epoch, where the recipe names no number: enough for a figure
MAX_WORKERS = 8  # each makes the noise for itself first
PHOTO_BYTES = 60_000  # on average, with what describes them

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many samples the two sets have, and of how many photos: a sample beyond them is one of them again.

    So the sets hold `STEPS` steps of any batch up to 1,024 in 75 MB.  The photos are more than a processor's caches hold.
    A photo keeps its label.

    num_classes, task: model.num_classes and model.task of the recipe: what a label may be.
    """

    num_classes: int
    task: str = "classification"
    train: int = 102_400
    train_photos: int = 1_024
    val: int = 5_120
    val_photos: int = 256

    @property
    def photos(self) -> int:
        return self.train_photos + self.val_photos


def overrides(recipe: Recipe, say: Say = print) -> list[str]:
    """What data.synthetic sets, as section.key=value, over whatever else names a set; made on the way if need be.

    say: told what was made or found, a sentence at a time.
    Raises UserError where the temporary folder cannot be written.
    """
    if not recipe.data.synthetic:
        return []
    place = make(Counts(num_classes=recipe.model.num_classes, task=recipe.model.task), say)
    keys: dict[str, object] = {f"data.{split}": str(place / f"{split}.beton") for split in SPLITS}
    # They have one image and one label, whatever the fields of the sets in whose place they stand are called.
    keys |= {f"data.{name}": "" for name in ("image_field", "label_field") if getattr(recipe.data, name)}
    if recipe.schedule.steps_per_epoch == 0:
        keys["schedule.steps_per_epoch"] = STEPS
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]


def make(counts: Counts, say: Say = print) -> Path:
    """The folder that holds train.beton and val.beton of made-up photos.

    Raises UserError where it is not there and cannot be made.
    """
    place = Path("the temporary folder")
    try:
        place = private_folder() / f"synthetic-{digest(counts)}"
        if not is_whole(place):
            waits = f"another process is making {place.name}: waiting for it"
            with hold_lock(place.with_name(f"{place.name}.lock"), lambda: say(waits)):
                if not is_whole(place):  # another had the turn before
                    _make_alone(counts, place, say)
    except OSError as error:
        raise UserError(
            f"cannot write made-up photos to {place} ({error.strerror or error}): make room for "
            f"{counts.photos * PHOTO_BYTES / 1e6:,.0f} MB, or set TMPDIR to a folder that has it"
        ) from error
    say(f"uses {place}: made-up photos, to measure and not to learn")
    return place


def private_folder() -> Path:
    """This user's own folder below the temporary one; raises OSError where there is none, UserError where it is another's."""
    folder = Path(tempfile.gettempdir()) / f"alexnet_fast-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UserError(
            f"{folder} is not a folder that this user alone can write: remove it, or set TMPDIR to another"
        )
    return folder


def digest(counts: Counts) -> str:
    """Names everything that the bytes of the sets depend on."""
    from ..beton import target_fields
    from ..packing import encode
    from ..packing import layout as pages
    from . import images  # here and below: who has a dataset needs no Pillow

    encoding = encode.Encoding()
    told = {
        "counts": asdict(counts),
        "encoding": asdict(encoding),
        "versions": [__version__, np.__version__, encode.encoder_versions(encoding), platform.machine()],
        "sources": [
            inspect.getsource(module)
            for module in (images, encode, pages, target_fields, sys.modules[__name__])
        ],
    }
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=6).hexdigest()


def is_whole(place: Path) -> bool:
    """Whether both sets are there: what cleans temporary folders takes single files."""
    try:
        for split in SPLITS:
            Beton(place / f"{split}.beton").close()
    except BetonError:
        return False
    return True


def _make_alone(counts: Counts, place: Path, say: Say) -> None:
    """Make the sets under another name and rename them."""
    from .images import encoded

    for left in place.parent.glob(f"{place.name}.*.partial"):  # of one that was killed
        shutil.rmtree(left, ignore_errors=True)
    say(
        f"making {counts.photos:,} photos in {place}, once: about {counts.photos * PHOTO_BYTES / 1e6:,.0f} MB"
    )
    workers = min(allowed_cores(), MAX_WORKERS)
    work = ordered_map(encoded, range(counts.photos), workers, doing="making photo {}".format)
    with (
        tempfile.TemporaryDirectory(
            prefix=f"{place.name}.", suffix=".partial", dir=place.parent, ignore_cleanup_errors=True
        ) as partial_folder,
        closing(work),
        progress_bar("making photos", counts.photos) as progress,
    ):
        made = Path(partial_folder) / "sets"
        made.mkdir()
        jpegs = _counted(work, progress)
        for split in SPLITS:
            with (made / f"{split}.beton").open("wb") as file:
                write_set(file, jpegs, counts, split)
                file.flush()
                os.fsync(file.fileno())
        shutil.rmtree(place, ignore_errors=True)  # what was not whole
        try:
            made.rename(place)
        except OSError:  # on a file system without locks another may have been first
            if not is_whole(place):
                raise


def write_set(file: BinaryIO, jpegs: Iterator[tuple[bytes, int, int]], counts: Counts, split: str) -> None:
    """Write one set of the next photos: every class in it, or as many as it has photos, spread evenly."""
    photos, samples = getattr(counts, f"{split}_photos"), getattr(counts, split)
    target = TARGETS[counts.task]
    pages = BetonLayout(samples, target.field)
    labels = target.examples(photos, counts.num_classes)
    for k in range(photos):
        jpeg, width, height = next(jpegs)
        entry = np.array([(len(jpeg), 0, width, height, fmt.JPEG)], ENTRY)[0]
        file.seek(pages.add(entry, labels[k]))
        file.write(jpeg)
    pages.repeat(samples)
    for at, content in pages.ends():
        file.seek(at)
        file.write(content)


def _counted(
    jpegs: Iterator[tuple[bytes, int, int]], progress: Callable[[int], None]
) -> Iterator[tuple[bytes, int, int]]:
    for done, jpeg in enumerate(jpegs, 1):
        progress(done)
        yield jpeg
