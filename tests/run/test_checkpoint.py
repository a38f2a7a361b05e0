"""Checkpoints: valid or refused, data and never code."""

from __future__ import annotations

import errno
import os
import random
import zipfile
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alexnet_fast.devices.registry import resolve
from alexnet_fast.distributed.world import World
from alexnet_fast.engine.precision import Precision
from alexnet_fast.errors import UserError
from alexnet_fast.loader.bad_samples import SkippedSample
from alexnet_fast.run import checkpoint, checkpoint_manager, import_reference
from alexnet_fast.run.checkpoint import ResumeState
from alexnet_fast.run.resume import paths_differ
from poison import poisoned_memory

CPU = resolve("cpu")
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, fused=True)


PROGRESS = ResumeState(
    {"epoch": 2, "step": 7}, [{"loss": 1.5}], 61.5, (SkippedSample(3, "cat/3.JPEG", "no JPEG", 1),)
)


def make(level: Any = "O2", loss_scale: Any = "dynamic", **settings: Any) -> Precision:
    """settings: override those of SGD above."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(4 * 36, 5))
    return Precision(model, partial(SGD, **settings), level=level, device=CPU, loss_scale=loss_scale)


def train(precision: Precision, steps: int) -> list[float]:
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)).to(precision.dtype)
    losses = []
    for _ in range(steps):
        loss = functional.cross_entropy(precision.forward(images), torch.arange(8) % 5)
        precision.backward(loss)
        precision.learning_rate = 0.05
        precision.step()
        losses.append(loss.item())
    return losses


def snapshot(precision: Precision) -> dict[str, Any]:
    return checkpoint.snapshot(precision, PROGRESS, {"run": {"seed": 1}})


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
def test_a_run_resumes_bit_for_bit_with_dropout_momentum_and_loss_scale(level: str, tmp_path: Path) -> None:
    precision = make(level)
    train(precision, 3)
    precision.skipped += 2
    checkpoint.save(tmp_path / "last.pt", snapshot(precision))
    expected = train(precision, 4)

    other = make(level)
    train(other, 1)
    progress = checkpoint.restore(checkpoint.load(tmp_path / "last.pt"), other, CPU)
    assert progress == PROGRESS
    assert train(other, 4) == expected
    for key, tensor in precision.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key
    assert other.figures() == precision.figures()


def overflow(precision: Precision) -> None:
    """A step whose gradients are not finite."""
    precision.backward(precision.forward(torch.ones(8, 3, 8, 8, dtype=precision.dtype)).sum() * torch.inf)
    precision.learning_rate = 0.05
    precision.step()


def momenta(precision: Precision) -> list[Tensor]:
    return [state["momentum_buffer"].clone() for state in precision.optimizer.state_dict()["state"].values()]


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize("momentum", [None, "before 0.2", 0.0])
def test_a_run_saved_without_momenta_resumes_with_zeros_even_if_its_first_step_overflows(
    level: Any, momentum: Any, tmp_path: Path
) -> None:
    saved = make(level) if momentum is None else make(level, momentum=0.0)
    state = snapshot(saved)
    if momentum == "before 0.2":  # stopped before its first step
        state["optimizer"]["param_groups"][0]["momentum"] = 0.9
    checkpoint.save(tmp_path / "last.pt", state)
    other = make(level)
    with poisoned_memory():
        train(other, 1)
        checkpoint.restore(checkpoint.load(tmp_path / "last.pt"), other, CPU)
        overflow(other)
        assert len(momenta(other)) == 4 and not any(momentum.any() for momentum in momenta(other))
        assert all(torch.tensor(train(other, 2)).isfinite())


@pytest.mark.parametrize("optimizer", [None, {"state": {}, "param_groups": []}, "nothing saved by torch 1"])
def test_an_imported_run_without_momenta_starts_with_zeros_even_if_its_first_step_overflows(
    optimizer: Any,
) -> None:
    saved, other = make(), make()
    if isinstance(optimizer, str):  # which wrote None for each parameter where momentum was 0
        optimizer = snapshot(saved)["optimizer"]
        optimizer["state"] = {key: {"momentum_buffer": None} for key in optimizer["state"]}
    theirs = {"epoch": 3, "state_dict": saved.state_dict(), "best_acc1": None, "optimizer": optimizer}
    with poisoned_memory():
        train(other, 1)
        _, has_momenta = import_reference.import_reference(theirs, other)
        overflow(other)
        assert not has_momenta and len(momenta(other)) == 4
        assert not any(momentum.any() for momentum in momenta(other))


def test_a_resume_uses_the_recipes_settings_and_the_checkpoints_momenta() -> None:
    precision = make()
    train(precision, 3)
    settings = {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1, "fused": None, "foreach": True}
    other = make(**settings)
    checkpoint.restore(snapshot(precision), other, CPU)
    (group,) = other.optimizer.param_groups
    assert {name: group[name] for name in settings} == settings
    assert all(map(torch.equal, momenta(other), momenta(precision))) and other.learning_rate == 0.05
    train(other, 1)  # by the kernels of this device, not those of the one that saved


@pytest.mark.parametrize("saves_static", [True, False])
def test_a_resume_uses_the_recipes_kind_of_loss_scale(saves_static: bool) -> None:
    saved = make(loss_scale=256.0 if saves_static else "dynamic")
    train(saved, 3)
    other = make(loss_scale="dynamic" if saves_static else 256.0)
    checkpoint.restore(snapshot(saved), other, CPU)
    assert other.scale == 256
    other.scaler.load_state_dict(other.scaler.state_dict() | {"_growth_tracker": 1999})
    train(other, 1)
    assert other.scale == (512 if saves_static else 256), "a dynamic one doubles again"


def test_momenta_saved_in_an_npus_layout_are_read_correctly() -> None:
    precision = make()
    train(precision, 3)
    state = deepcopy(snapshot(precision))
    expected = train(precision, 3)
    for each in state["optimizer"]["state"].values():
        each["momentum_buffer"] = each["momentum_buffer"].contiguous()
    other = make()
    checkpoint.restore(state, other, CPU)
    assert train(other, 3) == expected
    assert all(map(torch.equal, momenta(other), momenta(precision)))


def test_momenta_of_other_shapes_are_refused() -> None:
    precision = make()
    train(precision, 1)
    state = snapshot(precision)
    state["optimizer"]["state"][1]["momentum_buffer"] = torch.zeros(7)
    with pytest.raises(UserError, match="momenta do not fit its weights"):
        checkpoint.restore(state, make(), CPU)


def test_a_failed_write_keeps_the_old_checkpoint_and_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: Any
) -> None:
    path, precision = tmp_path / "last.pt", make()
    checkpoint.save(path, snapshot(precision))
    before = path.read_bytes()
    train(precision, 1)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match="the disk is full: .* MB are free"):
        checkpoint.save(path, snapshot(precision))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.pt"]


def test_a_copy_stays_when_its_source_is_written_again(tmp_path: Path) -> None:
    last, best, precision = tmp_path / "last.pt", tmp_path / "best.pt", make()
    checkpoint.save(last, snapshot(precision))
    checkpoint.copy(last, best)
    before = best.read_bytes()
    train(precision, 1)
    checkpoint.save(last, snapshot(precision))
    assert best.read_bytes() == before != last.read_bytes()
    checkpoint.copy(last, best)
    assert best.read_bytes() == last.read_bytes() and sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused_by_name(share: float, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, snapshot(make()))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match="last.pt"):
        checkpoint.load(path)


def test_a_file_that_is_something_else_is_refused_by_name(tmp_path: Path) -> None:
    for name, content in (("a.txt", b"hello"), ("b.pt", b"\x80\x02}q\x00.")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            checkpoint.load(tmp_path / name)
    with pytest.raises(UserError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "missing.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds a list"):
        checkpoint.load(tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(UserError, match="holds no weights"):
        checkpoint.load(tmp_path / "empty.pt")


def test_after_corruption_in_the_first_bytes_the_checkpoint_before_is_used(tmp_path: Path) -> None:
    last, before, whole = (
        tmp_path / checkpoint.LAST,
        tmp_path / "checkpoint_e0001_s000000.pt",
        tmp_path / "w.pt",
    )
    checkpoint.save(whole, snapshot(make()))
    content, rng = whole.read_bytes(), random.Random(0)
    before.write_bytes(content)
    flipped = [
        bytes([*content[:at], content[at] ^ 1 << bit, *content[at + 1 :]])
        for at in range(4)
        for bit in range(8)
    ]
    lost = [page + content[4096:] for page in (bytes(4096), *(rng.randbytes(4096) for _ in range(32)))]
    for corrupt in (*flipped, *lost, b""):
        last.write_bytes(corrupt)
        found = checkpoint_manager.load_latest_valid(tmp_path)
        assert found is not None and found[0] == before and "corrupt (it " in found[2][0]
        with pytest.raises(UserError, match=f"{before}, the one before it, is valid"):
            checkpoint_manager.load(last)


@pytest.mark.parametrize(
    "error",
    [MemoryError("none left"), OSError(errno.EIO, "Input/output error"), OSError(errno.ESTALE, "stale")],
)
@pytest.mark.parametrize("where", [(zipfile.ZipFile, "testzip"), (torch, "load")])
def test_an_error_of_the_disk_or_of_memory_does_not_make_a_checkpoint_corrupt(
    error: Exception, where: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the one before it would be used, and the first save would replace the newest, which is valid."""
    for name in (checkpoint.LAST, "checkpoint_e0001_s000000.pt"):
        checkpoint.save(tmp_path / name, snapshot(make()))

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(*where, fails)
    with pytest.raises(
        UserError, match="checkpoint_last.pt could not be read .* whether it is valid is unknown"
    ):
        checkpoint_manager.load_latest_valid(tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_garbage_is_refused_by_name_whatever_torch_raises(tmp_path: Path) -> None:
    path, rng = tmp_path / "garbage.pt", random.Random(0)
    for _ in range(300):
        path.write_bytes(bytes([rng.choice(b"PKpk(c}]).\x80")]) + rng.randbytes(rng.randrange(100)))
        with pytest.raises(UserError, match="garbage.pt"):
            checkpoint.load(path)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run_it(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": {"w": torch.zeros(1)}, "extra": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(UserError, match="bomb.pt does not hold plain data only"):
        checkpoint.load(tmp_path / "bomb.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_alone_load_with_and_without_module_prefix(
    prefix: str, wrapped: bool, tmp_path: Path
) -> None:
    precision = make()
    state: dict[str, Any] = {prefix + key: tensor for key, tensor in precision.state_dict().items()}
    torch.save({"epoch": 90, "arch": "alexnet", "state_dict": state} if wrapped else state, tmp_path / "w.pt")
    loaded = checkpoint.load(tmp_path / "w.pt")
    assert not checkpoint.holds_run(loaded)
    precision.load_state_dict(loaded["state_dict"])


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "new.pt", snapshot(make()) | {"format": 3})
    with pytest.raises(UserError, match="format 3, but this version reads formats up to 2"):
        checkpoint.load(tmp_path / "new.pt")


def test_format_1_of_one_rank_only_is_read(tmp_path: Path) -> None:
    now = snapshot(make())
    before = now | {"format": 1, "meter": now["meter"][0][0], "rng": now["rng"][0]}
    del before["skipped_samples"]  # as in all files before there was this key
    checkpoint.save(tmp_path / "old.pt", before)
    loaded, other = checkpoint.load(tmp_path / "old.pt"), make()
    assert checkpoint.restore(loaded, other, CPU).meters == [{"loss": 1.5}]
    assert torch.equal(torch.get_rng_state(), now["rng"][0]["cpu"])


def test_each_rank_resumes_its_own_state_and_another_number_of_ranks_loses_no_sum() -> None:
    saved, states = snapshot(make()), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append({"cpu": torch.get_rng_state(), "device": None})
    saved = saved | {"rng": states, "meter": [[{"loss": 1.0}], [{"loss": 2.0}]]}

    def restored(rank: int, world_size: int) -> tuple[list[dict[str, Any]], Tensor]:
        torch.manual_seed(9)
        progress = checkpoint.restore(saved, make(), CPU, World(rank=rank, world_size=world_size))
        return progress.meters, torch.get_rng_state()

    for rank in range(2):
        meters, state = restored(rank, 2)
        assert meters == [{"loss": 1.0 + rank}] and torch.equal(state, states[rank]["cpu"])
    assert restored(0, 1)[0] == [{"loss": 1.0}, {"loss": 2.0}]
    assert restored(0, 3)[0] == [{"loss": 1.0}, {"loss": 2.0}]
    assert restored(1, 3)[0] == restored(2, 3)[0] == []


def test_class_names_and_the_training_sets_identity_are_saved(tmp_path: Path) -> None:
    precision, path = make(), tmp_path / "last.pt"
    named = replace(PROGRESS, classes=("ant", "bee"), train_set={"samples": 8, "labels": "0123abcd"})
    checkpoint.save(path, checkpoint.snapshot(precision, named, {}))
    assert checkpoint.restore(checkpoint.load(path), make(), CPU) == named
    assert "classes" not in snapshot(precision) and "train_set" not in snapshot(precision)  # as older files


@pytest.mark.parametrize("classes", [3, {"ant": 0}, ["ant", 1], None])
def test_classes_that_are_not_a_list_of_names_are_ignored(classes: Any) -> None:
    precision = make()
    assert checkpoint.restore({**snapshot(precision), "classes": classes}, precision, CPU).classes == ()


def test_weights_of_two_models_under_one_name_are_refused(tmp_path: Path) -> None:
    """Before, the last of "module.weight" and "weight" won."""
    torch.save({"weight": torch.zeros(1), "module.weight": torch.ones(1)}, tmp_path / "two.pt")
    with pytest.raises(UserError, match="two.pt holds 'weight' twice, with 'module.' and without"):
        checkpoint.load(tmp_path / "two.pt")


def test_a_checkpoint_says_which_fast_paths_were_on_and_a_resume_on_others_is_noted() -> None:
    saved = checkpoint.snapshot(make(), replace(PROGRESS, fast_paths=("graph", "compile")), {})
    older = snapshot(make())
    assert saved is not None and saved["fast_paths"] == ["graph", "compile"] and "fast_paths" not in older
    assert checkpoint.restore(saved, make(), CPU).fast_paths == ("graph", "compile")
    assert checkpoint.restore(older, make(), CPU).fast_paths is None
    (note,) = paths_differ(("graph", "compile"), [])
    assert note.startswith("saved with the fast paths compile, graph, resumed with none:")
    assert paths_differ(None, ["graph"]) == [] == paths_differ(("graph", "compile"), ["compile", "graph"])
