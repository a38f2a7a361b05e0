"""What a start imports, loads and compiles. How long it takes is for tools/bench_startup.py to say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import betons

HEAVY = {"PIL", "matplotlib", "pandas", "scipy", "tensorboard", "torch.utils.tensorboard", "torchvision"}

PROGRAM = """
import json, sys
from numba.core.dispatcher import Dispatcher
from alexnet_fast import Loader
from alexnet_fast.loader.preload import load_all

load_all()
def kernels():
    found = {}
    for name, module in sorted(sys.modules.items()):
        for f in vars(module).values() if name.startswith("alexnet_fast.") else ():
            if isinstance(f, Dispatcher):
                hits, misses = (sum(count.values()) for count in (f.stats.cache_hits, f.stats.cache_misses))
                if hits or misses:
                    found[f.__name__] = [hits, misses, len(f.overloads)]
    return found
before, images = kernels(), 0
for options in ({"train": True}, {"train": False, "size": 32, "seed": 7}):
    with Loader(sys.argv[1], 2, threads=2, **options) as loader:
        images += sum(len(batch.labels) for batch in loader)
print(json.dumps([before, kernels(), images, sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def second_start(tmp_path_factory: pytest.TempPathFactory, run_cli: Callable[..., Any]) -> Any:
    """What a process found that was not the first to use the kernels on this machine."""
    photo = betons.picture(320, 240)
    samples = [betons.jpeg(photo), betons.jpeg(photo, restart_marker_blocks=4), betons.Entry.raw(photo)]
    samples.append(betons.jpeg(betons.picture(900, 700)))  # larger than a thread's first scratch
    path = betons.write(tmp_path_factory.mktemp("start") / "four.beton", samples)
    for _ in range(2):
        done = run_cli("-c", PROGRAM, path)
        assert done.code == 0, done.stderr
    return json.loads(done.stdout)


def test_a_second_start_compiles_nothing_and_loads_only_what_threads_call(second_start: Any) -> None:
    before, after, images, _ = second_start
    assert images == 8
    called = {"init_handle", "close_handle", "draw_crops", "decode_chunk", "_fill_keys", "advise_willneed"}
    assert {name for name, (hits, _, _) in before.items() if hits} == called
    assert all(misses == 0 for _, misses, _ in after.values())


def test_no_loader_calls_a_kernel_that_was_not_loaded_while_other_things_were_set_up(
    second_start: Any,
) -> None:
    before, after, *_ = second_start
    assert before == after


def test_a_loader_imports_no_library_that_it_does_not_need(second_start: Any) -> None:
    assert not (HEAVY | {"pydantic", "rich"}) & set(second_start[3])


def test_training_imports_no_library_before_it_needs_it(run_cli: Callable[..., Any]) -> None:
    done = run_cli("-c", "import sys, alexnet_fast.train; print(*sys.modules)")
    assert done.code == 0, done.stderr
    assert not HEAVY & set(done.stdout.split())
