"""Directives that write parts of pages from the package itself, so that no page repeats what the code says.

- ``{recipe-keys}``: a table of keys for each section of a recipe.
- ``{augmentations}``: the operations of ``augment.operations``, with their parameters.
- ``{recipes}``: the recipes that come with the package.
- ``{flags} COMMAND``: the ``--help`` of ``alexnet-fast COMMAND``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from alexnet_fast import completion, recipe_toml, shipped_recipes
from alexnet_fast.augment.operations import described, of_recipes
from alexnet_fast.common.command_name import ENTRY

WIDTH = "88"  # columns of a --help: as wide as a page of the site


def recipe_keys() -> Iterable[str]:
    """Markdown: a heading and a table for each section."""
    for section, keys in groupby(recipe_toml.keys(), lambda key: key.name.partition(".")[0]):
        yield from (f"### [{section}]", "", "| key | type | default | what it does |", "|---|---|---|---|")
        for key in keys:
            yield f"| `{key.name}` | {_cell(key.type)} | `{key.default}` | {_cell(key.description)} |"
        yield ""


def _cell(text: str) -> str:
    """Text as a cell shows it: outside of `code`, some signs mean something else to Markdown."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if k % 2 else re.sub(r"([*_<\[])", r"\\\1", part) for k, part in enumerate(parts))


def augmentations() -> Iterable[str]:
    """Markdown: a list of the operations."""
    return (f"- `{described(kind)}`" for kind in of_recipes().values())


def recipes() -> Iterable[str]:
    """Markdown: a table of the recipes."""
    yield from ("| recipe | what for |", "|---|---|")
    for name in shipped_recipes.names():
        yield f"| `{name}` | {_cell(shipped_recipes.purpose(shipped_recipes.FOLDER / f'{name}.toml'))} |"


class Written(SphinxDirective):
    """Writes what a function returns, as a part of the page."""

    has_content = False
    lines: ClassVar[Callable[[], Iterable[str]]]

    def run(self) -> list[nodes.Node]:
        parent = nodes.section()
        parent.document = self.state.document
        text = StringList(list(type(self).lines()), source=self.get_source_info()[0])
        self.state.nested_parse(text, self.content_offset, parent, match_titles=True)
        return parent.children


class Flags(SphinxDirective):
    """Shows the help of a command."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        before = os.environ.get("COLUMNS")
        os.environ["COLUMNS"] = WIDTH  # argparse asks for nothing else
        try:
            text = completion.PARSERS[name](f"{ENTRY} {name}").format_help()
        finally:
            os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
        return [nodes.literal_block(text, text, language="none")]


def setup(app: Any) -> dict[str, bool]:
    for name, lines in (
        ("recipe-keys", recipe_keys),
        ("augmentations", augmentations),
        ("recipes", recipes),
    ):
        app.add_directive(name, type(f"Written_{name}", (Written,), {"lines": staticmethod(lines)}))
    app.add_directive("flags", Flags)
    return {"parallel_read_safe": True}
