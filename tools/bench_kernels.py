#!/usr/bin/env python3
"""Time the stages of decoding one image on one thread, and libjpeg-turbo's decoding of the same crops next to them.

The stages are our own decoder's: header and tiles, removing the stuffing, Huffman decoding, the inverse DCT; then resampling and colour.
Each is the difference of two runs, one of which ends before it.  libjpeg-turbo gets the same crops, and all take turns in one run.

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
from rich.markup import escape
from rich.table import Table

from alexnet_fast.beton.reader import Beton
from alexnet_fast.common.cli import add_field_flags, file_path
from alexnet_fast.common.untrusted import printable
from alexnet_fast.decode import turbojpeg
from alexnet_fast.decode.crop import CropOptions
from alexnet_fast.decode.kernel import sample_table
from alexnet_fast.decode.stages import (
    ALL,
    CHUNK,
    CUT,
    HUFFMAN,
    LIBJPEG_CUT,
    LIBJPEG_PLANES,
    PLANES,
    UNSTUFF,
    DecodeStages,
)
from alexnet_fast.errors import UserError, exit_code
from alexnet_fast.loader.sampler import epoch_permutation

STAGES = (CUT, UNSTUFF, HUFFMAN, PLANES, ALL, LIBJPEG_CUT, LIBJPEG_PLANES)
COLUMNS = ("cut", "unstuff", "huffman", "idct", "render", "all", "planes", "libjpeg_planes")


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
        self.min_s = np.full((len(STAGES), len(self.stages.chunks)), np.inf)
        self.ours = 0

    def prepare(self) -> None:
        """Compile every stage, and count the images that our own decoder takes."""
        for stage in STAGES:
            self.stages.time(0, stage)
        self.ours = sum(self.stages.reach(k, HUFFMAN) for k in range(len(self.stages.chunks)))

    def measure(self, k: int) -> None:
        """Run every stage of chunk ``k`` once."""
        for stage in STAGES:
            self.min_s[stage, k] = min(self.min_s[stage, k], self.stages.time(k, stage))

    def figures(self) -> dict[str, Any]:
        """Microseconds an image."""
        images = sum(map(len, self.stages.chunks))
        us = dict(zip(STAGES, (self.min_s.sum(1) / images * 1e6).tolist()))
        return {
            "beton": str(self.path),
            "images": images,
            "own_decoder_images": self.ours,
            "payload_bytes": self.stages.payload_bytes,
            "cut_us": us[CUT],
            "unstuff_us": us[UNSTUFF] - us[CUT],
            "huffman_us": us[HUFFMAN] - us[UNSTUFF],
            "idct_us": us[PLANES] - us[HUFFMAN],
            "decode_us": us[PLANES] - us[CUT],
            "render_us": us[ALL] - us[PLANES],
            "all_us": us[ALL],
            "img_per_s": 1e6 / us[ALL],
            "planes_us": us[PLANES],
            "libjpeg_cut_us": us[LIBJPEG_CUT],
            "libjpeg_us": us[LIBJPEG_PLANES] - us[LIBJPEG_CUT],
            "libjpeg_planes_us": us[LIBJPEG_PLANES],
            "libjpeg_to_ours": us[LIBJPEG_PLANES] / us[PLANES],
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
            file.prepare()
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
    for column in (*COLUMNS[:-1], "libjpeg's", "ratio", "img/s", "bytes"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in figures:
        table.add_row(
            escape(printable(row["beton"])),
            *(f"{row[f'{column}_us']:.1f}" for column in COLUMNS),
            f"{row['libjpeg_to_ours']:.2f}",
            f"{row['img_per_s']:,.0f}",
            f"{row['payload_bytes']:,.0f}",
        )
    console.print(table)
    console.print(
        "cut: header, tables and tiles; unstuff: FF 00 -> FF; idct: the inverse DCT; render: resampling and colour; planes: from the "
        "bytes to the tiles' planes; libjpeg's: the same by libjpeg-turbo, with cutting; ratio: libjpeg's over ours; bytes: a stored "
        "image, on average"
    )
    for row in figures:
        if others := row["images"] - row["own_decoder_images"]:
            console.print(
                f"[yellow]{escape(printable(row['beton']))}: libjpeg-turbo decodes {others} of {row['images']} images in any case[/] (unusual "
                "or corrupt ones); they have no unstuff and no huffman, and all of their time counts as idct"
            )
    console.print(f"the sum of the minimum times of chunks of {CHUNK} images in {options.rounds} rounds")


if __name__ == "__main__":
    sys.exit(exit_code(main))
