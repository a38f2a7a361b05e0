"""One line of the card's table: what was expected, what was seen, and whether they agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["ok", "warning", "fault", "skipped"]
Figures = Mapping[str, float | None]


@dataclass(frozen=True)
class Row:
    """name: of what was checked.  expected, seen: for a reader.  remedy: what to do where they do not agree.

    status: ok; warning, it works but slower than it could; fault, it is wrong; skipped, it was not or cannot be checked here.
    figures: what was measured; the names end with the unit.
    """

    name: str
    status: Status
    expected: str
    seen: str
    remedy: str = ""
    figures: Figures = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return asdict(self)


def judged(
    name: str,
    good: bool,
    expected: str,
    seen: str,
    remedy: str = "",
    *,
    otherwise: Status = "warning",
    **figures: float | None,
) -> Row:
    """A row that is ok if `good`, else `otherwise`, with the remedy."""
    return Row(name, "ok" if good else otherwise, expected, seen, "" if good else remedy, figures)


def skipped(name: str, expected: str, why: str) -> Row:
    return Row(name, "skipped", expected, why)
