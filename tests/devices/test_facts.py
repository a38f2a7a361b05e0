"""The facts about devices that need no torch agree with the rest of the package."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from alexnet_fast.devices.facts import COLLECTIVE_ERROR, FACTS
from alexnet_fast.devices.registry import DEVICES
from alexnet_fast.recipe import Distributed


def test_facts_and_devices_are_of_the_same_kinds() -> None:
    assert {kind: device.facts for kind, device in DEVICES.items()} == FACTS
    assert list(FACTS) == [facts.kind for facts in FACTS.values()]


def test_a_recipe_takes_the_backends_of_all_kinds() -> None:
    backends = {name for facts in FACTS.values() for name in facts.backends}
    assert set(get_args(Distributed.model_fields["backend"].annotation)) == {"auto", *backends}


def test_facts_are_read_without_torch(run_cli: Any) -> None:
    done = run_cli("-c", "import alexnet_fast.devices.facts, sys; assert 'torch' not in sys.modules")
    assert done.code == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "is_collective"),
    [
        ("[gloo/transport/tcp/pair.cc:534] Connection closed by peer", True),
        ("NCCL error in: ProcessGroupNCCL.cpp", True),
        ("HCCL function error: HcclAllReduce", True),
        ("Broken pipe", True),
        ("Connection reset by peer", True),
        ("the igloo is closed", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_a_failed_collective_is_recognised_by_its_error(text: str, is_collective: bool) -> None:
    assert (COLLECTIVE_ERROR.search(text) is not None) == is_collective
