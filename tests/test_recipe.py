"""Recipes: what is accepted, and the one-sentence errors for the rest."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast import recipe_toml
from alexnet_fast.errors import UserError
from alexnet_fast.recipe import Recipe
from alexnet_fast.recipe_toml import differences, dump, keys, load, validate

FOLDER = Path(__file__).parents[1] / "recipes"
SHIPPED = sorted(FOLDER.glob("*.toml"))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text("[optim]\nlr = 0.02\n\n[data]\nscale = [0.3, 1]\n")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_recipe_is_complete_and_valid(path: Path) -> None:
    recipe = load(path)
    given = recipe_toml.tomllib.loads(path.read_text())
    assert {f"{section}.{name}" for section in given for name in given[section]} == {
        key.name for key in keys()
    }
    assert recipe.run.name == path.stem
    assert path.read_text().startswith("# ")


def test_the_references_five_scripts_and_the_small_sets_have_a_recipe_each() -> None:
    names = {path.stem for path in SHIPPED}
    assert names >= {"quickstart", "tiny", "1p", "1p_perf", "8p", "8p_perf", "8p_eval"}


@pytest.mark.parametrize(("name", "batch", "lr", "epochs"), [("1p", 128, 0.01, 90), ("8p", 1024, 0.04, 90)])
def test_the_references_hyper_parameters(name: str, batch: int, lr: float, epochs: int) -> None:
    for variant in (name, f"{name}_perf"):
        recipe = load(FOLDER / f"{variant}.toml")
        assert (recipe.data.global_batch_size, recipe.optim.lr) == (batch, lr)
        assert (recipe.optim.momentum, recipe.optim.weight_decay, recipe.optim.label_smoothing) == (
            0.9,
            1e-4,
            0.1,
        )
        assert (recipe.run.seed, recipe.schedule.epochs) == (49, 1 if variant.endswith("perf") else epochs)
        assert (recipe.precision.level, recipe.precision.loss_scale) == ("O2", "dynamic")
        assert (recipe.data.size, recipe.data.scale, recipe.eval.center_ratio) == (224, (0.08, 1.0), 0.875)
        assert (recipe.schedule.curve, recipe.schedule.per, recipe.schedule.warmup_epochs) == (
            "cosine",
            "epoch",
            0,
        )
        assert recipe.distributed.nproc == int(name[0])


def test_a_recipe_is_frozen_and_equal_recipes_are_equal(tiny: Path) -> None:
    recipe = load(tiny)
    assert recipe == load(tiny) and recipe.optim.lr == 0.02 and recipe.data.scale == (0.3, 1.0)
    with pytest.raises(ValueError, match="frozen"):
        recipe.optim.lr = 1.0  # type: ignore[misc]


def test_set_overrides_single_keys_with_their_types(tiny: Path) -> None:
    recipe = load(
        tiny,
        ["optim.lr=0.5", "run.name=a-b.c", "data.scale=[0.1, 0.9]", "log.tensorboard=true",
         "data.train=x y.beton", "precision.loss_scale=128", "model.weights="],
    )  # fmt: skip
    assert (recipe.optim.lr, recipe.run.name, recipe.data.scale) == (0.5, "a-b.c", (0.1, 0.9))
    assert (recipe.log.tensorboard, recipe.data.train, recipe.precision.loss_scale) == (
        True,
        "x y.beton",
        128.0,
    )
    assert recipe.model.weights == ""


def test_a_resolved_recipe_reads_back_equal(tiny: Path, tmp_path: Path) -> None:
    recipe = load(tiny, ['run.out=quo"te\\d\nnew é\x7f', "precision.loss_scale=1024"])
    (tmp_path / "resolved.toml").write_text(dump(recipe), encoding="utf-8")
    assert load(tmp_path / "resolved.toml") == recipe


def test_every_key_has_a_type_a_default_and_a_description() -> None:
    listed = list(keys())
    assert len({key.name for key in listed}) == len(listed) > 30
    for key in listed:
        assert key.type and key.default and key.description.endswith("."), key


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"optim": {"lrr": 1}}, "unknown key optim.lrr; did you mean optim.lr?"),
        ({"data": {"batchsize": 1}}, "unknown key data.batchsize; did you mean data.global_batch_size?"),
        ({"optim": {"epochs": 3}}, "unknown key optim.epochs; did you mean schedule.epochs?"),
        ({"optim": {"zzz": 3}}, "unknown key optim.zzz: the keys of [optim] are lr, momentum"),
        ({"optmi": {}}, "unknown section optmi; did you mean [optim]?"),
        ({"zzz": 1}, "unknown section zzz: the sections are run, data"),
        (
            {"data": {"size": "224"}},
            'data.size = "224" is not accepted: expected a whole number or [height, width]',
        ),
        (
            {"data": {"size": [64, 64, 64]}},
            "data.size = [64, 64, 64] is not accepted: expected a whole number or [height, width]",
        ),
        (
            {"data": {"interpolation": "nearest"}},
            'data.interpolation = "nearest" is not accepted: expected "bilinear" or "bicubic"',
        ),
        (
            {"data": {"size": [224, 32]}},
            "data.size = [224, 32] is not accepted: expected a whole number or [height, width], greater than or equal to 63",
        ),
        ({"run": {"seed": 1.5}}, "run.seed = 1.5 is not accepted: expected a whole number"),
        ({"eval": {"only": 1}}, "eval.only = 1 is not accepted: expected true or false"),
        (
            {"data": {"size": 32}},
            "data.size = 32 is not accepted: expected a whole number or [height, width], greater than or equal to 63",
        ),
        ({"data": {"scale": [1]}}, "data.scale = [1] is not accepted: expected [number, number]"),
        ({"data": {"scale": [1, 2, 3]}}, "data.scale = [1, 2, 3] is not accepted: expected [number, number]"),
        (
            {"precision": {"level": "O3"}},
            'precision.level = "O3" is not accepted: expected "O0" or "O1" or "O2"',
        ),
        ({"precision": {"loss_scale": "big"}}, '"auto" or "dynamic" or "none" or a number'),
        ({"precision": {"loss_scale": 0}}, "precision.loss_scale = 0 is not accepted: expected"),
        ({"run": {"name": "../x"}}, 'run.name = "../x" is not accepted'),
        ({"optim": {"lr": float("nan")}}, "optim.lr = NaN is not accepted: expected a number"),
        ({"model": 3}, "model = 3 is not accepted: expected a section"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_key(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(table)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_mistake_in_set_is_named_too(tiny: Path) -> None:
    for override, sentence in (
        ("optim.lr", "expected section.key=value"),
        ("lr=3", "expected section.key=value"),
        ("optim.lr=fast", 'on the command line: optim.lr = "fast" is not accepted: expected a number'),
        ("optim.lrs=3", "on the command line: unknown key optim.lrs; did you mean optim.lr?"),
    ):
        with pytest.raises(UserError) as caught:
            load(tiny, [override])
        assert sentence in str(caught.value)


def test_a_missing_or_broken_file_is_named(tiny: Path) -> None:
    with pytest.raises(UserError, match="there is no recipe .*tinny.toml: did you mean .*tiny.toml"):
        load(tiny.with_name("tinny.toml"))
    with pytest.raises(UserError, match="give the path of a TOML file"):
        load(tiny.parent / "nowhere" / "x.toml")
    tiny.write_text("[optim\nlr = 1")
    with pytest.raises(UserError, match="not valid TOML"):
        load(tiny)
    tiny.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        load(tiny)


HOSTILE = {
    "its values nest too deeply": "a = " + "[\n" * 30_000,
    "values nest too deeply": "a = " + "{a = " * 900,
    # tomllib refuses it from Python 3.14 on, and before that the check of its tables does.
    "is not a recipe: its values nest too deeply": ".".join("a" * 2000) + " = 1",
    "recursion limit": "[run]\nname = " + "[" * 250 + "]" * 250,
    "4300 digits": "[run]\nseed = " + "9" * 4900,
    "4300": "[run]\nseed = 0x" + "f" * 4900,
    "less than or equal to": "[run]\nseed = 18446744073709551616",
    "more than 65,536 bytes": "#" * 1000 + "\n" * 70_000,
    "a line has more than 5,000 characters": ".".join("a" * 9000) + " = 1",
    r"unknown key optim.a\nb\x1b[2J": '[optim]\n"a\\nb\\u001b[2J" = 1',
    "match pattern": '[run]\nout = "a\\u0000"',
    "not valid TOML": "[run]\nseed = 1\x00",
}


@pytest.mark.parametrize("sentence", HOSTILE)
def test_a_hostile_recipe_is_one_short_sentence(tmp_path: Path, sentence: str) -> None:
    path = tmp_path / "hostile.toml"
    path.write_text(HOSTILE[sentence])
    with pytest.raises(UserError) as caught:
        load(path)
    assert sentence in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 800


def test_a_path_that_is_not_a_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", "/dev/zero", "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot be read"):
            load(place)


def test_hostile_overrides_are_one_sentence_too(tiny: Path) -> None:
    for override in (
        "run.seed=" + "9" * 5000,
        "run.name=" + "[" * 5000,
        "run.name=\udcff",
        "a\nb=1",
        "optim.a\nb=1",
    ):
        with pytest.raises(UserError) as caught:
            load(tiny, [override])
        assert str(caught.value).isprintable() and len(str(caught.value)) < 800


def test_differences_name_the_keys() -> None:
    one, other = validate({"optim": {"lr": 0.1}}), Recipe()
    assert differences(one.model_dump(mode="json"), other.model_dump(mode="json")) == ["optim.lr"]


def test_a_key_missing_in_an_older_recipe_counts_as_its_default() -> None:
    """A run of an older version is resumed with a recipe that has more keys."""
    older = Recipe().model_dump(mode="json")
    del older["data"]["label_field"], older["distributed"]
    assert differences(older, Recipe().model_dump(mode="json")) == []
    fine = validate({"data": {"label_field": "fine"}}).model_dump(mode="json")
    assert differences(older, fine) == differences(fine, older) == ["data.label_field"]


def test_the_keys_of_the_fields_are_what_beton_and_loader_take() -> None:
    assert Recipe().data.fields == {"image_field": None, "label_field": None}
    recipe = validate({"data": {"image_field": "left", "label_field": "fine"}})
    assert recipe.data.fields == {"image_field": "left", "label_field": "fine"}


def test_a_size_may_be_a_height_and_a_width() -> None:
    made = validate({"data": {"size": [160, 224], "interpolation": "bicubic"}, "eval": {"size": [192, 256]}})
    assert (made.data.size, made.eval.size, made.data.interpolation) == ((160, 224), (192, 256), "bicubic")
    assert validate(tomllib.loads(dump(made))) == validate(made.model_dump(mode="json")) == made


# -- augmentations

AUGMENTED = """
[augment]
operations = [{op = "RandAugment", magnitude = 7}, {op = "RandomErasing", p = 0.25, value = "random", scale = [0.1, 0.2]}]
mixup = 0.2
"""


def test_a_list_of_operations_is_read_written_and_overridden(tmp_path: Path) -> None:
    path = tmp_path / "augmented.toml"
    path.write_text(AUGMENTED)
    recipe = load(path)
    erasing = {"op": "RandomErasing", "p": 0.25, "value": "random", "scale": [0.1, 0.2]}
    assert recipe.augment.operations == ({"op": "RandAugment", "magnitude": 7}, erasing)
    assert (recipe.augment.mixup, recipe.augment.cutmix, recipe.augment.mix_prob) == (0.2, 0.0, 1.0)
    (tmp_path / "resolved.toml").write_text(dump(recipe))
    assert load(tmp_path / "resolved.toml") == recipe
    other = load(path, ['augment.operations=[{op = "Invert"}]', "augment.mixup=0"])
    assert other.augment.operations == ({"op": "Invert"},)
    assert differences(recipe.model_dump(mode="json"), other.model_dump(mode="json")) == [
        "augment.operations",
        "augment.mixup",
    ]
    assert load(path, ["augment.operations=[]"]).augment.operations == ()


@pytest.mark.parametrize(
    ("operations", "sentence"),
    [
        ([{"op": "Randaugment"}], "there is no operation Randaugment: did you mean RandAugment?"),
        ([{"op": "Solarize", "treshold": 1}], "Solarize has no parameter treshold: did you mean threshold?"),
        (
            [{"op": "Solarize", "threshold": 300}],
            "Solarize.threshold = 300 is out of range, expected 0 to 255",
        ),
        ([{"op": "Invert"}, {"p": 0.5}], "the table number 2 has no op, the operation's name, as in"),
        ([{"op": 3}], "the table number 1 has no op"),
        ([{"op": "Custom"}], "there is no operation Custom"),
        (
            [{"op": "Invert", "p": "often"}],
            "Invert.p = 'often' is of type str, expected a number, a probability",
        ),
        (["Invert"], 'expected a list of tables, [{op = "NAME", parameter = value}]'),
        ({"op": "Invert"}, 'expected a list of tables, [{op = "NAME", parameter = value}]'),
    ],
)
def test_a_mistake_in_an_operation_is_one_sentence(operations: Any, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        validate({"augment": {"operations": operations}})
    said = str(caught.value)
    assert sentence in said and "augment.operations" in said and "\n" not in said


def test_a_recipe_without_operations_loads_no_kernels(run_cli: Any) -> None:
    code = (
        "import sys; from alexnet_fast.recipe_toml import load; load('recipes/1p.toml'); print(*sys.modules)"
    )
    assert not {"numba", "torch", "alexnet_fast.augment"} & set(
        run_cli("-c", code, cwd=FOLDER.parent).stdout.split()
    )
