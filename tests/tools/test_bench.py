"""The package of the benchmarks' parts."""

from __future__ import annotations

import re
from pathlib import Path

import bench


def test_the_list_of_the_parts_names_every_module_and_no_other() -> None:
    modules = {path.name for path in Path(bench.__path__[0]).glob("*.py")} - {"__init__.py"}
    listed = bench.__doc__.partition("\n")[2]
    assert set(re.findall(r"(?<![/\w])\w+\.py", listed)) == modules
