"""Numbers with their nouns, for a reader."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """ "1 core", "2 cores"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
