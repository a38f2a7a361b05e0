"""A set packed in parts is the set packed into one file, cut: the same payloads in the same order, whoever packs which part."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_fast import Beton, inspect_beton
from alexnet_fast.beton.errors import BetonError
from alexnet_fast.beton.index_file import IndexFile, index_path, read_index
from alexnet_fast.beton.several import BetonSet, open_beton
from alexnet_fast.errors import UserError, exit_code
from alexnet_fast.pack import main
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.errors import OutputExists, OutputUnwritable
from alexnet_fast.packing.join import join, join_parts
from alexnet_fast.packing.parts import PartOf, SourcePart, all_parts, digest_of, settings_of
from alexnet_fast.packing.writer import scan_folder, write_beton
from betons import jpeg, picture, write
from folders import fill, listed

SMALL = Encoding(max_resolution=64)
PARTS = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/, 11 images of three classes, and val/, 4."""
    root = tmp_path_factory.mktemp("images")
    fill(root / "train", {"cat": 5, "ant": 4, "bee": 2})
    fill(root / "val", {"cat": 2, "ant": 1, "bee": 1})
    return root


def pack_part(data: Path, out: Path, part: PartOf, stops_at: int | None = None) -> Path:
    """Pack one part of train/ as the command does; interrupt it after so many images."""
    whole = scan_folder(data / "train").shuffled(0)

    def progress(done: int) -> None:
        if done == stops_at:
            raise KeyboardInterrupt

    path = part.path(out / "train.beton")
    settings = settings_of(part, digest_of(whole))
    write_beton(SourcePart.of(whole, part), path, SMALL, workers=1, settings=settings, progress=progress)
    return path


@pytest.fixture(scope="module")
def one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ in one file."""
    path = tmp_path_factory.mktemp("one") / "train.beton"
    return write_beton(scan_folder(data / "train").shuffled(0), path, SMALL, workers=1).path


@pytest.fixture
def packed(data: Path, tmp_path: Path) -> Path:
    """The index of train/ in three parts."""
    for part in all_parts(PARTS):
        pack_part(data, tmp_path, part)
    index, _ = join_parts(tmp_path / "train.beton", PartOf(PARTS, PARTS))
    assert index is not None
    return index.path


def assert_same_samples(index: Path, one: Path) -> None:
    with open_beton(index) as every, Beton(one) as whole:
        assert every.labels.tolist() == whole.labels.tolist()
        for i in range(len(whole)):
            assert every.payload(i).tobytes() == whole.payload(i).tobytes()
            assert every.source_path(i) == whole.source_path(i)


# -- which images


@pytest.mark.parametrize("count", [1, 2, 3, 7, 11])
def test_the_parts_are_consecutive_and_differ_by_one_image_at_most(data: Path, count: int) -> None:
    whole = scan_folder(data / "train").shuffled(0)
    parts = [SourcePart.of(whole, part) for part in all_parts(count)]
    assert [key for part in parts for key in part.keys] == whole.keys
    assert [label for part in parts for label in part.labels] == whole.labels
    assert len({len(part.keys) for part in parts}) <= 2
    assert all(part.classes == whole.classes for part in parts)


def test_more_parts_than_images_are_refused_in_words(data: Path) -> None:
    with pytest.raises(UserError, match="has 11 images, too few for 12 parts"):
        SourcePart.of(scan_folder(data / "train"), PartOf(1, 12))


def test_the_names_of_parts_sort_in_their_order() -> None:
    names = [part.path(Path("train.beton")).name for part in all_parts(12)]
    assert names == sorted(names) and names[0] == "train-01-of-12.beton"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0/3", "counted from 1"),
        ("4/3", "counted from 1"),
        ("1/0", "expected 1 to"),
        ("3", "not a part"),
        ("a/b", "not a part"),
        ("-1/3", "not a part"),
    ],
)
def test_what_is_no_part_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        PartOf.parse(text)


# -- what is written


def test_all_parts_together_are_the_one_file(packed: Path, one: Path) -> None:
    assert_same_samples(packed, one)
    index = read_index(packed)
    assert index.samples == 11 and index.classes == ("ant", "bee", "cat")
    assert [part.samples for part in index.parts] == [3, 4, 4]


def test_parts_end_in_any_order_and_the_last_one_writes_the_index(
    data: Path, tmp_path: Path, one: Path
) -> None:
    order = all_parts(PARTS)
    random.Random(5).shuffle(order)
    for k, part in enumerate(order):
        pack_part(data, tmp_path, part)
        index, missing = join_parts(tmp_path / "train.beton", part)
        assert len(missing) == PARTS - 1 - k and (index is None) == bool(missing)
    assert_same_samples(tmp_path / "train.index.json", one)
    assert not [name for name in listed(tmp_path) if name.endswith((".lock", ".partial", ".journal"))]


def test_parts_that_end_at_the_same_time_write_one_index(data: Path, tmp_path: Path, one: Path) -> None:
    for part in all_parts(PARTS):
        pack_part(data, tmp_path, part)
    found: list[IndexFile | None] = []
    threads = [
        threading.Thread(target=lambda part=part: found.append(join_parts(tmp_path / "train.beton", part)[0]))
        for part in all_parts(PARTS) * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 * PARTS and None not in found
    assert_same_samples(tmp_path / "train.index.json", one)


def test_an_interrupted_part_resumes_by_itself_to_the_same_bytes(
    data: Path, tmp_path: Path, packed: Path
) -> None:
    part, out = PartOf(2, PARTS), tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        pack_part(data, out, part, stops_at=2)
    path = part.path(out / "train.beton")
    assert not path.exists() and join_parts(out / "train.beton", part)[0] is None
    pack_part(data, out, part)
    assert path.read_bytes() == part.path(packed.parent / "train.beton").read_bytes()


def test_an_interruption_before_the_index_is_made_good_by_the_same_command(
    data: Path, tmp_path: Path, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(index: IndexFile) -> None:
        raise KeyboardInterrupt

    for part in all_parts(PARTS):
        pack_part(data, tmp_path, part)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(IndexFile, "write", killed)
        join_parts(tmp_path / "train.beton", PartOf(3, PARTS))
    assert not (tmp_path / "train.index.json").exists()
    pack_part(data, tmp_path, PartOf(1, PARTS))  # packed before
    assert join_parts(tmp_path / "train.beton", PartOf(1, PARTS))[0] is not None
    assert_same_samples(tmp_path / "train.index.json", one)


def test_parts_of_other_images_or_settings_do_not_belong_together(data: Path, tmp_path: Path) -> None:
    for part in all_parts(2):
        pack_part(data, tmp_path, part)
    other = fill(tmp_path / "other" / "train", {"cat": 3, "ant": 4, "bee": 2}).parent
    part = PartOf(2, 2)
    part.path(tmp_path / "train.beton").unlink()
    pack_part(other, tmp_path, part)
    with pytest.raises(OutputExists, match="do not belong together: they differ in whole"):
        join_parts(tmp_path / "train.beton", part)
    assert join_parts(tmp_path / "train.beton", part, fresh=True) == (
        None,
        [PartOf(1, 2).path(tmp_path / "train.beton")],
    )


# -- the index


def test_a_part_that_is_added_keeps_the_others(packed: Path, tmp_path: Path) -> None:
    more = write(tmp_path / "more.beton", [jpeg(picture(40, 30, seed)) for seed in (91, 92)], [1, 0])
    more.with_name("more.beton.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    before = read_index(packed)
    index = join(packed, [packed, more])
    assert [part.file for part in index.parts] == [*(part.file for part in before.parts), "more.beton"]
    with open_beton(packed) as every:
        assert every.num_samples == 13
        assert every.read_sidecar() == {"classes": ["ant", "bee", "cat", "dog"]}
        assert every.labels[-2:].tolist() == [3, 2]
    # A part that ends again, as one that was packed again would, leaves what was added.
    again, _ = join_parts(tmp_path / "train.beton", PartOf(1, PARTS))
    assert again == index == read_index(packed)


def test_join_without_files_writes_the_index_of_what_its_parts_are_now(
    data: Path, packed: Path, tmp_path: Path
) -> None:
    part = PartOf(2, PARTS)
    whole = scan_folder(data / "train").shuffled(0)
    path, settings = part.path(tmp_path / "train.beton"), settings_of(part, digest_of(whole))
    write_beton(
        SourcePart.of(whole, part), path, Encoding(mode="raw"), workers=1, settings=settings, fresh=True
    )
    with pytest.raises(BetonError, match="packed again"):
        open_beton(packed)
    join(packed, [])
    open_beton(packed).close()


def test_an_index_of_other_files_is_not_replaced_without_fresh(
    data: Path, packed: Path, tmp_path: Path
) -> None:
    for part in all_parts(2):
        pack_part(data, tmp_path, part)
    with pytest.raises(OutputExists, match="names other files, as .*train-1-of-3.beton"):
        join_parts(tmp_path / "train.beton", PartOf(2, 2))
    index, _ = join_parts(tmp_path / "train.beton", PartOf(2, 2), fresh=True)
    assert index is not None and read_index(packed) == index and len(index.parts) == 2
    packed.write_text("something else")
    with pytest.raises(OutputExists, match="not the index of a set"):
        join_parts(tmp_path / "train.beton", PartOf(2, 2))


def test_a_pattern_that_lacks_a_part_of_the_set_is_a_warning(
    packed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_beton(packed.parent / "train-*.beton").close()
    assert not caplog.records
    open_beton(packed.parent / "train-[13]-*.beton").close()
    assert "train-[13]-*.beton has 2 of the 3 parts of a set: part 2 is missing" in caplog.text


def test_an_index_elsewhere_names_its_parts_relative_to_itself(
    packed: Path, tmp_path: Path, one: Path
) -> None:
    elsewhere = tmp_path / "sets" / "all.index.json"
    elsewhere.parent.mkdir()
    index = join(elsewhere, [packed])
    assert index.parts[0].file == "../train-1-of-3.beton"
    assert_same_samples(elsewhere, one)
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    assert_same_samples(moved / "sets" / "all.index.json", one)


def test_an_index_that_is_not_named_as_one_is_refused(one: Path) -> None:
    with pytest.raises(UserError, match=r"the first name is the index's and ends in \.json"):
        join(one, [one])


def test_an_index_that_cannot_be_written_is_one_sentence(one: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputUnwritable, match="cannot write .*no packed image is lost"):
        join(tmp_path / "none" / "a.index.json", [one])


# -- the command


def ran(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The command's exit code, and what it printed."""
    try:
        code = exit_code(lambda: main(list(map(str, arguments))))
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out + err


def test_shards_pack_every_split_in_parts_and_a_second_start_finds_them(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("--data", data, "--out", tmp_path, "--max-resolution", 64, "--workers", 1, "--shards", 2)
    code, said = ran(capsys, *command)
    assert code == 0 and "train.index.json: 11 samples of 3 classes in 2 parts" in said
    assert "val.index.json: 4 samples of 3 classes in 2 parts" in said
    with open_beton(tmp_path / "train.index.json") as train, open_beton(tmp_path / "val.index.json") as val:
        assert isinstance(train, BetonSet) and isinstance(val, BetonSet)
        assert train.class_names == val.class_names
    code, said = ran(capsys, *command)
    assert code == 0 and said.count("packed before") == 4


def test_the_jobs_of_an_array_pack_their_parts_and_the_last_one_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("--data", data, "--split", "train", "--out", tmp_path, "--workers", 1, "--part")
    code, said = ran(capsys, *command, "2/2")
    assert code == 0 and "finished parts of train: 1 of 2; not packed yet: train-1-of-2.beton" in said
    code, said = ran(capsys, *command, "1/2")
    assert code == 0 and "train.index.json: 11 samples of 3 classes in 2 parts" in said
    code, said = ran(capsys, *command, "1/3")
    assert code == 2 and "names other files" in said
    assert "train-1-of-3.beton" not in listed(tmp_path), "refused before anything is packed"


def test_val_packed_later_is_numbered_as_the_packed_parts_of_train(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        ran(capsys, "--data", data, "--split", "train", "--out", out, "--shards", 2, "--workers", 1)[0] == 0
    )
    later = fill(tmp_path / "later" / "val", {"cat": 2}).parent
    code, said = ran(capsys, "--data", later, "--out", out, "--workers", 1)
    assert code == 0 and "numbered as in" in said
    with Beton(out / "val.beton") as val:
        assert val.labels.tolist() == [2, 2]


def damaged(part: Path) -> None:
    content = bytearray(part.read_bytes())
    with Beton(part) as beton:
        at = int(beton.images["data_ptr"][1])
    content[at + 40 : at + 44] = b"\xff" * 4
    part.write_bytes(content)


def removed(part: Path) -> None:
    part.unlink()


def replaced(part: Path) -> None:
    other = PartOf(3, PARTS).path(part.with_name("train.beton"))
    part.write_bytes(other.read_bytes())
    part.with_name(part.name + ".json").write_bytes(other.with_name(other.name + ".json").read_bytes())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (damaged, "train-2-of-3.beton: sample 1 "),
        (removed, "train-2-of-3.beton, a part of .*, does not exist"),
        (replaced, "train-2-of-3.beton, a part of .*has (another checksum|[0-9,]+ bytes)"),
    ],
)
def test_verify_of_an_index_looks_at_every_part_and_whether_they_belong_together(
    packed: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    why: str,
) -> None:
    code, said = ran(capsys, "--verify", packed, "--source", data / "train", "--workers", 1)
    assert code == 0 and "11 samples, no fault: every sample is in one of its 3 parts" in said
    assert said.count("equals its source encoded again") == PARTS
    change(PartOf(2, PARTS).path(packed.with_name("train.beton")))
    code, said = ran(capsys, "--verify", packed.parent, "--workers", 1)
    assert code == 1
    assert re.search(why, said), said


def test_inspect_shows_an_index_as_one_set(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect_beton.main([str(packed), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 11 and list(found["parts"].values()) == [3, 4, 4]
    assert found["settings"]["max_resolution"] == 64 and "part" not in found["settings"]
    inspect_beton.main([str(packed), "--out", str(tmp_path / "pictures")])
    assert "3 files: train-1-of-3.beton (3), train-2-of-3.beton (4)" in capsys.readouterr().out
    assert {"samples.png", "crops.png"} <= set(listed(tmp_path / "pictures"))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--data", "a", "--out", "b", "--shards", 2, "--part", "1/2"), "give one of the two"),
        (("--join", "a.index.json", "--data", "a"), "--join packs nothing"),
        (("--verify", "a.beton", "--shards", 2), "--verify packs nothing"),
        (("--join", "a.beton", "b.beton"), "the first name is the index's"),
        (("--data", "a", "--out", "b", "--part", "0/2"), "counted from 1"),
    ],
)
def test_flags_that_do_not_go_together_are_refused_in_words(
    capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], why: str
) -> None:
    code, said = ran(capsys, *arguments)
    assert code == 2 and why in said


def test_the_index_of_a_file_is_next_to_it() -> None:
    assert index_path(Path("sets/train.beton")) == Path("sets/train.index.json")
