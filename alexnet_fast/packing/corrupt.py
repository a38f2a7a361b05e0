"""Which JPEGs are corrupt.  Decoders warn of corrupt ones, but also of faults that cost no coefficient.

Harmless, and ignored: bytes outside the segments of the header, an unknown JFIF revision or Adobe code, wrong parameters of a
sequential scan, zeros before the end, a missing end marker.  A decoder reports only its first warning, so a harmless fault may
hide a real one.  Therefore the JPEG is written again without the harmless faults and decoded once more.

Corrupt: every other warning, and two faults of which no decoder warns: a progressive JPEG without its last scans, and a scan
with more zero bytes in a row than an image can have, as a failing disk or a broken download leaves them.  Huffman codes have no
checksum, so some corruption is not detected: see docs/reliability.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .lossless import DCT_FRAMES, EOI, FRAMES, SOI, SOS, scan_end, segments

PROGRESSIVE = (0xC2, 0xCA)
ARITHMETIC = (0xC9, 0xCA)
NEEDED = frozenset((*DCT_FRAMES, 0xC4, 0xCC, 0xDB, 0xDD, SOS))  # frames, tables, restart interval, scans
ENDS_EARLY = "Premature end of JPEG file"  # libjpeg's; a later warning adds nothing to it
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
ALL_BITS = (0, 63, 0)  # Ss, Se, AhAl of a sequential scan: all coefficients, all their bits
MIN_HEADER = 6  # bytes of a frame's or a scan's header
UNKNOWN = 99
HUFFMAN = (0xC0, 0xC1)
AC, END_OF_BLOCK, STANDARD = (
    0x10,
    0x00,
    0x01,
)  # a table's class; two symbols: an end of block, and the first of the standard's table for luma (T.81, K.5)
MAX_ZEROS = 64


def persisting(jpeg: bytes, warning: Callable[[bytes], str]) -> tuple[str, bytes]:
    """Check a JPEG: returns what is corrupt, in words ("" for nothing), and the JPEG without harmless faults.

    The JPEG returned has the same coefficients and causes no warning.  If a real fault causes one, it is ``jpeg`` itself.

    Args:
        warning: returns a decoder's first warning of a JPEG, with the decoder's name, or "".
    """
    if not (first := warning(jpeg)):
        return unwarned(jpeg), jpeg
    remaining = ""
    for tidy in tidied(jpeg):
        if not (now := warning(tidy)):
            return unwarned(jpeg), tidy
        remaining = remaining or now
    return first if first.endswith(ENDS_EARLY) or not remaining else remaining, jpeg


def unwarned(jpeg: bytes) -> str:
    """What is wrong with a JPEG although no decoder warns of it, in words; "" for nothing."""
    return missing(jpeg) or emptied(jpeg)


def emptied(jpeg: bytes) -> str:
    """Whether a sequential scan contains more zero bytes in a row than an image can have, in words; "" if not.

    In most JPEGs the all-zero code is a coefficient of -1, so 64 zero bytes are at least two blocks of luma with nothing else in
    them.  If it is the code of the end of a block, which is possible with tables made for the image, any flat image may have them.
    """
    luma, tables = STANDARD, dict[int, int]()
    for marker, start, end in segments(jpeg):
        if marker == 0xC4:
            tables |= _codes_of_zeros(jpeg[start:end])
        elif marker in FRAMES and marker not in HUFFMAN:
            return ""
        elif marker == SOS and end - start >= MIN_HEADER:
            luma = tables.get(AC | jpeg[start + 2] & 15, STANDARD)
            zeros = jpeg.find(bytes(MAX_ZEROS), end)
            if zeros < 0 or luma == END_OF_BLOCK:
                return ""
            if jpeg[zeros : scan_end(jpeg, end)].strip(b"\x00"):  # else they come after the image data
                return f"it contains {MAX_ZEROS} zero bytes in a row, which no image has"
    return ""


def _codes_of_zeros(tables: bytes) -> dict[int, int]:
    """For each Huffman table in a segment, by its class and number: the symbol of its first code, which is all zeros."""
    found, at = dict[int, int](), 0
    while at + 17 < len(tables):
        found[tables[at]] = tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])
    return found


def missing(jpeg: bytes) -> str:
    """Whether scans of a JPEG are missing, in words; "" if its scans contain all coefficients."""
    bits = dict[int, list[int]]()  # for each component and coefficient: the lowest bit that a scan contains
    progressive, scans = False, 0
    for marker, start, end in segments(jpeg, whole=True):
        content = jpeg[start:end]
        if len(content) < MIN_HEADER:
            continue
        if marker in FRAMES and not bits:
            progressive = marker in PROGRESSIVE
            bits = {component: [UNKNOWN] * 64 for component in content[6::3]}
        elif marker == SOS:
            scans += 1
            first, last, low = (
                (content[-3], min(content[-2], 63), content[-1] & 15) if progressive else ALL_BITS
            )
            scanned = content[1:-3:2]
            if not progressive and set(scanned) == set(bits):
                return ""  # one scan of all components: nearly every JPEG
            for component in scanned:
                if component in bits:
                    bits[component][first : last + 1] = [low] * (last + 1 - first)
    if not any(any(known) for known in bits.values()):
        return ""
    kind = "it is a progressive JPEG" if progressive else "it is a JPEG"
    return f"{kind} of which only the first {scans} scan{'s are' if scans > 1 else ' is'} present"


def tidied(jpeg: bytes) -> Iterator[bytes]:
    """The JPEG without harmless faults: one variant for each number of zeros that may belong to its last scan."""
    found = [
        (marker, start, end)
        for marker, start, end in segments(jpeg, whole=True)
        if marker in NEEDED and (end - start >= MIN_HEADER or marker not in (SOS, *FRAMES))
    ]
    if not found or found[-1][0] != SOS:
        return
    if any(marker in ARITHMETIC for marker, _, _ in found) and scan_end(jpeg, found[-1][2]) == len(jpeg):
        return  # an arithmetic scan that ends too early is read as zeros, without a warning
    sequential = not any(marker in PROGRESSIVE for marker, _, _ in found)
    out, scan = bytearray([0xFF, SOI]), b""
    for marker, start, end in found:
        content = jpeg[start:end]
        if marker in FRAMES and content[5] in (
            1,
            3,
        ):  # a JPEG that stores RGB is never kept, so JFIF cannot change its meaning
            out += JFIF
        if marker == SOS and sequential:
            content = content[:-3] + bytes(ALL_BITS)
        scan = jpeg[end : scan_end(jpeg, end)] if marker == SOS else b""
        out += bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content + scan
    full = len(scan.rstrip(b"\x00"))
    full += scan[:full].endswith(b"\xff")  # FF 00 is a byte of the scan
    zeros = len(scan) - full
    for kept in range(min(zeros, 2) + 1):  # a Huffman code ends with two zero bytes at most
        yield bytes(out[: len(out) - zeros + kept]) + bytes([0xFF, EOI])
