"""A strided convolution over blocks of pixels: the same sums, at any size, and torchvision's weights."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from alexnet_fast.devices.registry import resolve
from alexnet_fast.loader.normalize import ImageNet, Normalizer
from alexnet_fast.models.alexnet import AlexNet
from alexnet_fast.models.space_to_depth import BlockedConv2d, Blocks, blocked_convolution

CPU = resolve("cpu")
SIZES = (63, 64, 65, 66, 97, 224)


def results(convolution: BlockedConv2d, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Outputs, and the gradients of images, weight and bias."""
    images = images.detach().requires_grad_()
    convolution.zero_grad()
    outputs = convolution(images)
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)
    (outputs * weights).sum().backward()
    found = (outputs, images.grad, convolution.weight.grad, convolution.bias.grad)  # type: ignore[union-attr]
    return tuple(each.detach().clone() for each in found if each is not None)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 0.02)]
)
def test_sums_and_gradients_are_the_plain_convolutions_to_rounding(
    size: int, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    convolution = BlockedConv2d(3, 64, 11, stride=4, padding=2).to(dtype)
    images = torch.randn(2, 3, size, size + 3).to(dtype)
    plain = results(convolution, images)
    convolution.over_blocks = True
    over_blocks = results(convolution, images)
    assert len(plain) == 4
    for one, other in zip(plain, over_blocks, strict=True):
        assert one.shape == other.shape and (one - other).norm() <= tolerance * one.norm()


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(11, 4, 2), (7, 2, 3), (3, 2, 0), (8, 4, 4), (5, 5, 1)]
)
def test_other_strided_convolutions_too(kernel: int, stride: int, padding: int) -> None:
    torch.manual_seed(0)
    convolution = BlockedConv2d(3, 4, kernel, stride=stride, padding=padding).double()
    images = torch.randn(1, 3, 41, 44, dtype=torch.float64)
    plain = results(convolution, images)
    convolution.over_blocks = True
    for one, other in zip(plain, results(convolution, images), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-11)


def test_alexnets_keys_shapes_and_fresh_weights_are_those_of_a_plain_convolution() -> None:
    torch.manual_seed(3)
    first = nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2)
    torch.manual_seed(3)
    model = AlexNet(5)
    convolution = blocked_convolution(model)
    assert convolution is model.features[0]
    convolution.over_blocks = True
    assert torch.equal(model.state_dict()["features.0.weight"], first.weight)
    assert blocked_convolution(nn.Sequential(nn.Conv2d(3, 4, 3))) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_normalize_writes_the_blocks_that_the_convolution_would_make(size: int, dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    plain, cut = Normalizer(CPU, ImageNet, dtype), Normalizer(CPU, ImageNet, dtype)
    cut.layout = Blocks(11, 4, 2)
    expected = cut.layout.of_images(plain(images))
    got = cut(images)
    assert got.dtype is dtype and got.is_contiguous(memory_format=CPU.memory_format)
    assert torch.equal(got, expected) and got.shape == cut.layout.shape(images.shape)
    for normalize in (plain, cut):
        traced = normalize.traced(images)
        assert torch.allclose(
            traced.float(), normalize(images).float(), atol=1e-6 if dtype is torch.float32 else 0.02
        )


def test_an_alexnet_over_blocks_takes_images_and_their_blocks_alike() -> None:
    torch.manual_seed(0)
    model = AlexNet(4, dropout=0.0).eval()
    convolution = blocked_convolution(model)
    assert convolution is not None
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        plain = model(images)
        convolution.over_blocks = True
        both = [plain, model(images), model(convolution.blocks.of_images(images))]
    assert torch.equal(both[1], both[2])
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in pairwise(both))


@pytest.mark.parametrize("size", [224, 96])
def test_the_pool_is_left_out_only_where_it_is_an_identity(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = AlexNet(4).eval(), torch.randn(1, 3, size, size)
    expected = model.classifier(torch.flatten(model.avgpool(model.features(images)), 1))
    pools: list[torch.Size] = []
    forward = nn.AdaptiveAvgPool2d.forward
    monkeypatch.setattr(
        nn.AdaptiveAvgPool2d, "forward", lambda self, x: (pools.append(x.shape), forward(self, x))[1]
    )
    assert torch.equal(model(images), expected)
    assert len(pools) == (size != 224)
