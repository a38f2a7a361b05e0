"""Packing speed compared with FFCV's own DatasetWriter: the same folder, size, quality and workers, in turn; complete calls are timed.

--sources compares packing from the folder with packing the same images out of a tar as ImageNet's, out of shards and out of tables.
CPU time counts where the machine is busy with something else: it is of this process and its workers.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from alexnet_fast.common.cli import file_path
from alexnet_fast.errors import exit_code
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.sources import Source
from alexnet_fast.packing.writer import ImageFolder, scan_folder, write_beton

SHARD = 200
Packer = Callable[[Any, Path, argparse.Namespace], None]


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


def pack_ours(split: Source, path: Path, options: argparse.Namespace) -> None:
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


def in_other_forms(data: Path, folder: Path) -> dict[str, Source]:
    """The images of a folder of classes as each of the other sources has them, made in ``folder``."""
    from alexnet_fast.packing.sources.imagenet import ImageNetDataset
    from alexnet_fast.packing.sources.webdataset import WebDataset

    split = scan_folder(data)
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for name in split.classes:
            with tarfile.open(folder / "class.tar", "w") as inner:
                for image in sorted((data / name).iterdir()):
                    inner.add(image, image.name)
            outer.add(folder / "class.tar", f"{name}.tar")
    forms: dict[str, Source] = {"ImageNet's tar": ImageNetDataset(folder).open("train")}
    order = split.shuffled(1)
    for suffix, mode in (("tar", "w"), ("tar.gz", "w:gz")):
        (shards := folder / suffix).mkdir()
        for start in range(0, len(order.paths), SHARD):
            with tarfile.open(shards / f"train-{start}.{suffix}", mode) as tar:  # type: ignore[call-overload]
                for path, label in zip(
                    order.paths[start : start + SHARD], order.labels[start : start + SHARD]
                ):
                    stem, _, kind = Path(path).name.rpartition(".")
                    tar.add(data / path, f"{stem.replace('.', '_')}.{kind}")
                    cls = tarfile.TarInfo(f"{stem.replace('.', '_')}.cls")
                    cls.size = len(text := str(label).encode())
                    tar.addfile(cls, io.BytesIO(text))
        forms[f"webdataset, .{suffix}"] = WebDataset(shards).open("train")
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        print("pyarrow is not installed: no parquet to measure", file=sys.stderr)
        return forms
    from alexnet_fast.packing.sources.parquet import ParquetDataset

    images = [{"bytes": (data / path).read_bytes(), "path": Path(path).name} for path in order.paths]
    (folder / "parquet").mkdir()
    table = pa.table({"image": images, "label": order.labels})
    pq.write_table(table, folder / "parquet/train.parquet", row_group_size=100)
    forms["parquet"] = ParquetDataset(folder / "parquet").open("train")
    return forms


def cpu_s() -> float:
    """CPU time of this process and of its children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


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
    parser.add_argument(
        "--sources",
        action="store_true",
        help="compare the folder with the same images in archives, not with peers",
    )
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        split = scan_folder(options.data)
        packers: dict[str, tuple[Packer, Source]] = {"alexnet_fast": (pack_ours, split.shuffled(0))}
        if options.sources:
            forms = in_other_forms(options.data, Path(folder))
            packers |= {f"from {name}": (pack_ours, form.shuffled(0)) for name, form in forms.items()}
        else:
            packers |= peers(split)
        measure(packers, Path(folder), options)


def peers(split: ImageFolder) -> dict[str, tuple[Packer, Source]]:
    """What else can pack here."""
    found: dict[str, tuple[Packer, Source]] = {}
    if shutil.which("jpegtran"):
        found["alexnet_fast lossless"] = (pack_lossless, split)
    else:
        print("jpegtran is not installed: no lossless packing to measure", file=sys.stderr)
    try:
        import ffcv  # noqa: F401

        found["ffcv"] = (pack_ffcv, split)
    except ImportError:
        print("ffcv is not installed: no peer to compare with", file=sys.stderr)
    return found


def measure(packers: dict[str, tuple[Packer, Source]], folder: Path, options: argparse.Namespace) -> None:
    """Pack in turn, round after round, and print the speeds."""
    rates: dict[str, list[float]] = {name: [] for name in packers}
    cpu_ms: dict[str, list[float]] = {name: [] for name in packers}
    sizes: dict[str, int] = {}
    images = len(next(iter(packers.values()))[1].keys)
    for number in range(options.rounds + 1):
        for name, (pack, split) in packers.items():
            path = folder / f"{number}.beton"
            started, cpu_started = time.perf_counter(), cpu_s()
            pack(split, path, options)
            if number:  # the first round warms the page cache
                rates[name].append(images / (time.perf_counter() - started))
                cpu_ms[name].append(1e3 * (cpu_s() - cpu_started) / images)
            sizes[name] = path.stat().st_size
            path.unlink()
    first = next(iter(packers))
    table = Table("packer", "img/s (median)", "min", "max", "CPU ms/img (median)", "speed by CPU", "file MB")
    for name, seen in rates.items():
        table.add_row(
            name,
            f"{statistics.median(seen):.0f}",
            f"{min(seen):.0f}",
            f"{max(seen):.0f}",
            f"{statistics.median(cpu_ms[name]):.2f}",
            f"{statistics.median(a / b for a, b in zip(cpu_ms[first], cpu_ms[name])):.3f}",
            f"{sizes[name] / 1e6:.1f}",
        )
    Console().print(table)
    print(
        json.dumps(
            {
                "n": options.rounds,
                "images": images,
                "workers": options.workers,
                "img_per_s": rates,
                "cpu_ms": cpu_ms,
            }
        )
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
