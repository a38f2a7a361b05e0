"""A run of three classes, trained for an epoch: its folder, with betons and images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.writer import scan_folder, write_beton
from alexnet_fast.recipe_toml import toml
from alexnet_fast.train import main

CLASSES = ["coarse", "fine", "middling"]


@dataclass(frozen=True)
class Run:
    """images: val/<class>/*.png, whose pixels val.beton holds as they are."""

    folder: Path
    images: Path
    val: Path
    recipe: Path


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("prediction")
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 7)):
        for index in range(count):
            name = CLASSES[index % len(CLASSES)]
            grain = {"coarse": 32, "middling": 12, "fine": 4}[name]
            (folder := root / split / name).mkdir(parents=True, exist_ok=True)
            small = generator.integers(0, 256, (96 // grain + 2, 128 // grain + 2, 3), dtype=np.uint8)
            Image.fromarray(small).resize((128, 96)).save(folder / f"{index:02}.png")
        pixels = Encoding(mode="raw", max_resolution=0)
        write_beton(scan_folder(root / split), root / f"{split}.beton", pixels, workers=1)
    sections = {
        "run": {"name": "small", "out": str(root / "runs"), "device": "cpu"},
        "data": {
            "train": str(root / "train.beton"),
            "val": str(root / "val.beton"),
            "size": 64,
            "global_batch_size": 4,
        },
        "model": {"num_classes": 3},
        "schedule": {"epochs": 1},
        "precision": {"level": "O2"},
    }
    recipe = root / "small.toml"
    recipe.write_text(
        "\n".join(
            f"[{section}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in values.items())
            for section, values in sections.items()
        )
    )
    assert main([str(recipe)]) == 0
    return Run(root / "runs" / "small", root / "val", root / "val.beton", recipe)
