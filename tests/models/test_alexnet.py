"""The model against the real torchvision."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from alexnet_fast.models import MODELS
from alexnet_fast.models.alexnet import AlexNet
from alexnet_fast.models.initial_weights import initialise_he

MIN_SIZE_PX = MODELS["alexnet"].min_size_px


@pytest.fixture(scope="module")
def torchvision_models(require: Callable[[str], Any]) -> ModuleType:
    return require("torchvision").models


def test_it_has_the_parameters_of_the_paper_at_1000_classes() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in AlexNet(1000).parameters()) == 61_100_840


def test_weights_load_in_both_directions_and_outputs_are_equal(torchvision_models: ModuleType) -> None:
    theirs = torchvision_models.alexnet(num_classes=7).eval()
    ours = AlexNet(7).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


def test_gradients_are_equal_to_the_bit_although_pooling_comes_before_the_relu(
    torchvision_models: ModuleType,
) -> None:
    torch.manual_seed(0)
    theirs, ours = torchvision_models.alexnet(num_classes=7), AlexNet(7)
    ours.load_state_dict(theirs.state_dict())
    images, labels = torch.randn(4, 3, 96, 96), torch.arange(4)
    for model in (theirs, ours):
        torch.manual_seed(1)
        torch.nn.functional.cross_entropy(model(images), labels).backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None and torch.equal(mine.grad, other.grad), name


def test_fresh_weights_are_torchvisions_for_the_same_seed(torchvision_models: ModuleType) -> None:
    torch.manual_seed(3)
    theirs = torchvision_models.alexnet(num_classes=5)
    torch.manual_seed(3)
    ours = AlexNet(5)
    for (name, mine), (_, other) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert torch.equal(mine, other), name


@pytest.mark.parametrize("size", [MIN_SIZE_PX, 64, 96, 224])
def test_other_image_sizes_give_logits_too(size: int) -> None:
    with torch.no_grad():
        assert AlexNet(4)(torch.zeros(1, 3, size, size)).shape == (1, 4)


def test_below_the_smallest_size_the_last_pooling_fails() -> None:
    size = MIN_SIZE_PX - 1
    with pytest.raises(RuntimeError, match="too small"):
        AlexNet(4)(torch.zeros(1, 3, size, size))


def test_he_weights_keep_the_variance_through_all_layers_and_torchs_defaults_do_not() -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 3, 64, 64)
    torchs, hes = AlexNet(10, dropout=0.0), AlexNet(10, dropout=0.0)
    initialise_he(hes)
    with torch.no_grad():
        shrunk, kept = (model.features(images).square().mean() for model in (torchs, hes))
    assert kept > 0.3, "about the variance of the input"
    assert shrunk < kept / 1000
    assert all(not layer.bias.any() for layer in hes.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
