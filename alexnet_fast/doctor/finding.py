"""One check: what was found, whether it is ok, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from ..errors import UserError

Status = Literal["ok", "warning", "fault"]


class Finding(NamedTuple):
    """ok: no problem. warning: a run works, but slower or less safely than it could. fault: a run fails, or cannot use what is there."""

    name: str
    status: Status
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Finding:
    return Finding(name, "ok", found)


def warning(name: str, found: str, remedy: str) -> Finding:
    return Finding(name, "warning", found, remedy)


def fault(name: str, found: str, remedy: str) -> Finding:
    return Finding(name, "fault", found, remedy)


def look(name: str, probe: Callable[[], Finding | Iterable[Finding]]) -> list[Finding]:
    """What `probe` finds, or a warning that it failed, so that one failing check does not stop the others."""
    try:
        found = probe()
        return [found] if isinstance(found, Finding) else list(found)
    except Exception as error:  # a file system, a driver or a library may raise anything
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return [warning(name, f"could not be checked ({said})", "fix that, or check it by other means")]
