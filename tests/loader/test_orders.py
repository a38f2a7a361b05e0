"""Which samples an epoch has: a user's list or function, and the ready-made orders."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_fast import Balanced, Loader, Order, Repeated, UserError, Weighted
from alexnet_fast.loader.sampler import epoch_permutation
from betons import jpeg, picture, write
from handed_out import places_and_pixels, places_of

COUNT = 30
LABELS = [0] * 20 + [1] * 7 + [4] * 3


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty images of three classes, of which none has as many as another."""
    entries = [jpeg(picture(60, 50, k)) for k in range(COUNT)]
    return write(tmp_path_factory.mktemp("orders") / "a.beton", entries, LABELS)


def opened(beton: Path, batch_size: int = 5, **options: Any) -> Loader:
    given = {"train": True, "size": 24, "seed": 3, "threads": 1, "drop_last": False, **options}
    return Loader(beton, batch_size, **given)


def rolled(epoch: int) -> list[int]:
    return [(epoch + k) % COUNT for k in range(12)]


# -- a user's


def test_a_list_is_each_epochs_order(beton: Path) -> None:
    given = np.array([3, 1, 4, 1, 5])
    with opened(beton, order=given) as loader:
        given[:] = 0
        assert (len(loader), loader.num_samples, len(loader.dataset)) == (1, 5, COUNT)
        assert places_of(loader) == places_of(loader) == [3, 1, 4, 1, 5]


def test_a_function_gives_each_epochs_order(beton: Path) -> None:
    with opened(beton, order=rolled) as loader:
        assert [places_of(loader) for _ in range(3)] == [rolled(epoch) for epoch in range(3)]
        loader.set_epoch(7, 1)
        assert places_of(loader) == rolled(7)[5:]


def test_copies_in_an_order_have_crops_of_their_own_and_the_first_has_the_samples(beton: Path) -> None:
    with opened(beton, order=[7, 7, 2, 7]) as loader, opened(beton, shuffle=False) as plain:
        made, once = places_and_pixels(loader), dict(places_and_pixels(plain))
    assert [place for place, _ in made] == [7, 7, 2, 7]
    assert made[0][1] == once[7] and made[2][1] == once[2]
    assert len({pixels for _, pixels in made}) == 4


@pytest.mark.parametrize("order", [rolled, Weighted([1.0] * COUNT, 17), Balanced(), Repeated(3)])
def test_an_order_is_the_same_for_any_threads_batches_ranks_and_resumes(beton: Path, order: Any) -> None:
    with opened(beton, 64, order=order) as loader:
        loader.set_epoch(2)
        expected = places_and_pixels(loader)
    with opened(beton, 7, threads=3, order=order) as loader:
        loader.set_epoch(2)
        next(iter(loader))
        state = loader.state_dict()
    rest = []
    for rank in range(2):
        with opened(beton, 3, order=order, rank=rank, world_size=2) as loader:
            loader.load_state_dict(state)
            rest += places_and_pixels(loader)
    assert sorted(rest) == sorted(expected[7:])


def test_an_order_of_some_samples_counts_among_them(beton: Path) -> None:
    with opened(beton, indices=[9, 8, 8, 7], order=[3, 2, 1, 1]) as loader:
        assert places_of(loader) == [7, 8, 8, 8]
        made = places_and_pixels(loader)
        assert len({pixels for _, pixels in made}) == 4


def test_an_order_that_fails_later_is_the_users_error_with_its_cause(beton: Path) -> None:
    def failing(epoch: int) -> list[int]:
        return [[1, 2], [1, 2]][epoch]

    def shrinking(epoch: int) -> list[int]:
        return list(range(9 - epoch))

    for order, said in (
        (failing, "order of epoch 2 failed: IndexError"),
        (shrinking, "has 8 samples and that of epoch 0 9"),
    ):
        with opened(beton, order=order) as loader, pytest.raises(UserError, match=said):
            for _ in range(3):
                list(loader)


def test_an_order_that_takes_no_epoch_is_refused_at_once(beton: Path) -> None:
    with pytest.raises(UserError, match="order of epoch 0 failed: TypeError"):
        opened(beton, order=lambda: [0])


def test_a_shuffled_order_is_refused(beton: Path) -> None:
    with pytest.raises(UserError, match="shuffle = True and an order"):
        opened(beton, order=[1, 2], shuffle=True)


def test_an_order_is_pickled(beton: Path) -> None:
    for order in ([1, 2, 3], rolled, Balanced(), Weighted(range(COUNT))):
        with opened(beton, order=order) as loader, pickle.loads(pickle.dumps(loader)) as other:
            assert places_and_pixels(loader) == places_and_pixels(other)


class Backwards(Order):
    """A user's own class."""

    def of(self, labels: np.ndarray, seed: int) -> Callable[[int], np.ndarray]:
        return lambda epoch: np.arange(len(labels))[::-1]


def test_a_class_of_the_users_is_an_order(beton: Path) -> None:
    with opened(beton, order=Backwards()) as loader:
        assert places_of(loader) == list(range(COUNT))[::-1]


# -- ready-made


def test_weighted_draws_in_proportion(beton: Path) -> None:
    weights = np.zeros(COUNT)
    weights[[4, 9, 29]] = 1, 2, 5
    with opened(beton, 100, order=Weighted(weights, 400), size=8) as loader:
        first, second = places_of(loader), places_of(loader)
    counts = Counter(first + second)
    assert set(counts) == {4, 9, 29} and first != second
    assert all(
        abs(counts[place] - 100 * weights[place]) < 45 for place in counts
    )  # 3 standard deviations or more


def test_weighted_may_draw_as_many_as_the_set_has(beton: Path) -> None:
    with opened(beton, order=Weighted([1] * COUNT)) as loader:
        assert loader.num_samples == COUNT and len(set(places_of(loader))) < COUNT


def test_balanced_has_every_class_equally_often_and_each_sample_before_one_comes_again(beton: Path) -> None:
    seen: Counter[int] = Counter()
    with opened(beton, order=Balanced(32), size=8) as loader:
        for epoch in range(3):
            places = places_of(loader)
            counts = Counter(LABELS[place] for place in places)
            assert sorted(counts) == [0, 1, 4] and sorted(counts.values()) == [10, 11, 11]
            of_small = Counter(place for place in places if LABELS[place] == 4)
            assert max(of_small.values()) - min(of_small.values()) <= 1
            assert len({place for place in places if LABELS[place] == 0}) >= 10
            assert places != sorted(places), epoch
            seen += counts
    assert sorted(seen.values()) == [32, 32, 32], "the class that has one less is another one each time"


def test_repeated_has_each_sample_so_many_times_in_a_row(beton: Path) -> None:
    shuffled = epoch_permutation(COUNT, 3, 0).tolist()
    with opened(beton, order=Repeated(3)) as loader:
        made = places_and_pixels(loader)
    assert [place for place, _ in made] == [place for place in shuffled for _ in range(3)]
    assert len({pixels for _, pixels in made}) == 3 * COUNT
    with opened(beton, order=Repeated(3, num_samples=COUNT)) as loader:
        assert places_of(loader) == [place for place in shuffled[:10] for _ in range(3)]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Weighted([1, -1]), "Weighted.weights"),
        (lambda: Weighted([0, 0]), "Weighted.weights"),
        (lambda: Weighted([float("nan")]), "Weighted.weights"),
        (lambda: Weighted("ab"), "Weighted.weights"),  # type: ignore[arg-type]
        (lambda: Weighted([1], 0), "Weighted.num_samples = 0"),
        (lambda: Balanced(0), "Balanced.num_samples = 0"),
        (lambda: Repeated(0), "Repeated.times = 0"),
        (lambda: Repeated(2, 1.5), "Repeated.num_samples = 1.5"),  # type: ignore[arg-type]
    ],
)
def test_wrong_parameters_are_refused_by_name(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        make()


def test_orders_that_do_not_fit_the_set_are_refused(beton: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 3 weights, but the set has 30 samples"):
        opened(beton, order=Weighted([1, 2, 3]))
    with pytest.raises(UserError, match="61 is more than 2 times the 30 samples"):
        opened(beton, order=Repeated(2, 61))
    floats = write(tmp_path / "a.beton", [jpeg(picture(60, 50))] * 3, [0.5, 1.5, 2.5])
    with pytest.raises(UserError, match="label is a float"):
        opened(floats, order=Balanced())
