"""Packing speed compared with FFCV's own DatasetWriter: the same folder, size, quality and workers, in turn; complete calls are timed."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from alexnet_fast.common.cli import file_path
from alexnet_fast.errors import exit_code
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.writer import ImageFolder, scan_folder, write_beton


class FolderDataset:
    """What an FFCV user writes: open the file, convert to RGB."""

    def __init__(self, split: ImageFolder) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split.paths)

    def __getitem__(self, index: int) -> tuple[object, int]:
        from PIL import Image

        return Image.open(self.split.root / self.split.paths[index]).convert("RGB"), int(
            self.split.labels[index]
        )


def pack_ours(split: ImageFolder, path: Path, options: argparse.Namespace) -> None:
    encoding = Encoding(max_resolution=options.max_resolution, quality=options.quality)
    write_beton(split, path, encoding, workers=options.workers, fresh=True)


def pack_lossless(split: ImageFolder, path: Path, options: argparse.Namespace) -> None:
    encoding = Encoding(mode="lossless", max_resolution=0)
    write_beton(split, path, encoding, workers=options.workers, fresh=True)


def pack_ffcv(split: ImageFolder, path: Path, options: argparse.Namespace) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    image = RGBImageField(
        write_mode="jpg", max_resolution=options.max_resolution, jpeg_quality=options.quality
    )
    writer = DatasetWriter(str(path), {"image": image, "label": IntField()}, num_workers=options.workers)
    writer.from_indexed_dataset(FolderDataset(split))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--data", type=file_path, required=True, help="folder with one folder of images per class"
    )
    parser.add_argument("--max-resolution", type=int, default=500)
    parser.add_argument("--quality", type=int, default=90)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    split = scan_folder(options.data)
    packers: dict[str, Callable[[ImageFolder, Path, argparse.Namespace], None]] = {"alexnet_fast": pack_ours}
    if shutil.which("jpegtran"):
        packers["alexnet_fast lossless"] = pack_lossless
    else:
        print("jpegtran is not installed: no lossless packing to measure", file=sys.stderr)
    try:
        import ffcv  # noqa: F401

        packers["ffcv"] = pack_ffcv
    except ImportError:
        print("ffcv is not installed: no peer to compare with", file=sys.stderr)
    rates: dict[str, list[float]] = {name: [] for name in packers}
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds + 1):
            for name, pack in packers.items():
                path = Path(folder) / f"{name}.beton"
                started = time.perf_counter()
                pack(split, path, options)
                if number:  # the first round warms the page cache
                    rates[name].append(len(split.paths) / (time.perf_counter() - started))
                sizes[name] = path.stat().st_size
    table = Table("packer", "img/s (median)", "min", "max", "file MB")
    for name, seen in rates.items():
        table.add_row(
            name,
            f"{statistics.median(seen):.0f}",
            f"{min(seen):.0f}",
            f"{max(seen):.0f}",
            f"{sizes[name] / 1e6:.1f}",
        )
    Console().print(table)
    print(
        json.dumps(
            {"n": options.rounds, "images": len(split.paths), "workers": options.workers, "img_per_s": rates}
        )
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
