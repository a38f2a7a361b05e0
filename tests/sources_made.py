"""One set of images in every form that the packer takes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imagenet_tars import tar_of, unpack

Flags = tuple[object, ...]
"""What names a set to the packer."""


def images_of(folder: Path, split: str) -> list[tuple[str, int, bytes]]:
    """(name, label, content) of each image of a folder of classes."""
    classes = sorted(path.name for path in (folder / split).iterdir())
    return [
        (image.name, label, image.read_bytes())
        for label, name in enumerate(classes)
        for image in sorted((folder / split / name).iterdir())
    ]


def as_folder(folder: Path, root: Path) -> Flags:
    return ("--data", folder)


def as_list(folder: Path, root: Path) -> Flags:
    """The training split alone: a list is one split."""
    (root / "images").mkdir(parents=True)
    rows = ["file_name,label"]
    for name, label, content in images_of(folder, "train"):
        (root / "images" / name).write_bytes(content)
        rows.append(f"{name},{label}")
    (root / "train.csv").write_text("\n".join(rows))
    return ("--list", root / "train.csv", "--data", root / "images")


def as_shards(folder: Path, root: Path, suffix: str = ".tar", each: int = 4) -> Flags:
    root.mkdir(parents=True)
    for split in ("train", "val"):
        samples = images_of(folder, split)
        for start in range(0, len(samples), each):
            files = []
            for k, (name, label, content) in enumerate(samples[start : start + each]):
                stem = name.partition(".")[0]
                files.append((name, content))
                files.append(
                    (f"{stem}.cls", f"{label}\n".encode())
                    if k % 2
                    else (f"{stem}.json", json.dumps({"label": label, "size": [1, 2]}).encode())
                )
            content = tar_of(files)
            path = root / f"small-{split}-{start // each:04d}{suffix}"
            path.write_bytes(gzip.compress(content, 1) if suffix == ".tar.gz" else content)
    return ("--webdataset", root)


def as_compressed_shards(folder: Path, root: Path) -> Flags:
    return as_shards(folder, root, ".tar.gz")


def tables(folder: Path, split: str) -> Any:
    """A split as a table of pyarrow, as Hugging Face's image sets have it."""
    import pyarrow as pa

    samples, classes = images_of(folder, split), sorted(path.name for path in (folder / split).iterdir())
    features = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
    images = pa.array(
        [{"bytes": content, "path": name} for name, _, content in samples],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({"image": images, "label": pa.array([label for _, label, _ in samples], pa.int64())})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def as_parquet(folder: Path, root: Path) -> Flags:
    import pyarrow.parquet as pq

    (root / "data").mkdir(parents=True)
    for split, name in (("train", "train"), ("val", "validation")):
        table = tables(folder, split)
        half = table.num_rows // 2
        for k, part in enumerate((table.slice(0, half), table.slice(half))):
            pq.write_table(part, root / f"data/{name}-0000{k}-of-00002.parquet", row_group_size=3)
    return ("--parquet", root)


def as_arrow(folder: Path, root: Path) -> Flags:
    """As ``save_to_disk`` writes it: a folder for each split, with a stream of record batches."""
    import pyarrow as pa

    for split, name in (("train", "train"), ("val", "validation")):
        (root / name).mkdir(parents=True)
        table = tables(folder, split)
        path = str(root / name / "data-00000-of-00001.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
        (root / name / "state.json").write_text("{}")
    return ("--parquet", root)


MADE: dict[str, Callable[[Path, Path], Flags]] = {
    "folder": as_folder,
    "list": as_list,
    "webdataset": as_shards,
    "webdataset-gz": as_compressed_shards,
    "parquet": as_parquet,
    "arrow": as_arrow,
}


def make(kind: str, tars: Path, root: Path) -> Flags:
    """The set of ImageNet's ``tars`` in another form below ``root``; the flags that name it to the packer."""
    if kind in ("parquet", "arrow"):
        import pytest

        pytest.importorskip("pyarrow")
    if kind == "imagenet":
        return ("--data", tars)
    return MADE[kind](unpack(tars, root / "unpacked"), root / kind)


KINDS = ("imagenet", *MADE)
