"""Pictures of a beton: sheets of its samples and of their crops, and the histogram of their dimensions."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..augment.augmentation import Augmentation
from ..augment.augmenter import Augmenter
from ..augment.operations import of_recipes
from ..beton import format as fmt
from ..beton.reader import Beton
from ..common.untrusted import printable
from ..decode.crop import CropOptions
from ..decode.decoder import Decoder
from ..decode.kernel import sample_table
from ..decode.status import MEANING, OK
from ..errors import UserError
from .duplicates import Pair
from .survey import Histogram, Survey, class_name, evenly

COLUMNS, ROWS = 6, 4
CELL_PX, GAP_PX, LABEL_PX, TITLE_PX = 158, 8, 20, 34
PAPER, INK, FRAME, ERROR = (255, 255, 255), (20, 20, 20), (225, 225, 225), (170, 0, 0)
CROP_PX = 224
TRAINING: dict[str, Any] = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5}

Picture = Image.Image | str
"""An image, or what is wrong with it."""


def samples_sheet(beton: Beton) -> Image.Image:
    """Uncropped samples, evenly spread over the file, each with its index and class. 1004 px wide.

    Raises:
        BetonError: the file was changed since it was opened.
    """
    chosen = evenly(beton, COLUMNS * ROWS)
    title = f"{beton.path.name}: {len(chosen)} of {beton.num_samples:,} samples, with index and class"
    with Decoder(CROP_PX) as decoder, beton.unchanged:
        samples = sample_table(beton)
        pictures = (_stored(beton, samples[index : index + 1], decoder) for index in chosen)
        return _sheet(title, beton, chosen, pictures)


def crops_sheet(beton: Beton, seed: int, epoch: int) -> Image.Image:
    """The training crops of the same samples, each at the same position, as a Loader with this seed draws them in this epoch.

    Raises:
        BetonError: the file was changed since it was opened.
    """
    chosen = evenly(beton, COLUMNS * ROWS)
    title = f"{beton.path.name}: the same samples' training crops, seed {seed}, epoch {epoch}, {CROP_PX} px"
    with beton.unchanged:
        return _sheet(title, beton, chosen, _crops(beton, chosen, seed, epoch))


def augmented_sheet(
    beton: Beton, augmentations: Sequence[Augmentation], seed: int, epoch: int, whose: str
) -> Image.Image:
    """The same training crops after a list of augmentations, as a Loader with this seed makes them in this epoch.

    whose: the list, in words, for the title.

    Raises:
        BetonError: the file was changed since it was opened.
    """
    chosen = evenly(beton, COLUMNS * ROWS)
    title = f"{beton.path.name}: the same crops after the operations of {whose}, seed {seed}, epoch {epoch}"
    with beton.unchanged:
        pictures = list(_crops(beton, chosen, seed, epoch))
        return _sheet(title, beton, chosen, _augmented(beton, chosen, pictures, augmentations, seed, epoch))


def operations_sheet(beton: Beton, seed: int, epoch: int) -> Image.Image:
    """A row for each operation of alexnet_fast.augment, with its defaults, applied to the training crops of six samples; the crops come first.

    Raises:
        BetonError: the file was changed since it was opened.
    """
    chosen = evenly(beton, COLUMNS)
    title = f"{beton.path.name}: each operation with its defaults, seed {seed}, epoch {epoch}, {CROP_PX} px"
    with beton.unchanged:
        crops = list(_crops(beton, chosen, seed, epoch))
        pictures, names = list(crops), ["as cropped"] * len(crops)
        for name, kind in of_recipes().items():
            pictures += _augmented(beton, chosen, crops, [kind(p=1.0)], seed, epoch)
            names += [name] * len(crops)
    return _sheet(title, beton, chosen * (len(pictures) // len(chosen)), pictures, names)


def duplicates_sheet(first: Beton, second: Beton, pairs: Sequence[Pair]) -> Image.Image:
    """Samples that two files share, three pairs a row, each as the first file and as the second has it; of many, the first twelve whose
    bytes differ, or else whose bytes are the same.

    Raises:
        BetonError: a file was changed since it was opened.
    """
    shown = sorted(pairs, key=lambda pair: (pair.bits < 0, pair.second))[: COLUMNS * ROWS // 2]
    title = (
        f"{len(shown)} of {len(pairs):,} samples of {second.path.name} (B) that are in {first.path.name} (A)"
    )
    pictures, names = list[Picture](), list[str]()
    with Decoder(CROP_PX) as decoder, first.unchanged, second.unchanged:
        tables = sample_table(first), sample_table(second)
        for pair in shown:
            for beton, table, index, side in (
                (first, tables[0], pair.first, "A"),
                (second, tables[1], pair.second, "B"),
            ):
                pictures.append(_stored(beton, table[index : index + 1], decoder))
                names.append(printable(f"{side} {index:,}  {class_name(beton, index)}", 60))
        return _sheet(title, first, [0] * len(pictures), pictures, names)


def histogram(found: Survey, path: Path) -> None:
    """Draw histograms of the images' longest and shortest sides, as a PNG 1000 px wide.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("the histogram needs matplotlib; install it: pip install matplotlib") from None
    figure = Figure(figsize=(10, 4.5), dpi=100, layout="constrained")
    axes = figure.subplots(1, 2)
    sides: tuple[tuple[str, Histogram], ...] = (
        ("longest", found.longest_side_px),
        ("shortest", found.shortest_side_px),
    )
    for ax, (name, bins) in zip(axes, sides):
        low, high = np.array(bins.edges[:-1]), np.array(bins.edges[1:])
        ax.bar(low, bins.counts, width=high - low, align="edge", color="#1f6fb4", edgecolor="white")
        ax.set_xlabel(f"{name} side, pixels", fontsize=12)
        ax.set_ylabel("images", fontsize=12)
        ax.tick_params(labelsize=11)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    figure.suptitle(f"{Path(found.path).name}: dimensions of {found.samples:,} images as stored", fontsize=14)
    figure.savefig(path)


def _stored(beton: Beton, sample: np.ndarray, decoder: Decoder) -> Picture:
    _, status = decoder.decode_one(beton.map, sample)
    if status != OK:  # what the loader refuses is not tried with another decoder
        return MEANING[status]
    index = int(sample["index"][0])
    image, payload = beton.images[index], beton.payload(index).tobytes()
    size = int(image["width"]), int(image["height"])
    try:
        if image["mode"] == fmt.RAW:
            return Image.frombytes("RGB", size, payload)
        # Only JPEG: for some other formats Pillow runs programs.
        with Image.open(io.BytesIO(payload), formats=("JPEG",)) as opened:
            if opened.size != size:
                raise ValueError(f"a JPEG of {opened.width} x {opened.height} px, not {size[0]} x {size[1]}")
            opened.draft(None, (CELL_PX, CELL_PX))  # libjpeg shrinks while it decodes
            return opened.convert("RGB")
    except Exception as error:  # for a corrupt file, Pillow's parsers may raise anything
        return f"unreadable: {error}"


def _crops(beton: Beton, chosen: Iterable[int], seed: int, epoch: int) -> Iterator[Picture]:
    decoder, samples = Decoder(CROP_PX), sample_table(beton)
    cropping = CropOptions(True, CROP_PX, CROP_PX, np.uint64(seed), **TRAINING)
    for index in chosen:
        pixels, status = decoder.decode_one(beton.map, samples[index : index + 1], cropping, epoch)
        yield (
            Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
            if status == OK
            else MEANING[status]
        )


def _augmented(
    beton: Beton,
    chosen: list[int],
    pictures: Sequence[Picture],
    augmentations: Sequence[Augmentation],
    seed: int,
    epoch: int,
) -> list[Picture]:
    """The crops of these samples after augmentations; what is wrong with a sample stays."""
    images = np.zeros((len(pictures), 3, CROP_PX, CROP_PX), np.uint8)
    statuses = np.array([0 if isinstance(each, Image.Image) else 1 for each in pictures], np.uint8)
    for image, picture in zip(images, pictures):
        if isinstance(picture, Image.Image):
            image[:] = np.asarray(picture).transpose(2, 0, 1)
    samples = sample_table(beton)[chosen]
    Augmenter(augmentations, seed).apply(samples, epoch, images, statuses, np.arange(len(images)))
    return [
        Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        if isinstance(picture, Image.Image)
        else picture
        for image, picture in zip(images, pictures)
    ]


def _sheet(
    title: str,
    beton: Beton,
    chosen: list[int],
    pictures: Iterable[Picture],
    names: Sequence[str] | None = None,
) -> Image.Image:
    """names: below the pictures; None = index and class of each."""
    across, down = CELL_PX + GAP_PX, CELL_PX + LABEL_PX + GAP_PX
    rows = -(-len(chosen) // COLUMNS)
    sheet = Image.new("RGB", (GAP_PX + COLUMNS * across, TITLE_PX + rows * down + GAP_PX), PAPER)
    draw = ImageDraw.Draw(sheet)
    small, large = ImageFont.load_default(13), ImageFont.load_default(17)
    draw.text((GAP_PX, 7), title, INK, large)
    for place, (index, picture) in enumerate(zip(chosen, pictures)):
        left, top = GAP_PX + place % COLUMNS * across, TITLE_PX + place // COLUMNS * down
        frame = ERROR if isinstance(picture, str) else FRAME
        draw.rectangle((left - 1, top - 1, left + CELL_PX, top + CELL_PX), outline=frame)
        if isinstance(picture, str):
            draw.multiline_text((left + 6, top + 6), _wrapped(picture), ERROR, small)
        else:
            picture = picture.copy()  # the caller's may be shown again
            picture.thumbnail((CELL_PX, CELL_PX), Image.Resampling.BICUBIC)
            sheet.paste(
                picture, (left + (CELL_PX - picture.width) // 2, top + (CELL_PX - picture.height) // 2)
            )
        label = names[place] if names else printable(f"{index:,}  {class_name(beton, index)}", 60)
        while draw.textlength(label, small) > CELL_PX:
            label = label[:-2] + "…"
        draw.text((left, top + CELL_PX + 2), label, INK, small)
    return sheet


def _wrapped(text: str, width: int = 22) -> str:
    return "\n".join(textwrap.wrap(printable(text), width)[:8])
