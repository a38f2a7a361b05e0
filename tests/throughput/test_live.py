"""What a training run says of its own speed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alexnet_fast.engine.meter import Span
from alexnet_fast.recipe import Recipe, validate
from alexnet_fast.throughput.live import FORMAT, DataWait, Totals, ceiling_img_per_s, reason

MACHINE = {"processor": "one", "cores": 2, "device": "one", "kind": "cpu", "ranks": 1}


def recipe_in(folder: Path, **sections: dict[str, Any]) -> Recipe:
    return validate({"run": {"name": "it", "out": str(folder)}, **sections})


@pytest.fixture
def profiled(tmp_path: Path) -> Path:
    """A folder of runs in which "it" was profiled."""
    recipe = recipe_in(tmp_path)
    recipe.folder.mkdir()
    document = {
        "format": FORMAT,
        "machine": MACHINE,
        "recipe": recipe.model_dump(mode="json"),
        "verdict": {"predicted_img_per_s": 500.0},
    }
    (recipe.folder / "throughput.json").write_text(json.dumps(document))
    return tmp_path


def test_the_ceiling_is_that_of_the_same_recipe_on_the_same_machine(profiled: Path) -> None:
    assert ceiling_img_per_s(recipe_in(profiled), MACHINE) == 500
    assert ceiling_img_per_s(recipe_in(profiled, optim={"lr": 0.5}, schedule={"epochs": 3}), MACHINE) == 500
    assert ceiling_img_per_s(recipe_in(profiled, data={"size": 64}), MACHINE) is None
    assert ceiling_img_per_s(recipe_in(profiled, precision={"level": "O0"}), MACHINE) is None
    assert ceiling_img_per_s(recipe_in(profiled), MACHINE | {"cores": 4}) is None


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", '{"format": 0}', f'{{"format": {FORMAT}}}', "[" * 100_000]
)
def test_a_profile_that_is_none_gives_no_ceiling(tmp_path: Path, text: str | None) -> None:
    recipe = recipe_in(tmp_path)
    recipe.folder.mkdir()
    if text is not None:
        (recipe.folder / "throughput.json").write_text(text)
    assert ceiling_img_per_s(recipe, MACHINE) is None


def loader_that(busy_s: float) -> Any:
    """A loader whose two threads have worked so long."""
    activities = [SimpleNamespace(busy_s=busy_s, cpu_s=busy_s, faults=0) for _ in range(2)]
    return SimpleNamespace(activities=activities, threads=2, wait_s=busy_s)


def test_a_run_that_waits_for_data_says_so_once_and_why() -> None:
    loader = loader_that(0.0)
    wait = DataWait(loader)
    assert wait.warning(Span(5, 100, 1.0, 0.5)) is None, "too few steps to judge"
    for activity in loader.activities:
        activity.busy_s = activity.cpu_s = 100.0
    loader.wait_s = 100.0
    said = wait.warning(Span(30, 600, 10.0, 4.0))
    assert said is not None and "waits for data 40 %" in said and "decoding is the limit" in said
    assert wait.warning(Span(60, 1200, 20.0, 8.0)) is None


def test_a_run_that_waits_a_little_says_nothing() -> None:
    assert DataWait(loader_that(1.0)).warning(Span(100, 1000, 10.0, 0.9)) is None


def test_why_data_is_late_follows_from_what_the_threads_did() -> None:
    assert "decoding is the limit" in reason(Totals(19.5, 19.0, 0), seconds=10, threads=2)
    assert "disk" in reason(Totals(19.5, 4.0, 900), seconds=10, threads=2)
    assert "waiting for a core" in reason(Totals(19.5, 4.0, 0), seconds=10, threads=2)
    assert "batches_ahead" in reason(Totals(3.0, 3.0, 0), seconds=10, threads=2)
    assert "the one decoding thread is" in reason(Totals(9.9, 9.9, 0), seconds=10, threads=1)
