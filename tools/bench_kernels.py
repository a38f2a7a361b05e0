#!/usr/bin/env python3
"""Time the stages of decoding one image on one thread: cutting its tiles, libjpeg-turbo, resampling and colour.

Several files, e.g. the same images packed in several ways, are measured in turn: a few images of each, every chunk
many times, and the minimum time of each chunk counts.  So other programs on the machine disturb the figures little,
and two files differ only by how they were packed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from alexnet_fast.beton.reader import Beton
from alexnet_fast.common.cli import add_field_flags, file_path
from alexnet_fast.decode import turbojpeg
from alexnet_fast.decode.crop import CropOptions
from alexnet_fast.decode.kernel import sample_table
from alexnet_fast.decode.stages import ALL, CHUNK, CUT, PLANES, DecodeStages
from alexnet_fast.errors import UserError, exit_code
from alexnet_fast.loader.sampler import epoch_permutation


class File:
    """One beton, and the minimum time of every chunk and stage."""

    def __init__(self, path: Path, options: argparse.Namespace) -> None:
        size, images = options.size, options.images
        beton = Beton(path, options.image_field, options.label_field)
        if len(raw := np.flatnonzero(beton.images["mode"])):
            raise UserError(f"{path} holds raw pixels (sample {raw[0]}); this measures the decoding of JPEGs")
        cropping = CropOptions(True, size, size, np.uint64(0), (0.08, 1.0), (3 / 4, 4 / 3), 0.5)
        samples = sample_table(beton)[epoch_permutation(beton.num_samples, 0, 0)[:images]]
        self.path, self.stages = path, DecodeStages(beton.map, samples, cropping)
        self.min_s = np.full((3, len(self.stages.chunks)), np.inf)

    def measure(self, k: int) -> None:
        """Run every stage of chunk ``k`` once."""
        for stage in (CUT, PLANES, ALL):
            self.min_s[stage, k] = min(self.min_s[stage, k], self.stages.time(k, stage))

    def figures(self) -> dict[str, Any]:
        """Microseconds an image."""
        images = sum(map(len, self.stages.chunks))
        cut_us, planes_us, all_us = (self.min_s.sum(1) / images * 1e6).tolist()
        return {
            "beton": str(self.path),
            "images": images,
            "payload_bytes": self.stages.payload_bytes,
            "cut_us": cut_us,
            "libjpeg_us": planes_us - cut_us,
            "render_us": all_us - planes_us,
            "all_us": all_us,
            "img_per_s": 1e6 / all_us,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("beton", nargs="+", type=file_path, help="files to measure side by side")
    add_field_flags(parser)
    parser.add_argument("--size", type=int, default=224, metavar="PX", help="side of the crops")
    parser.add_argument(
        "--images", type=int, default=1000, metavar="N", help="images of each file, in a shuffled order"
    )
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="times that every chunk runs")
    parser.add_argument("--json", type=file_path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    turbojpeg.load()
    console = Console()
    files = [File(path, options) for path in options.beton]
    with console.status("compiling"):
        for file in files:
            file.measure(0)
            file.min_s[:] = np.inf
    with console.status("measuring") as status:
        for number in range(options.rounds):
            status.update(f"round {number + 1} of {options.rounds}")
            for k in range(max(len(file.stages.chunks) for file in files)):
                for file in files:
                    if k < len(file.stages.chunks):
                        file.measure(k)
    figures = [file.figures() for file in files]
    show(figures, options, console)
    if options.json:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        }
        options.json.write_text(
            json.dumps({"size_px": options.size, "machine": machine, "files": figures}, indent=1)
        )


def show(figures: list[dict[str, Any]], options: argparse.Namespace, console: Console) -> None:
    table = Table(title=f"microseconds an image, one thread, crops of {options.size} px")
    table.add_column("file", overflow="fold")
    for column in ("cut", "libjpeg", "render", "all", "img/s", "bytes"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in figures:
        table.add_row(
            row["beton"],
            f"{row['cut_us']:.1f}",
            f"{row['libjpeg_us']:.1f}",
            f"{row['render_us']:.1f}",
            f"{row['all_us']:.1f}",
            f"{row['img_per_s']:,.0f}",
            f"{row['payload_bytes']:,.0f}",
        )
    console.print(table)
    console.print(
        "cut: header and tiles; libjpeg: the tiles' planes; render: resampling and colour; bytes: a stored image, on average"
    )
    console.print(f"the sum of the minimum times of chunks of {CHUNK} images in {options.rounds} rounds")


if __name__ == "__main__":
    sys.exit(exit_code(main))
