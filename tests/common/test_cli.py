"""What the command lines have in common: one sentence for what is no argument, and help whose defaults say something."""

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
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    parser.add_argument("--out", help="where to")
    return parser


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a", "--qualty", "90"], "unknown flag --qualty; did you mean --quality?"),
        (["a", "--qual", "90"], "unknown flag --qual; did you mean --quality?"),
        (["a", "--zzz=1"], "unknown flag --zzz: see --help"),
        (["a", "b"], "b is one argument too many: see --help"),
        (["a", "--colour"], "--colour is not known: every image is RGB"),
        (["--fresh"], "the following arguments are required: file"),
        (["a", "--quality", "high"], "argument --quality: invalid int value: 'high'"),
    ],
)
def test_what_is_no_argument_is_told_in_one_sentence(
    parser: Parser, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parser.parse(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr() == ("", f"error: {sentence}\n")


def test_flags_may_stand_before_and_behind(parser: Parser) -> None:
    assert parser.parse(["--fresh", "a", "--quality", "3"]) == parser.parse(
        ["a", "--quality", "3", "--fresh"]
    )


def test_help_tells_a_default_where_it_says_something(parser: Parser) -> None:
    told = parser.format_help()
    assert "of all (default: 0)" in told and "None" not in told and "False" not in told
