"""ImageNet's table of classes is read as scipy reads it, and a corrupt one is refused."""

from __future__ import annotations

import random
import zlib

import pytest

from alexnet_fast.packing.sources.matlab import read_structs
from imagenet_tars import META, NUMBERS, WNIDS


def test_the_table_is_what_scipy_wrote() -> None:
    rows = read_structs(META, "synsets")
    assert [row["ILSVRC2012_ID"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [rows[number - 1]["WNID"] for number in NUMBERS] == WNIDS
    assert rows[0]["words"] == "word n01443537, other" and rows[0]["gloss"] == "a gloss"
    assert rows[6] == {
        "ILSVRC2012_ID": 7,
        "WNID": "n00001740",
        "words": "entity",
        "gloss": "a gloss",
        "num_children": 2,
        "children": [1, 2],
        "wordnet_height": 3,
        "num_train_images": 0,
    }


def test_an_uncompressed_table_is_the_same() -> None:
    size = int.from_bytes(META[132:136], "little")
    assert read_structs(META[:128] + zlib.decompress(META[136 : 136 + size]), "synsets") == read_structs(
        META, "synsets"
    )


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="it has no array 'classes' of structs"):
        read_structs(META, "classes")


def test_whatever_it_holds_it_is_read_or_refused() -> None:
    draw, size = random.Random(0), int.from_bytes(META[132:136], "little")
    plain = META[:128] + zlib.decompress(META[136 : 136 + size])
    refused = 0
    for good in (META, plain):
        for _ in range(400):
            content = bytearray(good)
            for _ in range(draw.choice((1, 3))):
                content[draw.randrange(120, len(content))] = draw.choice((0, 1, 255, draw.randrange(256)))
            try:
                read_structs(
                    bytes(content[: draw.choice((len(content), draw.randrange(len(content))))]), "synsets"
                )
            except ValueError:
                refused += 1
    assert refused
