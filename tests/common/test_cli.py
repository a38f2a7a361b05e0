"""What the command lines share: one sentence for a wrong argument, and useful defaults in the help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest

from alexnet_fast.common.cli import Defaults, Parser


class Example(Parser):
    instead: ClassVar[Mapping[str, str]] = {"--colour": "every image is RGB"}


@pytest.fixture
def parser() -> Parser:
    parser = Example(prog="example", formatter_class=Defaults)
    parser.add_argument("file")
    parser.add_argument("--quality", type=int, default=0, help="of all")
    parser.add_argument("--fresh", action="store_true", help="start from scratch")
    parser.add_argument("--out", help="where to")
    return parser


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a", "--qualty", "90"], "unknown flag --qualty; did you mean --quality?"),
        (["a", "--qual", "90"], "unknown flag --qual; did you mean --quality?"),
        (["a", "--zzz=1"], "unknown flag --zzz: see --help"),
        (["a", "b"], "unexpected argument b: see --help"),
        (["a", "--colour"], "unknown flag --colour: every image is RGB"),
        (["--fresh"], "the following arguments are required: file"),
        (["a", "--quality", "high"], "argument --quality: invalid int value: 'high'"),
    ],
)
def test_a_wrong_argument_is_an_error_of_one_sentence(
    parser: Parser, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parser.parse(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr() == ("", f"error: {sentence}\n")


def test_flags_may_come_before_and_after_the_positional_arguments(parser: Parser) -> None:
    assert parser.parse(["--fresh", "a", "--quality", "3"]) == parser.parse(
        ["a", "--quality", "3", "--fresh"]
    )


def test_help_shows_a_default_unless_it_is_none_or_false(parser: Parser) -> None:
    shown = parser.format_help()
    assert "of all (default: 0)" in shown and "None" not in shown and "False" not in shown
