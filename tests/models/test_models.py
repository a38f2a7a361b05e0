"""The registry of networks: what it says of each without torch, and that it is true of the network."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import alexnet_fast.engine  # noqa: F401 (before torch, as in a training run)

# isort: split
import torch

import betons
from alexnet_fast import trainer
from alexnet_fast.errors import UserError
from alexnet_fast.models import MODELS
from alexnet_fast.models.initial_weights import initialise_he
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from alexnet_fast.recipe_toml import differences, validate
from alexnet_fast.run import checkpoint
from alexnet_fast.run.checkpoint import LAST


@pytest.fixture(params=sorted(MODELS))
def name(request: pytest.FixtureRequest, require: Callable[[str], Any]) -> str:
    """Each network; one of torchvision's is skipped where that is not installed."""
    if MODELS[request.param].network.startswith("torchvision"):
        require("torchvision")
    return request.param


@pytest.mark.parametrize("num_classes", [1, 10, 1000])
def test_a_network_has_as_many_parameters_as_its_spec_says(name: str, num_classes: int) -> None:
    with torch.device("meta"):
        model = MODELS[name].build(num_classes)
    expected = MODELS[name].parameters
    assert expected is not None and sum(p.numel() for p in model.parameters()) == expected(num_classes)


def test_a_network_takes_its_smallest_images(name: str) -> None:
    side = MODELS[name].min_size_px
    with torch.no_grad():
        assert MODELS[name].build(4)(torch.zeros(2, 3, side, side)).shape == (2, 4)


def test_he_weights_give_finite_outputs_and_a_small_last_layer(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name].build(4).eval()
    initialise_he(model)
    last = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)][-1]
    assert last.out_features == 4 and 0.005 < last.weight.std() < 0.02
    with torch.no_grad():
        assert model(torch.randn(2, 3, 64, 64)).isfinite().all()


def test_the_registry_is_read_without_torch() -> None:
    code = "import sys; from alexnet_fast import models, recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_network_whose_package_is_missing_is_an_error_in_one_sentence() -> None:
    spec = replace(MODELS["resnet18"], network="no_such_package.models:resnet18")
    with pytest.raises(UserError) as caught:
        spec.build(10)
    sentence = str(caught.value)
    assert sentence.startswith("ResNet-18 comes from no_such_package, which does not load (No module named")
    assert "set model.name to another network" in sentence and "\n" not in sentence


def test_the_smallest_image_and_the_dropout_depend_on_the_network() -> None:
    small: dict[str, Any] = {"data": {"size": 40}, "model": {"name": "resnet18", "dropout": 0.0}}
    assert validate(small).data.size == 40
    for table, sentence in (
        ({"data": {"size": 40}}, "data.size = 40 is not accepted: expected a whole number or [height, width], greater than or equal to 63"),
        (small | {"data": {"size": 31}}, "expected a whole number or [height, width], greater than or equal to 32"),
        ({"model": {"name": "resnet18"}}, "model.dropout = 0.5 is not accepted: ResNet-18 has no dropout; set model.dropout"),
        ({"model": {"name": "vgg11"}}, "model.dropout = 0.5 is not accepted: vgg11 has a dropout of its own; set model.dropout"),
        ({"model": {"name": "jax/vgg"}}, 'model.name = "jax/vgg" is not accepted: expected a name, such as alexnet, resnet18'),
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            validate(table)
        assert sentence in str(caught.value)


def test_a_recipe_without_model_name_is_alexnets() -> None:
    now = validate({}).model_dump(mode="json")
    before = now | {"model": {key: value for key, value in now["model"].items() if key != "name"}}
    assert validate(before).model.name == "alexnet" and differences(before, now) == []


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_resnet18_trains_evaluates_and_resumes_to_the_bit(
    level: str, tmp_path: Path, require: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    models = require("torchvision").models
    jpegs = [encode_jpeg(betons.picture(72, 64, k), Encoding()) for k in range(16)]
    for split, count in (("train", 16), ("val", 6)):
        betons.write(tmp_path / f"{split}.beton", jpegs[:count], [k % 3 for k in range(count)])

    def recipe(name: str, epochs: int) -> Any:
        return validate(
            {
                "run": {"name": name, "out": str(tmp_path), "device": "cpu"},
                "data": {
                    "train": str(tmp_path / "train.beton"), "val": str(tmp_path / "val.beton"), "size": 32,
                    "global_batch_size": 8, "threads": 1,
                },
                "model": {"name": "resnet18", "num_classes": 3, "dropout": 0.0},
                "precision": {"level": level},
                "schedule": {"epochs": epochs, "curve": "constant"},
                "log": {"print_freq": 1},
            }
        )  # fmt: skip

    whole = trainer.train(recipe("whole", 2))
    assert "whole: ResNet-18, 3 classes" in capsys.readouterr().out
    trainer.train(recipe("resumed", 1))
    torch.manual_seed(99)  # what happens between the two runs must not matter
    resumed = trainer.train(recipe("resumed", 2), "auto")
    assert whole.evaluation is not None and whole.evaluation == resumed.evaluation
    assert whole.evaluation.samples == 6
    states = [checkpoint.load(tmp_path / run / LAST)["state_dict"] for run in ("whole", "resumed")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    floats = {tensor.dtype for key, tensor in states[0].items() if not key.endswith("num_batches_tracked")}
    assert floats == {torch.float32} and states[0]["bn1.num_batches_tracked"] == 4
    models.resnet18(num_classes=3).load_state_dict(states[0], strict=True)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "step"]
    assert len(losses) == 4 and all(0 < loss < 10 for loss in losses)


def test_weights_of_another_network_are_refused_by_name(
    tmp_path: Path, require: Callable[[str], Any]
) -> None:
    weights = require("torchvision").models.resnet18(num_classes=3).state_dict()
    torch.save(weights, tmp_path / "resnet.pt")
    betons.write(
        tmp_path / "train.beton",
        [encode_jpeg(betons.picture(72, 64, k), Encoding()) for k in range(4)],
        [0, 1, 2, 0],
    )
    table: dict[str, Any] = {
        "run": {"out": str(tmp_path), "device": "cpu"},
        "data": {"train": str(tmp_path / "train.beton"), "size": 63, "global_batch_size": 4, "threads": 1},
        "model": {"num_classes": 3, "weights": str(tmp_path / "resnet.pt")},
        "eval": {"every": 0},
    }
    with pytest.raises(UserError, match="the weights lack .* they are not those of AlexNet"):
        trainer.train(validate(table))
