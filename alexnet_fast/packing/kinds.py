"""Which files are images: by their suffix, or by their first bytes if they have none; and which formats Pillow may try."""

from __future__ import annotations

from functools import cache

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif"),
    *(".png", ".ppm", ".pgm", ".pbm", ".pnm", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
)
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""Pillow's names for them."""
BUILT_WITH = {"avif": ("AVIF", (".avif",)), "jpg_2000": ("JPEG2000", (".jp2", ".j2k", ".jpf", ".jpx"))}
"""Formats that only some builds of Pillow read: Pillow's feature -> its format name, its suffixes."""

HEAD_BYTES = 16
MAGIC = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (8, b"WEBP", "WEBP"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (4, b"ftypavi", "AVIF"),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG2000"),
    *((0, b"P%d\n" % digit, "PPM") for digit in range(1, 7)),
)
"""(offset, bytes there, Pillow's name).  BMP is not here, since a text may start with its two letters: see ``format_of``."""


@cache
def image_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that we read.  It must try no other, whatever a file's name: for an EPS it would start Ghostscript."""
    return (*FORMATS, *(BUILT_WITH[feature][0] for feature in _features()))


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of these formats, in lower case."""
    return frozenset((*SUFFIXES, *(suffix for feature in _features() for suffix in BUILT_WITH[feature][1])))


def format_of(head: bytes) -> str:
    """Pillow's name for the format of an image that starts with these ``HEAD_BYTES``, if we read it; else ""."""
    for at, magic, name in MAGIC:
        if head.startswith(magic, at) and name in image_formats():
            return name
    # "BM", the file's size, and four bytes that every writer leaves 0.
    return "BMP" if head.startswith(b"BM") and head[6:10] == bytes(4) else ""


@cache
def _features() -> tuple[str, ...]:
    from PIL import features  # imported here: only packing needs Pillow

    # Only names that this Pillow knows: an older one warns when asked for another.
    known = {**features.modules, **features.codecs}
    return tuple(name for name in BUILT_WITH if name in known and features.check(name))
