"""What only a library itself can answer, asked in a child process: it may fail to load, hang, or crash.

``python -m alexnet_fast.doctor.probe QUESTION ARGUMENTS`` answers in JSON; `ask` is the parent's side.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

MARK = "alexnet_fast.doctor: "  # starts the line with the answer: libraries print other lines
PATIENCE_S = 60.0  # for torch on a network file system
TRIALS_S = 4.0  # for using one accelerator after the other
AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"


class NoAnswer(Exception):
    """The child process ended, or was ended, without an answer."""


def ask(question: str, *arguments: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """The answer of a function of this module, from a child process, with `env` added to its environment.

    A failure of the library is an answer too: {"error": its first line, "kind": its class, "module": what was missing}.
    Raises NoAnswer if the process crashed or took longer than PATIENCE_S.
    """
    path = os.pathsep.join(folder for folder in sys.path if folder)
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, question, *arguments],
            env={**os.environ, "PYTHONPATH": path, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"no answer within {PATIENCE_S:.0f} s") from None
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(MARK):
            return dict(json.loads(line.removeprefix(MARK)))
    if done.returncode < 0:
        with suppress(ValueError):
            raise NoAnswer(f"its process was ended by {signal.Signals(-done.returncode).name}")
    said = done.stderr.strip().splitlines()
    raise NoAnswer(f"its process ended with code {done.returncode}{f': {said[-1]}' if said else ''}")


def torch() -> dict[str, Any]:
    """The build, and the accelerators that it can use."""
    from ..torch_import import import_torch

    library: Any = (
        import_torch()
    )  # as the training command imports it, so a failure here reads as it would there
    onednn = getattr(library.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return {
        "version": library.__version__,
        "cuda": library.version.cuda,
        "capability": library.backends.cpu.get_cpu_capability(),
        "mkldnn": library.backends.mkldnn.is_available(),
        "bf16": bool(onednn and onednn()),
        **_accelerators(library),
    }


def _accelerators(library: Any) -> dict[str, Any]:
    """Kind and names of the accelerators; "trouble" is why they cannot be used."""
    answer: dict[str, Any] = {"kind": None, "names": [], "memory_bytes": [], "trouble": None}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            if not library.accelerator.is_available():
                answer["trouble"] = _first_line(said[-1].message) if said else None
                return answer
            kind = library.accelerator.current_accelerator().type
            module, count = getattr(library, kind), library.accelerator.device_count()
            answer["kind"] = kind
            for index in range(count):
                name = module.get_device_name(index) if hasattr(module, "get_device_name") else kind
                answer["names"].append(str(name))
                with suppress(Exception):
                    answer["memory_bytes"].append(int(module.get_device_properties(index).total_memory))
            started, index = time.monotonic(), 0
            for index in range(count):  # a broken driver fails at the first use, not before
                if time.monotonic() - started > TRIALS_S:
                    break
                library.zeros((), device=f"{kind}:{index}").item()
        except Exception as error:
            answer["trouble"] = _first_line(error)
    return answer


def cann() -> dict[str, Any]:
    """Whether the libraries that torch_npu needs can be loaded here: name -> the loader's error, or None."""
    answer: dict[str, Any] = {}
    for name in ("libascendcl.so", "libhccl.so"):
        try:
            ctypes.CDLL(name)
            answer[name] = None
        except OSError as error:
            answer[name] = _first_line(error)
    return answer


def kernels() -> dict[str, Any]:
    """numba, and where this package's compiled kernels are or would be written."""
    from pathlib import Path

    import numba

    from ..decode import kernel
    from ..kernel_cache import folders, is_cached

    folder = Path(kernel.__file__).parent
    lasting, place = list(folders._lasting(folder)), folders.writable_folder(folder)
    kept = is_cached(kernel.decode_chunk)
    return {
        "version": numba.__version__,
        "jit": not numba.config.DISABLE_JIT,
        "cached": kept,
        "places": [str(each) for each in lasting],
        "place": str(place) if place else None,
        "lasts": place in lasting,
    }


def codec() -> dict[str, Any]:
    """libturbojpeg as the decoder finds it: its path, its version, and which of the functions that we call it lacks."""
    import re
    from pathlib import Path

    from ..decode import turbojpeg

    name = turbojpeg.load()
    library = ctypes.CDLL(name)
    needed = ("tjInitDecompress", "tjDecompressToYUVPlanes", "tjGetErrorStr2", "tjDestroy")
    missing = [function for function in needed if not hasattr(library, function)]
    path = _file_of(library.tjInitDecompress) if "tjInitDecompress" not in missing else name
    content = b""
    with suppress(OSError):
        content = Path(path).read_bytes()
    told = re.search(rb"libjpeg-turbo version (\d[\w.]*)", content)
    return {
        "path": path,
        "version": told[1].decode() if told else "3.x" if hasattr(library, "tj3Init") else "2.x",
        "missing": missing,
        "has_switch": b"JSIMD_FORCENONE" in content,
    }


def decode_rate(path: str) -> dict[str, Any]:
    """Megapixels a second of decoding a smooth 1024 x 1024 JPEG to RGB: the best of at least 20 runs and 0.2 s, since other programs may run here.

    A smooth image has little Huffman coding, so that nearly all of its time is what SIMD makes faster.
    """
    library, side = ctypes.CDLL(path), 1024
    for function in ("tjInitCompress", "tjInitDecompress"):
        getattr(library, function).restype = ctypes.c_void_p
    row = bytes(k * 255 // (3 * side) for k in range(3 * side))
    pixels = ctypes.create_string_buffer(row * side, 3 * side * side)
    jpeg, length = ctypes.c_void_p(), ctypes.c_ulong()
    rgb, chroma_420 = 0, 2
    compressor = ctypes.c_void_p(library.tjInitCompress())
    if library.tjCompress2(
        compressor, pixels, side, 0, side, rgb, ctypes.byref(jpeg), ctypes.byref(length), chroma_420, 75, 0
    ):
        raise OSError("tjCompress2 failed")
    decompressor, took_s = ctypes.c_void_p(library.tjInitDecompress()), list[float]()
    end = time.perf_counter() + 0.2
    while time.perf_counter() < end or len(took_s) < 20:
        started = time.thread_time()
        if library.tjDecompress2(decompressor, jpeg, length, pixels, side, 0, side, rgb, 0):
            raise OSError("tjDecompress2 failed")
        took_s.append(time.thread_time() - started)
    return {"mpx_per_s": side * side / 1e6 / min(took_s)}


class _Symbol(ctypes.Structure):
    """dlfcn.h's Dl_info."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _file_of(function: Any) -> str:
    """The file that a loaded function comes from."""
    symbol = _Symbol()
    if not ctypes.CDLL(None).dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(symbol)):
        raise OSError("dladdr does not know the library")
    return os.path.realpath(os.fsdecode(symbol.file))


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def _root(error: BaseException) -> BaseException:
    """The first error of the chain that led to this one."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return error


QUESTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    question.__name__: question for question in (torch, cann, kernels, codec, decode_rate)
}


def main(question: str, *arguments: str) -> None:
    try:
        answer = QUESTIONS[question](*arguments)
    except Exception as error:
        cause = _root(error)
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        answer = {"error": _first_line(cause), "kind": type(error).__name__, "module": missing}
    sys.stdout.write(f"\n{MARK}{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
