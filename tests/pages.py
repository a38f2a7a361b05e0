"""The pages of the documentation, as the tests read them: their code blocks, links, anchors, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from components import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+) -->")
FENCE = re.compile(r"^ *```(?P<language>[\w-]*|\{.*) *$")


class Block(NamedTuple):
    """A fenced code block. line: of its fence, from 1. not_run: why the tests do not run it; "" = they do."""

    language: str
    text: str
    line: int
    not_run: str


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in its order; directives are none."""
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        if (fence := FENCE.match(lines[at])) is None:
            at += 1
            continue
        end = next(k for k in range(at + 1, len(lines)) if lines[k].strip() == "```")
        at, begun = end + 1, at
        if fence["language"].startswith("{"):
            continue
        mark = NOT_RUN.fullmatch(lines[begun - 1].strip()) if begun else None
        text = "\n".join(lines[begun + 1 : end]) + "\n"
        found.append(Block(fence["language"], text, begun + 1, mark["reason"] if mark else ""))
    return found


def prose(page: Path) -> str:
    """A page without its code blocks and directives."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[str]:
    """The targets of its links and pictures that are no address of the web."""
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(page)))
    return [target for target in found if not re.match(r"\w+:", target)]


def anchors(page: Path) -> set[str]:
    """What a # in a link to it may be followed by: its headings as GitHub and MyST name them."""
    headings = re.findall(r"^#{1,6} +(.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def commands(text: str) -> Iterator[str]:
    """The commands of a shell block, with continued lines joined, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.strip().startswith("#"):
            yield line.strip()


def tables(page: Path) -> list[list[list[str]]]:
    """Its tables, as rows of cells, without the line below the head."""
    found: list[list[list[str]]] = []
    inside = False
    for line in prose(page).splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if not inside:
            found.append([])
        if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            found[-1].append(cells)
        inside = True
    return found
