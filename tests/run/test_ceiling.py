"""The ceiling of a run's speed, from a profile in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.recipe import Recipe
from alexnet_fast.recipe_toml import validate
from alexnet_fast.run.ceiling import FORMAT, ceiling_img_per_s

MACHINE = {"processor": "one", "cores": 2, "device": "one", "kind": "cpu", "ranks": 1}
FILE_BYTES = 1000


def recipe_in(folder: Path, **sections: dict[str, Any]) -> Recipe:
    return validate({"run": {"name": "it", "out": str(folder)}, **sections})


@pytest.fixture
def profiled(tmp_path: Path) -> Path:
    """A folder of runs in which the run "it" was profiled."""
    recipe = recipe_in(tmp_path)
    recipe.folder.mkdir()
    document = {
        "format": FORMAT,
        "machine": MACHINE,
        "recipe": recipe.model_dump(mode="json"),
        "read": {"file_bytes": FILE_BYTES},
        "verdict": {"predicted_img_per_s": 100.0, "later_epochs_img_per_s": 500.0},
    }
    (recipe.folder / "throughput.json").write_text(json.dumps(document))
    return tmp_path


def test_the_ceiling_is_that_of_the_same_recipe_on_the_same_machine(profiled: Path) -> None:
    def ceiling(machine: dict[str, Any] = MACHINE, **sections: dict[str, Any]) -> float | None:
        return ceiling_img_per_s(recipe_in(profiled, **sections), machine, FILE_BYTES)

    assert ceiling() == 500, "the speed from the second epoch on, not that of a cold page cache"
    assert ceiling(optim={"lr": 0.5}, schedule={"epochs": 3}) == 500
    assert ceiling(data={"size": 64}) is None
    assert ceiling(precision={"level": "O0"}) is None
    assert ceiling(MACHINE | {"cores": 4}) is None


def test_a_profile_of_a_file_packed_again_since_gives_no_ceiling(profiled: Path) -> None:
    assert ceiling_img_per_s(recipe_in(profiled), MACHINE, FILE_BYTES - 1) is None


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", '{"format": 0}', f'{{"format": {FORMAT}}}', "[" * 100_000]
)
def test_a_missing_or_invalid_profile_gives_no_ceiling(tmp_path: Path, text: str | None) -> None:
    recipe = recipe_in(tmp_path)
    recipe.folder.mkdir()
    if text is not None:
        (recipe.folder / "throughput.json").write_text(text)
    assert ceiling_img_per_s(recipe, MACHINE, FILE_BYTES) is None
