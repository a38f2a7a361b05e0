"""Which samples an epoch has, and in which order: the set in its order or shuffled, or what a user's order says.

``Weighted``, ``Balanced`` and ``Repeated`` are ready to use: ``Loader(path, 256, train=True, order=Balanced())``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from ..common.arguments import check, choice, set_checked, whole
from ..common.untrusted import printable
from ..decode.counter_rng import occurrences
from ..errors import UserError
from .block_order import Block, block_permutation
from .sampler import epoch_keys, epoch_permutation

SALT = 0x7069636B  # "pick": keeps these draws apart from the shuffled order's of the same seed


class Drawn(NamedTuple):
    """The samples of one epoch.

    Attributes:
        places: (N,) int64, their places in the set, in the epoch's order.
        copies: (N,) int32, which copy of its sample each is; None = as the set has it.
        windows: (windows + 1,) int64, the positions at which the epoch's windows begin, and N: the file is read by whole windows.
            None = sample by sample.
    """

    places: np.ndarray
    copies: np.ndarray | None = None
    windows: np.ndarray | None = None


class EpochOrder(Protocol):
    """The order of every epoch: a pure function of the epoch, since it is drawn ahead, and again after a resume."""

    count: int
    """Samples of an epoch."""
    constant: bool
    """Whether all epochs are alike, so that one is enough."""

    def draw(self, epoch: int) -> Drawn: ...


class InOrder:
    """The samples of the set, in its order."""

    constant = True

    def __init__(self, count: int) -> None:
        self.count = count

    def draw(self, epoch: int) -> Drawn:
        return Drawn(np.arange(self.count))


class Shuffled:
    """Another permutation of the set in each epoch."""

    constant = False

    def __init__(self, count: int, seed: int) -> None:
        self.count, self._seed = count, seed

    def draw(self, epoch: int) -> Drawn:
        return Drawn(epoch_permutation(self.count, self._seed, epoch))


class BlockShuffled:
    """Another order of the file's pages in each epoch, and of the samples within each window of pages.

    Args:
        ptrs: (n,) of each sample of the set, where its payload begins in the file.
        page_size: of the file, in bytes.
        block: the windows.
        seed: the Loader's.
    """

    constant = False

    def __init__(self, ptrs: np.ndarray, page_size: int, block: Block, seed: int) -> None:
        self.count, self._seed = len(ptrs), seed
        self.window_pages = block.window_pages
        self.pages: np.ndarray = np.unique(ptrs // page_size, return_inverse=True)[1]
        """(n,) int64, of each sample the page that holds it, counted from 0 without gaps."""

    def draw(self, epoch: int) -> Drawn:
        places, windows = block_permutation(self.pages, self.window_pages, self._seed, epoch)
        return Drawn(places, windows=windows)


class Order(ABC):
    """Base of the ready-made orders; a class of your own may derive from it."""

    @abstractmethod
    def of(self, labels: np.ndarray, seed: int) -> Callable[[int], np.ndarray]:
        """The order of a set: a function of the epoch, which gives (N,) int64 places in the set, N the same for each epoch.

        Args:
            labels: (n,) int64 or float64, of the set.
            seed: the Loader's.

        Raises:
            UserError: the order does not fit the set.
        """


@dataclass(frozen=True, eq=False)
class Weighted(Order):
    """Draws samples with replacement, each with a probability in proportion to its weight.

    Args:
        weights: (n,) one for each sample of the set, at least 0.
        num_samples: draws an epoch (default: as many as the set has samples).

    Raises:
        UserError: no such weights; a weight for each sample is checked when the Loader is opened.
    """

    weights: Sequence[float] | np.ndarray
    num_samples: int | None = None

    def __post_init__(self) -> None:
        weights = weights_of("Weighted.weights", self.weights)
        set_checked(self, weights=weights, num_samples=_count_of("Weighted", self.num_samples))

    def of(self, labels: np.ndarray, seed: int) -> Callable[[int], np.ndarray]:
        if len(self.weights) != len(labels):
            raise UserError(
                f"Weighted.weights has {len(self.weights)} weights, but the set has {len(labels)} samples: give one for each"
            )
        shares = np.cumsum(self.weights) / np.sum(self.weights)
        last = int(np.flatnonzero(self.weights)[-1])  # a share may round to a little less than 1
        count = self.num_samples or len(labels)

        def places(epoch: int) -> np.ndarray:
            draws = (epoch_keys(count, seed ^ SALT, epoch) >> np.uint64(11)) * 2.0**-53
            return np.minimum(np.searchsorted(shares, draws, side="right"), last)

        return places


@dataclass(frozen=True)
class Balanced(Order):
    """Every class equally often: samples of small classes come several times, those of large classes not in every epoch.

    Within a class each sample comes once before one comes again, and the numbers of two classes differ by one at most.

    Args:
        num_samples: samples an epoch (default: as many as the set has).
    """

    num_samples: int | None = None

    def __post_init__(self) -> None:
        set_checked(self, num_samples=_count_of("Balanced", self.num_samples))

    def of(self, labels: np.ndarray, seed: int) -> Callable[[int], np.ndarray]:
        if not np.issubdtype(labels.dtype, np.integer) or labels.ndim > 1:
            raise UserError(
                "order = Balanced(), but the set's label is a float or a vector, which has no classes"
            )
        names, classes = np.unique(labels, return_inverse=True)
        count = self.num_samples or len(labels)

        def places(epoch: int) -> np.ndarray:
            each, more = divmod(count, len(names))
            wanted = np.full(len(names), each)
            wanted[(epoch * more % len(names) + np.arange(more)) % len(names)] += 1
            return so_many_of_each(classes, wanted, seed, epoch)

        return places


@dataclass(frozen=True)
class Repeated(Order):
    """Repeated augmentation: the set in shuffled order, each sample several times in a row, each time with another crop.

    Args:
        times: how often each sample comes.
        num_samples: samples an epoch (default: ``times`` as many as the set has); with the set's own number, an epoch takes
            as long as without repeats and sees one sample in ``times``.
    """

    times: int
    num_samples: int | None = None

    def __post_init__(self) -> None:
        times = whole("Repeated.times", self.times, "at least 1", lambda n: n >= 1)
        set_checked(self, times=times, num_samples=_count_of("Repeated", self.num_samples))

    def of(self, labels: np.ndarray, seed: int) -> Callable[[int], np.ndarray]:
        count = self.num_samples or self.times * len(labels)
        if count > self.times * len(labels):
            raise UserError(
                f"Repeated.num_samples = {count} is more than {self.times} times the {len(labels)} samples of the set"
            )
        distinct = -(-count // self.times)

        def places(epoch: int) -> np.ndarray:
            order = epoch_permutation(len(labels), seed, epoch)
            return np.repeat(order[:distinct], self.times)[:count]

        return places


@dataclass(frozen=True, eq=False)
class Mixed(Order):
    """So large a share of an epoch's samples from each group: a file, or several.

    Within a group each sample comes once before one comes again.  The number of a group's samples differs from its share by less
    than one, and over the epochs their mean is the share.

    Args:
        weights: (G,) float64, of each group.
        groups: (n,) of each sample of the set, its group, 0 to G - 1.
    """

    weights: np.ndarray
    groups: np.ndarray

    def of(self, labels: np.ndarray, seed: int) -> Callable[[int], np.ndarray]:
        count, groups = len(labels), self.groups
        ends = np.cumsum(self.weights) / self.weights.sum() * count

        def places(epoch: int) -> np.ndarray:
            # Another rounding in each epoch: the golden ratio's multiples fill the unit interval evenly.
            rounded = np.floor(ends + (epoch * GOLDEN) % 1).astype(np.int64)
            rounded[int(np.flatnonzero(self.weights)[-1]) :] = count
            return so_many_of_each(groups, np.diff(rounded, prepend=0), seed, epoch)

        return places


GOLDEN = (5**0.5 - 1) / 2


def weights_of(name: str, given: object) -> np.ndarray:
    """Weights as an array, (n,) float64; UserError for anything else than numbers of at least 0, one of them more."""
    try:
        weights = np.array(given, np.float64)
    except (TypeError, ValueError):
        weights = np.zeros(0)
    good = weights.ndim == 1 and bool((weights >= 0).all()) and 0 < weights.sum() < np.inf
    check(name, given, "a list of numbers, each at least 0 and one of them more", good)
    return weights


def so_many_of_each(groups: np.ndarray, wanted: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Places in the set, shuffled, of which so many are of each group; each once before one of its group comes again.

    Args:
        groups: (n,) of each sample, its group, 0 to G - 1.
        wanted: (G,) how many places of each group, which has samples unless it is 0.
    """
    left, chosen, members, again = wanted.copy(), list[np.ndarray](), np.arange(len(groups)), 0
    while (members := members[left[groups[members]] > 0]).size:
        keys = epoch_keys(len(members), seed ^ SALT ^ again << 32, epoch)
        members = members[np.lexsort((keys, groups[members]))]
        of_group = groups[members]
        begins = np.searchsorted(of_group, of_group)
        taken = members[np.arange(len(members)) - begins < left[of_group]]
        chosen.append(taken)
        left -= np.bincount(groups[taken], minlength=len(left))
        again += 1
    found = np.concatenate(chosen)
    return found[epoch_permutation(len(found), seed ^ SALT, epoch)]


GivenOrder = (
    Order
    | Block
    | Literal["block"]
    | Callable[[int], "Sequence[int] | np.ndarray"]
    | Sequence[int]
    | np.ndarray
)


def order_of(given: GivenOrder | None) -> GivenOrder | None:
    """The order that was given, or the one of this name; UserError for another name."""
    if not isinstance(given, str):
        return given
    choice("order", given, ("block",))
    return Block()


class UsersOrder:
    """What ``order=`` says: each epoch's places, checked, and which copy of its sample each is.

    Args:
        order: an array of places in the set, a function of the epoch that gives one, or an Order; not a Block, which needs the file.
        indices: (n,) of each sample of the set, its place in the file: copies are counted by it.
        labels: (n,) of each sample of the set.
        seed: the Loader's.

    Raises:
        UserError: it is none of these, or epoch 0 has no samples or such that the set does not have.
    """

    def __init__(self, order: GivenOrder, indices: np.ndarray, labels: np.ndarray, seed: int) -> None:
        self._indices = indices
        self._function: Callable[[int], object] | None = None
        if isinstance(order, type):
            raise UserError(f"order is the class {order.__name__}, expected an object of it")
        if isinstance(order, Order):
            self._function = order.of(labels, seed)
        elif callable(order):
            self._function = order
        self.constant = self._function is None
        given = order if self._function is None else self._called(0)
        places = checked_places(
            f"order{'' if self.constant else ' of epoch 0'}", given, len(indices), "the set"
        )
        self.count = len(places)
        self._places = places if self.constant else None

    def draw(self, epoch: int) -> Drawn:
        places = self._places
        if places is None:
            places = checked_places(
                f"order of epoch {epoch}", self._called(epoch), len(self._indices), "the set"
            )
            if len(places) != self.count:
                raise UserError(
                    f"order of epoch {epoch} has {len(places)} samples and that of epoch 0 {self.count}: give every epoch as many"
                )
        return Drawn(places, occurrences(self._indices[places]))

    def _called(self, epoch: int) -> object:
        assert self._function is not None
        try:
            return self._function(epoch)
        except Exception as error:
            raise UserError(
                f"order of epoch {epoch} failed: {type(error).__name__}: {printable(str(error))}"
            ) from error


def checked_places(name: str, given: object, count: int, whose: str) -> np.ndarray:
    """Places of samples, (n,) int64; UserError for anything else than 0 to ``count`` - 1, and for an empty list.

    whose: what has the samples, for messages.
    """
    try:
        places = np.asarray(given)
    except (TypeError, ValueError) as error:  # lists of several lengths, a tensor on a card
        raise UserError(
            f"{name} is not an array: {printable(str(error))}; expected a list of whole numbers"
        ) from None
    if places.ndim != 1 or (len(places) and places.dtype.kind not in "iu"):
        mask = "; numpy.flatnonzero(mask) makes one of a mask" if places.dtype.kind == "b" else ""
        raise UserError(
            f"{name} is of type {type(given).__name__}, to numpy {places.dtype} of shape {places.shape}, expected a list "
            f"of whole numbers{mask}"
        )
    if len(places) == 0:
        raise UserError(f"{name} is empty, expected at least one sample's place in {whose}")
    wrong = places[(places < 0) | (places >= count)]
    if len(wrong):
        raise UserError(f"{name} holds {wrong[0]}, but {whose} has samples 0 to {count - 1}: remove it")
    return places.astype(np.int64)


def _count_of(order: str, given: int | None) -> int | None:
    return None if given is None else whole(f"{order}.num_samples", given, "at least 1", lambda n: n >= 1)
