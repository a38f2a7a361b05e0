"""Several beton files as one: their samples one after the other, classes by name, and a part that is not the index's is refused."""

from __future__ import annotations

import copy
import json
import os
import pickle
import resource
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import betons
from alexnet_fast import Beton
from alexnet_fast.beton.errors import BetonError
from alexnet_fast.beton.index_file import IndexedPart, IndexFile, read_index
from alexnet_fast.beton.several import BetonSet, open_beton
from alexnet_fast.beton.union_of_classes import union
from alexnet_fast.errors import UserError

COUNTS = (5, 2, 4)


def write(path: Path, labels: Sequence[float], classes: Sequence[str] | None = None, seed: int = 0) -> Path:
    """A beton of small pictures, and a json that names its classes."""
    images = [betons.jpeg(betons.picture(40, 32, seed + k)) for k in range(len(labels))]
    betons.write(path, images, labels)
    if classes is not None:
        path.with_name(path.name + ".json").write_text(json.dumps({"classes": list(classes)}))
    return path


def indexed(path: Path, files: Sequence[Path], classes: Sequence[str] = ()) -> Path:
    """An index of files as they are now."""
    parts = []
    for file in files:
        with Beton(file) as beton:
            checksum = f"{beton.index_checksum():08x}"
            parts.append(IndexedPart(file.name, beton.num_samples, len(beton.map), checksum))
    IndexFile(path, tuple(parts), tuple(classes)).write()
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files of unequal length."""
    return [
        write(tmp_path / f"{'abc'[k]}.beton", [k] * count, list("xyz"), 10 * k)
        for k, count in enumerate(COUNTS)
    ]


def test_the_samples_are_those_of_the_files_one_after_the_other(files: list[Path]) -> None:
    with open_beton(files) as every:
        assert every.num_samples == len(every) == sum(COUNTS) and every.files == files
        assert every.labels.tolist() == [0] * 5 + [1] * 2 + [2] * 4
        k = 0
        for path in files:
            with Beton(path) as one:
                for i in range(len(one)):
                    assert every.payload(k).tobytes() == one.payload(i).tobytes()
                    assert every.images[k]["width"] == one.images[i]["width"]
                    k += 1
        assert every.num_bytes == sum(path.stat().st_size for path in files)
        assert f"sample 1 of {files[1]}" in every.source(6)


def test_each_file_begins_a_page_so_that_no_page_holds_samples_of_two(files: list[Path]) -> None:
    with open_beton(files) as every:
        of_page = every.images["data_ptr"] // every.page_size
        sets = [set(of_page[every.entries == k].tolist()) for k in range(3)]
        assert not sets[0] & sets[1] and not sets[1] & sets[2] and not sets[0] & sets[2]


@pytest.mark.parametrize("kind", ["list", "pattern", "index"])
def test_a_list_a_pattern_and_an_index_are_the_same_set(files: list[Path], kind: str) -> None:
    folder = files[0].parent
    given = {"list": files, "pattern": folder / "*.beton", "index": folder / "all.index.json"}[kind]
    indexed(folder / "all.index.json", files, "xyz")
    with open_beton(given) as every:
        assert every.files == files and every.read_sidecar() == {"classes": ["x", "y", "z"]}


def test_one_file_is_a_plain_beton(files: list[Path]) -> None:
    for given in (files[0], str(files[0]), [files[0]], str(files[0].parent / "a*.beton")):
        with open_beton(given) as one:
            assert type(one) is Beton and one.path == files[0]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    path = write(tmp_path / "[a].beton", [0])
    with open_beton(path) as one:
        assert one.path == path


def test_a_pickle_opens_the_files_that_the_pattern_matched_then(files: list[Path]) -> None:
    with open_beton(files[0].parent / "*.beton") as every:
        pickled = pickle.dumps(every)
        write(files[0].parent / "d.beton", [0, 1], list("xyz"))
        with pickle.loads(pickled) as again, copy.copy(every) as other:
            assert again.labels.tolist() == other.labels.tolist() == every.labels.tolist()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([], "empty list"),
        (["a.beton", []], "empty list"),
        ("no*.beton", "matches no file"),
        ([1], "expected a path"),
        (["a.beton", "b.beton", "./a.beton"], "comes twice"),
        (["a.beton", "?.beton"], "comes twice"),
        (["a.beton", "none.beton"], "none.beton does not exist"),
        ("none.index.json", "none.index.json does not exist"),
    ],
)
def test_what_names_no_set_is_refused_in_words(
    files: list[Path], given: object, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files[0].parent)
    with pytest.raises(UserError, match=why):
        open_beton(given)  # type: ignore[arg-type]


def removed(part: Path) -> None:
    part.unlink()


def truncated(part: Path) -> None:
    os.truncate(part, part.stat().st_size - 24)


def of_other_labels(part: Path) -> None:
    write(part, [2, 1], list("xyz"), 10)


def of_more_samples(part: Path) -> None:
    write(part, [1, 1, 1], list("xyz"), 10)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (removed, "b.beton, a part of .*all.index.json, does not exist"),
        (truncated, r"has [\d,]+ bytes and not [\d,]+: it was truncated"),
        (of_other_labels, "has another checksum: it was changed"),
        (of_more_samples, r"has [\d,]+ bytes and not|has 3 samples and not 2"),
    ],
)
def test_a_part_that_is_not_the_one_of_the_index_is_refused_in_words(
    files: list[Path], change: Callable[[Path], None], why: str
) -> None:
    index = indexed(files[0].parent / "all.index.json", files)
    change(files[1])
    with pytest.raises(BetonError, match=why):
        open_beton(index)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("[]", "expected an object"),
        ("{", "is not the index"),
        ('{"format": "beton"}', '"format"'),
        ('{"format": "beton index", "version": 2}', "version is 2"),
        ('{"format": "beton index", "version": 1, "parts": []}', "1 to 4096"),
        ('{"format": "beton index", "version": 1, "parts": [3]}', "expected an object"),
        (
            '{"format": "beton index", "version": 1, "parts": [{"file": "a", "samples": true, "bytes": 1}]}',
            "impossible numbers",
        ),
        (
            '{"format": "beton index", "version": 1, "samples": 2, '
            '"parts": [{"file": "a", "samples": 1, "bytes": 1, "index_crc32": ""}]}',
            "counts 2 samples, and its parts 1",
        ),
    ],
)
def test_an_index_may_contain_anything(tmp_path: Path, document: str, why: str) -> None:
    path = tmp_path / "set.index.json"
    path.write_text(document)
    with pytest.raises(BetonError, match=why):
        read_index(path)


def test_labels_are_numbered_by_the_names_of_all_files(tmp_path: Path) -> None:
    some = write(tmp_path / "some.beton", [0, 1, 1], ["cat", "dog"])
    others = write(tmp_path / "others.beton", [0, 1, 2], ["ant", "bee", "dog"])
    with open_beton([some, others]) as every:
        names = every.read_sidecar()["classes"]  # type: ignore[index]
        assert names == ["ant", "bee", "cat", "dog"]
        assert [names[k] for k in every.labels] == ["cat", "dog", "dog", "ant", "bee", "dog"]


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ((["b", "a"], ["b", "a"]), ["b", "a"]),
        ((["b", "a"], ["a"]), ["b", "a"]),
        ((["a"], ["b", "a"]), ["b", "a"]),
        ((["b", "a"], ["a", "b"]), ["b", "a"]),
        ((["a", "c"], ["b"]), ["a", "b", "c"]),
        ((["x", "x"], ["x", "x"]), ["x", "x"]),
    ],
)
def test_the_union_of_classes(lists: tuple[list[str], ...], expected: list[str]) -> None:
    assert union([(str(k), names) for k, names in enumerate(lists)]) == expected


@pytest.mark.parametrize(
    ("lists", "why"),
    [
        ((["c", "a"], ["b"]), "would be a guess"),
        ((["x", "x"], ["x", "y"]), "two classes of the name 'x'"),
    ],
)
def test_classes_whose_numbering_would_be_a_guess_are_refused(lists: tuple[list[str], ...], why: str) -> None:
    with pytest.raises(BetonError, match=why):
        union([(str(k), names) for k, names in enumerate(lists)])


def test_a_label_beyond_the_names_of_the_other_files_is_refused(tmp_path: Path) -> None:
    named = write(tmp_path / "named.beton", [0, 1], ["cat", "dog"])
    with pytest.raises(BetonError, match=r"has a label 2.* classes 0 to 1.*one list of classes"):
        open_beton([named, write(tmp_path / "unnamed.beton", [0, 2])])


def test_a_file_without_names_and_with_fewer_labels_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = write(tmp_path / "named.beton", [0, 1], ["cat", "dog"])
    with open_beton([named, write(tmp_path / "unnamed.beton", [0, 0])]) as every:
        assert every.labels.tolist() == [0, 1, 0, 0]
    assert "no class names show whether" in caplog.text


def test_an_int_label_and_a_float_label_are_no_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of another type"):
        open_beton([write(tmp_path / "a.beton", [0, 1]), write(tmp_path / "b.beton", [0.5, 1.5])])


@pytest.mark.parametrize("how", sorted(betons.OVERWRITERS))
def test_a_file_that_changes_while_the_set_is_open_is_an_error(
    files: list[Path], tmp_path: Path, how: str
) -> None:
    other = write(tmp_path / "other", [1, 1], list("xyz"), 50)
    with open_beton(files) as every:
        with pytest.raises(BetonError, match=r"b\.beton was"), every.unchanged:
            zlib.crc32(every.payload(6).tobytes())
            betons.OVERWRITERS[how](files[1], other)
        assert np.asarray(every.payload(10)).any(), "the other files are still there"


def test_a_read_beyond_a_truncated_file_does_not_end_the_process(files: list[Path]) -> None:
    with open_beton(files) as every:
        os.truncate(files[1], 0)
        with pytest.raises(BetonError, match=r"b\.beton was shortened"), every.unchanged:
            every.payload(6).sum()
        every.payload(0).sum()


def test_the_sidecars_of_all_files_are_added(files: list[Path]) -> None:
    for k, path in enumerate(files):
        facts = {
            "packer": "p",
            "classes": list("xyz"),
            "settings": {"mode": "raw", "part": k},
            "counts": {"converted": {"PNG": k}},
            "skipped": [f"s{k}"],
            "corrupt": {f"c{k}": "why"},
            "paths": [f"{k}/{i}" for i in range(COUNTS[k])],
        }
        path.with_name(path.name + ".json").write_text(json.dumps(facts))
    with open_beton(files) as every:
        found = every.sidecar
        assert found is not None and found["settings"] == {"mode": "raw"} and found["packer"] == "p"
        assert found["counts"] == {"converted": {"PNG": 3}} and found["skipped"] == ["s0", "s1", "s2"]
        assert every.source_path(6) == "1/1" and len(found["paths"]) == sum(COUNTS)
        assert sorted(found["corrupt"]) == ["c0", "c1", "c2"]


def test_where_a_file_has_no_sidecar_the_classes_are_still_known(files: list[Path]) -> None:
    write(files[1], [1, 1])
    files[1].with_name("b.beton.json").unlink()
    with open_beton(files) as every:
        assert every.sidecar == {"classes": ["x", "y", "z"]} and every.source_path(6) is None


def test_too_many_files_for_this_process_are_one_sentence_that_says_what_to_do(files: list[Path]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(lowest := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
    try:
        with pytest.raises(BetonError, match=r"Too many open files; raise ulimit -n"):
            open_beton(files)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


ANYTHING = (
    None,
    True,
    3,
    -1,
    1e99,
    "x",
    "",
    "\0",
    [],
    ["a"],
    {},
    "../b.beton",
    "/dev/zero",
    "all.index.json",
)


@pytest.mark.parametrize("key", ["file", "samples", "bytes", "index_crc32", "samples_crc32", "classes"])
def test_a_part_of_an_index_may_say_anything(files: list[Path], key: str) -> None:
    """It loads, or is refused by an error of ours."""
    path = indexed(files[0].parent / "all.index.json", files)
    document = json.loads(path.read_text())
    loaded = []
    for value in ANYTHING:
        document["parts"][1][key] = value
        path.write_text(json.dumps(document))
        try:
            open_beton(path).close()
            loaded.append(value)
        except UserError as error:
            assert len(str(error).splitlines()) == 1
    harmless = {
        "classes": [None, []],
        "samples_crc32": [value for value in ANYTHING if type(value) is str],
    }
    assert loaded == harmless.get(key, [])


def test_a_closed_set_has_closed_all_its_files(files: list[Path]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    every = open_beton(files)
    assert isinstance(every, BetonSet)
    every.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(BetonError):
        open_beton([*files, files[0].parent / "none.beton"])
    assert len(os.listdir("/proc/self/fd")) == before
