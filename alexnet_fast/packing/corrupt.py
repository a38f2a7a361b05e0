"""Which JPEGs are corrupt: decoders warn of that, and of much that costs no coefficient.

Harmless, and passed over: bytes that belong to no segment between the header's, an unknown JFIF revision or Adobe code, wrong
parameters of a sequential scan, zeros before the end, an end that is missing.  To tell them from what they may hide (only the first
warning is told), the JPEG is written again without them and decoded once more.

Corrupt: every other warning, and two things of which no decoder warns: a progressive JPEG whose last scans are not there, and
a scan with zeros that no picture has, as a disk or a download leaves them.  Huffman codes know no checksum, so some damage is not
seen: see docs/reliability.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .lossless import DCT_FRAMES, EOI, FRAMES, SOI, SOS, scan_end, segments

PROGRESSIVE = (0xC2, 0xCA)
ARITHMETIC = (0xC9, 0xCA)
NEEDED = frozenset((*DCT_FRAMES, 0xC4, 0xCC, 0xDB, 0xDD, SOS))  # frames, tables, restart interval, scans
ENDS_EARLY = "Premature end of JPEG file"  # libjpeg's; then the one behind it is of no more use
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
WHOLE = (0, 63, 0)  # Ss, Se, AhAl of a sequential scan: all coefficients to the last bit
LEAST = 6  # bytes of a frame's or a scan's header
UNKNOWN = 99
HUFFMAN = (0xC0, 0xC1)
AC, END_OF_BLOCK, STANDARD = (
    0x10,
    0x00,
    0x01,
)  # a table's class; symbols, the last of the standard's table for luma (T.81, K.5)
MAX_ZEROS = 64


def persisting(jpeg: bytes, warning: Callable[[bytes], str]) -> tuple[str, bytes]:
    """What a decoder says of a JPEG that is corrupt, "" where it is not; and a JPEG of the same coefficients of which it says nothing.

    Args:
        warning: a decoder's first warning of a JPEG, with who says so, or "".
    """
    if not (said := warning(jpeg)):
        return unwarned(jpeg), jpeg
    still = ""
    for tidy in tidied(jpeg):
        if not (now := warning(tidy)):
            return unwarned(jpeg), tidy
        still = still or now
    return said if said.endswith(ENDS_EARLY) or not still else still, jpeg


def unwarned(jpeg: bytes) -> str:
    """What is wrong with a JPEG that no decoder warns of, in words; "" where nothing is."""
    return missing(jpeg) or emptied(jpeg)


def emptied(jpeg: bytes) -> str:
    """Whether a sequential scan holds zeros that no picture has, in words.

    In most JPEGs the code of zeros is a coefficient of -1, so 64 such bytes are at least two blocks of luma with nothing else in
    them.  Where it is the code of a block's end, as it may be with tables made for the image, they are any flat picture's.
    """
    luma, tables = STANDARD, dict[int, int]()
    for marker, start, end in segments(jpeg):
        if marker == 0xC4:
            tables |= _codes_of_zeros(jpeg[start:end])
        elif marker in FRAMES and marker not in HUFFMAN:
            return ""
        elif marker == SOS and end - start >= LEAST:
            luma = tables.get(AC | jpeg[start + 2] & 15, STANDARD)
            zeros = jpeg.find(bytes(MAX_ZEROS), end)
            if zeros < 0 or luma == END_OF_BLOCK:
                return ""
            if jpeg[zeros : scan_end(jpeg, end)].strip(b"\x00"):  # else they stand behind the picture
                return f"it holds {MAX_ZEROS} zeros in a row, which no picture has"
    return ""


def _codes_of_zeros(tables: bytes) -> dict[int, int]:
    """Of each Huffman table in a segment, by its class and number: the symbol of its first code, which is all zeros."""
    found, at = dict[int, int](), 0
    while at + 17 < len(tables):
        found[tables[at]] = tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])
    return found


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
