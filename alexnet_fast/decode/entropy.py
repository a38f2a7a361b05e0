"""Huffman decoding of three streams in turn on one core: while one waits, another uses the core.

Where a symbol starts depends on the symbol before it (load, byte swap, shift, look-up: some 16 cycles, in which a core could run 60
instructions).  Restart intervals are independent streams, and so are the samples of a batch.  Measured (Zen 4, an image of 500 px, two symbols for each
load): one stream at a time takes 268 us, two or three in turn 188, four 197; three hide other processors' longer waits, too.

**Why no bytes can make it read or write elsewhere.** A unit is a known number of blocks.  Each symbol moves its block on by at
least one coefficient, so a unit ends after 64 symbols a block, of at most MAX_SYMBOL_BITS bits each.  Everything that is read is
therefore within UNIT_BYTES of the unit's first byte, and the buffer has as many bytes after its last one.  A coefficient is stored at
its block's address plus ``zigzag_offsets()[place]``; a place is at most 62 + END_OF_BLOCK, the table has an entry for each, and each entry is inside the block.
Reading beyond the stream's end and places beyond the block are detected when the unit is complete; the sample is then decoded by libjpeg-turbo.
"""

from __future__ import annotations

import numpy as np

from ..kernel_cache import inlined, kernel
from .huffman import DONE as DONE_BIT
from .huffman import END_OF_BLOCK, FAST_BITS, MAX_SYMBOL_BITS, long_code
from .idct import LANES as BLOCKS
from .memory import load16, load32, load64, load64_swapped, load_int, sign_mask, store16, store64

STREAMS = 3
UNIT_MCUS = 8
MAX_MCU_BLOCKS = 6
UNIT_BLOCKS = UNIT_MCUS * MAX_MCU_BLOCKS
UNIT_BYTES = (UNIT_BLOCKS * 64 * MAX_SYMBOL_BITS + 7) // 8 + 8

SCRIPT_FIELDS = 4  # of a block: addresses of its DC and AC tables, and its own; its component
SCRIPT_STRIDE = 8 * SCRIPT_FIELDS

POSITION, PLACE, SCRIPT, SEEN = range(4)
"""A stream's fields: the address of the next bit (8 times its byte's), the place of the last coefficient in its block (-1: none yet),
the address of the block's line in the script, and the bitwise or of the places at which blocks ended."""

# fmt: off
NATURAL = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
]
# fmt: on
"""The place of coefficient k of the zigzag in a block, counted row by row (T.81, figure 5)."""

U64, I64 = np.uint64, np.int64
U0, U1, U2, U3, U7, U8, U16, U24, U63 = (np.uint64(k) for k in (0, 1, 2, 3, 7, 8, 16, 24, 63))
ONES, TOP = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(64 - FAST_BITS)
STRIDE = np.uint64(SCRIPT_STRIDE)
DONE = np.uint64(DONE_BIT)


def zigzag_offsets() -> np.ndarray:
    """The offset in bytes of each place's coefficient from that of the first, in a group of blocks. (63 + END_OF_BLOCK,) uint16.

    Places beyond the block lead to its last coefficient; what is written there is either the 0 that it holds (the end of a block) or never used.
    """
    offsets = np.full(63 + END_OF_BLOCK, 63 * 2 * BLOCKS, np.uint16)
    offsets[:64] = np.array(NATURAL) * 2 * BLOCKS
    return offsets


@inlined
def refill(position):
    """The 57 bits or more at a bit's address, at the top of a word."""
    return load64_swapped(position >> U3) << (position & U7)


@inlined
def step(word, position, place, script, table, block, seen, zigzag):
    """Decode a symbol at the top of ``word`` into its block. -> the same, one symbol on; whether the unit is complete"""
    entry = load32(table + ((word >> TOP) << U2))
    if entry & DONE:
        value = entry >> U8
    else:
        if entry == U0:
            entry = long_code(table, word)
        rest = word << ((entry >> U8) & U63)
        unused = (entry >> U16) & U63
        value = (rest >> U1) >> unused
        # A number that begins with a 0 is negative (T.81, F.2.2.1).
        value += ~sign_mask(rest) & ((ONES << (U63 - unused)) + U1)
    bits = entry & U63
    position += bits
    word <<= bits
    place += I64(entry >> U24)
    store16(block + load16(zigzag + (U64(place) << U1)), value)
    if place > 62:
        script += STRIDE
        table = load64(script)
        return word, position, I64(-1), script, table, load64(script + U16), seen | place, table == U0
    return word, position, place, script, load64(script + U8), block, seen, False


@kernel
def run_streams(streams, stride, zigzag):
    """Decode three streams in turn until a unit of one of them is complete; returns which.

    Args:
        streams: address (int64) of the first one's fields.
        stride: bytes from one stream's fields to the next one's.
        zigzag: address (uint64) of ``zigzag_offsets``.
    """
    at0, at1, at2 = streams, streams + stride, streams + 2 * stride
    position0, place0, script0, table0, block0, seen0 = resume(at0)
    position1, place1, script1, table1, block1, seen1 = resume(at1)
    position2, place2, script2, table2, block2, seen2 = resume(at2)
    complete = 0
    while True:
        word0, word1, word2 = refill(position0), refill(position1), refill(position2)
        # Two symbols a refill: they take at most 2 * MAX_SYMBOL_BITS of its 57 bits.
        word0, position0, place0, script0, table0, block0, seen0, ended = step(
            word0, position0, place0, script0, table0, block0, seen0, zigzag
        )
        if ended:
            complete = 0
            break
        word1, position1, place1, script1, table1, block1, seen1, ended = step(
            word1, position1, place1, script1, table1, block1, seen1, zigzag
        )
        if ended:
            complete = 1
            break
        word2, position2, place2, script2, table2, block2, seen2, ended = step(
            word2, position2, place2, script2, table2, block2, seen2, zigzag
        )
        if ended:
            complete = 2
            break
        word0, position0, place0, script0, table0, block0, seen0, ended = step(
            word0, position0, place0, script0, table0, block0, seen0, zigzag
        )
        if ended:
            complete = 0
            break
        word1, position1, place1, script1, table1, block1, seen1, ended = step(
            word1, position1, place1, script1, table1, block1, seen1, zigzag
        )
        if ended:
            complete = 1
            break
        word2, position2, place2, script2, table2, block2, seen2, ended = step(
            word2, position2, place2, script2, table2, block2, seen2, zigzag
        )
        if ended:
            complete = 2
            break
    suspend(at0, position0, place0, script0, seen0)
    suspend(at1, position1, place1, script1, seen1)
    suspend(at2, position2, place2, script2, seen2)
    return complete


@kernel
def run_stream(at, zigzag):
    """Decode a stream alone until its unit is complete. at: address (int64) of its fields."""
    position, place, script, table, block, seen = resume(at)
    ended = False
    while not ended:
        _, position, place, script, table, block, seen, ended = step(
            refill(position), position, place, script, table, block, seen, zigzag
        )
    suspend(at, position, place, script, seen)


@inlined
def resume(at):
    """A stream's (position, place, script, table, block, seen) from its fields."""
    script, place = load64(at + 8 * SCRIPT), load_int(at + 8 * PLACE)
    table = load64(script + (U0 if place < 0 else U8))
    return load64(at + 8 * POSITION), place, script, table, load64(script + U16), load_int(at + 8 * SEEN)


@inlined
def suspend(at, position, place, script, seen):
    """Write what has changed back to a stream's fields."""
    store64(at + 8 * POSITION, position)
    store64(at + 8 * PLACE, place)
    store64(at + 8 * SCRIPT, script)
    store64(at + 8 * SEEN, seen)
