"""Sizes of images: the side of squares, or height and width."""

from __future__ import annotations

Size = int | tuple[int, int]
"""In pixels: the side of squares, or (height, width)."""


def sides(size: Size) -> tuple[int, int]:
    """(height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def size_text(size: Size) -> str:
    """ "224 px", or "160 x 224 px" (height x width)."""
    height, width = sides(size)
    return f"{height} px" if height == width else f"{height} x {width} px"
