"""The pages say what the code does: their commands' flags, links, messages and keys; the Chinese ones say the same."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_fast.__main__ import COMMANDS
from alexnet_fast.common.cli import Parser
from alexnet_fast.common.command_name import MODULES
from alexnet_fast.completion import PARSERS
from alexnet_fast.doctor.card import command as card
from alexnet_fast.recipe_toml import keys
from components import ROOT
from pages import DOCS, NAMES, PAGES, Block, anchors, blocks, commands, links, prose, tables

RUN_LANGUAGES = {"bash", "python"}
SHOWN_LANGUAGES = {"", "text", "toml"}  # what a file or an output looks like
CHINESE = [
    (ROOT / "README.md", ROOT / "README.zh.md"),
    *((DOCS / page.name, page) for page in sorted((DOCS / "zh").glob("*.md")) if page.name != "index.md"),
]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_block_is_of_a_language_that_the_tests_know_what_to_do_with(page: Path) -> None:
    unknown = {
        f"line {block.line}: {block.language}"
        for block in blocks(page)
        if block.language not in RUN_LANGUAGES | SHOWN_LANGUAGES
    }
    assert not unknown


def our_commands(page: Path) -> Iterator[list[str]]:
    """The words of every command of ours on a page, in its blocks and in its sentences: the sub-command and its arguments."""
    lines = [line for block in blocks(page) if block.language == "bash" for line in commands(block.text)]
    lines += [
        text
        for text in re.findall(r"`([^`\n]+)`", prose(page))
        if re.match(r"(alexnet-fast|python -m) ", text)
    ]
    modules = {f"alexnet_fast.{MODULES.get(name, name)}": name for name in COMMANDS}
    for line in lines:
        for part in re.split(r"\s[|>]\s|&&|;", line):
            words = shlex.split(part.replace("...", ""), comments=True)
            if words[:1] == ["alexnet-fast"]:
                yield words[1:]
            elif words[:2] == ["python", "-m"] and words[2] in modules:
                yield [modules[words[2]], *words[3:]]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_commands_on_a_page_exist_with_all_their_flags(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Parser, message: str) -> None:
        raise AssertionError(message)

    monkeypatch.setattr(Parser, "error", refused)
    for name, *arguments in (words for words in our_commands(page) if words):
        if not any(word.startswith("-") for word in arguments) and name in COMMANDS:
            continue  # a command that is named, such as `alexnet-fast doctor`
        if name in ("-h", "--help", "--version"):
            continue
        assert name in COMMANDS, f"{name} {arguments}"
        try:
            if name == "doctor" and "--card" in arguments:
                card.parse(arguments)
            else:
                PARSERS[name](f"alexnet-fast {name}").parse(arguments)
        except (AssertionError, SystemExit) as error:
            pytest.fail(f"alexnet-fast {name} {shlex.join(arguments)}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and target.name != "recipes.md":  # whose headings are written by the site
            assert anchor in anchors(target), link


def messages() -> list[str]:
    """Every text of the package's code, with "…" for what it fills in."""
    found = []
    for path in (ROOT / "alexnet_fast").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values))  # type: ignore[misc]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value.replace("%s", "…"))
    return found


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    said = [re.sub(r"…+", "…", text) for text in messages()]
    quoted = [
        text
        for table in tables(DOCS / "troubleshooting.md")
        for first, *_ in table[1:]
        for text in re.findall(r"`([^`]+)`", first)
    ]
    assert len(quoted) > 40
    gone = [text for text in quoted if not any(re.sub(r"…[ …]*$|^…+ ?", "", text) in each for each in said)]
    assert not gone


def test_the_page_of_recipes_has_every_key_and_its_section(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(DOCS / "_ext")
    import of_the_package

    lines = list(of_the_package.recipe_keys())
    listed = [line.split("`")[1] for line in lines if line.startswith("| `")]
    assert listed == [key.name for key in keys()]
    sections = [line.removeprefix("### [").rstrip("]") for line in lines if line.startswith("### ")]
    assert sections == list(dict.fromkeys(key.name.partition(".")[0] for key in keys()))
    assert "```{recipe-keys}" in (DOCS / "recipes.md").read_text()


# -- Chinese


def ours(page: Path) -> list[Block]:
    return [block._replace(line=0) for block in blocks(page)]


@pytest.mark.parametrize(("english", "chinese"), CHINESE, ids=[page.name for _, page in CHINESE])
def test_a_chinese_page_has_the_commands_and_the_code_of_the_english_one(
    english: Path, chinese: Path
) -> None:
    assert ours(chinese) == ours(english)
    assert len(anchors(chinese)) == len(anchors(english))


@pytest.mark.parametrize(("english", "chinese"), CHINESE, ids=[page.name for _, page in CHINESE])
def test_a_chinese_page_has_the_tables_of_the_english_one(english: Path, chinese: Path) -> None:
    """The same numbers and the same code in each cell; the words differ."""

    def facts(cell: str) -> tuple[list[str], list[str]]:
        return re.findall(r"`[^`]+`", cell), sorted(
            re.findall(r"\d[\d,.]*\d|\d", re.sub(r"`[^`]+`", "", cell))
        )

    def of(page: Path) -> list[list[list[tuple[list[str], list[str]]]]]:
        return [[[facts(cell) for cell in row] for row in table] for table in tables(page)]

    assert of(chinese) == of(english)


@pytest.mark.parametrize(("english", "chinese"), CHINESE, ids=[page.name for _, page in CHINESE])
def test_a_chinese_page_names_the_same_code_and_numbers_in_its_sentences(
    english: Path, chinese: Path
) -> None:
    def facts(page: Path) -> list[str]:
        text = "\n".join(line for line in prose(page).splitlines() if not line.startswith("|"))
        text = re.sub(r"\]\([^)]*\)", "]", text)
        return sorted(set(re.findall(r"`[^`]+`", text))) + sorted(
            set(re.findall(r"(?<![\w.])\d[\d,.]*\d(?![\w-])", re.sub(r"`[^`]+`", "", text)))
        )

    assert facts(chinese) == facts(english)
