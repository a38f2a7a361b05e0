"""An image folder as the packer sees it: which files, in which order, of which classes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
)
IMAGE_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""Pillow's names for them. It must try no other, whatever a file is called: for an EPS it would start Ghostscript."""


class FolderError(UserError):
    """A folder that is not what the packer expects."""


@dataclass(frozen=True)
class ImageFolder:
    """The images of one split: paths relative to ``root``, their labels, and the names of the classes."""

    root: Path
    paths: list[str]
    labels: list[int]
    classes: list[str]

    def shuffled(self, seed: int) -> ImageFolder:
        """The same images in an order of mixed classes."""
        order = list(range(len(self.paths)))
        random.Random(seed).shuffle(order)
        return ImageFolder(
            self.root, [self.paths[i] for i in order], [self.labels[i] for i in order], self.classes
        )

    def limited(self, count: int) -> ImageFolder:
        """The first ``count`` images."""
        return ImageFolder(self.root, self.paths[:count], self.labels[:count], self.classes)


def scan_folder(root: Path, classes: list[str] | None = None) -> ImageFolder:
    """List ``root/<class>/*`` as torchvision's ImageFolder does: classes in sorted order are labels 0, 1, ...

    Args:
        classes: the labels to use, where another split has named them; a class beyond them is an error.

    Raises:
        FolderError: no folder, no class in it, a class without images or one that is not in ``classes``.
    """
    if not root.is_dir():
        raise FolderError(
            f"{root} is not a folder; expected one folder per class in it, each with that class's images"
        )
    found = sorted(
        entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")
    )
    if not found:
        raise FolderError(f"{root} has no class folders; expected {root}/<class>/<image>")
    classes = classes or found
    if unknown := sorted(set(found) - set(classes)):
        raise FolderError(
            f"{root} has the class {unknown[0]!r}, which the training split does not have; remove or rename it"
        )
    paths, labels = [], []
    for name in found:
        images = sorted(_images_below(root / name))
        if not images:
            raise FolderError(
                f"{root / name} holds no image; expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        paths += [f"{name}/{image}" for image in images]
        labels += [classes.index(name)] * len(images)
    return ImageFolder(root, paths, labels, classes)


def _images_below(folder: Path) -> Iterator[str]:
    for directory, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield os.path.relpath(os.path.join(directory, name), folder)
