"""Fixtures for all tests: real images, betons packed from them once per session, command lines, and checks that a test changes nothing for the next."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import command_line
import components
from alexnet_fast.torch_import import prefer_passive_openmp
from command_line import Finished

prefer_passive_openmp()  # before any test imports torch, as in a training run; commands inherit it

THREAD_GRACE_S = 5.0

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD, signal.SIGPIPE)
LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS, resource.RLIMIT_MEMLOCK)
SET_FOR_GOOD = ("PYTEST_", "TORCH")  # by torch, when parts of it are imported

OF_THE_TESTERS_TERMINAL = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
OF_THE_TESTERS_LAUNCHER = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "ALEXNET_FAST_RANKS",
)

for name in (*OF_THE_TESTERS_TERMINAL, *OF_THE_TESTERS_LAUNCHER):
    os.environ.pop(name, None)  # the tests decide what is printed, and which ranks there are

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell's & sets it so, and child processes would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONG = "ALEXNET_FAST_LONG"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _skip_as_failure((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _skip_as_failure((yield))


def _skip_as_failure(report: Any) -> Any:
    """Turn a skip for a required component into a failure, however the test skips (importorskip, a mark, require)."""
    if (
        report.skipped
        and isinstance(report.longrepr, tuple)
        and (name := components.named_in(report.longrepr[2]))
    ):
        report.longrepr = f"{report.longrepr[2]}\n{components.REQUIRE_ENVIRONMENT} requires {name}"
        report.outcome = "failed"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if LONG not in os.environ:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason=f"takes minutes; make test-all runs it, or {LONG}=1"))


@pytest.fixture(scope="session")
def require() -> Callable[[str], Any]:
    """require("ffcv"), "torchvision", "turbojpeg", "data" or "compiler": returns it; without it the test skips or fails."""
    return components.require


@pytest.fixture(scope="session")
def photos() -> Path:
    """A folder of ImageNet images, one for each of 1,000 classes, in train/<class>/*.JPEG."""
    return Path(components.require("data")) / "imagenet-samples"


@pytest.fixture(scope="session")
def tiny_imagenet() -> Path:
    """A folder of ten classes of Tiny ImageNet, 64 px: 500 images per class in train/, 50 in val/."""
    return Path(components.require("data")) / "tiny-imagenet-10"


@pytest.fixture(scope="session")
def all_photos_beton(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 1,000 images as ``write_beton.py`` packs them: longest side 500 px, quality 90, restart markers."""
    if packed := os.environ.get(components.PACKED_ENVIRONMENT):
        return Path(packed)
    from alexnet_fast.common.cpus import allowed_cores
    from alexnet_fast.packing.encode import Encoding
    from alexnet_fast.packing.writer import scan_folder, write_beton

    path = tmp_path_factory.mktemp("all-photos") / "train.beton"
    return write_beton(scan_folder(photos / "train"), path, Encoding(), workers=allowed_cores()).path


@pytest.fixture(scope="session")
def photo_beton(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 of the images, of 200 classes: longest side 500 px, quality 90, restart markers."""
    from alexnet_fast.common.cpus import allowed_cores
    from alexnet_fast.packing.encode import Encoding
    from alexnet_fast.packing.writer import scan_folder, write_beton

    path = tmp_path_factory.mktemp("photos") / "train.beton"
    split = scan_folder(photos / "train").shuffled(0).limited(200)
    return write_beton(split, path, Encoding(max_resolution=500, quality=90), workers=allowed_cores()).path


@pytest.fixture(scope="session")
def tiny_beton(tiny_imagenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a train.beton and a val.beton: the first 20 images of each of the ten classes, shuffled."""
    from alexnet_fast.common.cpus import allowed_cores
    from alexnet_fast.packing.encode import Encoding
    from alexnet_fast.packing.writer import scan_folder, write_beton

    folder = tmp_path_factory.mktemp("tiny")
    for name in ("train", "val"):
        split = scan_folder(tiny_imagenet / name)
        first = [split.labels.index(label) + k for label in range(len(split.classes)) for k in range(20)]
        split = replace(split, paths=[split.paths[i] for i in first], labels=[split.labels[i] for i in first])
        write_beton(split.shuffled(0), folder / f"{name}.beton", Encoding(), workers=allowed_cores())
    return folder


@pytest.fixture(scope="session")
def run_cli() -> Callable[..., Finished]:
    """run_cli("tools/write_beton.py", "--data", folder) or run_cli("-m", "alexnet_fast.train", ...): runs this Python in its own process.

    Keywords: cwd (default: the repository's root), env (variables that are set; None removes one), timeout_s.
    """

    def run(*arguments: object, timeout_s: float = 600, **options: Any) -> Finished:
        return command_line.finish(command_line.start(*arguments, **options), timeout_s)

    return run


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """A test that leaves a thread running fails: loaders end theirs when they are closed or deleted."""
    before = set(threading.enumerate())
    yield
    for thread in _new_threads(before):
        # It outlives the loader that started it, and writes files, which the next test may count.
        if thread.name == "load-kernels":
            thread.join()
    if not _new_threads(before):
        return
    gc.collect()
    deadline = time.monotonic() + THREAD_GRACE_S
    while (left := _new_threads(before)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, f"threads left running: {', '.join(thread.name for thread in left)}"


def _new_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread not in before]


@pytest.fixture(autouse=True)
def nothing_changed_for_the_next() -> Iterator[None]:
    """A test that leaves this process changed fails: the next one would depend on it.

    Torch's number of threads is restored: a run sets it to the cores that it may use, FFCV to its number of workers.
    """
    before, torch = _of_the_process(), sys.modules.get("torch")
    threads = torch.get_num_threads() if torch is not None else 0
    yield
    if torch is not None:
        torch.set_num_threads(threads)
    after = _of_the_process()
    changed = [
        f"{name}: {was} -> {after.get(name)}" for name, was in before.items() if was != after.get(name)
    ]
    changed += [f"the variable {name[1:]} is set" for name in after.keys() - before.keys()]
    assert not changed, f"left changed: {'; '.join(changed)}"


def _of_the_process() -> dict[str, Any]:
    """The state that all tests share and child processes inherit."""
    return {
        # Their values may be secret, and must not be printed.
        **{
            f"${name}": hash(value) for name, value in os.environ.items() if not name.startswith(SET_FOR_GOOD)
        },
        "working folder": Path.cwd(),
        "temporary folder": tempfile.tempdir or tempfile.gettempdir(),
        "signal handlers": {number: signal.getsignal(number) for number in SIGNALS},
        "signals blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "rights of new files": Path("/proc/self/status").read_text().partition("Umask:")[2].split()[0],
        "cores": os.sched_getaffinity(0),
        "limits": {number: resource.getrlimit(number) for number in LIMITS},
        "garbage collector": (gc.isenabled(), gc.get_threshold()),
    }
