"""Pillow as the packer needs it: with our limit of pixels, no warnings on the terminal, and the words of its libtiff kept.

Its settings are a process's, so they are changed for as long as somebody packs here and no longer.
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
MAX_TOLD = 400  # bytes of what libtiff says at a time


class _Settings:
    """Sets them for the first who asks, and puts the user's back behind the last."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._put_back: Callable[[], None] = lambda: None

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._put_back = _set()

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._put_back()


_settings, _heard = _Settings(), threading.local()


@contextmanager
def prepared() -> Iterator[list[str]]:
    """Have Pillow open and read images as the packer needs it; gives the list of what libtiff says meanwhile.

    libtiff writes to stderr by itself, of an image that it does not name, and of errors that it then reads over (a fax strip's).
    """
    words: list[str] = []
    before, _heard.words = getattr(_heard, "words", None), words
    _settings.enter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd EXIF, palettes and sizes; we check size and pixels
            yield words
    finally:
        _settings.leave()
        _heard.words = before


def _set() -> Callable[[], None]:
    """Change the settings; returns what puts them back."""
    max_pixels, truncated = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
    set_handler = _set_error_handler()
    handler = set_handler(_hear()) if set_handler else None

    def put_back() -> None:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, truncated
        if set_handler:
            set_handler(handler)

    return put_back


@cache
def _set_error_handler() -> Any | None:
    """``TIFFSetErrorHandler`` of the libtiff that Pillow is linked with; None where Pillow has none, or hides it."""
    try:
        found = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    except (AttributeError, OSError):
        return None
    found.argtypes, found.restype = [ctypes.c_void_p], ctypes.c_void_p
    return found


@cache
def _hear() -> Any:
    """Our error handler, as libtiff's C calls it: (module, format, va_list)."""
    text = ctypes.CDLL(None).vsnprintf
    text.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]

    @ErrorHandler
    def hear(module: bytes | None, form: bytes, values: int | None) -> None:
        buffer = ctypes.create_string_buffer(MAX_TOLD)
        text(buffer, MAX_TOLD, form, values)
        words = getattr(_heard, "words", None)
        if words is not None:
            told = [part.decode("utf-8", "replace") for part in (module, buffer.value) if part]
            words.append(": ".join(told).rstrip("."))

    return hear
