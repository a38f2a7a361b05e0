"""The state of a Loader: what was handed out, and an exact resume from it, whatever the batch size and the ranks."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast import Balanced, UserError
from betons import Entry, jpeg, picture, write
from handed_out import Samples, labels_and_pixels
from loader.conftest import FIFTY, opened

COUNT = FIFTY


@pytest.fixture
def beton(fifty: Path) -> Path:
    return fifty


def test_a_state_is_a_handful_of_integers_that_any_format_keeps(beton: Path) -> None:
    with opened(beton) as loader:
        labels_and_pixels(iter(loader), 3)
        state = loader.state_dict()
    assert state == json.loads(json.dumps(state)) and len(state) == 5
    assert all(type(value) is int for value in state.values())
    assert (state["epoch"], state["samples"], state["of"], state["seed"]) == (0, 24, COUNT, 3)


@pytest.mark.parametrize("steps", range(7))
def test_a_break_anywhere_in_an_epoch_resumes_at_the_very_next_batch(
    beton: Path, epochs: list[Samples], steps: int
) -> None:
    with opened(beton, drop_last=False) as loader:
        labels_and_pixels(iter(loader))
        before = labels_and_pixels(iter(loader), steps)
        state = loader.state_dict()
    with opened(beton, drop_last=False) as loader:
        loader.load_state_dict(state)
        assert loader.state_dict() == state
        rest, following = labels_and_pixels(iter(loader)), labels_and_pixels(iter(loader))
    assert before == epochs[1][: 8 * steps]
    assert (before + rest, following) == (epochs[1], epochs[2])


def test_the_state_is_what_was_handed_out_and_not_what_is_decoded_ahead(beton: Path) -> None:
    with opened(beton, batches_ahead=3) as loader:
        batches = iter(loader)
        for step in range(6):
            assert loader.state_dict()["samples"] == 8 * step
            next(batches)
        assert loader.state_dict()["samples"] == COUNT  # the rest is dropped: the epoch is over


def test_at_an_epochs_end_the_next_iteration_is_the_next_epoch(beton: Path, epochs: list[Samples]) -> None:
    """Even if nobody asked for the batch after the last one, as frameworks that count batches do not."""
    for drop_last in (True, False):
        with opened(beton, drop_last=drop_last) as loader:
            labels_and_pixels(iter(loader), len(loader))
            state = loader.state_dict()
        with opened(beton, drop_last=drop_last) as loader:
            loader.load_state_dict(state)
            assert loader.epoch == 1
            assert labels_and_pixels(iter(loader)) == epochs[1][: COUNT - 2 * drop_last]


def test_a_script_that_sets_the_epoch_it_resumes_gets_the_rest_of_it(
    beton: Path, epochs: list[Samples]
) -> None:
    for steps in (2, 7):
        with opened(beton, drop_last=False) as loader:
            labels_and_pixels(iter(loader), steps)
            state = loader.state_dict()
        for set_epoch in ("set_epoch", "sampler"):
            with opened(beton, drop_last=False) as loader:
                loader.load_state_dict(state)
                (loader if set_epoch == "set_epoch" else loader.sampler).set_epoch(0)
                assert labels_and_pixels(iter(loader)) == epochs[0][8 * steps :]
                loader.set_epoch(1)
                assert labels_and_pixels(iter(loader)) == epochs[1]
                loader.set_epoch(0)  # only once: later it is the whole epoch
                assert labels_and_pixels(iter(loader)) == epochs[0]


@pytest.mark.parametrize("batch_size", [3, 7, 8, 50])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_another_batch_size_and_number_of_ranks_share_what_is_left(
    beton: Path, epochs: list[Samples], batch_size: int, world_size: int
) -> None:
    with opened(beton, 5, rank=1, world_size=2, drop_last=False) as loader:
        labels_and_pixels(iter(loader), 2)
        state = loader.state_dict()
    assert state["samples"] == 20
    left, following = Samples(), Samples()
    for rank in range(world_size):
        with opened(beton, batch_size, rank=rank, world_size=world_size, drop_last=False) as loader:
            loader.load_state_dict(state)
            left += labels_and_pixels(iter(loader))
            following += labels_and_pixels(iter(loader))
            assert loader.state_dict()["epoch"] == 1
    assert sorted(left) == sorted(epochs[0][20:]) and sorted(following) == sorted(epochs[1])
    if world_size == 1:
        assert (left, following) == (epochs[0][20:], epochs[1])


def test_an_epoch_resumed_between_two_batches_is_left_and_resumed_again(
    beton: Path, epochs: list[Samples]
) -> None:
    """20 samples were handed out; in batches of 7 the second resume is after 20 + 14."""
    state = {}
    with opened(beton, 5, drop_last=False) as loader:
        labels_and_pixels(iter(loader), 4)
        state = loader.state_dict()
    with opened(beton, 7, drop_last=False) as loader:
        loader.load_state_dict(state)
        assert labels_and_pixels(iter(loader), 2) == epochs[0][20:34]
        state = loader.state_dict()
        assert state["samples"] == 34
        loader.set_epoch(0)  # the whole epoch again, by the same loader
        assert labels_and_pixels(iter(loader)) == epochs[0]
    with opened(beton, 3, drop_last=False) as loader:
        loader.load_state_dict(state)
        assert labels_and_pixels(iter(loader)) == epochs[0][34:]


def test_a_loader_is_resumed_while_it_is_in_use(beton: Path, epochs: list[Samples]) -> None:
    with opened(beton, drop_last=False) as loader:
        batches = iter(loader)
        labels_and_pixels(batches, 2)
        state = loader.state_dict()
        labels_and_pixels(batches, 3)
        loader.load_state_dict(state)
        assert labels_and_pixels(iter(loader)) == epochs[0][16:]


def test_an_iteration_of_which_nothing_is_taken_uses_no_epoch_up(beton: Path, epochs: list[Samples]) -> None:
    """Lightning asks for one only to see whether it can."""
    with opened(beton, drop_last=False) as loader:
        iter(loader)
        batches = iter(loader)
        assert loader.epoch == 0
        loader.sampler.set_epoch(0)  # Lightning does, after it has begun
        assert labels_and_pixels(batches) == epochs[0] and labels_and_pixels(iter(loader)) == epochs[1]


def test_an_epoch_or_a_state_counts_until_the_first_batch_is_taken(
    beton: Path, epochs: list[Samples]
) -> None:
    """Lightning sets the epoch after it has asked for an iterator, and relies on that at an epoch's end."""
    for loader in (opened(beton, drop_last=False), opened(beton, drop_last=False).prefetch_to("cpu")):
        with loader:
            batches = iter(loader)
            loader.sampler.set_epoch(1)
            first = next(batches)
            loader.sampler.set_epoch(2)  # for the next one
            assert loader.epoch == 2 and loader.state_dict()["epoch"] == 2
            assert [*first.labels.tolist(), *(label for label, _ in labels_and_pixels(batches))] == [
                label for label, _ in epochs[1]
            ]
            assert loader.state_dict()["epoch"] == 1
            batches = iter(loader)
            loader.load_state_dict({**loader.state_dict(), "epoch": 0, "samples": 32})
            assert (
                labels_and_pixels(batches) == epochs[0][32:] and labels_and_pixels(iter(loader)) == epochs[1]
            )


def test_a_pickle_resumes_where_its_loader_would(beton: Path, epochs: list[Samples]) -> None:
    with opened(beton, 5, drop_last=False) as loader:
        labels_and_pixels(iter(loader), 3)
        state = loader.state_dict()
        loader.load_state_dict(state)
        with pickle.loads(pickle.dumps(loader)) as other:
            assert other.state_dict() == state and labels_and_pixels(iter(other)) == epochs[0][15:]


def test_augmentation_size_and_threads_may_change(beton: Path) -> None:
    with opened(beton) as loader:
        labels_and_pixels(iter(loader), 2)
        state = loader.state_dict()
    with opened(beton, size=32, threads=2, flip=0.0) as loader:
        expected = [label for label, _ in labels_and_pixels(iter(loader))][16:]
        loader.load_state_dict(state)
        assert [label for label, _ in labels_and_pixels(iter(loader))] == expected


def test_a_skipped_batch_counts_as_handed_out(tmp_path: Path) -> None:
    good = jpeg(picture(60, 50))
    broken = Entry(b"no image", 64, 48)
    path = write(tmp_path / "a.beton", [*[good] * 4, *[broken] * 4, *[good] * 4])
    options: dict[str, Any] = {"train": False, "on_error": "skip"}
    with opened(path, 2, **options) as loader:
        batches = iter(loader)
        assert [label for label, _ in labels_and_pixels(batches, 3)] == [0, 1, 2, 3, 8, 9]
        assert loader.state_dict()["samples"] == 10
        loader.load_state_dict(loader.state_dict())
        assert [label for label, _ in labels_and_pixels(iter(loader))] == [10, 11]


# -- what it refuses


def test_another_seed_is_refused_in_words(beton: Path) -> None:
    with opened(beton) as loader, opened(beton, seed=4) as other:
        with pytest.raises(
            UserError, match="a Loader with seed = 3, but this one has seed = 4.*: open it with seed=3"
        ):
            other.load_state_dict(loader.state_dict())
        assert other.epoch == 0


def test_another_set_is_refused_in_words(beton: Path, tmp_path: Path) -> None:
    fewer = write(tmp_path / "fewer.beton", [jpeg(picture(60, 50))] * 20)
    others = write(tmp_path / "others.beton", [jpeg(picture(60, 50))] * COUNT, list(range(1, COUNT + 1)))
    with opened(beton) as loader:
        state = loader.state_dict()
    with (
        opened(fewer) as loader,
        pytest.raises(UserError, match=r"set of 50 samples an epoch, but .* has 20"),
    ):
        loader.load_state_dict(state)
    with opened(others) as loader, pytest.raises(UserError, match="of another set than .*others.beton"):
        loader.load_state_dict(state)


@pytest.mark.parametrize(
    "changed",
    [{"indices": range(COUNT)[::-1]}, {"shuffle": False}, {"order": range(COUNT)}, {"order": Balanced()}],
)
def test_another_order_is_refused_in_words(beton: Path, changed: dict[str, Any]) -> None:
    with opened(beton) as loader:
        state = loader.state_dict()
    with opened(beton, **changed) as loader:
        with pytest.raises(UserError, match="or of another order"):
            loader.load_state_dict(state)
        loader.load_state_dict(loader.state_dict())


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        3,
        [],
        {},
        {"epoch": 1},
        {"state": {}},
        {"epoch": -1},
        {"samples": 51},
        {"samples": 1.5},
        {"epoch": "1"},
    ],
)
def test_what_is_no_state_is_refused_by_one_sentence(beton: Path, wrong: Any) -> None:
    with opened(beton) as loader:
        if (
            isinstance(wrong, dict)
            and len(wrong) == 1
            and wrong.keys() <= {"epoch", "samples"}
            and wrong != {"epoch": 1}
        ):
            wrong = {**loader.state_dict(), **wrong}
        with pytest.raises(UserError, match=r"is no state of a Loader|^state\[") as caught:
            loader.load_state_dict(wrong)
        assert "\n" not in str(caught.value) and loader.epoch == 0


def test_integers_that_a_checkpoint_made_tensors_of_are_taken(beton: Path) -> None:
    with opened(beton) as loader:
        labels_and_pixels(iter(loader), 2)
        state = loader.state_dict()
        loader.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
        assert loader.state_dict() == state
