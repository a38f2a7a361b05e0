"""The matrix of chroots and the Containerfile, as far as they can be checked without root and a network."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from components import ROOT

CONTAINERFILE, MATRIX, LINES = ROOT / "Containerfile", ROOT / ".ci/matrix.sh", ROOT / ".ci/container_lines.py"


def script(containerfile: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, LINES, containerfile, "/somewhere else"]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_containerfile_is_a_shell_script_that_a_chroot_can_try(tmp_path: Path) -> None:
    done = script(CONTAINERFILE)
    assert done.returncode == 0, done.stderr
    (path := tmp_path / "lines.sh").write_text(done.stdout)
    subprocess.run(["sh", "-n", path], check=True)
    tried = [line for line in done.stdout.splitlines() if "pip install" in line or "load_all()" in line]
    assert len(tried) == 2 and tried[1].startswith("( runuser -u alexnet ")
    assert "cp -r '/somewhere else'/. /opt/alexnet_fast/source" in done.stdout


def test_a_line_that_fails_ends_the_try_wherever_it_fails(tmp_path: Path) -> None:
    (path := tmp_path / "Containerfile").write_text("FROM x\nRUN cd / && false && true\nRUN touch went-on\n")
    (lines := tmp_path / "lines.sh").write_text(script(path).stdout)
    assert subprocess.run(["sh", lines], cwd=tmp_path).returncode == 1
    assert not (tmp_path / "went-on").exists()


def test_an_instruction_that_would_not_be_tried_is_an_error(tmp_path: Path) -> None:
    (path := tmp_path / "Containerfile").write_text("FROM x\nADD a b\n")
    done = script(path)
    assert done.returncode == 1 and done.stderr == "error: ADD a b: this instruction is not known\n"


def test_the_files_that_the_containerfile_names_are_in_the_sources() -> None:
    named = set(re.findall(r"requirements[\w-]*\.txt", CONTAINERFILE.read_text()))
    assert named == {"requirements.txt", "requirements-npu.txt"}
    assert all((ROOT / name).is_file() for name in named)


def test_every_cell_of_the_matrix_that_is_listed_is_one_that_it_knows() -> None:
    text = MATRIX.read_text()
    subprocess.run(["sh", "-n", MATRIX], check=True)
    (listed,) = re.findall(r"^cells=\$\{\*:-(.+)\}$", text, flags=re.MULTILINE)
    known = {
        name
        for line in re.findall(r"^    ([a-z0-9][a-z0-9 |]*)\)$", text, flags=re.MULTILINE)
        for name in line.split(" | ")
    }
    assert set(listed.split()) == known


@pytest.mark.parametrize("suite", ["walk", "sources", "arm64"])
def test_the_scripts_of_the_matrix_are_valid(suite: str, tmp_path: Path) -> None:
    found = re.search(
        rf'cat >"\$work/{suite}\.sh" <<\'(\w+)\'\n(.*?)^\1$', MATRIX.read_text(), re.DOTALL | re.MULTILINE
    )
    assert found is not None
    (path := tmp_path / "script.sh").write_text(found[2])
    subprocess.run(["sh", "-n", path], check=True)
    assert shlex.split(found[2].splitlines()[0]) == ["set", "-eu"]
