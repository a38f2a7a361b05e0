"""What they run on: one folder of images, packed or copied into the form that each contestant reads.

=========  ==========================================================================================
tiles      our beton: JPEGs with restart markers and a tile table
raw        our beton: raw RGB
folder     a folder of classes; the JPEGs of ``tiles`` without markers and table, so the pixels are the same bits
ffcv-jpeg  the beton that FFCV's own DatasetWriter makes of the images, JPEG
ffcv-raw   the same, raw RGB
=========  ==========================================================================================

All hold the same images with the same labels, shrunk to the same longest side. What is made is kept in
the work folder and used again while the images, the settings and (for ours) the packer's sources are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from alexnet_fast.beton.reader import Beton, sidecar_path
from alexnet_fast.errors import UserError
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.writer import ImageFolder, scan_folder, write_beton
from bench import pack_ffcv
from bench.runner import ROOT, TOOLS, child_environment

KINDS = ("tiles", "raw", "folder", "ffcv-jpeg", "ffcv-raw")
SHUFFLE_SEED = 0


class InputAbsent(Exception):
    """An input that cannot be made because the library that writes it is not installed."""


@dataclass(frozen=True)
class Photos:
    """The images of a run, in complete batches, labelled 0, 1, ... by the classes that are left."""

    split: ImageFolder
    digest: str

    @property
    def labels_sum(self) -> int:
        return sum(map(int, self.split.labels))


def choose_photos(data: Path, most: int | None, batch_size: int) -> Photos:
    """The first ``most`` images of DATA/train in a fixed random order, cut to complete batches of ``batch_size``.

    Raises:
        UserError: fewer images than a batch, or a folder that cannot be read.
    """
    split = scan_folder(data / "train").shuffled(SHUFFLE_SEED)
    count = min(most or len(split.paths), len(split.paths))
    count -= count % batch_size
    if count == 0:
        raise UserError(
            f"{data}/train gives {min(most or 1 << 31, len(split.paths))} images, fewer than one batch; lower --batch to that"
        )
    split = split.limited(count)
    # ImageFolder and similar classes number only the classes that they see, so a class without an image must not count.
    used = sorted(set(map(int, split.labels)))
    split = ImageFolder(
        split.root,
        split.paths,
        [used.index(int(label)) for label in split.labels],
        [split.classes[k] for k in used],
    )
    facts = []
    for path in split.paths:
        stat = os.stat(split.root / path)
        facts.append((str(split.root.resolve()), path, stat.st_size, stat.st_mtime_ns))
    return Photos(split, _digest(facts))


class Inputs:
    """The inputs of one longest side, made when first needed.

    Args:
        work: where they are kept.
        side_px: longest side; larger images are shrunk to it.
        ffcv_python: the interpreter that has FFCV.
        workers: processes that pack.
    """

    def __init__(
        self,
        photos: Photos,
        work: Path,
        side_px: int,
        quality: int,
        restart_mcus: int,
        ffcv_python: str,
        workers: int,
    ) -> None:
        self.photos, self.ffcv_python, self.workers = photos, ffcv_python, workers
        self.side_px, self.quality, self.restart_mcus = side_px, quality, restart_mcus
        count = len(photos.split.paths)
        self.folder = work.resolve() / f"{side_px}px-q{quality}-{count}-{photos.digest}"

    def get(self, kind: str) -> Path:
        """The beton or folder of this kind.

        Raises:
            InputAbsent: FFCV is needed and not installed.
            UserError: an image cannot be read, or the disk is full.
        """
        ours = {} if kind.startswith("ffcv") else asdict(self._encoding(kind)) | {"packer": _packer_digest()}
        suffix = "" if kind == "folder" else ".beton"
        path = self.folder / f"{kind}-{_digest(ours)}{suffix}"
        if path.exists():
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in [*self.folder.glob(f"{kind}-????????*")]:  # of another packer or tile size
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        if kind == "folder":
            self._copy(path)
        elif kind.startswith("ffcv"):
            self._pack_with_ffcv(path, kind.removeprefix("ffcv-"))
        else:
            write_beton(self.photos.split, path, self._encoding(kind), workers=self.workers)
        return path

    def bytes_of(self, kind: str) -> int:
        """Bytes of the stored images of an input that exists."""
        path = self.get(kind)
        if path.is_dir():
            return sum(file.stat().st_size for file in path.rglob("*.jpg"))
        return int(Beton(path).sizes.sum())

    def _encoding(self, kind: str) -> Encoding:
        return Encoding(
            mode="raw" if kind == "raw" else "reencode",
            max_resolution=self.side_px,
            quality=self.quality,
            restart_mcus=self.restart_mcus if kind == "tiles" else 0,
        )

    def _copy(self, path: Path) -> None:
        """Pack without markers, then write each payload to a file: that way the JPEGs are coded as ours are."""
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        packed = self.folder / "plain.beton"
        write_beton(self.photos.split, packed, self._encoding("folder"), workers=self.workers, fresh=True)
        with Beton(packed) as beton:
            for index, label in enumerate(beton.labels):
                folder = partial / self.photos.split.classes[label]
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{index:07d}.jpg").write_bytes(beton.payload(index).tobytes())
        packed.unlink()
        sidecar_path(packed).unlink()
        partial.rename(path)

    def _pack_with_ffcv(self, path: Path, mode: str) -> None:
        partial = path.with_name(path.name + ".partial")
        split = self.photos.split
        listing = self.folder / "photos.json"
        listing.write_text(
            json.dumps({"root": str(split.root.resolve()), "paths": split.paths, "labels": split.labels})
        )
        arguments = [listing, partial, mode, self.side_px, self.quality, self.workers]
        command = [self.ffcv_python, "-m", "bench.pack_ffcv", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=TOOLS, env=child_environment(self.workers), capture_output=True, text=True
        )
        last_line = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        if done.returncode == pack_ffcv.ABSENT:
            raise InputAbsent(last_line)
        if done.returncode:
            raise UserError(f"FFCV's writer failed on {split.root}: {last_line}")
        partial.rename(path)


def _packer_digest() -> str:
    sources = sorted((ROOT / "alexnet_fast" / "beton").glob("*.py"))
    return _digest([source.read_text() for source in sources])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]
