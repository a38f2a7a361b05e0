"""Arguments of the public constructors: what is accepted, and the sentence for what is not; test_loader.py covers the Loader's."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_fast.common import arguments
from alexnet_fast.errors import UserError


def refused(function: Any, given: object, *more: Any) -> str:
    with pytest.raises(UserError) as caught:
        function("name", given, *more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_number_is_returned_as_pythons() -> None:
    for given in (3, np.int8(3), np.uint64(3), np.array(3)):
        value = arguments.whole("name", given, "3", lambda n: n == 3)
        assert type(value) is int
    for given in (0.5, np.float32(0.5), Fraction(1, 2)):
        assert type(arguments.number("name", given, "0.5", lambda x: x == 0.5)) is float
    for given in ((1, 2), [1.0, 2], np.array([1, 2], np.float32)):
        assert arguments.pair("name", given, "two", lambda a, b: a < b) == (1.0, 2.0)


def test_a_sentence_says_what_was_given_and_what_is_expected() -> None:
    assert refused(arguments.whole, "8", "at least 1", bool) == (
        "name = '8' is of type str, expected a whole number, at least 1"
    )
    assert refused(arguments.whole, 0, "at least 1", bool) == "name = 0 is out of range, expected at least 1"
    assert (
        refused(arguments.pair, (1,), "a < b", bool) == "name = (1,) is not a pair of numbers, expected a < b"
    )
    assert refused(arguments.flag, "False") == "name = 'False' is of type str, expected True or False"
    assert refused(arguments.choice, "b", ("a", "c")) == 'name = \'b\' is out of range, expected "a" or "c"'


def test_a_list_of_objects_names_the_first_that_is_of_another_kind() -> None:
    assert arguments.instances("name", [1, True], int, "numbers") == (1, True)
    assert arguments.instances("name", (), int, "numbers") == ()
    assert refused(arguments.instances, "12", str, "words") == "name = '12' is of type str, expected words"
    assert refused(arguments.instances, [1, "b"], int, "numbers") == (
        "name = [1, 'b'] holds a str, expected numbers"
    )
    assert refused(arguments.instances, (int,), int, "numbers") == (
        "name = (<class 'int'>,) holds the class int, expected numbers"
    )


def test_a_number_beyond_all_floats_is_out_of_range() -> None:
    assert "is out of range" in refused(arguments.number, 10**400, "a probability", lambda p: p <= 1)


def test_control_characters_are_escaped_and_a_long_value_is_cut() -> None:
    class Loud:
        def __repr__(self) -> str:
            return "\x1b[2J\n" + "x" * 1000

    sentence = refused(arguments.whole, Loud(), "at least 1", bool)
    assert "\x1b" not in sentence and len(sentence) < 300


def test_a_path_is_a_str_or_a_path_like(tmp_path: Path) -> None:
    class Bytes:
        def __fspath__(self) -> bytes:
            return b"a"

    assert arguments.path_of("path", str(tmp_path)) == arguments.path_of("path", tmp_path) == tmp_path
    for given in (None, 3, b"a", Bytes()):
        assert "expected a path" in refused(arguments.path_of, given)
    assert "expected the path of a file" in refused(arguments.path_of, "")


def test_a_size_is_a_side_or_a_height_and_a_width() -> None:
    for given in (224, np.int32(224), np.array(224), (224, 224), [224, np.int64(224)]):
        assert arguments.image_size("size", given) == 224
    for given in ((160, 224), [160, 224], np.array([160, 224])):
        made = arguments.image_size("size", given)
        assert made == (160, 224) and isinstance(made, tuple) and all(type(each) is int for each in made)
    assert "expected a whole number, 1 to 4096 pixels, or a pair (height, width)" in refused(
        arguments.image_size, "224"
    )
    for pair in ((224,), (1, 2, 3), np.zeros((3, 2))):
        assert "expected (height, width), 1 to 4096 pixels each" in refused(arguments.image_size, pair)
    for pair in ((0, 224), (224, 4097), (224.5, 224), ("224", 224)):
        assert "expected" in refused(arguments.image_size, pair)
