"""All checks of a card, in their order.  To add one, write a function that takes a Bench and returns rows, and name it here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ...errors import UserError
from . import ceilings, collectives, correctness, fast_paths, steps, training
from .bench import Bench
from .row import Row


class Check(NamedTuple):
    """title: what it does, for the progress.  share: of the time.  look: the rows of one check, as they are found."""

    title: str
    share: float
    look: Callable[[Bench], Row | Iterable[Row]]


CHECKS = (
    Check("products of matrices", 0.05, ceilings.products),
    Check("copying within the device", 0.03, ceilings.device_copy),
    Check("copying to the device", 0.05, ceilings.link),
    Check("the plain step, and each fast path against it", 0.1, fast_paths.fast_paths),
    Check("an overflow in the first step", 0.03, correctness.overflow),
    Check("looking for calls that wait", 0.05, correctness.waits_for_nothing),
    Check("resuming", 0.06, correctness.resume),
    Check("collectives of one rank", 0.05, collectives.one_rank),
    Check("collectives of two ranks", 0.08, collectives.two_ranks),
    Check("steps by batch", 0.15, steps.by_batch),
    Check("steps by option", 0.1, steps.by_option),
    Check("training", 0.25, training.training),
)


def rows(bench: Bench, seconds: float, checks: Iterable[Check] | None = None) -> Iterator[Row]:
    """The rows of all checks as they are found; a check that fails is a row that says so, and the next one runs."""
    for check in CHECKS if checks is None else checks:
        bench.say(check.title)
        bench.seconds = max(0.2, check.share * seconds)
        try:
            found = check.look(bench)
            yield from [found] if isinstance(found, Row) else found
        except Exception as error:  # a driver, a compiler or a library may raise anything
            yield Row(check.title, "fault", "it runs", _in_words(error), "send us this table")


def _in_words(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
