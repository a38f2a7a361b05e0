"""A file of fifty images and three epochs of it, for tests of where a Loader is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alexnet_fast import Loader
from betons import jpeg, picture, write
from handed_out import Samples, labels_and_pixels

FIFTY = 50


@pytest.fixture(scope="session")
def fifty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty images; a sample's label is its index."""
    images = [jpeg(picture(60, 50, k)) for k in range(FIFTY)]
    return write(tmp_path_factory.mktemp("fifty") / "a.beton", images)


def opened(beton: Path, batch_size: int = 8, **options: Any) -> Loader:
    return Loader(beton, batch_size, **{"train": True, "size": 24, "seed": 3, "threads": 1, **options})


@pytest.fixture(scope="session")
def epochs(fifty: Path) -> list[Samples]:
    """Three epochs of the fifty, of which nothing is dropped."""
    with opened(fifty, drop_last=False) as loader:
        return [labels_and_pixels(iter(loader)) for _ in range(3)]
