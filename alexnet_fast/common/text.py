"""Numbers with their nouns and units, for a reader."""

from __future__ import annotations


def plural(count: int, noun: str, several: str = "") -> str:
    """ "1 core", "2 cores"; ``several`` where that is not the noun with an s: "2 entries"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {several or noun + 's'}"


def size(count: float) -> str:
    """Bytes in binary units, as `free -h` does: "24 GiB", "64 KiB".  Speeds and file sizes elsewhere are decimal."""
    unit = "bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return (
        f"{count:.0f} {unit}"
        if count >= 100 or unit == "bytes" or count == int(count)
        else f"{count:.1f} {unit}"
    )
