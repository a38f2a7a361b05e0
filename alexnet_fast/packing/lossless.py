"""A JPEG -> the same coefficients with restart markers, by libjpeg-turbo's own lossless transform, ``jpegtran``.

The quantised DCT coefficients are decoded and written again; no pixel is computed, so none changes.  Two things change: the
entropy coding (always one sequential scan), and the metadata (profiles, EXIF and comments are dropped).

Why a program and not the library: TurboJPEG's transform sets restart markers only from libjpeg-turbo 3.1 on (3.0.0 accepts
``TJPARAM_RESTARTBLOCKS`` and ignores it; 2.1.5, the version of Debian 12, does not have it), and the structs of the older
libjpeg API differ from build to build.  jpegtran is packaged wherever libjpeg-turbo is, for x86-64 and aarch64.  It costs
4.1 ms of a core for an image of 110 kB, 1 ms of that to start the process; ``tj3Transform`` of 3.0.0 inside this process
took 1.6 ms, without markers (Zen 4, 200 images, medians of 3).
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
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15, without DHT, JPG and DAC
DCT_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # sequential and progressive, Huffman and arithmetic
BLOCK_PX = 8
MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # RST and FF 00 belong to a scan (T.81, B.1.1.5)
MAX_SCANNED = 1 << 33  # pixels times scans: some seconds of work (decode.jpeg_header has the same bound)
NO_MEMORY = b"Insufficient memory"  # libjpeg's error when malloc fails
WARNED = 2  # jpegtran's exit code, EXIT_WARNING
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


class NotKept(ValueError):
    """A JPEG whose coefficients cannot be kept: it is corrupt, or jpegtran cannot read it."""


class JpegtranMissing(UserError):
    """libjpeg-turbo's jpegtran is not on this machine."""


@dataclass(frozen=True)
class Frame:
    """What a JPEG's header says about its image."""

    width: int
    height: int
    mcu_px: tuple[int, int]
    """(width, height) in pixels of an MCU of an interleaved scan; with one component, of a block."""
    factors: tuple[tuple[int, int], ...]
    """Sampling factors (across, down) of each component; (1, 1) for a single component, where they have no meaning."""
    obstacle: str
    """Why the loader cannot decode these coefficients, as the packer reports it: "CMYK JPEG"; "" if it can."""


def segments(jpeg: bytes, *, whole: bool = False) -> Iterator[tuple[int, int, int]]:
    """(marker, offset of its content, offset of its end) of each segment: up to and including the first SOS, or of the ``whole`` JPEG.

    Skips fill bytes and bytes outside segments, as libjpeg does.  Ends early if the JPEG does.
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
    """Offset of the end of the entropy-coded data that start at ``start``: the next marker that does not belong to them."""
    following = MARKER.search(jpeg, start)
    return following.start() if following else len(jpeg)


def read_frame(jpeg: bytes) -> Frame | None:
    """The frame of a JPEG; None for bytes that are not a JPEG or end before its first scan."""
    if jpeg[:3] != bytes([0xFF, SOI, 0xFF]):  # the same test as Pillow's
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
    # libjpeg distinguishes stored RGB from YCbCr in the same way (jdapimin.c, default_decompress_parms).
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
    """Check that a JPEG decodes in seconds: a scan of 199 bytes can take a core 0.14 s, and a JPEG may have any number of scans.

    The bound is on the work, not on the time: with a bound on time, a busy machine would skip other images.

    Raises:
        ValueError: it does not.
    """
    scans = jpeg.count(bytes([0xFF, SOS]))  # also counts the few of a thumbnail
    if scans * width * height > MAX_SCANNED:
        raise ValueError(
            f"{scans:,} scans of {width} x {height} pixels are more than the maximum of {MAX_SCANNED // (width * height):,}"
        )


def _decodable(factors: list[tuple[int, int]]) -> bool:
    """Whether these are 4:4:4, 4:2:2, 4:2:0, 4:4:0 or 4:1:1, which the loader supports (``decode.jpeg_header.read_header``)."""
    luma, *chroma = factors
    if chroma == [luma, luma]:  # equal factors mean 4:4:4; an MCU has at most ten blocks (T.81, B.2.3)
        return luma in ((1, 1), (2, 1), (1, 2), (3, 1), (1, 3))
    return chroma == [(1, 1)] * 2 and luma in ((2, 1), (2, 2), (1, 2), (4, 1))


@cache
def jpegtran() -> str:
    """The path of libjpeg-turbo's jpegtran.

    Raises:
        JpegtranMissing: there is none, or it is another library's (mozjpeg's writes progressive JPEGs, which have no tiles).
    """
    found = shutil.which("jpegtran")
    version = _version(found) if found else ""
    if found and "libjpeg-turbo" in version:
        return found
    raise JpegtranMissing(
        (
            f"{found} says that it is {version.splitlines()[0] if version else 'of no version'!r}, and --mode lossless needs libjpeg-turbo's"
            if found
            else "--mode lossless needs libjpeg-turbo's program jpegtran, which was not found"
        )
        + "; install it: 'apt-get install libjpeg-turbo-progs' (Debian, Ubuntu), 'dnf install /usr/bin/jpegtran' "
        "(openEuler, RHEL) or 'conda install libjpeg-turbo'; without root on Debian 'apt-get download libjpeg-turbo-progs libjpeg62-turbo', "
        "'dpkg -x' both into one folder, and add its usr/bin to PATH and its usr/lib/* to LD_LIBRARY_PATH"
    )


def jpegtran_version() -> str:
    """jpegtran's version line: "libjpeg-turbo version 2.1.5 (build 20230203)"."""
    return _version(jpegtran()).splitlines()[0]


def _version(program: str) -> str:
    done = subprocess.run(
        [program, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return (done.stderr + done.stdout).strip()


def add_restart_markers(jpeg: bytes, interval: int, *, optimize: bool) -> tuple[bytes, str]:
    """The coefficients of a JPEG in one sequential scan with a restart marker every ``interval`` MCUs (0 = none).

    Args:
        optimize: use Huffman tables made for the image; else those of the standard (T.81, K.3).

    Returns:
        The JPEG, and jpegtran's first warning about the source, or "": see ``corrupt``.

    Raises:
        JpegtranMissing: see ``jpegtran``.
        NotKept: jpegtran cannot read the JPEG.
        ValueError: jpegtran crashed.
        MemoryError: it was killed, or reports that memory ran out.
        InputUnreadable: it could not be started.
    """
    command = [jpegtran(), "-copy", "none", "-restart", f"{interval}B", *(["-optimize"] if optimize else [])]
    try:
        done = subprocess.run(command, input=jpeg, capture_output=True, check=False)
    except OSError as error:
        raise InputUnreadable(f"cannot run {command[0]}: {error.strerror or error}") from error
    killed = (
        done.returncode < 0 and -done.returncode not in CRASHES
    )  # most likely by the kernel, out of memory
    if killed or NO_MEMORY in done.stderr:
        raise MemoryError
    if not done.returncode:  # with exit code 0, text on stderr is only a remark, such as one on coarse tables
        return done.stdout, ""
    lines = done.stderr.decode("ascii", "replace").splitlines() or [f"it ended with {done.returncode}"]
    if done.returncode == WARNED:
        return done.stdout, lines[0]
    raise (ValueError if done.returncode < 0 else NotKept)(f"jpegtran says: {lines[0]}")
