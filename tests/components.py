"""Components that a test needs and a machine may lack: the test skips, or fails where ALEXNET_FAST_REQUIRE names them.

CI (.ci/run) sets it to every component that a test may ask for: there a missing one is a failure.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA_ENVIRONMENT, REQUIRE_ENVIRONMENT = "ALEXNET_FAST_DATA", "ALEXNET_FAST_REQUIRE"
PACKED_ENVIRONMENT = (
    "ALEXNET_FAST_TESTS_PACKED"  # the beton of all images, packed by the session that started this one
)

_kept: list[object] = []  # torch forgets an operator when the library object that defined it is deleted


def required() -> list[str]:
    """Components that must be available."""
    return os.environ.get(REQUIRE_ENVIRONMENT, "").split()


def named_in(reason: str) -> str | None:
    """The required component that is named in a reason to skip, if any."""
    return next(
        (name for name in required() if re.search(rf"\b{re.escape(name)}\b", reason, re.IGNORECASE)), None
    )


def require(component: str) -> Any:
    """The module "ffcv", "torchvision" or "turbojpeg" (ours, with the library loaded), the folder of "data", the file that a
    "compiler" builds from the stand-in NPU's C++, or whether "accelerate", "aiohttp", "huggingface_hub", "lightning", "moto", "s3fs", "timm" or "torchdata" is installed.
    Skips or fails the test where it is not available."""
    try:
        return _FINDERS[component]()
    except (ImportError, OSError, LookupError, ValueError) as error:
        _absent(component, error)


def _absent(component: str, error: Exception) -> NoReturn:
    reason = f"{component} is not here ({error})"
    if component in required():
        pytest.fail(f"{reason}, and {REQUIRE_ENVIRONMENT} requires it", pytrace=False)
    pytest.skip(reason)


def import_torchvision() -> Any:
    """torchvision, whose CUDA wheel cannot register two operators on a CPU build of torch; no test calls them."""
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


def _framework(name: str) -> Any:
    """A package that examples/ are for; all but its finding is left to the processes that run them."""
    if importlib.util.find_spec(name) is None:
        raise ImportError(f"no module named {name}")
    return name


def _ffcv() -> Any:
    """ffcv, with its changes to the process undone: it limits torch to one thread, cv2 sets LD_LIBRARY_PATH for child
    processes, and the progress bars of its writer leave a thread running."""
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


def _onnxruntime() -> Any:
    """onnxruntime, where torch's exporter to ONNX has what it needs too."""
    for name in ("onnx", "onnxscript"):
        importlib.import_module(name)
    return importlib.import_module("onnxruntime")


_FINDERS = {
    "compiler": _compiler,
    "ffcv": _ffcv,
    "torchvision": import_torchvision,
    **{
        name: partial(_framework, name)
        for name in (
            "accelerate",
            "aiohttp",
            "huggingface_hub",
            "lightning",
            "moto",
            "s3fs",
            "timm",
            "torchdata",
        )
    },
    "onnxruntime": _onnxruntime,
    "turbojpeg": _turbojpeg,
    "data": _data,
}
