"""An input pipeline and trainer for AlexNet and similar models, in which the accelerator is the limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._version import __version__

__all__ = [
    "Balanced",
    "Beton",
    "Block",
    "Encoding",
    "ImageNet",
    "Loader",
    "LoaderOptions",
    "Order",
    "Repeated",
    "UserError",
    "Weighted",
    "__version__",
    "localized",
    "pack_dataset",
]

if TYPE_CHECKING:
    from .beton.reader import Beton
    from .beton.remote_file import localized
    from .errors import UserError
    from .loader.block_order import Block
    from .loader.loader import Loader
    from .loader.normalize import ImageNet
    from .loader.options import LoaderOptions
    from .loader.orders import Balanced, Order, Repeated, Weighted
    from .packing.dataset import pack_dataset
    from .packing.encode import Encoding

_HOMES = {
    **dict.fromkeys(("Balanced", "Order", "Repeated", "Weighted"), ".loader.orders"),
    "Beton": ".beton.reader",
    "Block": ".loader.block_order",
    "Encoding": ".packing.encode",
    "ImageNet": ".loader.normalize",
    "Loader": ".loader.loader",
    "LoaderOptions": ".loader.options",
    "UserError": ".errors",
    "localized": ".beton.remote_file",
    "pack_dataset": ".packing.dataset",
}


def __getattr__(name: str) -> object:
    """Import on first use: the packer's workers need neither torch nor numba."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name], __name__), name)
