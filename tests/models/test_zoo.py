"""Networks of torchvision and timm: by name, which images they take, one step at O2, and their own keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from alexnet_fast import build
from alexnet_fast.devices.registry import resolve
from alexnet_fast.distributed.world import World
from alexnet_fast.engine.trial_pass import try_network, try_precision
from alexnet_fast.errors import UserError
from alexnet_fast.models import MODELS, spec_of
from alexnet_fast.models.zoo import own_size
from alexnet_fast.recipe_toml import validate

CPU = resolve("cpu")


@pytest.fixture
def torchvision(require: Callable[[str], Any]) -> Any:
    return require("torchvision")


@pytest.fixture
def timm(torchvision: Any, require: Callable[[str], Any]) -> Any:
    require("timm")
    return __import__("timm")


def state_of(name: str, size: int, **sections: dict[str, Any]) -> Any:
    table: dict[str, Any] = {
        "model": {"name": name, "num_classes": 5, "dropout": 0.0},
        "data": {"size": size, "global_batch_size": 4},
    }
    for section, keys in sections.items():
        table[section] = table.get(section, {}) | keys
    torch.manual_seed(0)
    return build.train_state(validate(table), World(), CPU)


def a_step(state: Any, size: int) -> float:
    images = torch.randint(
        0, 256, (4, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    state.lr = 0.01
    state.train_step(images, torch.arange(4))
    return float(state.meter.read().last_loss)


@pytest.mark.parametrize("name", ["resnet50", "torchvision/squeezenet1_1"])
def test_torchvisions_networks_train_at_o2_and_load_under_their_own_keys(name: str, torchvision: Any) -> None:
    state = state_of(name, 64)
    before = state.precision.state_dict()
    assert 0 < a_step(state, 64) < 10
    after = state.precision.state_dict()
    own = torchvision.models.get_model(name.removeprefix("torchvision/"), num_classes=5)
    own.load_state_dict(after, strict=True)
    assert any(not torch.equal(before[key], after[key]) for key in after)
    state.precision.load_state_dict(own.state_dict())
    norms = [each for each in state.precision.model.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    assert all(each.weight.dtype is torch.float32 for each in norms)


def test_timms_small_vision_transformer_trains_at_o2_by_adamw_and_loads_under_its_own_keys(timm: Any) -> None:
    name = "vit_small_patch16_224"
    optim = {"name": "adamw", "lr": 1e-3, "decay_norms_and_biases": False, "clip_norm": 1.0, "ema": 0.99}
    state = state_of(f"timm/{name}", 224, optim=optim)
    assert 0 < a_step(state, 224) < 10
    after = state.precision.state_dict()
    timm.create_model(name, num_classes=5).load_state_dict(after, strict=True)
    kinds = {key: param.dtype for key, param in state.precision.model.named_parameters()}
    assert (
        kinds["blocks.0.norm1.weight"] is torch.float32
        and kinds["blocks.0.attn.qkv.weight"] is torch.bfloat16
    )
    decays = dict(zip(kinds, state.precision.groups(), strict=True))
    assert decays["blocks.0.mlp.fc1.weight"]["weight_decay"] > 0
    for key in ("pos_embed", "cls_token", "norm.weight", "blocks.0.mlp.fc1.bias"):
        assert decays[key]["weight_decay"] == 0, key


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_auxiliary_outputs_are_built_without(name: str, torchvision: Any) -> None:
    with torch.device("meta"):
        network = spec_of(name).build(4)
        outputs = network.train()(torch.zeros(2, 3, 299, 299))
    assert outputs.shape == (2, 4)
    assert spec_of(name).title == f"{name} (without its auxiliary outputs)"


def test_a_name_is_torchvisions_or_timms_and_alexnet_is_ours() -> None:
    assert spec_of("alexnet") is MODELS["alexnet"] and spec_of("torchvision/resnet18") is MODELS["resnet18"]
    assert spec_of("torchvision/alexnet").arguments == {"package": "torchvision", "name": "alexnet"}
    assert (
        spec_of("timm/resnet18").arguments == {"package": "timm", "name": "resnet18"}
        and spec_of("timm/resnet18").title == "timm/resnet18"
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("alexnett", "model.name = 'alexnett': torchvision has no such classifier; did you mean alexnet"),
        ("resnet_50", "did you mean resnet50"),
        ("timm/vit_smal_patch16_224", "timm has no such classifier; did you mean timm/vit_small_patch16_224"),
        ("vit_small_patch16_224", "did you mean timm/vit_small_patch16_224"),
        ("fasterrcnn_resnet50_fpn", "torchvision has no such classifier"),
        ("qqqqqqqq", "see torchvision's and timm's lists of models"),
    ],
)
def test_an_unknown_name_is_one_sentence_with_near_ones(name: str, sentence: str, timm: Any) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        spec_of(name).check()  # before anything is packed
    with pytest.raises(UserError) as caught:
        spec_of(name).build(10)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_size_that_a_network_does_not_take_is_refused_with_its_own(timm: Any, torchvision: Any) -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    with pytest.raises(
        UserError, match=r"ViT does not take images of 64 px \(.*\): set data.size and eval.size to 224"
    ):
        try_network(network, "ViT", 3, {224, 64})
    try_network(network, "ViT", 3, {224})
    assert network.training
    with pytest.raises(UserError, match=r"tiny does not take images of 8 px .*: set another data.size"):
        try_network(torchvision.models.squeezenet1_1(num_classes=3), "tiny", 3, {8})
    assert own_size(torch.nn.Linear(1, 1)) is None


def test_a_run_refuses_a_size_before_it_starts(timm: Any) -> None:
    with pytest.raises(UserError, match=r"timm/vit_tiny_patch16_224 does not take images of 64 px"):
        state_of("timm/vit_tiny_patch16_224", 224, eval={"size": 64})


def test_what_is_no_classifier_is_refused() -> None:
    pyramid = torch.nn.Conv2d(3, 7, 3)
    with pytest.raises(UserError, match=r"conv returns \(7, 30, 30\) for an image, where \(3,\) is expected"):
        try_network(pyramid, "conv", 3, {32})


def test_a_network_with_a_fixed_parameter_is_refused() -> None:
    network = torch.nn.Linear(3, 3)
    network.bias.requires_grad_(False)
    with pytest.raises(UserError, match="net keeps its parameter bias fixed"):
        try_network(network, "net", 3, {32})


def test_a_network_that_does_not_run_in_halves_is_refused_with_the_level_to_set() -> None:
    class Float32Inside(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(3, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.head(images.mean((2, 3)).float())
            return made

    from functools import partial

    from alexnet_fast.engine.precision import Precision

    make = partial(
        Precision, make_optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9), device=CPU, title="net"
    )
    with pytest.raises(
        UserError, match=r"net does not run at precision.level O2 \(.*\): set precision.level to O1, or O0"
    ):
        try_precision(make(Float32Inside(), level="O2"), 16)
    try_precision(make(Float32Inside(), level="O1"), 16)


def test_a_trial_pass_draws_nothing_and_leaves_running_statistics(torchvision: Any) -> None:
    network = torchvision.models.mobilenet_v3_small(num_classes=3)
    before, generator = (
        {key: each.clone() for key, each in network.state_dict().items()},
        torch.get_rng_state(),
    )
    try_network(network, "m", 3, {32})
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(before[key], each) for key, each in network.state_dict().items())
