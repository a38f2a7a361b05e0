"""The commands and examples of every page run, in their order, in a folder with a small set of images."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import command_line
from alexnet_fast import pack, sample
from pages import PAGES, blocks

SHIMS = {
    "alexnet-fast": f'exec "{sys.executable}" "{Path(__file__).with_name("smaller.py")}" "$@"',
    "python": f'exec "{sys.executable}" "$@"',
}
RUN = {
    page: [block for block in blocks(page) if block.language in ("bash", "python") and not block.not_run]
    for page in PAGES
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with imagenet/, a few images of ImageNet's layout, and data/imagenet/, the same packed."""
    folder = tmp_path_factory.mktemp("pages")
    images = folder / "imagenet"
    arguments = ["--out", str(images), "--classes", "4", "--train", "8", "--val", "4"]
    sample.main(arguments)
    assert pack.main(["--data", str(images), "--out", str(folder / "data/imagenet"), "--workers", "1"]) == 0
    (commands := folder / "bin").mkdir()
    for name, line in SHIMS.items():
        (commands / name).write_text(f"#!/bin/sh\n{line}\n")
        (commands / name).chmod(0o755)
    return folder


@pytest.mark.long
@pytest.mark.parametrize(
    "page", [page for page in PAGES if RUN[page] and "zh" not in str(page)], ids=lambda page: page.name
)
def test_the_commands_of_a_page_run_in_their_order(page: Path, prepared: Path, tmp_path: Path) -> None:
    """The Chinese pages have the same ones: test_pages.py compares them."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = command_line.environment(command_line.variables({"PATH": path}))
    examples = ""
    for block in RUN[page]:
        if block.language == "python":
            examples += f"# line {block.line}\n{block.text}\n"
            continue
        examples = run_examples(examples, page, tmp_path, env)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (
            f"{page.name}, line {block.line}:\n{block.text}\n{done.stdout}\n{done.stderr}"
        )
    run_examples(examples, page, tmp_path, env)


def run_examples(code: str, page: Path, folder: Path, env: dict[str, str]) -> str:
    """Run the examples so far as one program; returns ""."""
    if code:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{page.name}:\n{code}\n{done.stderr}"
    return ""
