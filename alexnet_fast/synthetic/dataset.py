"""Training sets without a dataset: synthetic images, for measurements.

They are made once per machine and kept in a private folder of the user below the temporary folder (TMPDIR).  Its name depends on
everything that determines their bytes.  If several processes start at once, one makes them and the others wait.
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
from ..packing.layout import ENTRY, BetonLayout, following
from ..packing.sources.image_folder import SPLITS
from ..packing.worker_pool import ordered_map
from ..recipe import Recipe

STEPS = 100  # of an epoch, if the recipe does not set a number: enough to measure
MAX_WORKERS = 8  # each first computes the noise itself
IMAGE_BYTES = 63_000  # mean size of an image on the disk, including metadata and padding

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many samples the two sets have, and how many different images: further samples repeat the images.

    So the sets have `STEPS` steps of any batch up to 1,024 in about 81 MB.  The images do not fit into a processor's caches.
    All samples of an image have the same label.

    num_classes, task: model.num_classes and model.task of the recipe, on which the labels depend.
    """

    num_classes: int
    task: str = "classification"
    train: int = 102_400
    train_images: int = 1_024
    val: int = 5_120
    val_images: int = 256

    @property
    def images(self) -> int:
        return self.train_images + self.val_images


def overrides(recipe: Recipe, say: Say = print) -> list[str]:
    """The settings that data.synthetic makes, as section.key=value; they override other sets.  Makes the sets if needed.

    say: called with a sentence on what was made or found.
    Raises UserError if the temporary folder cannot be written.
    """
    if not recipe.data.synthetic:
        return []
    place = make(Counts(num_classes=recipe.model.num_classes, task=recipe.model.task), say)
    keys: dict[str, object] = {f"data.{split}": str(place / f"{split}.beton") for split in SPLITS}
    # Synthetic sets have one image and one label field, so the recipe's names of other sets' fields do not apply.
    keys |= {f"data.{name}": "" for name in ("image_field", "label_field") if getattr(recipe.data, name)}
    if recipe.data.weights:
        keys["data.weights"] = []
    if recipe.schedule.steps_per_epoch == 0:
        keys["schedule.steps_per_epoch"] = STEPS
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]


def make(counts: Counts, say: Say = print) -> Path:
    """The folder with train.beton and val.beton of synthetic images.

    Raises UserError if it does not exist and cannot be made.
    """
    place = Path("the temporary folder")
    try:
        place = private_folder() / f"synthetic-{digest(counts)}"
        if not is_complete(place):
            waits = f"another process is making {place.name}: waiting for it"
            with hold_lock(place.with_name(f"{place.name}.lock"), lambda: say(waits)):
                if not is_complete(place):  # else another process has made it
                    _make_alone(counts, place, say)
    except OSError as error:
        raise UserError(
            f"cannot write synthetic images to {place} ({error.strerror or error}): make room for "
            f"{counts.images * IMAGE_BYTES / 1e6:,.0f} MB, or set TMPDIR to a folder that has it"
        ) from error
    say(f"uses {place}: synthetic images, to measure and not to learn")
    return place


def private_folder() -> Path:
    """This user's private folder below the temporary one; raises OSError if it cannot be made, UserError if others can write it."""
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
    """A digest of everything on which the bytes of the sets depend."""
    from ..beton import columns, target_fields
    from ..packing import encode
    from ..packing import layout as pages
    from . import images  # imported here, as below: runs with a dataset need no Pillow

    encoding = encode.Encoding()
    inputs = {
        "counts": asdict(counts),
        "encoding": asdict(encoding),
        "versions": [__version__, np.__version__, encode.encoder_versions(encoding), platform.machine()],
        "sources": [
            inspect.getsource(module)
            for module in (images, encode, pages, columns, target_fields, sys.modules[__name__])
        ],
    }
    return hashlib.blake2b(json.dumps(inputs, sort_keys=True).encode(), digest_size=6).hexdigest()


def is_complete(place: Path) -> bool:
    """Whether both sets can be opened: programs that clean temporary folders may delete single files."""
    try:
        for split in SPLITS:
            Beton(place / f"{split}.beton").close()
    except BetonError:
        return False
    return True


def _make_alone(counts: Counts, place: Path, say: Say) -> None:
    """Make the sets in a temporary folder and rename it; the caller holds the lock."""
    from .images import encoded

    for left in place.parent.glob(f"{place.name}.*.partial"):  # left by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    say(
        f"making {counts.images:,} synthetic images in {place}, once: about "
        f"{counts.images * IMAGE_BYTES / 1e6:,.0f} MB"
    )
    workers = min(allowed_cores(), MAX_WORKERS)
    work = ordered_map(encoded, range(counts.images), workers, doing="making image {}".format)
    with (
        tempfile.TemporaryDirectory(
            prefix=f"{place.name}.", suffix=".partial", dir=place.parent, ignore_cleanup_errors=True
        ) as partial_folder,
        closing(work),
        progress_bar("making synthetic images", counts.images) as progress,
    ):
        made = Path(partial_folder) / "sets"
        made.mkdir()
        jpegs = _counted(work, progress)
        for split in SPLITS:
            with (made / f"{split}.beton").open("wb") as file:
                write_set(file, jpegs, counts, split)
                file.flush()
                os.fsync(file.fileno())
        shutil.rmtree(place, ignore_errors=True)  # an incomplete folder
        try:
            made.rename(place)
        except OSError:  # on a file system without locks another process may have been first
            if not is_complete(place):
                raise


def write_set(file: BinaryIO, jpegs: Iterator[tuple[bytes, int, int]], counts: Counts, split: str) -> None:
    """Write one set of the next images, spread evenly over the classes; with fewer images than classes, only some occur."""
    images, samples = getattr(counts, f"{split}_images"), getattr(counts, split)
    target = TARGETS[counts.task]
    kind = target.field_for(counts.num_classes).stored
    pages = BetonLayout(samples, [("label", kind)])
    labels = target.examples(images, counts.num_classes)
    for k in range(images):
        jpeg, width, height = next(jpegs)
        entry = np.array([(len(jpeg), 0, width, height, fmt.JPEG)], ENTRY)[0]
        label = kind.pack(labels[k])
        file.seek(pages.add(entry, label))
        file.write(jpeg + following([label]))
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
