"""torch, the cards that it can use, and why it cannot use others."""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ..common.machine import Machine
from ..common.text import size
from ..devices.facts import CUDA, FACTS, NPU
from .finding import Finding, fault, ok, warning
from .probe import AUTOLOAD, ask
from .software import version

OLDEST_TORCH = (2, 9)  # setup.cfg's
ASCEND = Path("/usr/local/Ascend")


class Torch(NamedTuple):
    """What torch reports: `build` without any other package's backend, `run` as a training run would load it."""

    build: Mapping[str, Any]
    run: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """What run.device = "auto" means here: cuda, npu or cpu."""
        kind = self.run.get("kind")
        return kind if kind in FACTS and not self.run.get("trouble") else "cpu"

    @property
    def usable(self) -> int:
        """Accelerators that can be used."""
        return len(self.run["names"]) if self.kind != "cpu" else 0


def ask_torch() -> Torch:
    """Ask torch; twice if torch_npu is installed, since torch loads it by itself and then may fail to load."""
    build = ask("torch", env={AUTOLOAD: "0"})
    return Torch(build, ask("torch") if find_spec(NPU.package) is not None else build)


def torch_build(torch: Torch) -> Finding:
    """torch itself: its version, and which vector instructions it uses."""
    build = torch.build
    if "error" in build:
        if build["module"] == "torch":
            return fault(
                "torch",
                "not installed",
                "install torch 2.13.0 (the CPU build, or the one for your accelerator)",
            )
        return fault("torch", f"does not load: {build['error']}", "reinstall torch 2.13.0")
    cuda = f"CUDA {build['cuda']}" if build["cuda"] else "no CUDA"
    onednn = "oneDNN" if build["mkldnn"] else "no oneDNN"
    bf16 = " with bfloat16" if build["bf16"] else ""
    text = f"{build['version']}, {cuda}; CPU code for {build['capability']}, {onednn}{bf16}"
    number = tuple(map(int, re.findall(r"\d+", build["version"])[:2]))
    if number < OLDEST_TORCH:
        return fault("torch", f"{text}: too old", "install torch 2.9 or newer; 2.13.0 is what was tested")
    if (
        build["capability"] in ("DEFAULT", "NO AVX")
        and platform.machine() == "x86_64"
        and torch.kind == "cpu"
    ):
        return warning(
            "torch",
            f"{text}: no vector code, so training on this CPU is slow",
            "unset ATEN_CPU_CAPABILITY, or use a CPU with AVX2 or a torch built for this one",
        )
    return ok("torch", text)


def cards(torch: Torch, machine: Machine) -> Finding:
    """The accelerators, their driver, and whether they take work."""
    name, run = "accelerators", torch.run
    seen = Counter(card.vendor for card in machine.cards)
    on_bus = ", ".join(f"{count} x {vendor}" for vendor, count in seen.items()) or ", ".join(
        machine.device_files()
    )
    if torch.kind != "cpu":
        names, memory = Counter(run["names"]), run["memory_bytes"]
        text = ", ".join(f"{count} x {product}" for product, count in names.items())
        text += f", {size(min(memory))} each" if memory else ""
        return ok(name, f"{text}; {_driver(torch.kind, machine)}")
    if "error" in run:
        remedy = "fix torch first" if "error" in torch.build else "see torch_npu and CANN below"
        return warning(name, f"{on_bus or 'none'} on the bus, and torch does not load", remedy)
    if trouble := run.get("trouble"):
        tool = FACTS.get(run.get("kind") or "", CUDA).tool
        return fault(
            name,
            f"{on_bus or run.get('kind') or 'some'}, but torch cannot use them: {trouble}",
            f"see with {tool} that they are healthy and free, and that the driver fits this torch",
        )
    if not on_bus:
        return ok(name, "none: training runs on the CPU")
    if seen.get(NPU.vendor) or "davinci" in on_bus:
        return warning(name, f"{on_bus}, which torch does not see", "see torch_npu and CANN below")
    if not torch.build.get("cuda"):
        return warning(
            name, f"{on_bus}, but this torch is built without CUDA", "install a CUDA build of torch 2.13.0"
        )
    hidden = os.environ.get(CUDA.visible_variable)
    if hidden is not None:
        return warning(
            name, f"{on_bus}, hidden by {CUDA.visible_variable}={hidden!r}", f"unset {CUDA.visible_variable}"
        )
    return fault(
        name,
        f"{on_bus}, but torch (CUDA {torch.build['cuda']}) finds no usable GPU",
        f"check {CUDA.tool} and the driver's version; in a container, docker run --gpus all",
    )


def torch_npu(torch: Torch, machine: Machine) -> Finding:
    """torch_npu and Huawei's CANN libraries below it."""
    name, toolkit = "torch_npu, CANN", _toolkit()
    has_npu = any(card.vendor == NPU.vendor for card in machine.cards) or "davinci" in str(
        machine.device_files()
    )
    fitting = ".".join(str(torch.build.get("version", "2.13")).split(".")[:2])
    if find_spec(NPU.package) is None:
        if has_npu:
            install = f"pip install 'torch-npu=={fitting}.*'"
            return fault(name, f"not installed, but there is an NPU; {toolkit}", install)
        return ok(name, "not installed; only Ascend NPUs need it")
    text = f"{NPU.package} {version('torch-npu') or 'of unknown version'}, {toolkit}"
    if "error" in torch.run and "error" not in torch.build:
        return _broken_npu(f"{text}; with it `import torch` fails: {torch.run['error']}", fitting)
    if torch.kind == "npu":
        return ok(name, text)
    if os.environ.get(AUTOLOAD) == "0":
        text += f"; {AUTOLOAD}=0 keeps torch from loading it"
        return warning(name, text, f"unset {AUTOLOAD}") if has_npu else ok(name, text)
    if has_npu:
        remedy = f"check {NPU.tool} and the driver's version"
        return fault(name, f"{text}; loads, but finds no usable NPU", remedy)
    return ok(name, f"{text}; loads, but there is no NPU")


def _broken_npu(found: str, fitting: str) -> Finding:
    """The remedy for a torch_npu that does not load: CANN's libraries, or another torch_npu."""
    absent = [library for library, said in ask("cann").items() if said]
    otherwise = f"or set {AUTOLOAD}=0, or pip uninstall torch-npu, to train without the NPU"
    if absent:
        found += f" ({' and '.join(absent)} of CANN cannot be loaded)"
        remedy = f"install CANN, where it is missing, and source {_set_env()}"
    else:
        remedy = f"install the torch_npu that fits this torch: pip install 'torch-npu=={fitting}.*'"
    return fault("torch_npu, CANN", found, f"{remedy}; {otherwise}")


def _driver(kind: str, machine: Machine) -> str:
    """The driver's version, if it can be read."""
    places = {
        "cuda": (machine.proc / "driver/nvidia/version", r"(?:Module|x86_64|aarch64)\s+(\d[\d.]+)"),
        "npu": (ASCEND / "driver/version.info", r"(?i)^version\s*=\s*(\S+)"),
    }
    path, pattern = places[kind]
    with suppress(OSError):
        if found := re.search(pattern, path.read_text(), re.MULTILINE):
            return f"driver {found[1]}"
    return "driver of unknown version"


def _toolkit() -> str:
    """CANN's folder and version."""
    for folder in _toolkits():
        for path in (
            *folder.glob("*/ascend_toolkit_install.info"),
            folder / "version.cfg",
            folder / "version.info",
        ):
            with suppress(OSError):
                if found := re.search(r"(?i)version\s*=\s*\[?([\d.]+\w*(?:\.\w+)*)", path.read_text()):
                    return f"CANN {found[1]} in {folder}"
        if folder.is_dir():
            return f"CANN in {folder}"
    return "no CANN toolkit"


def _toolkits() -> list[Path]:
    named = [os.environ[name] for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH") if os.environ.get(name)]
    return [*map(Path, named), ASCEND / "ascend-toolkit/latest"]


def _set_env() -> Path:
    """CANN's set_env.sh; its usual place if it does not exist."""
    usual = ASCEND / "ascend-toolkit/set_env.sh"
    return next((path for folder in _toolkits() if (path := folder / "set_env.sh").exists()), usual)
