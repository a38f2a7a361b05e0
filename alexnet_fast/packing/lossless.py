"""A JPEG -> the same coefficients behind restart markers, by libjpeg-turbo's own lossless transform, ``jpegtran``.

The quantised DCT coefficients are decoded and written anew: no pixel is computed, none changes.  What
changes is the entropy coding (one sequential scan, whatever the source had) and what is told beside the
pixels: profiles, EXIF and comments go.

Why a program and not the library: TurboJPEG's transform sets restart markers from libjpeg-turbo 3.1 on (3.0.0 takes
``TJPARAM_RESTARTBLOCKS`` and ignores it, 2.1.5, which Debian 12 has, knows no such thing), and the structs of the older
libjpeg API differ from build to build.  jpegtran is packaged wherever libjpeg-turbo is, for x86-64 and aarch64
alike.  It costs 4.1 ms of a core for a photo of 110 kB, 1 of them for the process; ``tj3Transform`` of 3.0.0 inside this process
took 1.6, without markers (Zen 4, 200 photos, medians of 3).
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from ..errors import UserError
from .errors import InputUnreadable

SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))  # TEM, RST0 to RST7, SOI
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 but DHT, JPG and DAC
DCT_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # sequential and progressive, Huffman and arithmetic
BLOCK_PX = 8
MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # RST and FF 00 are a scan's (T.81, B.1.1.5)
MAX_SCANNED = 1 << 33  # pixels times scans: some seconds (decode.jpeg_header has the same bound)
NO_MEMORY = b"Insufficient memory"  # libjpeg of a malloc that failed
WARNED = 2  # jpegtran's exit code, EXIT_WARNING
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


class NotKept(ValueError):
    """A JPEG whose coefficients cannot be kept: they are not whole, or jpegtran has no way to read them."""


class JpegtranMissing(UserError):
    """libjpeg-turbo's jpegtran is not on this machine."""


@dataclass(frozen=True)
class Frame:
    """What a JPEG's header says of its image."""

    width: int
    height: int
    mcu_px: tuple[int, int]
    """(width, height) in pixels of an MCU of an interleaved scan; of one component, of its only block."""
    factors: tuple[tuple[int, int], ...]
    """Sampling factors (across, down) of each component; of only one, (1, 1), for then they mean nothing."""
    obstacle: str
    """Why the loader could not decode these coefficients, as the packer tells it: "CMYK JPEG"; "" where it can."""


def segments(jpeg: bytes, *, whole: bool = False) -> Iterator[tuple[int, int, int]]:
    """(marker, offset of its content, offset behind it) of each segment up to the first SOS, which is the last; or of the ``whole`` JPEG.

    Passes over fill bytes and bytes that belong to no segment, as libjpeg does; ends early where the JPEG does.
    """
    at = 2
    while (at := jpeg.find(b"\xff", at)) >= 0 and at + 4 <= len(jpeg):
        marker = jpeg[at + 1]
        if marker in (0x00, 0xFF):
            at += 1
            continue
        if marker == EOI:
            return
        if marker in WITHOUT_LENGTH:
            at += 2
            continue
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if end < at + 4 or end > len(jpeg):
            return
        yield marker, at + 4, end
        if marker == SOS:
            if not whole:
                return
            end = scan_end(jpeg, end)
        at = end


def scan_end(jpeg: bytes, start: int) -> int:
    """Where the entropy-coded data that begin at an offset end: at the next marker that does not belong to them."""
    following = MARKER.search(jpeg, start)
    return following.start() if following else len(jpeg)


def read_frame(jpeg: bytes) -> Frame | None:
    """The frame of a JPEG; None for bytes that are no JPEG or end before its first scan."""
    if jpeg[:3] != bytes([0xFF, SOI, 0xFF]):  # as Pillow has it
        return None
    process, sof, jfif, adobe_transform = 0, b"", False, None
    for marker, start, end in segments(jpeg):
        content = jpeg[start:end]
        if marker in FRAMES and not process:
            process, sof = marker, content
        elif marker == 0xE0 and content.startswith(b"JFIF\x00") and len(content) >= 14:
            jfif = True
        elif marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
            adobe_transform = content[11]
        elif marker == SOS:
            break
    else:
        return None
    if len(sof) < 6 or len(sof) < 6 + 3 * sof[5]:
        return None
    height, width, components = int.from_bytes(sof[1:3], "big"), int.from_bytes(sof[3:5], "big"), sof[5]
    if not height or not width:
        return None
    ids, factors = bytes(sof[6::3][:components]), [(f >> 4, f & 15) for f in sof[7::3][:components]]
    widest, tallest = (max((f[side] for f in factors), default=0) for side in (0, 1))
    mcu_px = (BLOCK_PX * widest, BLOCK_PX * tallest) if components > 1 else (BLOCK_PX, BLOCK_PX)
    # As libjpeg tells stored RGB from YCbCr (jdapimin.c, default_decompress_parms).
    stores_rgb = (
        components == 3 and not jfif and (ids == b"RGB" if adobe_transform is None else adobe_transform == 0)
    )
    obstacle = ""
    if components == 4:
        obstacle = "CMYK JPEG"
    elif components not in (1, 3):
        obstacle = f"JPEG of {components} components"
    elif process not in DCT_FRAMES or sof[0] != 8:
        obstacle = f"{sof[0]}-bit JPEG of process SOF{process - 0xC0}"
    elif stores_rgb:
        obstacle = "JPEG that stores RGB"
    elif components == 3 and not _decodable(factors):
        obstacle = "JPEG of sampling " + ",".join(f"{across}x{down}" for across, down in factors)
    return Frame(width, height, mcu_px, tuple(factors) if components > 1 else ((1, 1),), obstacle)


def check_scans(jpeg: bytes, width: int, height: int) -> None:
    """See that a JPEG decodes in seconds: a scan of 199 bytes can hold a core for 0.14 s, and there is room for any number.

    A bound on what is to be done, not on the time it takes, which would have a busy machine leave out other images.

    Raises:
        ValueError: it does not.
    """
    scans = jpeg.count(bytes([0xFF, SOS]))  # those of a thumbnail too, and there are few
    if scans * width * height > MAX_SCANNED:
        raise ValueError(
            f"{scans:,} scans of {width} x {height} pixels are more than {MAX_SCANNED // (width * height):,}, no photo's"
        )


def _decodable(factors: list[tuple[int, int]]) -> bool:
    """Whether these are 4:4:4, 4:2:2, 4:2:0, 4:4:0 or 4:1:1, which the loader knows (``decode.jpeg_header.read_header``)."""
    luma, *chroma = factors
    if chroma == [
        luma,
        luma,
    ]:  # equal factors mean 4:4:4; one scan holds at most ten blocks an MCU (T.81, B.2.3)
        return luma in ((1, 1), (2, 1), (1, 2), (3, 1), (1, 3))
    return chroma == [(1, 1)] * 2 and luma in ((2, 1), (2, 2), (1, 2), (4, 1))


@cache
def jpegtran() -> str:
    """Where libjpeg-turbo's jpegtran is.

    Raises:
        JpegtranMissing: there is none, or it is of another make (mozjpeg's writes progressive JPEGs, which cannot be cut).
    """
    found = shutil.which("jpegtran")
    told = _version(found) if found else ""
    if found and "libjpeg-turbo" in told:
        return found
    raise JpegtranMissing(
        (
            f"{found} says that it is {told.splitlines()[0] if told else 'of no version'!r}, and --mode lossless needs libjpeg-turbo's"
            if found
            else "--mode lossless needs libjpeg-turbo's program jpegtran, which was not found"
        )
        + "; install it: 'apt-get install libjpeg-turbo-progs' (Debian, Ubuntu), 'dnf install /usr/bin/jpegtran' "
        "(openEuler, RHEL) or 'conda install libjpeg-turbo'"
    )


def jpegtran_version() -> str:
    """What jpegtran says of itself: "libjpeg-turbo version 2.1.5 (build 20230203)"."""
    return _version(jpegtran()).splitlines()[0]


def _version(program: str) -> str:
    told = subprocess.run(
        [program, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return (told.stderr + told.stdout).strip()


def add_restart_markers(jpeg: bytes, interval: int, *, optimize: bool) -> tuple[bytes, str]:
    """The coefficients of a JPEG in one sequential scan with a restart marker every ``interval`` MCUs (0 = none).

    Args:
        optimize: Huffman tables made for the image; else the standard's own (T.81, K.3).

    Returns:
        The JPEG, and jpegtran's first warning of the source, or "": see ``corrupt``.

    Raises:
        JpegtranMissing: see ``jpegtran``.
        NotKept: jpegtran does not take it.
        ValueError: jpegtran crashed.
        MemoryError: it was killed, or says that it has none.
        InputUnreadable: it could not be started.
    """
    command = [jpegtran(), "-copy", "none", "-restart", f"{interval}B", *(["-optimize"] if optimize else [])]
    try:
        done = subprocess.run(command, input=jpeg, capture_output=True, check=False)
    except OSError as error:
        raise InputUnreadable(f"cannot run {command[0]}: {error.strerror or error}") from error
    killed = done.returncode < 0 and -done.returncode not in CRASHES  # by the kernel, which makes room so
    if killed or NO_MEMORY in done.stderr:
        raise MemoryError
    if not done.returncode:  # words alone may be a remark, such as one on coarse tables
        return done.stdout, ""
    told = done.stderr.decode("ascii", "replace").splitlines() or [f"it ended with {done.returncode}"]
    if done.returncode == WARNED:
        return done.stdout, told[0]
    raise (ValueError if done.returncode < 0 else NotKept)(f"jpegtran says: {told[0]}")
