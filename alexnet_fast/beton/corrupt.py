"""Which JPEGs are corrupt: decoders warn of that, and of much that costs no coefficient.

Harmless, and passed over: bytes that belong to no segment between the header's, an unknown JFIF revision or Adobe code, wrong
parameters of a sequential scan, zeros before the end, an end that is missing.  To tell them from what they may hide (only the first
warning is told), the JPEG is written again without them and decoded once more.

Corrupt: every other warning, and a progressive JPEG whose last scans are not there, of which no decoder warns.  Huffman
codes know no checksum, so some damage is not seen: see docs/reliability.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..packing.lossless import DCT_FRAMES, EOI, FRAMES, SOI, SOS, scan_end, segments

PROGRESSIVE = (0xC2, 0xCA)
ARITHMETIC = (0xC9, 0xCA)
NEEDED = frozenset((*DCT_FRAMES, 0xC4, 0xCC, 0xDB, 0xDD, SOS))  # frames, tables, restart interval, scans
ENDS_EARLY = "Premature end of JPEG file"  # libjpeg's; then the one behind it is of no more use
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
WHOLE = (0, 63, 0)  # Ss, Se, AhAl of a sequential scan: all coefficients to the last bit
LEAST = 6  # bytes of a frame's or a scan's header
UNKNOWN = 99


def persisting(jpeg: bytes, warning: Callable[[bytes], str]) -> tuple[str, bytes]:
    """What a decoder says of a JPEG that is corrupt, "" where it is not; and a JPEG of the same coefficients of which it says nothing.

    Args:
        warning: a decoder's first warning of a JPEG, with who says so, or "".
    """
    if not (said := warning(jpeg)):
        return missing(jpeg), jpeg
    still = ""
    for tidy in tidied(jpeg):
        if not (now := warning(tidy)):
            return missing(jpeg), tidy
        still = still or now
    return said if said.endswith(ENDS_EARLY) or not still else still, jpeg


def missing(jpeg: bytes) -> str:
    """What the scans of a JPEG do not hold of its picture, in words; "" where they hold all."""
    bits = dict[int, list[int]]()  # of each coefficient of a component: the lowest bit that is known
    progressive, scans = False, 0
    for marker, start, end in segments(jpeg, whole=True):
        content = jpeg[start:end]
        if len(content) < LEAST:
            continue
        if marker in FRAMES and not bits:
            progressive = marker in PROGRESSIVE
            bits = {component: [UNKNOWN] * 64 for component in content[6::3]}
        elif marker == SOS:
            scans += 1
            first, last, low = (content[-3], min(content[-2], 63), content[-1] & 15) if progressive else WHOLE
            scanned = content[1:-3:2]
            if not progressive and set(scanned) == set(bits):
                return ""  # nearly every photo
            for component in scanned:
                if component in bits:
                    bits[component][first : last + 1] = [low] * (last + 1 - first)
    if not any(any(known) for known in bits.values()):
        return ""
    kind = "it is a progressive JPEG" if progressive else "it is a JPEG"
    return f"{kind} of which only the first {scans} scan{'s are' if scans > 1 else ' is'} there"


def tidied(jpeg: bytes) -> Iterator[bytes]:
    """The JPEG without what is harmless: one for each number of zeros that may belong to its last scan."""
    found = [
        (marker, start, end)
        for marker, start, end in segments(jpeg, whole=True)
        if marker in NEEDED and (end - start >= LEAST or marker not in (SOS, *FRAMES))
    ]
    if not found or found[-1][0] != SOS:
        return
    if any(marker in ARITHMETIC for marker, _, _ in found) and scan_end(jpeg, found[-1][2]) == len(jpeg):
        return  # zeros are what such a scan reads where it ends too early, without a warning
    sequential = not any(marker in PROGRESSIVE for marker, _, _ in found)
    out, scan = bytearray([0xFF, SOI]), b""
    for marker, start, end in found:
        content = jpeg[start:end]
        if marker in FRAMES and content[5] in (1, 3):  # one that stores RGB never comes here to be kept
            out += JFIF
        if marker == SOS and sequential:
            content = content[:-3] + bytes(WHOLE)
        scan = jpeg[end : scan_end(jpeg, end)] if marker == SOS else b""
        out += bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content + scan
    full = len(scan.rstrip(b"\x00"))
    full += scan[:full].endswith(b"\xff")  # FF 00 is a byte of the scan
    zeros = len(scan) - full
    for kept in range(min(zeros, 2) + 1):  # more than two no Huffman code ends with
        yield bytes(out[: len(out) - zeros + kept]) + bytes([0xFF, EOI])
