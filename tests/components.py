"""What a test needs and a machine may not have: it skips aloud, or fails where ALEXNET_FAST_REQUIRE names it.

CI (.ci/run) sets it to every component that a test may ask for: there a missing one is a fault, not a circumstance.
"""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA_ENVIRONMENT, REQUIRE_ENVIRONMENT = "ALEXNET_FAST_DATA", "ALEXNET_FAST_REQUIRE"
PACKED_ENVIRONMENT = (
    "ALEXNET_FAST_TESTS_PACKED"  # the 1,000 photos, as the session that began this one has packed them
)

_kept: list[object] = []  # torch forgets an operator when the library object that defined it goes


def required() -> list[str]:
    """Components that must be here."""
    return os.environ.get(REQUIRE_ENVIRONMENT, "").split()


def named_in(reason: str) -> str | None:
    """The required component that a reason to skip names, if any."""
    return next(
        (name for name in required() if re.search(rf"\b{re.escape(name)}\b", reason, re.IGNORECASE)), None
    )


def require(component: str) -> Any:
    """The module "ffcv", "torchvision" or "turbojpeg" (ours, with the library found), the folder that is "data", or the
    file that a "compiler" makes of the stand-in NPU's C++."""
    try:
        return _FINDERS[component]()
    except (ImportError, OSError, LookupError, ValueError) as error:
        _absent(component, error)


def _absent(component: str, error: Exception) -> NoReturn:
    reason = f"{component} is not here ({error})"
    if component in required():
        pytest.fail(f"{reason}, and {REQUIRE_ENVIRONMENT} says that it must be", pytrace=False)
    pytest.skip(reason)


def _torchvision() -> Any:
    """torchvision, whose CUDA wheel cannot register two operators on a CPU build of torch; nobody here calls them."""
    import torch

    if not hasattr(torch.ops.torchvision, "nms"):
        try:
            return importlib.import_module("torchvision")
        except RuntimeError:
            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _kept.append(library)
    return importlib.import_module("torchvision")


def _ffcv() -> Any:
    """ffcv, less what it does to its process: it gives torch one thread, cv2 sets LD_LIBRARY_PATH for whatever is started, and
    the progress bars of its writer leave a thread behind."""
    torch = importlib.import_module("torch")
    threads, variables = torch.get_num_threads(), dict(os.environ)
    try:
        module = importlib.import_module("ffcv")
    finally:
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(variables)
    importlib.import_module("tqdm").tqdm.monitor_interval = 0
    return module


def _turbojpeg() -> Any:
    turbojpeg = importlib.import_module("alexnet_fast.decode.turbojpeg")
    turbojpeg.load()
    return turbojpeg


def _data() -> Path:
    folder = Path(os.environ.get(DATA_ENVIRONMENT) or ROOT.parent / "shared" / "data")
    for name in ("imagenet-samples/train", "tiny-imagenet-10/train", "tiny-imagenet-10/val"):
        if not (folder / name).is_dir():
            raise LookupError(f"{folder / name} does not exist; {DATA_ENVIRONMENT} names another folder")
    return folder


def _compiler() -> Path:
    from standin.build import shim

    return shim()


_FINDERS = {
    "compiler": _compiler,
    "ffcv": _ffcv,
    "torchvision": _torchvision,
    "turbojpeg": _turbojpeg,
    "data": _data,
}
