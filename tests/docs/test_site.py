"""The site, built as `make docs` builds it."""

from __future__ import annotations

from pathlib import Path

import pytest

import command_line
from alexnet_fast.recipe_toml import keys
from components import ROOT


@pytest.mark.long
def test_the_site_builds_without_a_warning_and_shows_what_the_code_knows(tmp_path: Path) -> None:
    for name in ("sphinx", "myst_parser", "pydata_sphinx_theme", "sphinx_copybutton"):
        pytest.importorskip(name)
    options = ("--quiet", "--fail-on-warning", "--keep-going", "--builder", "html")
    done = command_line.finish(
        command_line.start(
            "-m", "sphinx", *options, "--doctree-dir", tmp_path / "trees", ROOT / "docs", tmp_path / "site"
        )
    )
    assert done.code == 0, done.stderr
    pages = {
        path.relative_to(tmp_path / "site").as_posix(): path.read_text() for path in tmp_path.rglob("*.html")
    }
    assert all(key.name in pages["recipes.html"] for key in keys())
    assert all(name in pages["api.html"] for name in ("load_state_dict", "prefetch_to", "read_ahead_bytes"))
    assert "--max-resolution" in pages["packing.html"]
    assert '<html lang="zh-CN"' in pages["zh/start.html"] and '<html lang="en"' in pages["start.html"]
