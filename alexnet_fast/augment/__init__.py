"""What is done to one decoded image, in place: one operation, or one small family, a file.

``from alexnet_fast.augment import RandAugment, RandomErasing`` gives the operations, ``Mix`` what mixes a batch, and ``uniform`` what a user's own draws with.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """An operation, imported when it is asked for: a Loader without augmentations imports none of them."""
    if name == "uniform":
        from ..decode.counter_rng import uniform

        return uniform
    if name[:1].isupper():
        from .mix import Mix
        from .operations import operations

        if name == "Mix":
            return Mix
        if name in operations():
            return operations()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
