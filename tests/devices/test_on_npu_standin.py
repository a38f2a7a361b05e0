"""The cases of every accelerator (tests/accelerator_cases.py) on the stand-in NPU, each by its name."""

from __future__ import annotations

import pytest

from standin import cases

CASES = "accelerator_cases.py"


@pytest.mark.parametrize("name", cases.names(CASES))
def test_on_the_stand_in_npu(name: str) -> None:
    cases.check(CASES, name)
