"""Fuzz our own JPEG decoder against libjpeg-turbo: the same verdict, and the same pixels.

    PYTHONPATH=.:tests:tools python -m stress.fuzz_decoder --tries 1000000

Real JPEGs in every layout are mutated (bits of the entropy-coded data, Huffman and quantisation tables, lengths, markers, tile tables, parts
of other images) and decoded twice, once by each decoder, as the Loader does it: random crops, several samples in one call.  What both
decode must be equal to the bit, and what one refuses the other must refuse.  All memory ends at pages that nobody may touch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.progress import track

from alexnet_fast.common.cli import file_path
from alexnet_fast.decode.crop import CROP_DTYPE, CropOptions, draw_crops
from alexnet_fast.decode.decoder import DecodePaths, Decoder
from alexnet_fast.decode.kernel import SAMPLE_DTYPE
from alexnet_fast.decode.workspace import ENABLED, shared_fields
from alexnet_fast.errors import UserError, exit_code

from . import jpeg_mutations
from .guard_pages import guarded, guarded_bytes, guarded_scratch
from .jpeg_mutations import Random
from .sample_images import EITHER, found_folder

SIZE = 32
SIDE = 192  # px; an image that claims a longer side is not tried: memory would grow
TOGETHER = 4  # samples of a call: three streams, and one more


def bits_of_the_scan(rng: Random, jpeg: bytes) -> bytes:
    """Flip one to three bits after the first SOS, which mostly leaves a decodable scan of other coefficients."""
    begin = sum(map(len, jpeg_mutations.parts(jpeg)[:-1]))
    if begin >= len(jpeg):
        return jpeg
    changed = bytearray(jpeg)
    for at in rng.integers(begin, len(jpeg), rng.integers(1, 4)):
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def a_table_entry(rng: Random, jpeg: bytes) -> bytes:
    """Change a byte of a DQT or DHT segment."""
    at, places = 0, list[int]()
    for part in jpeg_mutations.parts(jpeg)[:-1]:
        if len(part) > 5 and part[1] in (0xDB, 0xC4):
            places += range(at + 4, at + len(part))
        at += len(part)
    if not places:
        return jpeg
    changed = bytearray(jpeg)
    changed[int(rng.choice(places))] = int(rng.choice([0, 1, 255, int(rng.integers(256))]))
    return bytes(changed)


def mutations(rng: Random, seeds: list[bytes]) -> Iterator[bytes]:
    """Mutated JPEGs, without end."""
    while True:
        jpeg, other = (seeds[int(k)] for k in rng.integers(0, len(seeds), 2))
        match int(rng.integers(4)):
            case 0:
                yield bits_of_the_scan(rng, jpeg)
            case 1:
                yield a_table_entry(rng, jpeg)
            case 2:
                yield bits_of_the_scan(rng, a_table_entry(rng, jpeg))
            case _:
                yield jpeg_mutations.damaged(rng, jpeg, other)


@dataclass
class Result:
    """What happened to the inputs.

    Attributes:
        inputs: JPEGs that were tried.
        decoded: by both decoders, to the same pixels.
        refused: by both.
        paths: of our own decoder: (own, unusual, amiss).
        findings: what was wrong -> the bytes of the first call that showed it, in hexadecimal.
    """

    seed: int
    inputs: int = 0
    decoded: int = 0
    refused: int = 0
    seconds: float = 0.0
    paths: list[int] = field(default_factory=list)
    findings: dict[str, list[str]] = field(default_factory=dict)


class Attack:
    """Both decoders, and what happened to their inputs."""

    def __init__(self, seed: int) -> None:
        self.result, self.rng = Result(seed), np.random.default_rng(seed)
        self.ours, self.libjpegs = Decoder(SIZE), Decoder(SIZE, "libjpeg")
        for each in (self.ours, self.libjpegs):
            handle = int(each.scratch.handle)
            each.scratch = guarded_scratch(handle, 1 << 17, SIDE, SIDE, each.scratch.output)
            shared_fields(each.scratch.workspace)[ENABLED] = each is self.ours
        self.before = DecodePaths()

    def try_together(self, jpegs: list[bytes]) -> None:
        """Decode some JPEGs in one call of each decoder."""
        jpegs = [each for each in jpegs if len(each) > 3 and max(jpeg_mutations.frame_size(each)) <= SIDE]
        self.result.inputs += len(jpegs)
        file = guarded_bytes(b"".join(jpegs))
        samples, begin = np.zeros(len(jpegs), SAMPLE_DTYPE), 0
        for k, jpeg in enumerate(jpegs):
            samples[k] = (begin, len(jpeg), *jpeg_mutations.frame_size(jpeg), 0, k, self.result.inputs)
            begin += len(jpeg)
        samples = samples[(samples["width"] > 0) & (samples["height"] > 0)]
        boxes = np.empty(len(samples), CROP_DTYPE)
        train = bool(self.rng.random() < 0.8)
        options = CropOptions(train, SIZE, 36, np.uint64(self.result.seed), (0.08, 1.0), (3 / 4, 4 / 3), 0.5)
        draw_crops(samples, np.uint64(0), options, boxes)
        (images, statuses), (expected, verdicts) = (
            self._decoded(each, file, samples, boxes) for each in (self.ours, self.libjpegs)
        )
        for k in range(len(samples)):
            if statuses[k] != verdicts[k]:
                self._found(f"status {statuses[k]} in place of {verdicts[k]}", jpegs)
            elif statuses[k]:
                self.result.refused += 1
            elif np.array_equal(images[k], expected[k]):
                self.result.decoded += 1
            else:
                self._found("other pixels", jpegs)

    @staticmethod
    def _decoded(
        decoder: Decoder, file: np.ndarray, samples: np.ndarray, boxes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        images, statuses = guarded((len(samples), 3, SIZE, SIZE)), guarded(len(samples))
        statuses[:] = 255
        decoder.decode(file, samples, boxes, images, statuses)
        return images, statuses

    def _found(self, what: str, jpegs: list[bytes]) -> None:
        self.result.findings.setdefault(what, [each.hex() for each in jpegs])

    def told(self, started: float) -> Result:
        self.result.seconds, self.result.paths = time.monotonic() - started, [*self.ours.paths]
        return self.result


def attack(photos: Path, tries: int, seed: int = 0, *, shows_progress: bool = False) -> Result:
    """Try the seeds, and N mutations of them."""
    seeds = [
        jpeg for jpeg in jpeg_mutations.seeds(photos).values() if max(jpeg_mutations.frame_size(jpeg)) <= SIDE
    ]
    made, attack = Attack(seed), mutations(np.random.default_rng(seed), seeds)
    started = time.monotonic()
    for k in range(0, len(seeds), TOGETHER):
        made.try_together(seeds[k : k + TOGETHER])
    assert made.result.refused == 0 and not made.result.findings, "a seed was refused, or differs"
    calls = range(0, tries, TOGETHER)
    for _ in track(calls, "mutations") if shows_progress else calls:
        made.try_together([next(attack) for _ in range(TOGETHER)])
    return made.told(started)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--photos", type=file_path, help=f"folder with train/<class>/* (default: {EITHER})")
    parser.add_argument(
        "--tries", type=int, default=100_000, metavar="N", help="mutations (default: 100,000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the mutations (default: 0)")
    parser.add_argument("--json", type=file_path, metavar="FILE", help="write the result there too")
    options = parser.parse_args(arguments)
    photos = options.photos or found_folder("--photos") / "train"
    if options.tries < 1:
        raise UserError(f"--tries {options.tries} is too few: expected at least 1")
    result = attack(photos, options.tries, options.seed, shows_progress=True)
    own, unusual, amiss = result.paths
    print(
        f"{result.inputs:,} JPEGs in {result.seconds:.0f} s: {result.decoded:,} decoded to the same pixels, {result.refused:,} refused by both; "
        f"{own:,} by our own decoder, {unusual:,} unusual, {amiss:,} amiss; {len(result.findings)} findings"
    )
    for what in result.findings:
        print(f"FINDING: {what}")
    if options.json:
        options.json.write_text(json.dumps(asdict(result), indent=1))
    return 1 if result.findings else 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
