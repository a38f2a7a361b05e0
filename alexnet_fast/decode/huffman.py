"""Huffman tables of a JPEG that give a code and the number after it in one look-up.

An entry is a uint32: bits 0 to 5 how many bits the code and its number take, 8 to 15 by how much the symbol moves its place on.
Where both lie within FAST_BITS, bits 16 to 31 are the coefficient; which is so for 93 of 100 symbols of an image.  Else bit 7 is set, bits 16 to
21 are the length of the code alone, and 24 to 29 are 63 less the bits of the number.
"""

from __future__ import annotations

import numpy as np

from ..kernel_cache import kernel
from .memory import load32, store32

FAST_BITS = 10
"""Codes up to this length are one look-up. 4 KiB a table: those of a photo all stay in the first-level cache."""
FAST = 1 << FAST_BITS
MAX_LENGTH = 16
MAXCODE, OFFSET, LONG = FAST, FAST + 17, FAST + 34
TABLE_WORDS = LONG + 256
"""uint32 of a table: FAST entries, then for each longer length the last code and the place of its entry, then the longer codes' entries."""
MAX_DC_BITS, MAX_AC_BITS = 11, 10  # of 8-bit pixels' coefficients (T.81, F.1.2)
MAX_DEFINITION = 16 + 256
"""Bytes of a table's definition: counts and symbols."""
MAX_SYMBOL_BITS = MAX_LENGTH + MAX_DC_BITS
APART = 1 << 7
"""Set in an entry of an AC table that does not hold the coefficient; alone in that of a code longer than FAST_BITS."""
PLACES = 4
"""What one coefficient counts in a place, since addresses are a place times 8."""
END_OF_BLOCK, NO_CODE = 255, 254
"""By how much these move a place: beyond the block from any of its places, and to numbers that no coefficient's place has."""

U64, I64, I32 = np.uint64, np.int64, np.int32


@kernel
def entry(length, following, advance):
    """An entry that holds a code and its number apart."""
    return I64(length + following) | APART | I64(advance) << 8 | I64(length) << 16 | I64(63 - following) << 24


@kernel
def no_code():
    """The entry of bits that are no code, or of one that we leave to libjpeg: it leads beyond the block."""
    return entry(1, 0, NO_CODE)


@kernel
def entry_of(length, symbol, is_dc, max_bits):
    """The entry of a code: a DC symbol is a number of bits, an AC symbol a run of zeros and a number of bits."""
    if is_dc:
        return entry(length, symbol, PLACES) if symbol <= MAX_DC_BITS else no_code()
    run, following = symbol >> 4, symbol & 15
    if following == 0 and run != 15:
        return entry(
            length, 0, END_OF_BLOCK
        )  # as libjpeg reads them: runs of blocks are for progressive JPEGs
    return entry(length, following, PLACES * (run + 1)) if following <= max_bits else no_code()


@kernel
def build_table(jpeg, at, is_dc, max_bits, table):
    """Make a table of the 16 counts and the symbols at offset ``at`` of a JPEG.

    Args:
        jpeg: (n,) uint8; the definition is inside it.
        max_bits: the longest AC coefficient that may occur; a longer one is no code.
        table: address (int64) of TABLE_WORDS uint32, out.

    Returns:
        Whether the definition is valid: libjpeg refuses codes that do not fit, a code of only ones, and DC symbols above 15, even if no image uses them.
    """
    for k in range(FAST):
        store32(table + 4 * k, 0 if is_dc else APART)
    code, symbols, long = 0, 0, 0
    for length in range(1, MAX_LENGTH + 1):
        count = I64(jpeg[at + length - 1])
        if code + count >= 1 << length and count:
            return False
        if length > FAST_BITS:
            store32(table + 4 * (MAXCODE + length), code + count if count else 0)  # one more than the last
            store32(table + 4 * (OFFSET + length), long - code)
        for _ in range(count):
            symbol = I64(jpeg[at + 16 + symbols])
            if is_dc and symbol > 15:
                return False
            made = entry_of(length, symbol, is_dc, max_bits)
            symbols += 1
            if length > FAST_BITS:
                store32(table + 4 * (LONG + long), made)
                long += 1
            else:
                spare = FAST_BITS - length
                for following in range(1 << spare):
                    held = made if is_dc else with_number(made, following, spare)
                    store32(table + 4 * (code << spare | following), held)
            code += 1
        code <<= 1
    return True


@kernel
def with_number(made, following, spare):
    """An entry with its coefficient, if the ``spare`` bits ``following`` its code hold the number."""
    bits = 63 - (made >> 24 & 63)
    if bits > spare:
        return made
    value = following >> (spare - bits)
    if bits and not value >> (bits - 1):
        value -= (1 << bits) - 1
    return (made & 0xFF3F) | (value & 0xFFFF) << 16


@kernel
def long_code(table, word):
    """The entry of a code longer than FAST_BITS at the top of ``word``. table: its address."""
    for length in range(FAST_BITS + 1, MAX_LENGTH + 1):
        code = word >> U64(64 - length)
        if code < load32(table + U64(4 * (MAXCODE + length))):
            place = I64(I32(load32(table + U64(4 * (OFFSET + length))))) + I64(code)
            return load32(table + U64(4 * LONG) + (U64(place & 255) << U64(2)))
    return U64(no_code())
