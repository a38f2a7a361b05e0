"""Huffman decoding of three streams in turn on one core: while one waits, another uses the core.

Where a symbol starts depends on the symbol before it (shift, look-up, shift: some 8 cycles, in which a core could run 40
instructions).  Restart intervals are independent streams, and so are the samples of a batch.

93 of 100 symbols take 14 instructions: one look-up gives a symbol's bits, by how many coefficients it moves on, and its coefficient.  All that
is rarer stays out of that path: bits are refilled once in SYMBOLS symbols, and a long symbol or the end of a block refills its own.

**Why no bytes can make it read or write elsewhere.** A unit is a known number of blocks.  Each symbol moves its block on by at
least one coefficient, so a unit ends after 64 symbols a block, of at most MAX_SYMBOL_BITS bits each.  Everything that is read is
therefore within UNIT_BYTES of the unit's first byte, and the buffer has as many bytes after its last one.  A coefficient is stored only where
its place is inside the block.  A symbol that leads beyond it ends the unit as BROKEN; reading beyond the stream's end is detected when
the unit is complete.  Such a sample is then decoded by libjpeg-turbo.
"""

from __future__ import annotations

import numpy as np

from ..kernel_cache import inlined, kernel
from .huffman import APART, FAST_BITS, MAX_SYMBOL_BITS, PLACES, long_code
from .idct import LANES as BLOCKS
from .memory import (
    load32,
    load64,
    load64_swapped,
    load_int,
    rarely,
    sign_mask,
    store16,
    store64,
    trailing_zeros,
)

STREAMS = 3
REFILLED = 56
"""Bits that a refill leaves at least."""
SYMBOLS = REFILLED // FAST_BITS
"""Of one look-up each, between two refills."""
assert 2 * MAX_SYMBOL_BITS <= REFILLED
assert 2 * BLOCKS == 8 * PLACES, "addresses of coefficients are 8 times their places"
UNIT_MCUS = 8
MAX_MCU_BLOCKS = 6
UNIT_BLOCKS = UNIT_MCUS * MAX_MCU_BLOCKS
UNIT_BYTES = (UNIT_BLOCKS * 64 * MAX_SYMBOL_BITS + 7) // 8 + 8

SCRIPT_FIELDS = 4  # of a block: addresses of its DC table (0: there is no such block), AC table, coefficients, and its component's DC
SCRIPT_STRIDE = 8 * SCRIPT_FIELDS

POSITION, PLACE, SCRIPT, BROKEN = range(4)
"""A stream's fields: the address of the next bit (8 times its byte's), the place of the last coefficient in its block (PLACES each),
the address of the block's line in the script, and whether a symbol led beyond its block."""

U64, I64 = np.uint64, np.int64
U0, U1, U2, U3, U7, U8, U16, U24, U63, U255 = (np.uint64(k) for k in (0, 1, 2, 3, 7, 8, 16, 24, 63, 255))
ONES, TOP = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(64 - FAST_BITS)
STRIDE, IS_APART = np.uint64(SCRIPT_STRIDE), np.uint64(APART)
MOST = np.uint64(REFILLED - (SYMBOLS - 1) * FAST_BITS)
"""Bits that a refilled word can lose to one symbol, and still has enough for the others before the next refill."""
FIRST_PLACE, LAST_PLACE = 63 * PLACES - 1, -1
"""Of a block's DC and of its last coefficient.  Places count down, so that one subtraction also tells that a block ends: it leaves a negative
number, which is LAST_PLACE, a multiple of PLACES (the code of a block's end), or that of a code which leads beyond the block."""
TO_MAGNITUDES = 24
"""Bytes from a component's last DC coefficient to the bitwise or of the magnitudes of all."""


@inlined
def bits_at(position):
    """The bits at a bit's address, 56 or more at the top of a word, and below them a 1 that tells how many are gone (``next_bit``)."""
    return position >> U3, (load64_swapped(position >> U3) | U1) << (position & U7)


@inlined
def next_bit(byte, word):
    """The address of a word's next bit. byte: the address that it was loaded from."""
    return (byte << U3) + U64(trailing_zeros(word))


@inlined
def refill(byte, word):
    """A word of the bits that follow those that are gone. -> its byte's address, the word"""
    gone = U64(trailing_zeros(word))
    byte += gone >> U3
    return byte, (load64_swapped(byte) | U1) << (gone & U7)


@inlined
def look_up(word, table):
    """The entry of the code at the top of a word."""
    return load32(table + ((word >> TOP) << U2))


@inlined
def number_after(entry, word):
    """The number that follows a code at the top of a word, of an entry that holds them apart. -> as uint64, in two's complement"""
    rest = word << ((entry >> U16) & U63)
    unused = (entry >> U24) & U63
    # A number that begins with a 0 is negative (T.81, F.2.2.1).
    return ((rest >> U1) >> unused) + (~sign_mask(rest) & ((ONES << (U63 - unused)) + U1))


@inlined
def begin_block(script, byte, word):
    """Decode a block's DC coefficient, of a refilled word. -> the address and the word after it, the block's place

    Args:
        script: address of the block's line.
    """
    table = load64(script)
    entry = look_up(word, table)
    if rarely(entry == U0):
        entry = long_code(table, word)
    total = load64(script + U24)
    value = load64(total) + number_after(entry, word)
    store64(total, value)
    store64(total + U64(TO_MAGNITUDES), load64(total + U64(TO_MAGNITUDES)) | (value ^ sign_mask(value)))
    store16(load64(script + U16) + U64(8 * FIRST_PLACE + 8), value)
    word <<= entry & U63
    if rarely(entry & U63 > MOST):
        byte, word = refill(byte, word)
    # Of a code that is none, NO_CODE, a place from which the next symbol leads to no valid end.
    return byte, word, I64(FIRST_PLACE + PLACES) - I64((entry >> U8) & U255)


@inlined
def step(at, byte, word, place, table, block):
    """Decode one symbol. -> the same, one symbol on; whether the unit is complete. at: address of the stream's fields"""
    entry = look_up(word, table)
    if rarely(entry & IS_APART != U0):
        byte, word = refill(byte, word)
        if rarely(entry == IS_APART):
            entry = long_code(table, word)
        value = number_after(entry, word)
        word <<= entry & U63
        if rarely(entry & U63 > MOST):
            byte, word = refill(byte, word)
    else:
        word <<= entry & U63
        value = entry >> U16
    place -= I64((entry >> U8) & U255)
    if not rarely(place < 0):
        store16(block + (U64(place) << U3) + U8, value)
        return byte, word, place, table, block, False
    if rarely(place & 3 != 0):
        if place != LAST_PLACE:
            store64(at + U64(8 * BROKEN), U1)
            return byte, word, place, table, block, True
        store16(block, value)
    script = load64(at + U64(8 * SCRIPT)) + STRIDE
    store64(at + U64(8 * SCRIPT), script)
    if rarely(load64(script) == U0):
        return byte, word, place, table, block, True
    byte, word = refill(byte, word)
    byte, word, place = begin_block(script, byte, word)
    return byte, word, place, load64(script + U8), load64(script + U16), False


@kernel
def run_streams(streams, stride):
    """Decode three streams in turn until a unit of one of them is complete; returns which.

    Args:
        streams: address (int64) of the first one's fields.
        stride: bytes from one stream's fields to the next one's.
    """
    at0, at1, at2 = U64(streams), U64(streams + stride), U64(streams + 2 * stride)
    byte0, word0, place0, table0, block0 = resume(at0)
    byte1, word1, place1, table1, block1 = resume(at1)
    byte2, word2, place2, table2, block2 = resume(at2)
    complete = -1
    while complete < 0:
        byte0, word0 = refill(byte0, word0)
        byte1, word1 = refill(byte1, word1)
        byte2, word2 = refill(byte2, word2)
        for _ in range(SYMBOLS):
            byte0, word0, place0, table0, block0, ended = step(at0, byte0, word0, place0, table0, block0)
            if ended:
                complete = 0
                break
            byte1, word1, place1, table1, block1, ended = step(at1, byte1, word1, place1, table1, block1)
            if ended:
                complete = 1
                break
            byte2, word2, place2, table2, block2, ended = step(at2, byte2, word2, place2, table2, block2)
            if ended:
                complete = 2
                break
    suspend(at0, byte0, word0, place0)
    suspend(at1, byte1, word1, place1)
    suspend(at2, byte2, word2, place2)
    return complete


@kernel
def run_stream(stream):
    """Decode a stream alone until its unit is complete. stream: address (int64) of its fields."""
    at = U64(stream)
    byte, word, place, table, block = resume(at)
    ended = False
    while not ended:
        byte, word = refill(byte, word)
        for _ in range(SYMBOLS):
            byte, word, place, table, block, ended = step(at, byte, word, place, table, block)
            if ended:
                break
    suspend(at, byte, word, place)


@kernel
def begin_first_block(stream):
    """Decode the DC coefficient of a unit's first block. stream: address (int64) of its fields; the script is written."""
    at = U64(stream)
    script = load64(at + U64(8 * SCRIPT))
    byte, word = bits_at(load64(at))
    byte, word, place = begin_block(script, byte, word)
    suspend(at, byte, word, place)


@inlined
def resume(at):
    """A stream's (byte, word, place, table, block) from its fields."""
    script = load64(at + U64(8 * SCRIPT))
    byte, word = bits_at(load64(at))
    return byte, word, load_int(at + U64(8 * PLACE)), load64(script + U8), load64(script + U16)


@inlined
def suspend(at, byte, word, place):
    """Write what has changed back to a stream's fields."""
    store64(at, next_bit(byte, word))
    store64(at + U64(8 * PLACE), place)
