"""The package as `make setup` installs it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

import command_line


def test_it_is_found_from_a_folder_that_holds_a_clone_of_its_own_name(tmp_path: Path) -> None:
    """Python takes a folder for a namespace package, which comes before what setuptools' finder knows."""
    try:
        distribution("alexnet_fast")
    except PackageNotFoundError:
        pytest.skip("alexnet_fast is on the path here, and not installed")
    (tmp_path / "alexnet_fast").mkdir()
    code = "from alexnet_fast import __version__; from alexnet_fast.loader import loader"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=command_line.environment({"PYTHONPATH": None}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
