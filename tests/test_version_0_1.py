"""Files of version 0.1 still work: a beton, an interrupted packing, a checkpoint and a run's folder.

That version (revision bdeae81) made version_0_1.tar.xz from 22 synthetic images.  It holds two packed splits, a packing that
was interrupted after 9 of 16 images, and a run of three epochs of four steps, of the model in tiny_model.py, that SIGTERM
stopped in its second epoch.  expected.json holds the results of version 0.1 with these files.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

import PIL
import pytest
import torch
from torch.nn import functional

from alexnet_fast import Loader, trainer
from alexnet_fast.models import MODELS
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.writer import scan_folder, write_beton
from alexnet_fast.recipe import Recipe
from alexnet_fast.recipe_toml import load
from alexnet_fast.run import checkpoint
from tiny_model import TINY, Tiny

ARCHIVE = Path(__file__).with_name("version_0_1.tar.xz")
LR = (0.05, 0.0375, 0.0125)  # cosine over three epochs


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that 0.1 left; it is the working directory."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def expected(left: Path) -> Any:
    return json.loads((left / "expected.json").read_text())


def recipe_of(left: Path) -> Recipe:
    return load(left / "run/recipe.toml")


def test_its_betons_give_the_same_pixels_and_labels(left: Path, expected: Any) -> None:
    found = []
    with Loader("packed/train.beton", 4, train=True, size=32, seed=7, threads=1) as loader:
        found += [_checksum(loader) for _ in range(2)]
    with Loader("packed/val.beton", 4, train=False, size=32, threads=1) as loader:
        found += [_checksum(loader)]
    assert found == expected["pixels"]


def _checksum(loader: Loader) -> str:
    crc = 0
    for images, labels in loader:
        crc = zlib.crc32(labels.numpy().tobytes(), zlib.crc32(images.numpy().tobytes(), crc))
    return f"{crc:08x}"


def test_its_interrupted_packing_is_finished_to_the_same_bytes(left: Path, expected: Any) -> None:
    encoder = json.loads((left / "packed/train.beton.json").read_text())["encoder"]
    if encoder["pillow"] != PIL.__version__:
        pytest.skip(
            f"0.1 packed with Pillow {encoder['pillow']}, and {PIL.__version__} is here: a resume refuses that"
        )
    resumed_at: list[int] = []
    path = write_beton(
        scan_folder(left / "images/train").shuffled(0),
        left / "interrupted/train.beton",
        Encoding(),
        workers=1,
        settings={"split": "train", "shuffle_seed": 0, "limit": None},
        progress=resumed_at.append,
    ).path
    assert resumed_at[0] >= 8, "it resumed, and did not start from scratch"
    assert f"{zlib.crc32(path.read_bytes()):08x}" == expected["train_beton_crc"]
    sidecar, whole = (
        json.loads(Path(f"{folder}/train.beton.json").read_text()) for folder in ("interrupted", "packed")
    )
    assert {key: sidecar[key] for key in whole} == whole


def test_its_run_resumes_bit_for_bit_like_a_plain_loop_from_its_checkpoint(
    left: Path, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "alexnet", TINY)
    plain = _plain_losses(left)
    trainer.train(recipe_of(left), "auto")
    lines = [json.loads(line) for line in (left / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "step"]
    assert losses[6:] == plain, "the same bits"
    assert losses == pytest.approx(expected["losses"], rel=1e-4), "the losses of 0.1 on its processor"
    assert [line["acc1"] for line in lines if line["kind"] == "epoch"] == [
        line["acc1"] for line in expected["lines"] if line["kind"] == "epoch"
    ]


def test_its_checkpoint_can_be_evaluated(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "alexnet", TINY)
    accuracy = trainer.evaluate_only(recipe_of(left), "run/checkpoint_last.pt")
    assert accuracy.samples == 6


def _plain_losses(left: Path) -> list[float]:
    """The losses from the checkpoint on, computed with plain torch."""
    saved = checkpoint.load(left / "run/checkpoint_last.pt")
    assert saved["cursor"] == {"epoch": 1, "step": 2}
    model = Tiny(3, 0.0)
    model.load_state_dict(saved["state_dict"])
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sgd = torch.optim.SGD(model.parameters(), lr=LR[1], momentum=0.9, weight_decay=1e-4, fused=True)
    sgd.load_state_dict(saved["optimizer"])
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    losses = []
    with Loader("packed/train.beton", 4, train=True, size=64, seed=49, threads=1) as loader:
        loader.set_epoch(1, 2)
        for epoch in (1, 2):
            sgd.param_groups[0]["lr"] = LR[epoch]
            for images, labels in loader:
                sgd.zero_grad()
                normalized = ((images.float() / 255 - mean) / std).contiguous(
                    memory_format=torch.channels_last
                )
                loss = functional.cross_entropy(model(normalized), labels, label_smoothing=0.1)
                loss.backward()
                sgd.step()
                losses.append(loss.item())
    return losses
