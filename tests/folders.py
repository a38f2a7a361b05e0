"""Image folders for tests."""

from __future__ import annotations

import os
from pathlib import Path

from betons import jpeg, picture


def fill(root: Path, classes: dict[str, int]) -> Path:
    """Make a folder of classes, each with its number of small JPEGs; returns it."""
    for k, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{name}_{i}.JPEG").write_bytes(jpeg(picture(90, 70, 10 * k + i)))
    return root


def listed(folder: Path) -> list[str]:
    """The names in a folder, sorted; empty where it does not exist."""
    return sorted(os.listdir(folder)) if folder.exists() else []
