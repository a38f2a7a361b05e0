"""Exports: other programs compute what the engine does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import components
from alexnet_fast import export
from alexnet_fast.errors import UserError
from alexnet_fast.loader.normalize import ImageNet
from alexnet_fast.models import spec_of
from alexnet_fast.prediction.trained import TrainedModel, load_trained
from prediction.conftest import CLASSES, Run


@pytest.fixture(scope="module")
def model(run: Run) -> TrainedModel:
    return load_trained(run.folder, device="cpu", overrides=["precision.level=O0"])


def pixels(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator)


def normalized(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ImageNet)
    return (images / 255 - mean) / std


def engines(model: TrainedModel, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.precision.forward(normalized(images))


def test_torchvisions_network_loads_the_weights_and_gives_the_engines_outputs(
    run: Run, model: TrainedModel, tmp_path: Path
) -> None:
    torchvision: Any = components.require("torchvision")
    path = tmp_path / "alexnet.pt"
    export.main([str(run.folder), str(path)])
    network = torchvision.models.alexnet(num_classes=3).eval()
    network.load_state_dict(torch.load(path, weights_only=True))
    images = pixels(5)
    with torch.no_grad():
        torch.testing.assert_close(network(normalized(images)), engines(model, images))


@pytest.mark.long
@pytest.mark.parametrize("taken", ["float32", "uint8"])
def test_onnx_gives_the_engines_outputs_for_any_batch(
    run: Run, model: TrainedModel, tmp_path: Path, taken: str
) -> None:
    onnxruntime: Any = components.require("onnxruntime")
    path = tmp_path / "alexnet.onnx"
    # In a process of its own: torch's exporter leaves a thread running.
    command = (sys.executable, "-m", "alexnet_fast.export", str(run.folder), str(path), "--input", taken)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("\n") == 1 and not done.stderr, done.stderr
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = pixels(count)
        given = images.numpy() if taken == "uint8" else normalized(images).numpy()
        (outputs,) = session.run(["outputs"], {"images": given})
        np.testing.assert_allclose(outputs, engines(model, images).numpy(), rtol=1e-3, atol=1e-4)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == CLASSES and about["size"] == "64"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist_is_a_sentence(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write .*give another FILE"):
        export.main([str(run.folder), str(tmp_path / "missing" / "alexnet.pt")])


def test_another_suffix_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        export.main([str(run.folder), "alexnet.h5"])
    assert ended.value.code == 2
    assert "ends in neither .pt (weights) nor .onnx (the network)" in capsys.readouterr().err


OF_ANOTHER_PACKAGE = """
import sys
import components
components.import_torchvision()
from alexnet_fast import export
export.main(sys.argv[1:])
"""


@pytest.mark.long
@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("timm/vit_tiny_patch16_224", 224)])
def test_networks_of_other_packages_are_exported_too(name: str, size: int, tmp_path: Path) -> None:
    onnxruntime: Any = components.require("onnxruntime")
    components.require("torchvision")
    components.require("timm")
    recipe, weights, path = tmp_path / "r.toml", tmp_path / "w.pt", tmp_path / "network.onnx"
    recipe.write_text(
        f'[model]\nname = "{name}"\nnum_classes = 3\ndropout = 0\n[data]\nsize = {size}\n[precision]\nlevel = "O0"\n'
    )
    torch.manual_seed(0)
    network = spec_of(name).build(3).eval()
    torch.save(network.state_dict(), weights)
    # In a process of its own: torch's exporter leaves a thread running.
    command = (sys.executable, "-c", OF_ANOTHER_PACKAGE, str(weights), str(path), "--recipe", str(recipe))
    environment = {**os.environ, "PYTHONPATH": f"{components.ROOT}{os.pathsep}{components.ROOT / 'tests'}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))
        (outputs,) = session.run(["outputs"], {"images": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(outputs, network(images).numpy(), rtol=1e-3, atol=1e-4)
    assert session.get_modelmeta().custom_metadata_map["size"] == str(size)
