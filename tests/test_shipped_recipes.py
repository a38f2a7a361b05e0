"""The recipes that come with the package: found by name, listed, copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast import shipped_recipes
from alexnet_fast.errors import UserError
from components import ROOT


def test_every_recipe_is_listed_with_what_it_is_for_in_one_line(run_cli: Callable[..., Any]) -> None:
    lines = run_cli("-m", "alexnet_fast", "recipes").stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(
        path.stem for path in (ROOT / "recipes").glob("*.toml")
    )
    assert lines[0].split(maxsplit=1)[1].startswith("ImageNet-1k on one card, 90 epochs")
    for line in lines:
        assert 20 < len(line.split(maxsplit=1)[1]) < 120, line


def test_a_path_that_exists_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(shipped_recipes.find("8p")) == ROOT / "recipes/8p.toml"
    assert shipped_recipes.find("9p") == "9p" and shipped_recipes.find("x/8p") == "x/8p"
    (tmp_path / "8p").touch()
    assert shipped_recipes.find("8p") == "8p"


def test_a_copy_is_the_recipe_and_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped_recipes.main(["--copy", "8p"])
    assert (tmp_path / "8p.toml").read_bytes() == (ROOT / "recipes/8p.toml").read_bytes()
    assert capsys.readouterr().out == "8p.toml: change it, then run python -m alexnet_fast.train 8p.toml\n"
    (tmp_path / "8p.toml").write_text("mine")
    with pytest.raises(UserError, match="8p.toml exists already"):
        shipped_recipes.main(["--copy", "8p"])
    assert (tmp_path / "8p.toml").read_text() == "mine"
    with pytest.raises(UserError, match="there is no recipe 9p: expected one of 1p, "):
        shipped_recipes.main(["--copy", "9p"])


def test_a_recipe_of_a_checkout_that_is_not_here_is_named_as_the_package_knows_it(
    tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    run = run_cli("-m", "alexnet_fast.train", "recipes/8p.toml", cwd=tmp_path)
    assert run.code == 2 and "recipes/8p.toml does not exist: the package's own recipe is named" in run.stderr


def test_the_doctor_takes_a_name_too(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    run = run_cli("-m", "alexnet_fast", "doctor", "quickstart", "--json", cwd=tmp_path)
    assert run.code == 1 and "data/quickstart/train.beton does not exist" in run.stdout, run
    assert "python -m alexnet_fast pack --data" in run.stdout
