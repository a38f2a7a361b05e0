"""Which files are images: by their suffix, or by their first bytes where they have none; and whose decoders read them."""

from __future__ import annotations

from functools import cache

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif"),
    *(".png", ".ppm", ".pgm", ".pbm", ".pnm", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
)
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""Pillow's names for them."""
BUILT_WITH = {"avif": ("AVIF", (".avif",)), "jpg_2000": ("JPEG2000", (".jp2", ".j2k", ".jpf", ".jpx"))}
"""What some builds of Pillow read: the feature to ask for -> its name, its suffixes."""

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
"""(offset, bytes there, Pillow's name).  BMP's two letters also begin words: see ``format_of``."""


@cache
def image_formats() -> tuple[str, ...]:
    """Pillow's names for what is read.  It must try no other, whatever a file is called: for an EPS it would start Ghostscript."""
    return (*FORMATS, *(BUILT_WITH[feature][0] for feature in _features()))


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of these, in small letters."""
    return frozenset((*SUFFIXES, *(suffix for feature in _features() for suffix in BUILT_WITH[feature][1])))


def format_of(head: bytes) -> str:
    """Pillow's name for an image that begins with these ``HEAD_BYTES``, if it is one that is read; else ""."""
    for at, magic, name in MAGIC:
        if head.startswith(magic, at) and name in image_formats():
            return name
    # "BM", the file's size, and four bytes that every writer leaves 0.
    return "BMP" if head.startswith(b"BM") and head[6:10] == bytes(4) else ""


@cache
def _features() -> tuple[str, ...]:
    from PIL import features  # here: who does not pack needs no Pillow

    # An older Pillow does not know what it was not built with, and warns.
    known = {**features.modules, **features.codecs}
    return tuple(name for name in BUILT_WITH if name in known and features.check(name))
