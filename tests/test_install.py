"""The package as `make setup` installs it, and as a wheel."""

from __future__ import annotations

import configparser
import email
import json
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

import command_line
from betons import jpeg, picture
from components import ROOT

RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.toml"))


def test_it_is_found_from_a_folder_that_contains_a_clone_of_the_same_name(tmp_path: Path) -> None:
    """Python takes a folder as a namespace package, which comes before the packages of setuptools' finder."""
    try:
        distribution("alexnet_fast")
    except PackageNotFoundError:
        pytest.skip("alexnet_fast is on the path here, but not installed")
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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a download from a copy, since a build leaves files in its source folder."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("alexnet_fast", "recipes", "tests", "tools"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.nb?"))
    for name in ("pyproject.toml", "setup.py", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--use-pep517")
    command = command_line.of("-m", "pip", "wheel", *options, "--wheel-dir", folder, source)
    subprocess.run(command, check=True, cwd=folder)
    return next(folder.glob("alexnet_fast-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and our own packages, but without the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    site = next((folder / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as files:  # enough to install a wheel without compiled code or scripts
        files.extractall(site)
    # A line of a .pth adds a folder, but does not read that folder's own .pth files, which may name a checkout.
    (site / "ours.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("-packages")))
    for kernels in (ROOT / "alexnet_fast").glob("*/__pycache__/kernels"):  # compiling them again takes 15 s
        shutil.copytree(kernels, site / kernels.relative_to(ROOT))
    return python


def run(python: Path, *arguments: object, cwd: Path) -> str:
    """Run a command of that environment; returns its stdout."""
    done = subprocess.run(
        [python, *map(str, arguments)],
        cwd=cwd,
        env=command_line.environment({"PYTHONPATH": None, "XDG_CACHE_HOME": str(cwd / "cache")}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_has_the_commands_the_recipes_and_the_types_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
    folders = {name.split("/")[0] for name in names}
    assert {folder.partition("-")[0] for folder in folders} == {"alexnet_fast"} and len(folders) == 2
    recipes = sorted(Path(name).name for name in names if name.startswith("alexnet_fast/recipes/"))
    assert recipes == RECIPES and "quickstart.toml" in recipes
    assert {f"alexnet_fast/{name}" for name in ("py.typed", "pack.py", "inspect_beton.py")} <= set(names)
    modules = {f"{path.relative_to(ROOT)}" for path in (ROOT / "alexnet_fast").rglob("*.py")}
    assert modules <= set(names)


def test_a_wheel_says_what_it_is_and_its_page_on_an_index_has_no_dead_link(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        said = email.message_from_bytes(files.read(name))
        entries = files.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert said["License-Expression"] == "Apache-2.0" and said["Requires-Python"] == ">=3.11"
    assert "Operating System :: POSIX :: Linux" in said.get_all("Classifier", [])
    page = said.get_payload()
    assert isinstance(page, str) and "docs/reference.md" in page
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    assert all(link.startswith(("http://", "https://", "#")) for link in links), links
    assert "alexnet-fast = alexnet_fast.__main__:main" in entries


def test_the_extra_for_npus_and_its_pins_agree() -> None:
    """Above torch 2.10 a host with an aarch64 processor would get CUDA's packages."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extra = config["options.extras_require"]["npu"]
    lines = (ROOT / "requirements-npu.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    for name in ("torch", "torch-npu"):
        assert f"\n{name} >=2.9, <2.11" in extra and pins[name].startswith("2.10.")


def test_the_installed_package_packs_and_trains_a_recipe_from_any_folder(
    installed: Path, tmp_path: Path
) -> None:
    for split, count in (("train", 8), ("val", 4)):
        for label, name in enumerate(("ant", "bee")):
            (folder := tmp_path / "images" / split / name).mkdir(parents=True)
            for k in range(count):
                (folder / f"{k}.JPEG").write_bytes(jpeg(picture(90, 70, 10 * label + k)))
    code = "import alexnet_fast, alexnet_fast.modelzoo_flags as m; print(alexnet_fast.__file__, m.RECIPES, sep='\\n')"
    home, recipes = map(Path, run(installed, "-c", code, cwd=tmp_path).split())
    assert home.is_relative_to(installed.parents[1]) and recipes == home.parent / "recipes"

    pack = ("-m", "alexnet_fast.pack", "--workers", 1)
    packed = run(installed, *pack, "--data", "images", "--out", "data/quickstart", cwd=tmp_path)
    assert "data/quickstart/train.beton: 16 images of 2 classes" in packed
    look = run(installed, "-m", "alexnet_fast.inspect_beton", "data/quickstart/val.beton", cwd=tmp_path)
    assert "8 samples of 2 classes" in look
    settings = ("model.num_classes=2", "data.global_batch_size=8", "schedule.epochs=1", "run.device=cpu")
    sets = [word for setting in settings for word in ("--set", setting)]
    run(installed, "-m", "alexnet_fast.train", recipes / "quickstart.toml", *sets, cwd=tmp_path)
    report = json.loads((tmp_path / "runs/quickstart/report.json").read_text())
    assert report["steps"] == 2, report


def test_the_files_of_pins_agree() -> None:
    """They are installed into one environment, one after the other.  An NPU host's torch is another one."""
    pins: dict[str, set[str]] = {}
    for path in sorted(ROOT.glob("requirements*.txt")):
        if path.name != "requirements-npu.txt":
            for name, pin in re.findall(r"^([\w.-]+)==(\S+)$", path.read_text(), flags=re.MULTILINE):
                pins.setdefault(name.lower().replace("_", "-"), set()).add(pin)
    assert {"torch", "sphinx", "pytest", "ffcv"} <= set(pins)
    assert {name: versions for name, versions in pins.items() if len(versions) > 1} == {}
