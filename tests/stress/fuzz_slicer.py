"""Fuzz the JPEG header parser and the tile slicer, guided by what code each input reaches.

    pip install atheris
    PYTHONPATH=.:tests:tools python -m stress.fuzz_slicer --seconds 600

The kernels run as Python on memory that refuses an index below zero or past the end (numpy would count it from the
other end, compiled code would use it), then compiled on memory with guard pages; both must give the same result.  What
is cut is decoded twice, in memory full of different old data, and must equal a decode of the complete JPEG there.
atheris (libFuzzer) guides it, by the branches and comparisons of the Python form.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from alexnet_fast.common.cli import file_path
from alexnet_fast.decode import jpeg_header, jpeg_tiles, planes, scratch
from alexnet_fast.decode.decoder import Decoder
from alexnet_fast.decode.resample import Output
from alexnet_fast.decode.status import OK
from alexnet_fast.errors import UserError, exit_code

from . import jpeg_mutations
from .checked_kernels import Strict, copied, python_form
from .guard_pages import guarded, guarded_bytes, guarded_scratch
from .sample_images import EITHER, ROOT, found_folder

CAPACITY = 1 << 12  # tiles
SIDE = 1024  # px: a larger image than its square is cut and not decoded
MAX_BYTES = 70_000
LEAVINGS = (0x00, 0xFF)


def same(value: Any) -> Any:
    return value


class Oracle:
    """Checks for any bytes that parser and slicer handle them correctly."""

    def __init__(self) -> None:
        self.decoder = Decoder(64)
        self.header = python_form(jpeg_header, I64=int)
        self.tiles = python_form(jpeg_tiles, I64=int, U=same, copy_bytes=copied)
        self.scratch = guarded_scratch(self.decoder.scratch.handle, MAX_BYTES, SIDE, SIDE, Output(64, 64, 0))
        self.reached: Counter[str] = Counter()

    def check(self, data: bytes) -> None:
        """Raises AssertionError or IndexError for a finding."""
        parsed = self.header.read_header(Strict(data))
        jpeg = guarded_bytes(data)
        compiled = jpeg_header.read_header(jpeg)
        assert parsed == compiled, f"header: {parsed} and compiled {compiled}"
        status = parsed.status or self.header.agrees(parsed, parsed.width, parsed.height, len(data))
        if status != OK:
            self.reached[f"status {status}"] += 1
            return
        rng = np.random.default_rng(zlib.crc32(data))
        for crop in ((0, 0, parsed.height, parsed.width), drawn(rng, parsed), drawn(rng, parsed)):
            self._check_cut(data, jpeg, parsed, crop)

    def _check_cut(self, data: bytes, jpeg: np.ndarray, parsed: Any, crop: tuple[int, int, int, int]) -> None:
        out, ends = Strict(bytes(len(data) + 2)), Strict([0] * CAPACITY)
        small = self.tiles.slice_jpeg(Strict(data), parsed, *crop, out, ends)
        room = guarded(len(data) + 2)
        compiled = jpeg_tiles.slice_jpeg(
            jpeg, jpeg_header.JpegHeader(*parsed), *crop, room, guarded(CAPACITY, np.int64)
        )
        assert small == compiled, f"cut {crop}: {small} and compiled {compiled}"
        if small.status != OK:
            self.reached[f"cut, status {small.status}"] += 1
            return
        assert room[: small.bytes].tobytes() == bytes(out[0 : small.bytes]), (
            f"cut {crop}: other bytes compiled"
        )
        assert small.top <= crop[0] and small.left <= crop[1], f"cut {crop} starts too late: {small}"
        assert small.top + small.height >= crop[2] and small.left + small.width >= crop[3], (
            f"cut {crop} is too small: {small}"
        )
        if parsed.width * parsed.height <= SIDE * SIDE and scratch.fits(
            self.scratch, parsed.width, parsed.height
        ):
            self._check_pixels(jpeg, room[: small.bytes], parsed, small)

    def _check_pixels(self, jpeg: np.ndarray, part: np.ndarray, parsed: Any, small: Any) -> None:
        found = [self._decoded(part if small.bytes else jpeg, parsed, small, each) for each in LEAVINGS]
        assert (found[0] is None) == (found[1] is None), "a decode failed once and not twice"
        if found[0] is None or found[1] is None:
            self.reached["decoder"] += 1
            return
        kind = "whole" if not small.bytes else "rows" if small.ends_early else "tiles"
        for one, other in zip(*found):
            assert np.array_equal(one, other), f"{kind}: pixels that the decoder did not write"
        self.reached[kind] += 1
        everything = self._decoded(jpeg, parsed, jpeg_tiles.whole_jpeg(parsed), 0x55)
        for k, (one, image) in enumerate(zip(found[0], everything or ())):
            across, down = (parsed.across, parsed.down) if k else (1, 1)
            there = image[small.top // down :, small.left // across :][: one.shape[0], : one.shape[1]]
            assert np.array_equal(one[: there.shape[0], : there.shape[1]], there), (
                f"{kind}: other pixels than in the complete image"
            )

    def _decoded(self, source: np.ndarray, parsed: Any, small: Any, leavings: int) -> list[np.ndarray] | None:
        """The planes inside the image, or None where the decoder failed."""
        room = self.scratch.planes[: 3 * (parsed.width + 128) * (parsed.height + 128)]
        room[:] = leavings
        found = planes.slice_planes(source, parsed, small, self.scratch)
        end = max(plane.ctypes.data + plane.nbytes for plane in found[6:]) - room.ctypes.data
        assert (room[end:] == leavings).all(), "the decoder wrote beyond its planes"
        if found.status != OK:
            return None
        high, wide = min(small.height, parsed.height - small.top), min(small.width, parsed.width - small.left)
        chroma = -(-high // parsed.down), -(-wide // parsed.across)
        cuts = [(high, wide), *([chroma] * 2 if parsed.components == 3 else [])]
        return [plane[:rows, :columns].copy() for plane, (rows, columns) in zip(found[6:], cuts)]


def drawn(rng: np.random.Generator, parsed: Any) -> tuple[int, int, int, int]:
    """Some crop (top, left, bottom, right) of an image."""
    top, left = int(rng.integers(parsed.height)), int(rng.integers(parsed.width))
    return top, left, int(rng.integers(top, parsed.height)) + 1, int(rng.integers(left, parsed.width)) + 1


@dataclass
class Result:
    """What happened to the inputs."""

    inputs: int = 0
    seconds: float = 0.0
    seed: int = 0
    reached: dict[str, int] = field(default_factory=dict)
    """How often each result was reached: a status, a decode of a complete JPEG, of rows, of tiles."""
    findings: dict[str, str] = field(default_factory=dict)
    """What was wrong -> the first input that showed it, in hexadecimal."""


class Attack:
    """Inputs tried one after another, and what happened to them."""

    def __init__(self, seed: int) -> None:
        self.oracle, self.result, self.started = Oracle(), Result(seed=seed), time.monotonic()

    def try_one(self, data: bytes) -> None:
        self.result.inputs += 1
        try:
            self.oracle.check(data)
        except Exception as error:
            self.result.findings.setdefault(f"{type(error).__name__}: {error}"[:300], data.hex())

    def told(self) -> Result:
        self.result.seconds, self.result.reached = time.monotonic() - self.started, dict(self.oracle.reached)
        return self.result


def small_seeds(photos: Path) -> list[bytes]:
    """The smaller seeds: the Python form takes a microsecond or two for each byte that it looks at."""
    return [jpeg for jpeg in jpeg_mutations.seeds(photos).values() if len(jpeg) < 2000]


def attack(photos: Path, tries: int, seed: int = 0) -> Result:
    """The seeds, and N corrupt ones, with no guidance."""
    found, attack = small_seeds(photos), Attack(seed)
    for data in found:
        attack.try_one(data)
    for data, _ in zip(jpeg_mutations.damages(np.random.default_rng(seed), found), range(tries)):
        attack.try_one(data)
    return attack.told()


def guided(photos: Path, seconds: int, seed: int, corpus: Path, told: Path) -> None:
    """Fuzz until the time is up, which ends this process, so run it in its own; ``told`` holds the Result so far."""
    import atheris  # type: ignore[import-untyped,import-not-found]

    found, attack = small_seeds(photos), Attack(seed)
    for k, data in enumerate(found):
        (corpus / f"seed-{k}").write_bytes(data)
        attack.oracle.check(data)  # everything is compiled by now, outside of any time limit
    for form in (attack.oracle.header, attack.oracle.tiles):
        for value in list(vars(form).values()):
            if isinstance(value, FunctionType) and value.__globals__.get("__name__") in (
                jpeg_header.__name__,
                jpeg_tiles.__name__,
            ):
                atheris.instrument_func(value)
    last = time.monotonic()

    def one_input(data: bytes) -> None:
        nonlocal last
        attack.try_one(data)
        if time.monotonic() - last > 1:
            last = time.monotonic()
            told.write_text(json.dumps(asdict(attack.told())))

    def mutated(data: bytes, most: int, number: int) -> bytes:
        rng = np.random.default_rng(number)
        if rng.random() < 0.5 or len(data) < 5:
            return bytes(atheris.Mutate(data, most))
        return jpeg_mutations.damaged(rng, data, found[int(rng.integers(len(found)))])[:most]

    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed + 1}",
        f"-max_len={MAX_BYTES}",
        "-verbosity=1",
        "-timeout=20",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_input, custom_mutator=mutated)
    atheris.Fuzz()


def fuzz(photos: Path, seconds: int, seed: int, corpus: Path | None = None) -> Result:
    """Run ``guided`` in its own process, starting from the corpus of an earlier run.

    Raises:
        UserError: atheris is not installed.
    """
    command = [
        sys.executable,
        "-m",
        __spec__.name,
        "--photos",
        photos,
        "--seconds",
        seconds,
        "--seed",
        seed,
        "--child",
    ]
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    with tempfile.TemporaryDirectory() as name:
        told, corpus = Path(name, "told.json"), corpus or Path(name, "corpus")
        corpus.mkdir(exist_ok=True)
        done = subprocess.run(
            [*map(str, command), str(corpus), str(told)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=name, check=False,
        )  # fmt: skip
        if "No module named 'atheris'" in done.stdout:
            raise UserError(
                "guided fuzzing needs atheris: pip install atheris (or --tries, which needs no guidance)"
            )
        result = Result(**json.loads(told.read_text())) if told.exists() else Result(seed=seed)
        if done.returncode:
            result.findings[f"the process ended with {done.returncode}"] = done.stdout[-2000:]
        print(*[line for line in done.stdout.splitlines() if "cov:" in line][-1:], sep="\n")
        return result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "--photos", type=file_path, metavar="DIR", help=f"folder of *.JPEG files; without it {EITHER}"
    )
    parser.add_argument("--seconds", type=int, default=600, metavar="S", help="how long to fuzz, guided")
    parser.add_argument(
        "--tries", type=int, default=0, metavar="N", help="try N corrupt JPEGs instead, with no guidance"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--corpus",
        type=file_path,
        metavar="DIR",
        help="folder in which to keep inputs that reached something new",
    )
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    photos = options.photos or found_folder("--photos")
    if options.child:
        guided(photos, options.seconds, options.seed, *options.child)
    if options.tries:
        result = attack(photos, options.tries, options.seed)
    else:
        result = fuzz(photos, options.seconds, options.seed, options.corpus)
    print(json.dumps(asdict(result)))
    print(f"{result.inputs} inputs in {result.seconds:.0f} s: {len(result.findings)} findings")
    return 1 if result.findings else 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
