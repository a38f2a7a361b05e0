"""Image folders for tests."""

from __future__ import annotations

import os
from pathlib import Path

from betons import jpeg, picture


def fill(root: Path, classes: dict[str, int]) -> Path:
    """A folder of so many small JPEGs a class."""
    for k, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{name}_{i}.JPEG").write_bytes(jpeg(picture(90, 70, 10 * k + i)))
    return root


def listed(folder: Path) -> list[str]:
    """What lies in a folder; nothing where there is none."""
    return sorted(os.listdir(folder)) if folder.exists() else []
