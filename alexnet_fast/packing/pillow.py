"""Pillow as the packer needs it: with our pixel limit, without warnings on the terminal, and with libtiff's messages collected.

Pillow's settings are global to the process, so they are changed only while images are packed.
"""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from PIL import Image, ImageFile, _imaging

ErrorHandler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
MAX_MESSAGE = 400  # bytes of one message of libtiff


class _Settings:
    """Changes the settings for the first user, and restores them after the last one."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._restore: Callable[[], None] = lambda: None

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._restore = _set()

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._restore()


_settings, _collected = _Settings(), threading.local()


@contextmanager
def prepared() -> Iterator[list[str]]:
    """Set up Pillow to open and read images while the body runs; yields a list that collects libtiff's messages.

    Otherwise libtiff prints its messages on stderr, without the image's name, even for errors from which it recovers (as in fax strips).
    """
    words: list[str] = []
    before, _collected.words = getattr(_collected, "words", None), words
    _settings.enter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # on odd EXIF, palettes and sizes; we check size and pixels ourselves
            yield words
    finally:
        _settings.leave()
        _collected.words = before


def _set() -> Callable[[], None]:
    """Change the settings; returns a function that restores them."""
    max_pixels, truncated = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
    set_handler = _set_error_handler()
    handler = set_handler(_handler()) if set_handler else None

    def restore() -> None:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, truncated
        if set_handler:
            set_handler(handler)

    return restore


@cache
def _set_error_handler() -> Any | None:
    """``TIFFSetErrorHandler`` of the libtiff that Pillow is linked with; None if Pillow has none, or does not export it."""
    try:
        found = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    except (AttributeError, OSError):
        return None
    found.argtypes, found.restype = [ctypes.c_void_p], ctypes.c_void_p
    return found


@cache
def _handler() -> Any:
    """Our error handler, which libtiff calls from C with (module, format, va_list)."""
    text = ctypes.CDLL(None).vsnprintf
    text.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]

    @ErrorHandler
    def collect(module: bytes | None, form: bytes, values: int | None) -> None:
        buffer = ctypes.create_string_buffer(MAX_MESSAGE)
        text(buffer, MAX_MESSAGE, form, values)
        words = getattr(_collected, "words", None)
        if words is not None:
            parts = [part.decode("utf-8", "replace") for part in (module, buffer.value) if part]
            words.append(": ".join(parts).rstrip("."))

    return collect
