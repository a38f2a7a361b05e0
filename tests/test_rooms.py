"""The rooms: each imports only what it may, no rule points upwards, and docs/design.md shows the rooms as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

import draw_house


def test_every_room_imports_only_what_it_may() -> None:
    assert draw_house.broken_rules() == []


def test_no_rule_allows_an_import_cycle() -> None:
    assert draw_house.climbing() == []


def test_the_design_page_shows_the_rooms_as_they_are() -> None:
    page = draw_house.DESIGN.read_text()
    assert page == draw_house.written(page), "run: python tools/draw_house.py --write"


@pytest.mark.parametrize(
    ("room", "line", "fault"),
    [
        ("decode", "import torch", "decode may not import torch"),
        ("beton", "from ..loader.loader import Loader", "beton may not import loader"),
        ("packing", "def f():\n    from ..decode import kernel", "packing may not import decode"),
        ("cellar", "import os", "the room cellar is not in"),
        ("errors", "from .common import text", "errors may not import common"),
    ],
)
def test_an_import_that_is_not_allowed_is_reported_with_its_place(
    tmp_path: Path, room: str, line: str, fault: str
) -> None:
    package = tmp_path / "alexnet_fast"
    module = package / ("errors.py" if room == "errors" else f"{room}/module.py")
    module.parent.mkdir(parents=True)
    module.write_text(line)
    faults = draw_house.broken_rules(package)
    place = "" if room == "cellar" else str(module.relative_to(tmp_path))
    assert len(faults) == 1 and fault in faults[0] and faults[0].startswith(place)


def test_imports_for_type_checkers_only_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "alexnet_fast/beton").mkdir(parents=True)
    (tmp_path / "alexnet_fast/beton/a.py").write_text(
        "if TYPE_CHECKING:\n    from ..loader.loader import Loader\n"
    )
    assert draw_house.broken_rules(tmp_path / "alexnet_fast") == []
