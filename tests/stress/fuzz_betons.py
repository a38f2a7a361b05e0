"""Open corrupt betons and decode all of their samples: each must load or be refused by an error of ours.

    PYTHONPATH=.:tests:tools python -m stress.fuzz_betons --tries 10000 --seed 0

File number n is made from (seed, n) alone, so a finding can be reproduced: ``--first n --tries 1``.  Worker processes
with limited memory decode each sample twice into memory between guard pages: with the scratch and the decoder
full of data of one image, then of another.  If the two results differ, some pixels were not the sample's.
Each file that loads is then given to the other readers of betons: the survey, the check before a training and, every tenth,
the pictures, the verification and a Loader.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_fast import Loader
from alexnet_fast.beton.reader import Beton, sidecar_path
from alexnet_fast.common.cli import file_path
from alexnet_fast.decode import decoder
from alexnet_fast.decode.crop import CROP_DTYPE, CropOptions, draw_crops
from alexnet_fast.decode.decoder import Decoder
from alexnet_fast.decode.kernel import SAMPLE_DTYPE, sample_table
from alexnet_fast.errors import UserError, exit_code

from . import beton_mutations, jpeg_mutations
from .guard_pages import PAGE, fill, guarded, guarded_scratch
from .other_readers import Onlookers
from .sample_images import EITHER, ROOT, found_folder

SIZE = 64  # px: an image is exactly three pages, so that both of its ends are at a guard page
MORE_MEMORY = (
    768 << 20
)  # beyond what an idle worker has: the header of a 64 kB payload may claim 33 million pixels, 4 bytes each
MAX_S = 20.0  # for one file, on a busy machine
SABOTAGE = "ALEXNET_FAST_ATTACK_SABOTAGE"
"""The number of a file at which the worker writes out of bounds on purpose, so that a test can see that this is noticed."""


@dataclass
class Result:
    """What happened to the files."""

    files: int = 0
    loaded: int = 0
    refused: int = 0
    """By the reader, with its own error."""
    samples: int = 0
    broken: int = 0
    """Samples that cannot be decoded, as their status reports."""
    worst_s: float = 0.0
    worst: int = 0
    """The number of the file that took longest."""
    peak_bytes: int = 0
    """The peak resident memory of a worker."""
    seed: int = 0
    findings: list[str] = field(default_factory=list)


class PoisonedDecoder(Decoder):
    """A decoder that holds data of another image: its tables in libjpeg, and one byte value all over its memory."""

    def __init__(self, poison: bytes, leavings: int) -> None:
        super().__init__(SIZE)
        self.leavings, self.start = leavings, self.scratch
        self.poison = np.frombuffer(poison, np.uint8)
        self.sample = np.array([(0, len(poison), *jpeg_mutations.frame_size(poison), 0, 0, 0)], SAMPLE_DTYPE)
        self.out, self.status = guarded((1, 3, SIZE, SIZE)), guarded(1)

    def attempt(self, file: np.ndarray, samples: np.ndarray, train: bool) -> tuple[int, np.ndarray | None]:
        """(status, pixels) of one sample."""
        self._attempt(self.poison, self.sample, train)
        if len(self.scratch.planes) > 16 << 20:  # filling it would take longer than decoding
            self.scratch = self.start
        fill(self.scratch, self.leavings)
        self.out[...] = self.leavings
        self._attempt(file, samples, train)
        status = int(self.status[0])
        return status, None if status else self.out.copy()

    def _attempt(self, file: np.ndarray, samples: np.ndarray, train: bool) -> None:
        cropping = CropOptions(train, SIZE, 73, np.uint64(1), (0.08, 1.0), (3 / 4, 4 / 3), 0.5)
        self.status[0] = 255
        boxes = np.empty(len(samples), CROP_DTYPE)
        draw_crops(samples, np.uint64(0), cropping, boxes)
        self.decode(file, samples, boxes, self.out, self.status)


def same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is None or other is None or np.array_equal(one, other)


def attack_one(
    onlookers: Onlookers, decoders: tuple[PoisonedDecoder, PoisonedDecoder], thoroughly: bool
) -> tuple[str, int, int]:
    """("loaded" or "refused", samples, broken ones).

    Raises:
        AssertionError: a sample's pixels are not its own, or it takes more memory than a page.
    """
    try:
        beton = Beton(onlookers.path)
    except UserError as error:
        assert "\n" not in str(error), "an error of two lines"
        return "refused", 0, 0
    assert beton.sizes.max() <= beton.page_size, "a sample larger than a page"
    samples, broken = sample_table(beton), 0
    for index in range(len(samples)):
        assert "\n" not in beton.source(index), "a name of two lines"
        assert len(beton.payload(index)) == beton.sizes[index]
        for train in (True, False):
            first, second = (each.attempt(beton.map, samples[index : index + 1], train) for each in decoders)
            assert first[0] == second[0] < 255, f"sample {index}: status {first[0]}, then {second[0]}"
            assert same(first[1], second[1]), f"sample {index} has another image's pixels"
            broken += bool(first[0]) and train
    onlookers.see(beton, thoroughly)
    if thoroughly:
        with Loader(onlookers.path, 2, train=True, size=SIZE, threads=2) as loader:
            try:
                for batch in loader:
                    batch.images.sum()
            except UserError as error:
                assert "\n" not in str(error), "an error of two lines"
    return "loaded", len(samples), broken


def work(photos: Path, seed: int, numbers: range, *, with_ffcv: bool) -> None:
    """A worker: one line of JSON before and one after each file."""
    vars(decoder)["make_scratch"] = guarded_scratch
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        files = beton_mutations.Files(photos, seed, Path(name), with_ffcv=with_ffcv)
        onlookers = Onlookers(Path(name), files.jpegs[0], beton_mutations.COUNT)
        path = onlookers.path
        decoders = PoisonedDecoder(files.jpegs[0], 0x00), PoisonedDecoder(files.jpegs[11], 0xFF)
        path.write_bytes(beton_mutations.laid_out([beton_mutations.Sample.of(jpeg) for jpeg in files.jpegs]))
        became = attack_one(onlookers, decoders, True)  # everything is compiled by now
        assert became == ("loaded", len(files.jpegs), 0), f"undamaged samples: {became}"
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MORE_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in numbers:
            content, sidecar = files.make(number)
            path.write_bytes(content)
            sidecar_path(path).unlink(missing_ok=True)
            if sidecar is not None:
                sidecar_path(path).write_bytes(sidecar)
            print(json.dumps({"begins": number}), flush=True)
            started = time.perf_counter()
            told: dict[str, Any] = {}
            if os.environ.get(SABOTAGE) == str(number):
                guarded(1).ctypes.data_as(ctypes.POINTER(ctypes.c_char))[-PAGE] = b"x"
            try:
                told["became"], told["samples"], told["broken"] = attack_one(
                    onlookers, decoders, number % 10 == 0
                )
            except BaseException as error:  # anything but our own errors is a finding
                told["became"], told["why"] = "finding", f"{type(error).__name__}: {error}"
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(json.dumps({**told, "s": time.perf_counter() - started, "peak": peak}), flush=True)


def attack(photos: Path, tries: int, seed: int = 0, first: int = 0, *, with_ffcv: bool = True) -> Result:
    """Files ``first`` to ``first + tries``, in a worker process; a new one replaces each that dies or hangs."""
    result, number = Result(seed=seed), first
    while number < first + tries:
        number = _one_worker(photos, range(number, first + tries), result, [] if with_ffcv else ["--no-ffcv"])
    return result


def _one_worker(photos: Path, numbers: range, result: Result, options: list[str]) -> int:
    """Run a worker until it ends; returns the first number that it has not handled."""
    command = [sys.executable, "-m", __spec__.name, "--photos", photos, "--seed", result.seed]
    command += ["--first", numbers.start, "--tries", len(numbers), "--worker", *options]
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    worker = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    begun = numbers.start - 1
    try:
        for told in _lines(worker, MAX_S):
            if "begins" in told:
                begun = told["begins"]
                continue
            _count(result, begun, told)
    except TimeoutError:
        worker.kill()
    code = worker.wait()
    if code and begun < numbers.start:
        raise RuntimeError(f"the worker ended with {code} before its first file")
    if code:
        result.files += 1
        died = f"did not end in {MAX_S:.0f} s" if code == -9 else f"ended the process with {code}"
        result.findings.append(f"file {begun} {died}")
    return begun + 1


def _lines(worker: subprocess.Popen[bytes], max_s: float) -> Iterator[dict[str, Any]]:
    assert worker.stdout is not None
    waits_s = 300.0  # for the first, while kernels may be compiled
    while True:
        if not select.select([worker.stdout], [], [], waits_s)[0]:
            raise TimeoutError
        waits_s = max_s
        line = os.read(worker.stdout.fileno(), 1 << 16)
        while line and not line.endswith(b"\n"):
            line += os.read(worker.stdout.fileno(), 1 << 16)
        if not line:
            return
        yield from map(json.loads, line.splitlines())


def _count(result: Result, number: int, told: dict[str, Any]) -> None:
    result.files += 1
    result.peak_bytes = max(result.peak_bytes, told["peak"])
    if told["s"] > result.worst_s:
        result.worst_s, result.worst = told["s"], number
    if told["became"] == "finding":
        result.findings.append(f"file {number}: {told['why']}")
        return
    counted = Counter({told["became"]: 1, "samples": told["samples"], "broken": told["broken"]})
    for name, count in counted.items():
        setattr(result, name, getattr(result, name) + count)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "--photos", type=file_path, metavar="DIR", help=f"folder of *.JPEG files; without it {EITHER}"
    )
    parser.add_argument("--tries", type=int, default=10_000, metavar="N", help="files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first file")
    parser.add_argument(
        "--no-ffcv", action="store_true", help="skip files that are based on FFCV's own writer"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    photos = options.photos or found_folder("--photos")
    if options.worker:
        numbers = range(options.first, options.first + options.tries)
        work(photos, options.seed, numbers, with_ffcv=not options.no_ffcv)
        return 0
    result = attack(photos, options.tries, options.seed, options.first, with_ffcv=not options.no_ffcv)
    print(json.dumps(asdict(result)))
    print(
        f"{result.files} corrupt betons: {result.loaded} loaded ({result.broken} of {result.samples} samples broken), "
        f"{result.refused} refused, {len(result.findings)} findings; the slowest, number {result.worst}, took {result.worst_s:.2f} s"
    )
    return 1 if result.findings else 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
