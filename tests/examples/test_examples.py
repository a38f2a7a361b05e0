"""The scripts of examples/, each run on tiny data, and what the frameworks that they are for do with a Loader.

A run takes 10 to 30 s, most of it for importing the framework, so ``make test`` has one of each kind of framework and ``make test-all`` all.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import Finished
from components import ROOT

HERE = Path(__file__).parent
ARCH = ("--arch", "shufflenet_v2_x0_5")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture
def run(
    run_cli: Any,
    require: Callable[[str], Any],
    tiny_beton: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Finished]:
    """run("timm", "examples/timm_train.py", "DATA", ...): runs it where the package is; "DATA" and "OUT" are folders."""
    folders = {"DATA": str(tiny_beton), "OUT": str(tmp_path)}

    def run(package: str, *arguments: object) -> Finished:
        require("torchvision")
        require(package)
        path = os.pathsep.join(
            map(str, (HERE / "any_torchvision", ROOT, ROOT / "tests", ROOT / "examples", HERE))
        )
        words = [re.sub("^(DATA|OUT)", lambda found: folders[found[0]], str(each)) for each in arguments]
        environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        done = run_cli(*words, env=environment, timeout_s=600)
        assert done.code == 0, done.stdout + done.stderr
        return done

    return run


@pytest.mark.long
def test_the_imagenet_loop_trains_and_resumes_as_if_never_stopped(run: Any, tmp_path: Path) -> None:
    options = (*ARCH, "--size", "32", "--batch-size", "50", "--lr", "0.01")
    script = (ROOT / "examples/imagenet.py", "DATA", *options)
    torch_seed = "import torch, runpy, sys; torch.manual_seed(1); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    seeded = ("-c", torch_seed, *script)
    whole = run("torchvision", *seeded, "--epochs", "2", "--checkpoint", "OUT/whole.pt")
    assert "epoch 0 step 0/4 loss" in whole.stdout and re.search(
        r"epoch 1 accuracy 0\.\d+ of 200", whole.stdout
    )
    run("torchvision", *seeded, "--epochs", "1", "--checkpoint", "OUT/first.pt")
    run("torchvision", *script, "--epochs", "2", "--resume", "OUT/first.pt", "--checkpoint", "OUT/resumed.pt")
    straight, resumed = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "resumed")
    )
    assert straight["loader"] == resumed["loader"] and straight["loader"]["epoch"] == 1
    assert all(torch.equal(each, resumed["model"][name]) for name, each in straight["model"].items())


@pytest.mark.long
def test_the_imagenet_loop_runs_on_two_ranks_that_share_the_set(run: Any, tmp_path: Path) -> None:
    script = (*TORCHRUN, ROOT / "examples/imagenet.py", "DATA", *ARCH, "--size", "32", "--batch-size", "25")
    done = run("torchvision", *script, "--epochs", "1", "--checkpoint", "OUT/a.pt")
    assert "epoch 0 step 0/4" in done.stdout and "of 200" in done.stdout
    assert torch.load(tmp_path / "a.pt", weights_only=True)["loader"]["samples"] == 200


@pytest.mark.long
def test_torchvisions_reference_repeats_and_grows_images(run: Any) -> None:
    options = "--epochs 2 --batch-size 50 --ra-reps 2 --train-crop-sizes 32 40 --val-crop-size 32 --device cpu --lr 0.01"
    done = run(
        "torchvision",
        ROOT / "examples/torchvision_reference.py",
        "DATA",
        "--model",
        ARCH[1],
        *options.split(),
    )
    assert re.findall(r"epoch (\d) size (\d+) loss \d\S+ accuracy \d\S+ EMA \d", done.stdout) == [
        ("0", "32"),
        ("1", "40"),
    ]


def test_timms_loop_trains(run: Any) -> None:
    options = "--model test_resnet --img-size 32 --epochs 2 -b 50 --device cpu"
    done = run("timm", ROOT / "examples/timm_train.py", "DATA", *options.split())
    assert len(re.findall(r"epoch \d loss \d+\.\d+ EMA's top-1 \d", done.stdout)) == 2


@pytest.mark.long
def test_the_lightning_example_runs(run: Any) -> None:
    options = "--size 32 --batch-size 50 --epochs 1 --accelerator cpu --out OUT"
    done = run("lightning", ROOT / "examples/lightning_train.py", "DATA", *ARCH, *options.split())
    assert "after 1 epochs: accuracy" in done.stdout


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_lightning_run_resumes_anywhere_with_the_batches_of_one_that_was_not_stopped(
    run: Any, devices: int, tmp_path: Path
) -> None:
    """Within an epoch, after its last step, and at its end; with two processes they share the set."""
    run("lightning", HERE / "lightning_resumes.py", devices, "DATA", "OUT")
    seen: list[int] = []
    for rank in range(devices):
        found = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        seen += found.pop("seen")
        assert len(found) == 5 and all(each["batches"] and each["weights"] for each in found.values()), found
    assert sorted(seen) == sorted(20 * list(range(10))), "each sample once, over all processes"


def test_two_processes_of_accelerate_share_the_set_skip_and_resume(run: Any) -> None:
    done = run("accelerate", *TORCHRUN, HERE / "accelerate_shares.py", "DATA", "OUT/state")
    assert "shared 5 200 200" in done.stdout and "skips and resumes [1, 1, 1, 1]" in done.stdout, done.stdout


@pytest.mark.long
def test_the_accelerate_example_resumes_within_an_epoch(run: Any) -> None:
    options = "--size 32 --batch-size 50 --save-every 6 --checkpoint OUT/state --lr 0.01"
    script = (ROOT / "examples/accelerate_train.py", "DATA", *ARCH, *options.split(), "--epochs", "2")
    whole = run("accelerate", *script)
    resumed = run("accelerate", *script, "--resume", "OUT/state")
    assert "of 200" in whole.stdout and resumed.stdout.splitlines() == whole.stdout.splitlines()[1:]


@pytest.mark.long
@pytest.mark.parametrize("nodes", [(), ("--nodes",)], ids=["StatefulDataLoader", "nodes"])
def test_torchdata_resumes_within_an_epoch(run: Any, nodes: tuple[str, ...]) -> None:
    options = (*ARCH, "--size", "32", "--batch-size", "50", "--lr", "0.01", *nodes)
    script = (ROOT / "examples/torchdata_train.py", "DATA", *options)
    before = run("torchdata", *script, "--epochs", "2", "--stop-after", "6", "--state", "OUT/state.pt")
    rest = run("torchdata", *script, "--epochs", "2", "--resume", "OUT/state.pt")
    seen = re.findall(r"labels (\[.*?\])", before.stdout + rest.stdout)
    assert len(seen) == 6 + 2 + 4 and len(set(seen)) == 12
    for epoch in (seen[:4], seen[4:8], seen[8:]):  # 6 and 2 are one epoch and a half, and its rest
        labels = sorted(label for batch in epoch for label in eval(batch))
        assert labels == sorted(20 * list(range(10))), "each sample once"


def test_a_loader_is_stateful_to_torchdata(require: Callable[[str], Any], tiny_beton: Path) -> None:
    require("torchdata")
    from torchdata.stateful_dataloader import StatefulDataLoader
    from torchdata.stateful_dataloader.stateful import Stateful

    from alexnet_fast import Loader

    def opened() -> Loader:
        return Loader(tiny_beton / "train.beton", 20, train=True, size=16, threads=1)

    with opened() as plain:
        expected = [[batch.labels.tolist() for batch in plain] for _ in range(3)]
        assert isinstance(plain, Stateful) and isinstance(plain.prefetch_to("cpu"), Stateful)
    for taken in range(1, 11):
        with opened() as one, opened() as other:
            first: Any = StatefulDataLoader(one, batch_size=None)
            batches = iter(first)
            assert [next(batches)[1].tolist() for _ in range(taken)] == expected[0][:taken]
            if taken == 10:
                assert next(batches, None) is None
            second: Any = StatefulDataLoader(other, batch_size=None)
            second.load_state_dict(first.state_dict())
            if taken < 10:
                assert [labels.tolist() for _, labels in second] == expected[0][taken:]
            assert [labels.tolist() for _, labels in second] == expected[1]
