"""The libraries that decode, compile and pack."""

from __future__ import annotations

import os
from importlib import metadata
from importlib.util import find_spec

from ..common.libturbojpeg import ENVIRONMENT as TURBOJPEG_ENVIRONMENT
from ..common.libturbojpeg import INSTALL as INSTALL_CODEC
from ..common.libturbojpeg import NONE
from .finding import Finding, fault, ok, warning
from .probe import ask

PACKAGES = ("numpy", "numba", "llvmlite", "pydantic", "rich")
SIMD_GAIN = 2.0  # 4.9 with AVX2 against plain C; 1.0 without


def packages() -> Finding:
    """The Python packages that training needs, except torch."""
    versions = {name: version(name) for name in PACKAGES}
    if absent := [name for name in PACKAGES if versions[name] is None]:
        return fault(
            "Python packages", f"{', '.join(absent)} not installed", f"pip install {' '.join(absent)}"
        )
    return ok("Python packages", ", ".join(f"{name} {found}" for name, found in versions.items()))


def codec() -> Finding:
    """libjpeg-turbo, which decodes unusual JPEGs: whether it is found, new enough, and uses its SIMD code."""
    name, answer = "libjpeg-turbo", ask("codec")
    if "error" in answer:
        chosen = os.environ.get(TURBOJPEG_ENVIRONMENT)
        if answer["kind"] != "TurboJpegMissing":
            return fault(name, f"cannot be searched for: {answer['error']}", "see the Python packages above")
        if chosen and chosen != NONE:
            return fault(
                name,
                f"{TURBOJPEG_ENVIRONMENT} names {chosen}, which cannot be loaded",
                f"name a libturbojpeg.so.0 that exists, or unset {TURBOJPEG_ENVIRONMENT} to search the usual places",
            )
        return warning(
            name,
            "libturbojpeg was not found: unusual JPEGs (progressive, say) cannot be decoded, nor corrupt ones found when packing",
            f"unset {TURBOJPEG_ENVIRONMENT}" if chosen else f"install it: {INSTALL_CODEC}",
        )
    text = f"{answer['version']}, {answer['path']}"
    if answer["missing"]:
        return fault(
            name, f"{text}, lacks {', '.join(answer['missing'])}", f"install 2.0 or newer: {INSTALL_CODEC}"
        )

    as_run = _rate(answer["path"], {})
    plain = _rate(answer["path"], {"JSIMD_FORCENONE": "1"})
    text += f"; {as_run:.0f} Mpixel/s a core, {as_run / plain:.1f} times its plain C code"
    if as_run / plain > SIMD_GAIN:
        return ok(name, f"{text}: SIMD at work")
    if os.environ.get("JSIMD_FORCENONE"):
        return warning(name, f"{text}: JSIMD_FORCENONE switches its SIMD off", "unset JSIMD_FORCENONE")
    if not answer["has_switch"]:
        return warning(
            name,
            f"{text}: no sign of SIMD, which makes decoding some 3 times faster",
            f"use a build that has it: {INSTALL_CODEC}",
        )
    return warning(
        name, f"{text}: its SIMD does not work on this processor", f"use another build: {INSTALL_CODEC}"
    )


def _rate(path: str, env: dict[str, str]) -> float:
    answer = ask("decode_rate", path, env=env)
    if "error" in answer:
        raise OSError(f"{path} decodes nothing: {answer['error']}")
    return float(answer["mpx_per_s"])


def kernels() -> Finding:
    """numba, and whether its compiled code is kept."""
    name, answer = "compiled kernels", ask("kernels")
    if "error" in answer:
        module = answer["module"]
        remedy = (
            f"pip install {module}"
            if module
            else "reinstall numba and llvmlite: pip install --force-reinstall numba"
        )
        return fault(name, f"numba does not load: {answer['error']}", remedy)
    text = f"numba {answer['version']}"
    if not answer["jit"]:
        return fault(
            name, f"{text} with NUMBA_DISABLE_JIT: the kernels run as Python", "unset NUMBA_DISABLE_JIT"
        )
    if answer["cached"]:
        text += "; compiled for this machine"
    else:
        text += "; not compiled yet: the first run does it once, in some 40 s of one core"
    if answer["lasts"]:
        return ok(name, f"{text}; {'kept' if answer['cached'] else 'will be kept'} in {answer['place']}")
    wanted = " and ".join(answer["places"])
    kept = (
        f"kept in {answer['place']} until that is cleared"
        if answer["place"]
        else "every process compiles them again"
    )
    if answer["cached"] and not answer["place"]:
        return ok(name, text)  # a container image that has them, where nothing can be written
    return warning(
        name,
        f"{text}; {wanted} cannot be written: {kept}",
        "set NUMBA_CACHE_DIR to a permanent folder that can be written",
    )


def pillow() -> Finding:
    """Pillow, or pillow-simd instead, which opens and shrinks images when they are packed."""
    name = "Pillow"
    if find_spec("PIL") is None:
        return warning(name, "not installed; packing needs it, training does not", "pip install pillow")
    from PIL import __version__, features

    is_simd = ".post" in __version__
    turbo = features.version_feature("libjpeg_turbo") if features.check_feature("libjpeg_turbo") else None
    text = f"{'pillow-simd' if is_simd else 'Pillow'} {__version__}, "
    text += f"libjpeg-turbo {turbo}" if turbo else "without libjpeg-turbo"
    if version("pillow") and version("pillow-simd"):
        return warning(
            name,
            f"{text}; pillow and pillow-simd are both installed, into the same folder",
            "pip uninstall both, then install the one that you want",
        )
    if not turbo:
        return warning(name, f"{text}: packing opens JPEGs slowly", "pip install --force-reinstall pillow")
    return ok(name, text if is_simd else f"{text} (pillow-simd shrinks 4 times faster when packing)")


def ffcv() -> Finding:
    """FFCV, which training does not need."""
    found = version("ffcv")
    return ok("FFCV", found or "not installed; only alexnet_fast.ffcv_ops needs it")


def version(package: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
