"""What code gives is packed as a folder would be, complete or not at all, and resumes to the same bytes."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_fast import Beton, Encoding, UserError, pack_dataset
from alexnet_fast.packing.errors import InputChanged, OutputExists, UnreadableImage, WorkerDied
from alexnet_fast.packing.journal import images_logged
from alexnet_fast.packing.writer import scan_folder, write_beton
from betons import jpeg, picture
from components import ROOT
from folders import fill, listed

FIELDS = {"label": "int", "attrs": "float32[2]", "note": "json"}


def quiet(done: int) -> None:
    """Shows no progress."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("images") / "train", {"cat": 5, "ant": 4})


class Faces(torch.utils.data.Dataset[Any]):
    """A torch Dataset of the images of a folder with their labels and further values."""

    def __init__(self, root: Path, image: Callable[[Path], Any]) -> None:
        self.split, self.image = scan_folder(root), image
        self.classes = self.split.classes

    def __len__(self) -> int:
        return len(self.split.paths)

    def __getitem__(self, index: int) -> Any:
        path = self.split.root / self.split.paths[index]
        return (
            self.image(path),
            torch.tensor(self.split.labels[index]),
            np.array([index, 0.5]),
            {"of": path.name},
        )


def stored(path: Path) -> tuple[list[bytes], list[Any], Any]:
    with Beton(path) as beton:
        payloads = [beton.payload(k).tobytes() for k in range(len(beton))]
        return payloads, beton.labels.tolist(), (beton.sidecar or {})["classes"]


FORMS: dict[str, Callable[[Path], Any]] = {
    "path": str,
    "bytes": Path.read_bytes,
    "PIL image": lambda path: Image.open(path).convert("RGB"),
    "array": lambda path: np.asarray(Image.open(path)),
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_image_gives_the_payloads_and_labels_of_the_folder(
    folder: Path, tmp_path: Path, form: str, workers: int
) -> None:
    whole = Encoding(
        max_resolution=0
    )  # pixels are packed as they are, so JPEGs must not be shrunk while they are decoded
    expected = write_beton(scan_folder(folder), tmp_path / "folder.beton", whole, workers=1)
    packed = pack_dataset(
        Faces(folder, FORMS[form]),
        tmp_path / "a.beton",
        FIELDS,
        encoding=whole,
        workers=workers,
        progress=quiet,
    )
    assert stored(packed.path) == stored(expected.path)
    assert packed.samples == 9 and packed.converted == (
        {str(k): f"{form}{' RGB' * (form == 'PIL image')}" for k in range(9)}
        if form in ("PIL image", "array")
        else {}
    )
    with Beton(packed.path) as beton:
        every = np.arange(9)
        assert np.array_equal(beton.column("attrs").take(every), [[k, 0.5] for k in range(9)])
        assert beton.column("note").take(every) == [
            {"of": Path(key).name} for key in scan_folder(folder).paths
        ]


def test_jpeg_bytes_keep_their_coefficients_and_are_shrunk_as_a_files(folder: Path, tmp_path: Path) -> None:
    pairs = scan_folder(folder)
    items = [((folder / key).read_bytes(), label) for key, label in zip(pairs.paths, pairs.labels)]
    for name, encoding in (
        ("lossless", Encoding(mode="lossless", max_resolution=0)),
        ("small", Encoding(max_resolution=40)),
        ("raw", Encoding(mode="raw")),
    ):
        expected = write_beton(pairs, tmp_path / f"{name}-folder.beton", encoding, workers=1)
        packed = pack_dataset(items, tmp_path / f"{name}.beton", encoding=encoding, workers=1, progress=quiet)
        assert stored(packed.path)[:2] == stored(expected.path)[:2]
        assert packed.converted == {}


def test_a_list_of_dicts_is_packed_and_a_seed_shuffles_it(tmp_path: Path) -> None:
    items = [{"image": picture(40, 30, k), "label": float(k), "id": k, "more": "ignored"} for k in range(7)]
    fields = {"id": "int", "label": "float"}
    pack_dataset(items, tmp_path / "a.beton", fields, shuffle_seed=3, workers=1, progress=quiet)
    with Beton(tmp_path / "a.beton") as beton:
        assert (beton.label_field, beton.target_field.name) == ("label", "float")
        order = list(range(7))
        random.Random(3).shuffle(order)
        assert beton.labels.tolist() == [float(k) for k in order]
        assert np.array_equal(beton.column("id").take(np.arange(7)), order)
        assert beton.source_path(0) == str(order[0])


def test_a_vector_may_be_the_label(tmp_path: Path) -> None:
    items = [(picture(40, 30, k), [k, 0, 1]) for k in range(4)]
    pack_dataset(items, tmp_path / "a.beton", {"label": "uint8[3]"}, workers=1, progress=quiet)
    with Beton(tmp_path / "a.beton") as beton:
        assert beton.labels.tolist() == [[k, 0, 1] for k in range(4)]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16", "F"])
def test_pil_images_of_any_mode_are_packed_as_their_files_would_be(tmp_path: Path, mode: str) -> None:
    image = picture(40, 30)
    if mode in ("I;16", "F"):
        grey = np.asarray(image.convert("L"))
        image = Image.fromarray(grey.astype(np.uint16) * 200 if mode == "I;16" else grey / np.float32(255))
    else:
        image = image.convert("L").convert("LA") if mode == "LA" else image.convert(mode)
    assert image.mode == mode
    (tmp_path / "files").mkdir()
    image.save(tmp_path / "files/a.tif")
    raw = Encoding(mode="raw")
    file, item = (
        pack_dataset([(given, 0)], tmp_path / f"{k}.beton", encoding=raw, workers=1, progress=quiet).path
        for k, given in enumerate((tmp_path / "files/a.tif", image))
    )
    assert stored(file) == stored(item)


class Counting(list[Any]):
    """A list that counts how often each item is read."""

    def __init__(self, items: list[Any]) -> None:
        super().__init__(items)
        self.reads = [0] * len(items)

    def __getitem__(self, index: Any) -> Any:
        self.reads[index] += 1
        return super().__getitem__(index)


def interrupts(done: int) -> None:
    """Ctrl-C after five images."""
    if done == 5:
        raise KeyboardInterrupt


def items_of(count: int = 12) -> list[Any]:
    return [(jpeg(picture(90, 70, k)), k % 3, [k, 1.0], {"k": k}) for k in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_it_resumes_to_the_bytes_of_one_that_was_let_alone(tmp_path: Path, workers: int) -> None:
    alone = pack_dataset(items_of(), tmp_path / "alone.beton", FIELDS, workers=1, progress=quiet)
    with pytest.raises(KeyboardInterrupt):
        pack_dataset(items_of(), tmp_path / "a.beton", FIELDS, workers=workers, progress=interrupts)
    done = images_logged(tmp_path / "a.beton")
    assert done == 5
    again = Counting(items_of())
    packed = pack_dataset(again, tmp_path / "a.beton", FIELDS, workers=workers, progress=quiet)
    assert packed.resumed == done and again.reads == [1] * done + [2] * (12 - done)
    for end in ("", ".json"):
        assert Path(f"{packed.path}{end}").read_bytes() == Path(f"{alone.path}{end}").read_bytes()
    third = pack_dataset(items_of(), tmp_path / "a.beton", FIELDS, progress=quiet)
    assert third.resumed == 12 and third.seconds == 0 and listed(tmp_path) == [
        "a.beton", "a.beton.json", "alone.beton", "alone.beton.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda item: (jpeg(picture(90, 70, 99)), *item[1:]), r"1 image \(2\) with another content"),
        (lambda item: (item[0], item[1], [5.0, 5.0], item[3]), "the values of 'attrs' differ"),
        (lambda item: (*item[:3], {"k": "other"}), "the values of 'note' differ"),
    ],
)
def test_it_does_not_resume_with_other_items(tmp_path: Path, change: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack_dataset(items_of(), tmp_path / "a.beton", FIELDS, workers=1, progress=interrupts)
    items = items_of()
    items[2] = change(items[2])
    with pytest.raises(InputChanged, match=f"dataset has changed .*{said}.* fresh=True"):
        pack_dataset(items, tmp_path / "a.beton", FIELDS, workers=1, progress=quiet)
    pack_dataset(items_of(), tmp_path / "a.beton", FIELDS, workers=1, progress=quiet)
    with pytest.raises(
        OutputExists, match="is finished, and dataset is not what it was packed from.*fresh=True"
    ):
        pack_dataset(items, tmp_path / "a.beton", FIELDS, workers=1, progress=quiet)
    pack_dataset(items, tmp_path / "a.beton", FIELDS, workers=1, progress=quiet, fresh=True)


def test_a_random_transform_is_refused_with_the_item(tmp_path: Path) -> None:
    class Flipped(Faces):
        def __getitem__(self, index: int) -> Any:
            image, *values = super().__getitem__(index)
            return image if index < 3 else np.random.default_rng().permutation(image), *values

    fill(tmp_path / "images", {"a": 5})
    with pytest.raises(
        InputChanged, match=r"dataset\[3\] gave another image when it was read again: .*random transform"
    ):
        pack_dataset(
            Flipped(tmp_path / "images", FORMS["array"]),
            tmp_path / "a.beton",
            FIELDS,
            workers=1,
            progress=quiet,
        )


def test_a_path_whose_file_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    root = fill(tmp_path / "images", {"a": 5})
    items = [(str(root / "a" / f"a_{k}.JPEG"), 0) for k in range(5)]

    def changes(done: int) -> None:
        if done == 4:
            Path(items[1][0]).write_bytes(jpeg(picture(20, 20)))

    with pytest.raises(InputChanged, match="1 image .* of dataset changed while they were packed"):
        pack_dataset(items, tmp_path / "a.beton", workers=1, progress=changes)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_that_cannot_be_read_is_named_or_skipped(tmp_path: Path, workers: int) -> None:
    whole = jpeg(picture(90, 70))
    cut = Image.open(io.BytesIO(whole[: len(whole) // 3]))  # read when its pixels are asked for
    items = [(whole, 0), (b"no image", 1), (cut, 2), (str(tmp_path / "none.jpg"), 3), (whole, 4)]
    with pytest.raises(
        UnreadableImage, match=r'cannot read the image dataset\[1\]: .*; pack with on_error="skip"'
    ):
        pack_dataset(items, tmp_path / "a.beton", workers=workers, progress=quiet)
    packed = pack_dataset(items, tmp_path / "a.beton", workers=workers, progress=quiet, on_error="skip")
    assert packed.skipped == ["1", "2", "3"] and stored(packed.path)[1] == [0, 4]


@pytest.mark.parametrize(
    ("items", "fields", "said"),
    [
        ([], None, "the dataset is empty"),
        (iter([1]), None, "without a length"),
        ([(picture(9, 9), 1, 2)], None, r"dataset\[0\] is a tuple of 3; expected \(image, label\)"),
        ([{"image": picture(9, 9)}], None, r"dataset\[0\] is a dict without 'label'"),
        ([picture(9, 9)], None, r"dataset\[0\] is a Image; expected"),
        ([(picture(9, 9), 0), (7, 0)], None, r"dataset\[1\]: its image is 7 \(int\), expected a path"),
        ([(np.zeros((3, 9, 9), np.uint8), 0)], None, r"an array of uint8 of shape 3x9x9, expected uint8 of shape \(H, W, 3\)"),
        ([(np.zeros((9, 9, 3)), 0)], None, "an array of float64"),
        ([(torch.zeros(9, 9, 3, requires_grad=True), 0)], None, "its image is no array"),
        ([(picture(9, 9), 0.5)], None, r"dataset\[0\]: the field 'label' is int, but 0.5 \(float\)"),
        ([(picture(9, 9), 0)], {"attrs": "int"}, "fields has no field 'label'"),
        ([(picture(9, 9), 0)], {"label": "bytes"}, "the field 'label' of type bytes"),
        ([(picture(9, 9), 0)], {"label": "int", "class": "int"}, "fields names a field 'class'"),
        ([(picture(9, 9), 0)], {"label": "int", "a" * 17: "int"}, "up to 16 letters"),
        ([(picture(9, 9), 0)], {"label": "str"}, "'str' is not the type of a field"),
    ],
)  # fmt: skip
def test_what_is_not_expected_is_refused_with_what_was_given(
    tmp_path: Path, items: Any, fields: Any, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        pack_dataset(items, tmp_path / "a.beton", fields, workers=1, progress=quiet)
    assert listed(tmp_path) == []


def test_class_names_are_the_datasets_if_they_fit_or_those_that_are_given(tmp_path: Path) -> None:
    items = [(picture(9, 9, k), k) for k in range(3)]
    pack_dataset(items, tmp_path / "a.beton", classes=["x", "y", "z"], workers=1, progress=quiet)
    assert stored(tmp_path / "a.beton")[2] == ["x", "y", "z"]
    with pytest.raises(UserError, match="classes are 2 names, but labels are 0 to 2"):
        pack_dataset(items, tmp_path / "b.beton", classes=["x", "y"], workers=1, progress=quiet)


SCRIPT = """
import time
import numpy as np
from alexnet_fast import pack_dataset

class Blocks:  # of the main module, which workers must not import: there is no "if __name__" here
    def __len__(self):
        return 30
    def __getitem__(self, k):
        time.sleep(0.02)  # so that there is time to kill it
        pixels = np.random.default_rng(k).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        return pixels, k % 4, {"k": k}

packed = pack_dataset(Blocks(), "a.beton", {"label": "int", "note": "json"}, workers=2)
print("packed", packed.samples, "resumed", packed.resumed)
"""


@pytest.mark.long  # starts three interpreters, and their workers
def test_a_script_without_a_main_guard_is_killed_and_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "pack.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(where: Path) -> subprocess.CompletedProcess[str]:
        where.mkdir(exist_ok=True)
        command = [sys.executable, str(tmp_path / "pack.py")]
        return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True)

    alone = run(tmp_path / "alone")
    assert "packed 30 resumed 0" in alone.stdout, alone.stderr
    (tmp_path / "killed").mkdir()
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "pack.py")],
        cwd=tmp_path / "killed",
        env=environment,
        stderr=subprocess.PIPE,
    )
    while not images_logged(tmp_path / "killed/a.beton") and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    logged = images_logged(tmp_path / "killed/a.beton")
    if process.returncode != 0:  # else it was faster than the kill
        assert f"resumed {logged}" in run(tmp_path / "killed").stdout and logged > 0
    for end in ("", ".json"):
        mine, theirs = (tmp_path / place / f"a.beton{end}" for place in ("killed", "alone"))
        assert mine.read_bytes() == theirs.read_bytes()


def test_a_worker_that_dies_is_named_with_what_it_was_doing(tmp_path: Path) -> None:
    import multiprocessing

    items = items_of(
        200
    )  # far more than may be encoded ahead: when three are written, workers have work left

    def kills(done: int) -> None:
        if done == 3:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)

    with pytest.raises(
        WorkerDied,
        match=r"was killed by SIGKILL \(9\) (while encoding dataset\[\d+\]|before it had anything to do); .* the same call resumes",
    ):
        pack_dataset(items, tmp_path / "a.beton", FIELDS, workers=2, progress=kills)
    assert pack_dataset(items, tmp_path / "a.beton", FIELDS, workers=2, progress=quiet).resumed >= 3


def test_the_json_names_the_source_and_the_fields(tmp_path: Path) -> None:
    pack_dataset(items_of(4), tmp_path / "a.beton", FIELDS, workers=1, progress=quiet)
    sidecar = json.loads((tmp_path / "a.beton.json").read_text())
    assert sidecar["settings"]["source"] == "dataset" and sidecar["paths"] == ["0", "1", "2", "3"]
    assert sidecar["settings"]["fields"] == {"attrs": "float32[2]", "note": "json"}
    assert len(sidecar["fields_crc32"]) == 4 * 8
