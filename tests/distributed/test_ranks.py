"""Several ranks, started by the command: the same training as with one rank, exact evaluations, hosts, and a killed rank."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ranked
from alexnet_fast.distributed.launcher import LaunchConfig
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.writer import scan_folder, write_beton
from alexnet_fast.recipe import Recipe
from alexnet_fast.recipe_toml import dump, load
from alexnet_fast.run import checkpoint
from called_as_ranks import launch
from components import ROOT
from stress.narrow_model import NarrowAlexNet

STEPS = 20
NARROW = "tests/stress/narrow_model.py"  # the command with a model whose gradients take no time to average
RECIPES = ROOT / "recipes"


@pytest.fixture(scope="module")
def small(tiny_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recipe]:
    """small(name, **{"optim.lr": ...}): a float32 recipe of 20 steps of 8 without dropout, in a folder of this module."""
    folder = tmp_path_factory.mktemp("ranks")

    def make(name: str, **changes: Any) -> Recipe:
        settings = {
            "run.name": name, "run.device": "cpu", "run.out": str(folder),
            "data.train": str(tiny_beton / "train.beton"), "data.val": str(tiny_beton / "val.beton"),
            "data.size": 64, "data.global_batch_size": 8, "model.num_classes": 10, "model.dropout": 0.0,
            "precision.level": "O0", "schedule.epochs": 1, "schedule.steps_per_epoch": STEPS,
            "eval.every": 0, "log.print_freq": 1, **changes,
        }  # fmt: skip
        overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        path = folder / f"{name}.toml"
        path.write_text(dump(load(RECIPES / "1p.toml", overrides)))
        return load(path)

    return make


def toml(recipe: Recipe) -> str:
    return str(recipe.folder.parent / f"{recipe.run.name}.toml")


def losses(recipe: Recipe, key: str = "loss") -> list[float]:
    lines = [json.loads(line) for line in (recipe.folder / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if line["kind"] == "step"]


def weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = checkpoint.load(recipe.folder / checkpoint.LAST)["state_dict"]
    return state


@pytest.fixture(scope="module")
def one_rank(small: Callable[..., Recipe]) -> Recipe:
    """The 20 steps on one rank."""
    recipe = small("one")
    assert launch(LaunchConfig(1), ranked.train_each, [recipe], 1) == 0
    return recipe


@pytest.mark.parametrize("graph", ["auto", True], ids=["by DDP", "in flat buffers"])
def test_two_ranks_train_as_one_does(
    graph: Any, one_rank: Recipe, small: Callable[..., Recipe], capfd: Any
) -> None:
    recipe = small(f"two_{graph}", **{"distributed.nproc": 2, "engine.graph": graph})
    assert launch(LaunchConfig(2), ranked.train_each, [recipe], 2) == 0, capfd.readouterr().err
    out = capfd.readouterr().out
    assert "on 2 x cpu" in out and out.count("Epoch: [0]") == STEPS, "one rank prints"
    assert (
        ("in flat buffers" in out) == ("engine.graph is off: a CPU has no graphs" in out) == (graph is True)
    )
    assert losses(recipe) == pytest.approx(losses(one_rank), abs=1e-5)
    assert losses(recipe, "train_acc1") == losses(one_rank, "train_acc1")
    for key, tensor in weights(one_rank).items():
        torch.testing.assert_close(weights(recipe)[key], tensor, rtol=0, atol=1e-5)
    assert set(os.listdir(recipe.folder)) == set(os.listdir(one_rank.folder))


def test_ranks_count_exactly_what_one_counts_of_one_file_and_of_several(
    small: Callable[..., Recipe], tiny_imagenet: Path, tmp_path: Path, capfd: Any
) -> None:
    split, recipes = scan_folder(tiny_imagenet / "train").shuffled(0), []
    for samples in (500, 503):
        path = tmp_path / f"{samples}.beton"
        write_beton(split.limited(samples), path, Encoding(), workers=2)
        recipes.append(small(f"eval{samples}", **{"data.val": str(path), "eval.global_batch_size": 64}))
    parts, whole = [tmp_path / f"part{k}.beton" for k in range(3)], split.limited(503)
    for path, places in zip(parts, (slice(0, 11), slice(11, 300), slice(300, 503)), strict=True):
        part = replace(whole, paths=whole.paths[places], labels=whole.labels[places])
        write_beton(part, path, Encoding(), workers=2)
    several = {"data.val": list(map(str, parts)), "eval.global_batch_size": 64}
    recipes.append(small("several", **several))
    torch.manual_seed(0)
    saved, results = str(tmp_path / "weights.pt"), {}
    torch.save(NarrowAlexNet(10).state_dict(), saved)
    for nproc in (1, 2, 3):
        asked = recipes if nproc != 2 else recipes[-1:]
        assert launch(LaunchConfig(nproc), ranked.evaluate_each, asked, nproc, saved) == 0, (
            capfd.readouterr().err
        )
        results[nproc] = [json.loads((recipe.folder / "eval.json").read_text()) for recipe in asked]
    assert {**results[1][2], "checkpoint": ""} == {**results[1][1], "checkpoint": ""}
    for nproc in (2, 3):
        count_of = len(results[nproc])
        for alone, together, samples in zip(
            results[1][-count_of:], results[nproc], (500, 503, 503)[-count_of:], strict=True
        ):
            assert together["samples"] == samples
            for count in ("top1", "top5", "acc1", "acc5"):
                assert together[count] == alone[count]
            assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5)


def test_two_ranks_of_which_one_is_signalled_stop_together_and_end_with_the_same_bits(
    small: Callable[..., Recipe], capfd: Any
) -> None:
    changes = {
        "model.dropout": 0.5, "precision.level": "O2", "schedule.steps_per_epoch": 5, "checkpoint.every_steps": 1,
        "distributed.nproc": 2,
    }  # fmt: skip
    whole, stopped = small("whole", **changes), small("stopped", **changes)
    assert launch(LaunchConfig(2), ranked.run_stop_resume, whole, stopped, 3) == 0, capfd.readouterr().err
    assert "resumes from" in capfd.readouterr().out
    assert losses(stopped) == losses(whole) and losses(stopped, "epoch_loss") == losses(whole, "epoch_loss")
    assert all(torch.equal(weights(stopped)[key], tensor) for key, tensor in weights(whole).items())

    alone = load(toml(stopped), ["distributed.nproc=1", "schedule.epochs=2"])
    assert launch(LaunchConfig(1), ranked.train_each, [alone], 1, "auto") == 0
    out = capfd.readouterr().out
    assert "saved by 2 ranks and resumed by 1" in out and "Epoch: [1]" in out


def test_two_hosts_of_two_ranks_under_torchrun_train_as_one_rank_does(
    small: Callable[..., Recipe],
) -> None:
    changes = {"schedule.steps_per_epoch": 3, "checkpoint.every_epochs": 0}
    alone, recipe = small("alone", **changes), small("hosts", **changes)
    assert launch(LaunchConfig(1), ranked.train_each, [alone], 1) == 0
    port = free_port()
    hosts = [
        start(
            "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2", "--node-rank", str(host),
            "--master-addr", "127.0.0.1", "--master-port", str(port), NARROW, toml(recipe),
        )
        for host in range(2)
    ]  # fmt: skip
    first, second = (host.communicate(timeout=300) for host in hosts)
    assert [host.returncode for host in hosts] == [0, 0], first[1] + second[1]
    assert "on 4 x cpu" in first[0] and first[0].count("Epoch: [0]") == 3
    assert second[0] == "", "only rank 0 prints"
    assert losses(recipe) == pytest.approx(losses(alone), abs=1e-5)


@pytest.mark.long
def test_two_hosts_of_one_rank_and_of_three_train_as_one_rank_does(small: Callable[..., Recipe]) -> None:
    changes = {"schedule.steps_per_epoch": 3, "checkpoint.every_epochs": 0}
    alone = small("alone2", **changes)
    assert launch(LaunchConfig(1), ranked.train_each, [alone], 1) == 0
    address = f"127.0.0.1:{free_port()}"
    recipe = small("own_hosts", **changes, **{"distributed.hosts": 2, "distributed.address": address})
    hosts = [
        start(
            NARROW, toml(recipe), "--set", f"distributed.host={host}", "--set", f"distributed.nproc={nproc}"
        )
        for host, nproc in enumerate((1, 3))
    ]
    first, second = (host.communicate(timeout=300) for host in hosts)
    assert [host.returncode for host in hosts] == [0, 0], first[1] + second[1]
    assert "on 4 x cpu" in first[0] and first[0].count("Epoch: [0]") == 3
    assert second[0] == "", "only rank 0 prints"
    assert second[1] == f"host 1 of 2 waits for the others at {address}\n"
    assert losses(recipe) == pytest.approx(losses(alone), abs=1e-5)


def test_a_killed_rank_is_named_ends_the_run_within_30_s_and_leaves_no_process(
    small: Callable[..., Recipe],
) -> None:
    recipe = small("killed", **{"schedule.epochs": 1000, "distributed.nproc": 2})
    launcher = start(NARROW, toml(recipe))
    metrics = recipe.folder / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline and launcher.poll() is None, launcher.communicate()
        time.sleep(0.1)
    found = {rank_of(pid): pid for pid in descendants(launcher.pid) if rank_of(pid)}
    assert set(found) == {"0", "1"}
    os.kill(found["1"], signal.SIGKILL)
    killed_at = time.monotonic()
    _, error = launcher.communicate(timeout=60)
    assert time.monotonic() - killed_at < 30
    assert launcher.returncode == 1
    assert error.startswith(
        f"error: rank 1 on {socket.gethostname()} (process {found['1']}) was killed by SIGKILL"
    )
    assert error.count("\n") == 1
    assert not [pid for pid in found.values() if Path(f"/proc/{pid}").exists()]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children] + [far for child in children for far in descendants(int(child))]


def rank_of(pid: int) -> str | None:
    """The rank of a process, from its name."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None
    return name.removeprefix("rank ") if name.startswith("rank ") else None
