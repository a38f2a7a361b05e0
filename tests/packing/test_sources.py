"""The packer asks a source for keys, identities and bytes, and for nothing else."""

from __future__ import annotations

import pickle
import random
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from alexnet_fast.beton.reader import Beton
from alexnet_fast.errors import UserError
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.errors import InputChanged, UnreadableImage
from alexnet_fast.packing.sources import SOURCES, Dataset, Identity, Item, Source, open_dataset
from alexnet_fast.packing.sources.image_folder import FolderDataset, scan_folder
from alexnet_fast.packing.sources.imagenet import ImageNetDataset
from alexnet_fast.packing.sources.list_file import ListDataset
from alexnet_fast.packing.sources.listing import Ignored
from alexnet_fast.packing.sources.parquet import ParquetDataset
from alexnet_fast.packing.sources.tiny_imagenet import TinyImageNetDataset
from alexnet_fast.packing.sources.webdataset import WebDataset
from alexnet_fast.packing.writer import PackResult, write_beton
from folders import fill

SMALL = Encoding(max_resolution=64)


@dataclass(frozen=True)
class ZipReader:
    """Images that are not separate files."""

    archive: str

    @property
    def place(self) -> str:
        return self.archive

    def name(self, key: str) -> str:
        return f"{self.archive}/{key}"

    def identity(self, key: str) -> Identity:
        return Identity(self._info(key).file_size, Path(self.archive).stat().st_mtime_ns)

    def read(self, key: str) -> Item:
        with zipfile.ZipFile(self.archive) as archive:
            return Item(archive.read(key))

    def _info(self, key: str) -> zipfile.ZipInfo:
        with zipfile.ZipFile(self.archive) as archive:
            return archive.getinfo(key)


@dataclass(frozen=True)
class ZipSource:
    reader: ZipReader
    keys: list[str]
    labels: list[int]
    classes: list[str]
    ignored: Ignored = field(default_factory=Ignored)
    in_several_classes: list[str] = field(default_factory=list)

    def shuffled(self, seed: int) -> ZipSource:
        order = random.Random(seed).sample(range(len(self.keys)), len(self.keys))
        return replace(self, keys=[self.keys[i] for i in order], labels=[self.labels[i] for i in order])

    def limited(self, count: int) -> ZipSource:
        return replace(self, keys=self.keys[:count], labels=self.labels[:count])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("source") / "train", {"ant": 7, "bee": 6})


@pytest.fixture
def zipped(folder: Path, tmp_path: Path) -> ZipSource:
    split = scan_folder(folder)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in split.paths:
            archive.write(folder / path, path)
    return ZipSource(ZipReader(str(tmp_path / "images.zip")), split.paths, split.labels, split.classes)


def pack(source: Source, path: Path, **options: object) -> PackResult:
    return write_beton(source, path, SMALL, **{"workers": 1, **options})  # type: ignore[arg-type]


def test_a_source_without_files_gives_the_same_bytes_as_a_folder(
    zipped: ZipSource, folder: Path, tmp_path: Path
) -> None:
    pack(scan_folder(folder), tmp_path / "folder/a.beton")
    pack(zipped, tmp_path / "zip/a.beton")
    same_files(tmp_path / "zip", tmp_path / "folder")


def test_a_reader_works_in_other_processes(folder: Path, tmp_path: Path) -> None:
    pack(scan_folder(folder), tmp_path / "folder/a.beton")
    file = tmp_path / "a.txt"
    file.write_text("".join(f"{key} {key.split('/')[0]}\n" for key in scan_folder(folder).keys))
    source = ListDataset(folder, file).open("a")
    pack(source, tmp_path / "list/a.beton", workers=2)
    same_files(tmp_path / "list", tmp_path / "folder")
    assert len(pickle.dumps(source.reader)) < 1000  # each worker process gets one


def test_a_source_resumes_where_it_was_interrupted(zipped: ZipSource, tmp_path: Path) -> None:
    pack(zipped, tmp_path / "complete/a.beton")
    interrupt(zipped, tmp_path / "a.beton", 5)
    done = pack(zipped, tmp_path / "a.beton")
    assert done.resumed == 5 and done.samples == 13
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "complete/a.beton").read_bytes()
    assert pack(zipped, tmp_path / "a.beton").resumed == 13  # finished before


def test_a_source_that_changed_does_not_resume(zipped: ZipSource, folder: Path, tmp_path: Path) -> None:
    interrupt(zipped, tmp_path / "a.beton", 5)
    with zipfile.ZipFile(zipped.reader.archive, "a") as archive:
        archive.writestr("ant/more.JPEG", (folder / zipped.keys[0]).read_bytes())
    with pytest.raises(InputChanged, match=r"images\.zip has changed since .* modified"):
        pack(zipped, tmp_path / "a.beton")


def test_an_image_that_a_source_cannot_decode_is_named_as_the_source_names_it(
    zipped: ZipSource, tmp_path: Path
) -> None:
    with zipfile.ZipFile(zipped.reader.archive, "a") as archive:
        archive.writestr("ant/text.JPEG", b"no image")
    broken = replace(zipped, keys=[*zipped.keys, "ant/text.JPEG"], labels=[*zipped.labels, 0])
    with pytest.raises(
        UnreadableImage, match=r"cannot read the image .*images\.zip/ant/text\.JPEG: its format is none of"
    ):
        pack(broken, tmp_path / "a.beton")


def test_every_source_opens_what_it_is_given_without_reading_it(tmp_path: Path) -> None:
    found: dict[str, Dataset] = {kind: open_dataset(kind, tmp_path, tmp_path / "a.txt") for kind in SOURCES}
    assert found == {
        "folder": FolderDataset(tmp_path),
        "list": ListDataset(tmp_path, tmp_path / "a.txt"),
        "imagenet": ImageNetDataset(tmp_path / "a.txt"),
        "tiny-imagenet": TinyImageNetDataset(tmp_path),
        "webdataset": WebDataset(tmp_path / "a.txt"),
        "parquet": ParquetDataset(tmp_path / "a.txt"),
    }
    assert all(dataset.kind == kind for kind, dataset in found.items())


def test_a_missing_folder_is_one_sentence_from_every_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ant/a.JPEG ant\n")
    for kind in ("folder", "list", "tiny-imagenet"):
        with pytest.raises(UserError, match="none(/train)? is not a folder; expected"):
            open_dataset(kind, tmp_path / "none", tmp_path / "a.txt").open("train")
    for kind in sorted(SOURCES.keys() - {"folder", "list", "tiny-imagenet"}):
        with pytest.raises(UserError, match=f"{tmp_path}/none.* expected "):
            open_dataset(kind, tmp_path, tmp_path / "none").open("train")


def same_files(one: Path, other: Path) -> None:
    for name in ("a.beton", "a.beton.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def interrupt(source: Source, path: Path, images: int) -> None:
    """Pack N images, then be interrupted."""

    def progress(done: int) -> None:
        if done == images:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(source, path, progress=progress)
    assert not path.exists()
    with pytest.raises(UserError):
        Beton(path)
