"""python -m alexnet_fast.inspect_beton as people run it."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from alexnet_fast import Loader
from alexnet_fast.augment import Invert, RandAugment
from alexnet_fast.augment.operations import of_recipes
from alexnet_fast.beton.reader import Beton, BetonError
from alexnet_fast.decode.decoder import Decoder
from alexnet_fast.errors import exit_code
from alexnet_fast.inspect_beton import main
from alexnet_fast.inspection.contact_sheets import CELL_PX, GAP_PX, TITLE_PX, crops_sheet, samples_sheet
from alexnet_fast.inspection.survey import evenly, survey
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.writer import scan_folder, write_beton
from betons import Entry, jpeg, picture, write
from folders import fill


def inspect(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = exit_code(lambda: main(list(map(str, arguments))))
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine samples of two classes, and a third class that has none."""
    root = fill(tmp_path_factory.mktemp("images") / "train", {"ant": 6, "cat": 3})
    split = scan_folder(root, ["ant", "bee", "cat"])
    return write_beton(
        split, root.parent / "a.beton", Encoding(), workers=1, settings={"split": "train"}
    ).path


def test_it_shows_settings_sizes_dimensions_balance_and_tiles(packed: Path) -> None:
    code, out, _ = inspect(packed)
    assert code == 0
    assert f"{packed}: 9 samples of 3 classes, packed by alexnet_fast" in out
    assert "quality = 90, restart_mcus = 2" in out and "split = train" in out
    assert "0 to 6 samples, median 3; 1 empty: bee" in out
    assert "9 of 9 JPEGs looked at have restart markers, 9 a tile table" in out
    assert "90 to 90     px          9" in out and "70 to 70     px          9" in out


def test_its_json_holds_the_same_figures(packed: Path) -> None:
    figures = json.loads(inspect(packed, "--json")[1])
    with Beton(packed) as beton:
        assert figures["samples"] == 9 and figures["payload_bytes"] == int(beton.sizes.sum())
        assert figures["file_bytes"] == len(beton.map)
        assert figures["bytes_an_image"]["most"] == float(beton.sizes.max())
    assert figures["balance"]["empty_classes"] == ["bee"] and figures["balance"]["classes"] == 3
    assert figures["longest_side_px"] == {"edges": [90, 91], "counts": [9]}


@pytest.mark.parametrize(
    ("look", "read"),
    [
        (survey, (Beton, "payload")),
        (samples_sheet, (Beton, "payload")),
        (lambda beton: crops_sheet(beton, 0, 0), (Decoder, "decode_one")),
    ],
)
def test_a_file_that_is_cut_meanwhile_is_an_error_and_no_end_of_the_process(
    packed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    look: Callable[[Beton], object],
    read: tuple[type, str],
) -> None:
    path = Path(shutil.copy(packed, tmp_path / "a.beton"))
    reads = getattr(*read)

    def cut_and_read(*arguments: object) -> object:
        os.truncate(path, 0)
        return reads(*arguments)

    monkeypatch.setattr(*read, cut_and_read)
    with Beton(path) as beton, pytest.raises(BetonError, match=f"^{path} was shortened while it was open"):
        look(beton)


def test_corrupt_sources_are_counted_where_somebody_looked(packed: Path, tmp_path: Path) -> None:
    root = fill(tmp_path / "train", {"ant": 3})
    intact = (root / "ant/ant_1.JPEG").read_bytes()
    (root / "ant/ant_1.JPEG").write_bytes(intact[: len(intact) // 2] + b"\xff\xd9")
    path = write_beton(scan_folder(root), tmp_path / "a.beton", Encoding(), workers=1).path
    assert "  sources       converted: none; skipped as unreadable: 0; corrupt: 1\n" in inspect(path)[1]
    strange = write(tmp_path / "b.beton", [jpeg(picture(40, 30))])
    counts = [json.loads(inspect(file, "--json")[1])["corrupt"] for file in (path, packed, strange)]
    assert counts == [1, 0, None]


def test_the_largest_images_are_the_last_of_their_own_bin(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(500, 375)), jpeg(picture(40, 30))])
    bins = json.loads(inspect(path, "--json")[1])["longest_side_px"]
    assert bins["edges"][-2:] == [451, 501] and bins["counts"][-1] == 1 and sum(bins["counts"]) == 2


def test_a_file_by_another_packer_is_shown_as_far_as_it_is_known(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(40, 30)), Entry.raw(picture(40, 30))], labels=[0, 2])
    code, out, _ = inspect(path)
    assert code == 0 and "no sidecar names it" in out and "settings      unknown" in out
    assert "1 empty: 1" in out and ", 1 of them raw" in out
    assert "none of 1 JPEGs looked at: every crop decodes its complete image" in out


def test_of_several_ints_the_label_is_named_and_the_others_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(40, 30))] * 3, [7, 8, 9], [("fine", [0, 0, 1])])
    code, _, err = inspect(path)
    assert code == 2 and "has 2 int fields" in err and "to the tools --label-field" in err
    code, out, _ = inspect(path, "--label-field", "fine")
    assert code == 0 and "3 samples of 2 classes" in out
    assert (
        "'image' is the image and 'fine' the label, of 'image' (RGB image), 'label' (int), 'fine' (int)"
        in out
    )
    figures = json.loads(inspect(path, "--label-field", "label", "--json")[1])
    assert figures["label_field"] == "label" and figures["balance"]["classes"] == 10


def test_the_class_names_of_a_json_are_of_the_label_that_packers_write(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(40, 30))] * 3, [0, 1, 1], [("fine", [0, 0, 1])])
    path.with_name("a.beton.json").write_text(json.dumps({"classes": ["ant", "bee", "cat"]}))
    assert "1 empty: cat" in inspect(path, "--label-field", "label")[1]
    assert "2 classes" in (out := inspect(path, "--label-field", "fine")[1]) and "cat" not in out


def test_the_pictures_show_the_samples_and_the_loaders_own_crops(packed: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    code, _, err = inspect(packed, "--out", tmp_path, "--seed", 7)
    assert code == 0 and err.count(".png") == 3
    sizes = {path.name: Image.open(path).size for path in tmp_path.glob("*.png")}
    assert {name: size[0] for name, size in sizes.items()} == {
        "samples.png": 1004, "crops.png": 1004, "dimensions.png": 1000
    }  # fmt: skip
    with Loader(packed, 9, train=True, seed=7, shuffle=False, drop_last=False) as loader:
        crops = next(iter(loader)).images.numpy().copy()
    sheet = Image.open(tmp_path / "crops.png")
    for place in (0, 4, 8):
        left, top = GAP_PX + place % 6 * (CELL_PX + GAP_PX), TITLE_PX + place // 6 * (CELL_PX + 20 + GAP_PX)
        shown = np.asarray(sheet.crop((left, top, left + CELL_PX, top + CELL_PX)))
        crop = Image.fromarray(np.ascontiguousarray(crops[place].transpose(1, 2, 0)))
        crop.thumbnail((CELL_PX, CELL_PX), Image.Resampling.BICUBIC)
        assert np.array_equal(shown, np.asarray(crop)), place


def test_a_broken_sample_is_shown_as_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [Entry(b"no image at all", 40, 30), jpeg(picture(40, 30))])
    assert inspect(path, "--out", tmp_path / "sheets")[0] == 0
    sheet = np.asarray(Image.open(tmp_path / "sheets/crops.png"))
    assert sheet[TITLE_PX - 1, GAP_PX + 50].tolist() == [170, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "GIF", "EPS"])
def test_a_payload_in_another_format_is_shown_as_broken_and_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """For an EPS Pillow would start Ghostscript; a PNG of a few bytes may be gigabytes."""
    ran: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **options: ran.append(arguments))
    other = io.BytesIO()
    Image.new("RGB", (40, 30), (255, 0, 0)).save(other, kind)
    path = write(tmp_path / "a.beton", [Entry(other.getvalue(), 40, 30), jpeg(picture(40, 30))])
    assert inspect(path, "--out", tmp_path / "sheets")[0] == 0
    sheet = np.asarray(Image.open(tmp_path / "sheets/samples.png"))
    assert sheet[TITLE_PX - 1, GAP_PX + 50].tolist() == [170, 0, 0]
    assert sheet[TITLE_PX - 1, 2 * GAP_PX + CELL_PX + 50].tolist() == [225, 225, 225]
    assert ran == []


def test_what_a_json_says_is_shown_on_its_line_and_within_bounds_whatever_it_is(tmp_path: Path) -> None:
    """Class names of any length, line breaks, and what a terminal would obey."""
    odd = "a\nb\x1b[2J" + "x" * 20_000
    path = write(tmp_path / "a.beton", [jpeg(picture(40, 30))] * 2, labels=[0, 2])
    sidecar = {
        "packer": odd,
        "settings": {odd: odd, "nested": [odd]},
        "counts": {"converted": {odd: odd}},
        "classes": [odd, odd, "x" * 20_000],
    }
    path.with_name("a.beton.json").write_text(json.dumps(sidecar))
    code, out, _ = inspect(path, "--out", tmp_path / "sheets")
    assert code == 0 and "packed by a\\nb\\x1b[2Jxxx" in out
    assert all(line.isprintable() and len(line) < 1000 for line in out.splitlines())
    assert (tmp_path / "sheets/samples.png").exists()
    path.with_name("a.beton.json").write_text(json.dumps({"packer": [1], "settings": 4, "counts": [5]}))
    code, out, _ = inspect(path)
    assert code == 0 and "an unknown packer" in out and "settings      unknown" in out


def test_without_matplotlib_the_sheets_are_drawn_and_one_sentence_says_what_to_install(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = inspect(packed, "--out", tmp_path)
    assert code == 0 and err.splitlines()[0].endswith("needs matplotlib; install it: pip install matplotlib")
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["crops.png", "samples.png"]


def test_what_cannot_be_read_or_written_is_one_sentence(packed: Path, tmp_path: Path) -> None:
    code, _, err = inspect(tmp_path / "none.beton")
    assert code == 2 and "none.beton does not exist" in err
    (tmp_path / "file").write_text("")
    code, _, err = inspect(packed, "--out", tmp_path / "file")
    assert code == 2 and "cannot write" in err and "give another --out" in err


def test_labels_that_are_numbers_of_any_size_are_statistics_and_not_classes(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    numbers = [-1e308, float("nan"), float("inf"), 1.7e308, 1.7e308, 0.25]
    path = write(tmp_path / "a.beton", [jpeg(picture(90, 70))] * 6, numbers)
    out = io.StringIO()
    with redirect_stdout(out):
        main([str(path), "--out", str(tmp_path / "pictures")])
        main([str(write(tmp_path / "b.beton", [jpeg(picture(90, 70))] * 2, [0.25, 1e-9])), "--json"])
    said, told = out.getvalue().splitlines()[0], json.loads(out.getvalue()[out.getvalue().index("\n{") :])
    assert said.startswith(f"{path}: 6 samples, packed by ") and "a label       nan to nan" in out.getvalue()
    assert told["balance"] is None
    assert told["labels"] == {"least": 1e-9, "mean": 0.125, "median": 0.125, "most": 0.25}
    assert (tmp_path / "pictures/samples.png").exists() and not recwarn.list


# -- augmented.png


def cell(sheet: Image.Image, place: int) -> np.ndarray:
    """The picture at one place of a sheet."""
    left = GAP_PX + place % 6 * (CELL_PX + GAP_PX)
    top = TITLE_PX + place // 6 * (CELL_PX + 20 + GAP_PX)
    return np.asarray(sheet.crop((left, top, left + CELL_PX, top + CELL_PX)))


def shrunk(image: np.ndarray) -> np.ndarray:
    made = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    made.thumbnail((CELL_PX, CELL_PX), Image.Resampling.BICUBIC)
    return np.asarray(made)


def test_augmented_with_a_recipe_shows_the_loaders_own_pixels(packed: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "augmented.toml"
    recipe.write_text('[augment]\noperations = [{op = "RandAugment"}, {op = "Invert", p = 0.5}]\n')
    code, _, err = inspect(packed, "--augmented", "--recipe", recipe, "--out", tmp_path, "--seed", 3)
    assert code == 0 and "augmented.png" in err
    made = [RandAugment(), Invert(p=0.5)]
    with Loader(packed, 9, train=True, seed=3, shuffle=False, augmentations=made) as loader:
        images = next(iter(loader)).images.numpy().copy()
    sheet = Image.open(tmp_path / "augmented.png")
    for place, image in enumerate(images):
        assert np.array_equal(cell(sheet, place), shrunk(image)), place


def test_augmented_alone_shows_a_row_of_every_operation(packed: Path, tmp_path: Path) -> None:
    assert inspect(packed, "--augmented", "--out", tmp_path)[0] == 0
    sheet = Image.open(tmp_path / "augmented.png")
    with Loader(packed, 9, train=True, shuffle=False) as loader:
        images = next(iter(loader)).images.numpy()
        with Beton(packed) as beton:
            crops = [images[place].copy() for place in evenly(beton, 6)]
    for place, crop in enumerate(crops):
        assert np.array_equal(cell(sheet, place), shrunk(crop))
    names = list(of_recipes())
    assert sheet.height > (len(names) + 1) * CELL_PX
    row = 6 * (1 + names.index("Invert"))
    for place, crop in enumerate(crops):
        assert np.array_equal(cell(sheet, row + place), shrunk(255 - crop))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--augmented",), "argument --augmented: it draws a picture; give the folder for it as --out DIR"),
        (
            ("--recipe", "recipes/1p.toml"),
            "argument --recipe: it says what --augmented shows; give --augmented",
        ),
        (
            ("--augmented", "--out", "nowhere", "--recipe", "recipes/1p.toml"),
            "augment.operations of recipes/1p.toml is an empty list",
        ),
    ],
)
def test_what_augmented_cannot_show_is_one_sentence(
    packed: Path, arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    err = io.StringIO()
    with redirect_stderr(err), pytest.raises(SystemExit) if "empty" not in said else nullcontext():
        assert exit_code(lambda: main([str(packed), *arguments])) == 2
    assert said in err.getvalue() and err.getvalue().count("\n") == 1
