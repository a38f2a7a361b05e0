"""Finding libturbojpeg, and not finding it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast import Loader
from alexnet_fast.decode import turbojpeg
from alexnet_fast.errors import UserError
from betons import jpeg, picture, write

PACKAGES = (
    "apt-get install libturbojpeg0",
    "apt-get install libturbojpeg",
    "dnf install turbojpeg",
    "pip install turbojpeg",
)


def test_it_is_found_here() -> None:
    assert "turbojpeg" in turbojpeg.load()


def test_a_missing_library_names_the_packages_and_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(turbojpeg.ENVIRONMENT, str(tmp_path / "libnothing.so"))
    with pytest.raises(turbojpeg.TurboJpegMissing) as caught:
        Loader(write(tmp_path / "a.beton", [jpeg(picture(64, 48))]), 1, train=False)
    message = str(caught.value)
    assert isinstance(caught.value, UserError) and "\n" not in message
    assert all(package in message for package in PACKAGES) and turbojpeg.ENVIRONMENT in message


def test_a_file_that_is_no_library_is_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "libfake.so").write_bytes(b"no library")
    monkeypatch.setenv(turbojpeg.ENVIRONMENT, str(tmp_path / "libfake.so"))
    with pytest.raises(turbojpeg.TurboJpegMissing):
        turbojpeg.load()


def test_the_package_imports_and_packs_without_the_library(
    run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    """Only loading needs it: a machine that packs may do without, and a fresh process says so in one sentence."""
    (tmp_path / "data/train/ant").mkdir(parents=True)
    (tmp_path / "data/train/ant/0.JPEG").write_bytes(jpeg(picture(64, 48)))
    absent = {turbojpeg.ENVIRONMENT: str(tmp_path / "libnothing.so")}
    packed = run_cli(
        "tools/write_beton.py", "--data", tmp_path / "data", "--out", tmp_path, "--workers", 1, env=absent
    )
    assert packed.code == 0, packed.stderr
    code = (
        "import sys; from alexnet_fast import Loader; from alexnet_fast.errors import exit_code\n"
        f"sys.exit(exit_code(lambda: Loader({str(tmp_path / 'train.beton')!r}, 1, train=False)))"
    )
    run = run_cli("-c", code, env=absent)
    assert (
        run.code == 2
        and run.stderr.startswith("error: libturbojpeg was not found; install it: ")
        and run.stderr.count("\n") == 1
    )


def test_importing_the_package_imports_neither_torch_nor_numba(run_cli: Callable[..., Any]) -> None:
    run = run_cli(
        "-c", "import sys, alexnet_fast; print(sorted({'torch', 'numba', 'PIL'} & set(sys.modules)))"
    )
    assert (run.code, run.stdout.strip()) == (0, "[]")
