"""A path means the same wherever it is given: on a command line, in a recipe, after --set."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import get_args

import pytest

from alexnet_fast.common.cli import Parser, file_path
from alexnet_fast.common.paths import check_text, given_path
from alexnet_fast.errors import UserError
from alexnet_fast.recipe import Betons, FilePath, OptionalPath, Recipe
from alexnet_fast.recipe_toml import load, validate

NOBODY = "~no-such-user-here/x"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_leading_tilde_is_the_home_folder_and_any_other_stays_a_tilde(home: Path) -> None:
    assert given_path("~") == str(home)
    assert given_path("~/a/~b") == f"{home}/a/~b"
    assert given_path("~root/x") == f"{os.path.expanduser('~root')}/x"
    for plain in ("a/~", "./~", "/x/~y", "a~", " ", "./data//train.beton", "runs/"):
        assert given_path(plain) == plain, "any other path is unchanged: a resumed run compares it"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("", "an empty path: give one"),
        (NOBODY, "'no-such-user-here', a user that this machine does not know"),
    ],
)
def test_an_empty_path_and_the_home_of_an_unknown_user_are_errors_wherever_they_are_given(
    path: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        given_path(path)
    with pytest.raises(argparse.ArgumentTypeError, match=sentence):
        file_path(path)
    with pytest.raises(UserError, match=sentence):
        validate({"run": {"out": path}})


def path_keys() -> list[str]:
    return [
        f"{section}.{name}"
        for section, field in Recipe.model_fields.items()
        for name, key in field.annotation.model_fields.items()  # type: ignore[union-attr]
        if any(
            each in key.metadata
            for kind in (Betons, FilePath, OptionalPath)
            for each in get_args(kind)[1:]
            if callable(getattr(each, "func", None))
        )
    ]


def test_every_key_of_a_recipe_that_is_a_path_takes_a_tilde(home: Path, tmp_path: Path) -> None:
    assert path_keys() == ["run.out", "data.train", "data.val", "model.weights"]
    for name in path_keys():
        section, _, key = name.partition(".")
        (tmp_path / "a.toml").write_text(f'[{section}]\n{key} = "~/it"\n')
        for recipe in (load(tmp_path / "a.toml"), load(tmp_path / "a.toml", [f"{name}=~/it"])):
            assert getattr(getattr(recipe, section), key) == f"{home}/it"
        with pytest.raises(UserError, match=f"{name} = .* is not accepted: .* a user that this machine"):
            load(tmp_path / "a.toml", [f"{name}={NOBODY}"])
    assert validate({"data": {"train": ["~/a", "b"]}}).data.train == (f"{home}/a", "b")
    assert validate({"model": {"weights": ""}}).model.weights == "", "empty: fresh weights"


def test_a_recipe_holds_no_path_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[run]\n")
    latin = os.fsdecode(b"caf\xe9")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "a.toml", [f"data.train={latin}/train.beton"])
    assert str(caught.value).startswith(
        r"--set data.train = caf\udce9/train.beton is not UTF-8, and a recipe holds"
    )
    assert check_text("café", "it") == "café"


def test_an_error_of_a_path_flag_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="example")
    parser.add_argument("--out", type=file_path)
    assert parser.parse(["--out", "a/b"]).out == Path("a/b")
    with pytest.raises(SystemExit):
        parser.parse(["--out", NOBODY])
    assert capsys.readouterr().err == (
        f"error: argument --out: {NOBODY} is in the home folder of 'no-such-user-here', a user that this machine does not "
        f"know: give the full path, or ./{NOBODY} for a name that starts so\n"
    )
