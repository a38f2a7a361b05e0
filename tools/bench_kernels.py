#!/usr/bin/env python3
"""Time the stages of decoding one image on one thread: cutting its tiles, libjpeg-turbo, resampling and colour.

Several files, e.g. the same photos packed in several ways, are measured side by side: a few images of each in
turn, every chunk many times, the least time of each chunk counts.  So other programs on the machine disturb
little, and two files differ by what they differ in.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np
from rich.console import Console
from rich.table import Table

from alexnet_fast.beton.reader import Beton
from alexnet_fast.errors import UserError, exit_code
from alexnet_fast.pipeline import turbojpeg
from alexnet_fast.pipeline.crew import open_handle
from alexnet_fast.pipeline.crop import BOX, Cropping, draw_boxes
from alexnet_fast.pipeline.decode import decode_chunk, make_scratch, sample_table
from alexnet_fast.pipeline.header import read_header
from alexnet_fast.pipeline.order import epoch_order
from alexnet_fast.pipeline.planes import Axis, jpeg_planes, reach
from alexnet_fast.pipeline.tiles import cut

CHUNK = 10
CUT, PLANES, ALL = range(3)


# Not ``pipeline.jit.kernel``: a benchmark leaves no compiled code behind.
@numba.njit(nogil=True, error_model="numpy")
def first_stages(file: Any, samples: Any, boxes: Any, size: int, scratch: Any, stage: int) -> int:
    """Cut the tiles of each sample's crop and, for stage PLANES, decode them. -> the sum of bytes or statuses"""
    total = 0
    for q in range(len(samples)):
        s, box = samples[q], boxes[q]
        y = Axis(box.top, box.height, box.low_y, box.high_y)
        x = Axis(box.left, box.width, box.low_x, box.high_x)
        jpeg = file[s.ptr : s.ptr + s.size]
        if stage == CUT:
            header = read_header(jpeg)
            top, bottom = reach(y, size, header.down)
            left, right = reach(x, size, header.across)
            total += cut(jpeg, header, top, left, bottom, right, scratch.jpeg, scratch.ends).bytes
        else:
            total += jpeg_planes(jpeg, np.int64(s.width), np.int64(s.height), y, x, size, scratch).status
    return total


class File:
    """One beton, and the least time of every chunk and stage."""

    def __init__(self, path: Path, size: int, images: int) -> None:
        beton = Beton(path)
        if len(raw := np.flatnonzero(beton.images["mode"])):
            raise UserError(f"{path} holds raw pixels (sample {raw[0]}); this measures the decoding of JPEGs")
        self.path, self.size, self.map = path, size, beton.map
        samples = sample_table(beton)[epoch_order(beton.num_samples, 0, 0)[:images]]
        self.chunks = [samples[at : at + CHUNK] for at in range(0, len(samples), CHUNK)]
        cropping = Cropping(True, size, size, np.uint64(0), (0.08, 1.0), (3 / 4, 4 / 3), 0.5)
        self.boxes = [np.empty(len(chunk), BOX) for chunk in self.chunks]
        for chunk, boxes in zip(self.chunks, self.boxes):
            draw_boxes(chunk, np.uint64(0), cropping, boxes)
        widest, highest = int(samples["width"].max()), int(samples["height"].max())
        self.scratch = make_scratch(open_handle(), int(samples["size"].max()), widest, highest, size)
        self.out = np.empty((CHUNK, 3, size, size), np.uint8)
        self.statuses = np.empty(CHUNK, np.uint8)
        self.least_s = np.full((3, len(self.chunks)), np.inf)

    def measure(self, k: int) -> None:
        """Run every stage of chunk ``k`` once."""
        chunk, boxes = self.chunks[k], self.boxes[k]
        for stage in (CUT, PLANES, ALL):
            started = time.perf_counter()
            if stage == ALL:
                out, statuses = self.out[: len(chunk)], self.statuses[: len(chunk)]
                decode_chunk(self.map, chunk, boxes, self.size, self.scratch, out, statuses)
            else:
                first_stages(self.map, chunk, boxes, self.size, self.scratch, stage)
            self.least_s[stage, k] = min(self.least_s[stage, k], time.perf_counter() - started)
        if self.statuses[: len(chunk)].any():
            raise UserError(f"{self.path} has a sample that cannot be decoded; see it with a Loader")

    def figures(self) -> dict[str, Any]:
        """Microseconds an image."""
        images = sum(map(len, self.chunks))
        cut_us, planes_us, all_us = (self.least_s.sum(1) / images * 1e6).tolist()
        return {
            "beton": str(self.path),
            "images": images,
            "payload_bytes": float(np.mean([size for chunk in self.chunks for size in chunk["size"]])),
            "cut_us": cut_us,
            "libjpeg_us": planes_us - cut_us,
            "render_us": all_us - planes_us,
            "all_us": all_us,
            "img_per_s": 1e6 / all_us,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("beton", nargs="+", type=Path, help="files to measure side by side")
    parser.add_argument("--size", type=int, default=224, metavar="PX", help="side of the crops")
    parser.add_argument(
        "--images", type=int, default=1000, metavar="N", help="images of each file, in a shuffled order"
    )
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="times that every chunk runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    turbojpeg.load()
    console = Console()
    files = [File(path, options.size, options.images) for path in options.beton]
    with console.status("compiling"):
        for file in files:
            file.measure(0)
            file.least_s[:] = np.inf
    with console.status("measuring") as status:
        for number in range(options.rounds):
            status.update(f"round {number + 1} of {options.rounds}")
            for k in range(max(len(file.chunks) for file in files)):
                for file in files:
                    if k < len(file.chunks):
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
    console.print(f"the sum of the least times of chunks of {CHUNK} images in {options.rounds} rounds")


if __name__ == "__main__":
    sys.exit(exit_code(main))
