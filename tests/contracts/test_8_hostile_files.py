"""Promise 8: any file, whatever it contains, loads or is refused with an error of ours. No crash, no hang, no pixel of another image.

Short forms of the attacks in tests/stress, which can run for any time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.errors import exit_code
from alexnet_fast.recipe_toml import load
from stress import fuzz_betons, fuzz_decoder, fuzz_recipes, fuzz_slicer


@pytest.fixture(scope="module")
def photos(require: Callable[[str], Path]) -> Path:
    return require("data") / "imagenet-samples/train"


def test_corrupt_betons_load_or_are_refused(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a forbidden write is noticed: the worker makes one at the last file."""
    monkeypatch.setenv(fuzz_betons.SABOTAGE, "150")
    result = fuzz_betons.attack(photos, 151, seed=8, with_ffcv=False)
    assert result.findings == ["file 150 ended the process with -11"] and result.files == 151
    assert result.loaded > 50 and result.refused > 10 and 100 < result.broken < result.samples - 100


def test_corrupt_recipes_load_or_are_refused_with_one_sentence() -> None:
    result = fuzz_recipes.attack(100, seed=8)
    assert result.findings == [] and result.loaded > 5 and result.refused > 50


def test_our_own_decoder_has_libjpegs_verdict_and_pixels(photos: Path) -> None:
    """Some 44 % of these mutations are refused, the others are decoded."""
    result = fuzz_decoder.attack(photos, 6_000, seed=8)
    assert result.findings == {} and result.inputs > 5_500
    assert result.refused > 1500 and result.decoded > 1500 and min(result.paths) > 300


def test_parser_and_slicer_agree_with_their_python_form_and_with_a_full_decode(photos: Path) -> None:
    result = fuzz_slicer.attack(photos, 60, seed=8)
    assert result.findings == {} and result.inputs > 60
    assert min(result.reached[kind] for kind in ("tiles", "rows", "whole", "decoder")) > 0


def test_an_index_beyond_the_end_or_below_zero_is_noticed() -> None:
    array = fuzz_slicer.Strict(b"abc")
    for wrong in (3, -1, slice(2, 4), slice(-1, 2), slice(2, 1)):
        with pytest.raises(IndexError):
            array[wrong]


HOSTILE_RECIPES: dict[str, Any] = {
    "nested": b"a = " + b"[\n" * 30_000,
    "of too many digits": b"[run]\nseed = " + b"9" * 4900,
    "of a key with line breaks": b'[optim]\n"a\\nb" = 1',
    "not UTF-8": b"\xff\xfe\x00",
    "endless": Path("/dev/zero"),
    "a folder": Path("/tmp"),
}


def test_a_hostile_recipe_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for what, content in HOSTILE_RECIPES.items():
        path = content if isinstance(content, Path) else tmp_path / "hostile.toml"
        if isinstance(content, bytes):
            path.write_bytes(content)
        assert exit_code(partial(load, path)) == 2, what  # type: ignore[arg-type]
        printed = capsys.readouterr().err
        assert printed.startswith("error: ") and printed.count("\n") == 1, what
