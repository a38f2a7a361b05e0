"""Units of a stream: which blocks come next, where their coefficients and their pixels go.

A unit is up to 8 MCUs of one row.  Its *script* lists its blocks for ``entropy``; their coefficients are gathered in groups of 16 for
``idct``, luma and chroma apart.  Blocks that the crop does not touch are decoded, since the next ones follow them, but not transformed.
"""

from __future__ import annotations

import numpy as np

from ..kernel_cache import inlined, kernel
from .entropy import (
    BROKEN,
    POSITION,
    SCRIPT,
    SCRIPT_STRIDE,
    UNIT_BLOCKS,
    UNIT_BYTES,
    UNIT_MCUS,
    begin_first_block,
)
from .idct import GROUP_BYTES, LANES, MAX_COEFFICIENT, inverse_dct
from .memory import (
    STEP,
    copy_step,
    get,
    load8,
    load16,
    load16_signed,
    put,
    store8,
    store64,
    trailing_zeros,
)
from .workspace import (
    A_TILE,
    ACROSS,
    BOTTOM,
    BUFFER_AT,
    BUFFER_BYTES,
    CHROMA,
    CHROMA_BLOCKS,
    CHROMA_GROUPS,
    COMPONENTS,
    DC,
    DC_SEEN,
    DOWN,
    END,
    ENDS,
    GROUPS_AT,
    INTERVAL,
    LEFT,
    LIMIT,
    LIVE,
    LUMA,
    LUMA_BLOCKS,
    LUMA_GROUPS,
    MCUS,
    NOTHING,
    PLANE,
    QUANTISERS_AT,
    RESTARTS,
    RIGHT,
    SCRIPT_AT,
    SOURCE,
    SOURCE_END,
    STRIDE,
    TABLES,
    TARGETS_AT,
    TO_RESTART,
    UNIT_END,
    UNUSED_AT,
    X,
    Y,
)

U64, I64 = np.uint64, np.int64

FAILED, GOES_ON, COMPLETE = range(3)
READ_AHEAD_BITS = 128  # more than libjpeg-turbo reads before it needs them
EOI, RST0 = 0xD9FF, 0xD0FF  # as a little-endian number


@kernel
def unstuff(source, source_end, limit, target, target_end):
    """Copy entropy-coded bytes, FF 00 as FF, until either end or a marker. All are addresses (int64).

    Args:
        limit: bytes up to here can be read.
        target_end: STEP bytes after it can be written.

    Returns:
        Where in the source and in the target it stopped, and whether that is at an FF that no 00 follows.
    """
    while source < source_end and target < target_end:
        if source + STEP > limit:
            byte = load8(source)
            if byte == U64(0xFF):
                if source + 1 >= source_end or load8(source + 1) != U64(0):
                    return source, target, True
                source += 1
            store8(target, byte)
            source += 1
            target += 1
            continue
        found = copy_step(source, target)
        count = min(I64(STEP), source_end - source)
        found &= (U64(1) << U64(count)) - U64(1)
        if found == U64(0):
            source += count
            target += count
        else:
            before = trailing_zeros(found)
            if source + before + 1 >= source_end or load8(source + before + 1) != U64(0):
                return source + before, target + before, True
            source += before + 2
            target += before + 1
    return source, target, False


@kernel
def top_up(stream):
    """Have the next unit's bytes, without stuffing, in the stream's buffer, as far as a marker; False if a tile has one inside."""
    position, end = get(stream, POSITION), get(stream, END) >> 3
    at, source, source_end = position >> 3, get(stream, SOURCE), get(stream, SOURCE_END)
    if end - at >= UNIT_BYTES or source >= source_end:
        return True
    buffer = get(stream, BUFFER_AT)
    for offset in range(0, end - at, STEP):
        copy_step(at + offset, buffer + offset)
    source, target, marker = unstuff(
        source, source_end, get(stream, LIMIT), buffer + end - at, buffer + BUFFER_BYTES
    )
    put(stream, POSITION, buffer * 8 + (position & 7))
    put(stream, END, target * 8)
    put(stream, SOURCE, source)
    return not marker or get(stream, ENDS) != A_TILE


@kernel
def begin_stream(stream, source, source_end, limit, left, right, top, bottom, ends, interval):
    """Let a stream begin at ``source`` with the MCUs [left, right) x [top, bottom) of its picture."""
    put(stream, ENDS, ends)
    put(stream, INTERVAL, interval)
    put(stream, TO_RESTART, interval)
    put(stream, RESTARTS, 0)
    put(stream, SOURCE, source)
    put(stream, SOURCE_END, source_end)
    put(stream, LIMIT, limit)
    put(stream, X, left)
    put(stream, Y, top)
    put(stream, LEFT, left)
    put(stream, RIGHT, right)
    put(stream, BOTTOM, bottom)
    for component in range(3):
        put(stream, DC + component, 0)
        put(stream, DC_SEEN + component, 0)
    put(stream, POSITION, get(stream, BUFFER_AT) * 8)
    put(stream, END, get(stream, BUFFER_AT) * 8)
    put(stream, LIVE, 1)


@kernel
def begin_picture(stream):
    """Write what all units of a stream's picture have in common into its script: each block's tables."""
    line = get(stream, SCRIPT_AT)
    for _ in range(UNIT_MCUS):
        for component in range(get(stream, COMPONENTS)):
            count = get(stream, ACROSS) * get(stream, DOWN) if component == 0 else 1
            for _ in range(count):
                put(line, 0, get(stream, TABLES + 2 * component))
                put(line, 1, get(stream, TABLES + 2 * component + 1))
                put(line, 3, stream + 8 * (DC + component))
                line += SCRIPT_STRIDE
    put(stream, UNIT_END, get(stream, SCRIPT_AT) + UNIT_BLOCKS * SCRIPT_STRIDE)


@kernel
def begin_unit(stream):
    """Write the script of a stream's next unit; whether its bytes are in order."""
    if not top_up(stream):
        return False
    x, y, script = get(stream, X), get(stream, Y), get(stream, SCRIPT_AT)
    mcus = min(UNIT_MCUS, get(stream, RIGHT) - x)
    if get(stream, INTERVAL):
        mcus = min(mcus, get(stream, TO_RESTART))
    put(stream, MCUS, mcus)
    across, down = get(stream, ACROSS), get(stream, DOWN)
    chroma = get(stream, COMPONENTS) > 1
    mcu_blocks = across * down + (2 if chroma else 0)
    put(stream, SCRIPT, script)
    put(stream, BROKEN, 0)
    put(get(stream, UNIT_END), 0, get(stream, TABLES))
    put(script + mcus * mcu_blocks * SCRIPT_STRIDE, 0, 0)
    put(stream, UNIT_END, script + mcus * mcu_blocks * SCRIPT_STRIDE)
    skipped = place_blocks(
        stream,
        0,
        script,
        mcu_blocks,
        mcus,
        x,
        y,
        across,
        down,
        LUMA,
        0,
        LUMA_GROUPS,
        LUMA_BLOCKS,
        get(stream, STRIDE),
        0,
    )
    if chroma:
        for component in range(1, 3):
            line = script + (across * down + component - 1) * SCRIPT_STRIDE
            skipped = place_blocks(
                stream,
                component,
                line,
                mcu_blocks,
                mcus,
                x,
                y,
                1,
                1,
                CHROMA,
                LUMA_GROUPS,
                CHROMA_GROUPS,
                CHROMA_BLOCKS,
                get(stream, STRIDE + 1),
                skipped,
            )
    begin_first_block(stream)
    return True


@inlined
def place_blocks(
    stream,
    component,
    line,
    mcu_blocks,
    mcus,
    x,
    y,
    across,
    down,
    waiting,
    first,
    groups,
    blocks,
    stride,
    skipped,
):
    """Give a component's blocks of a unit their places. -> how many blocks of the unit are not needed so far

    Args:
        line: address of the component's first block in the script.
        across, down: its blocks of an MCU.
        waiting, blocks: luma's or chroma's fields.
        first, groups: its groups.
    """
    coefficients = get(stream, GROUPS_AT) + first * GROUP_BYTES
    targets, plane = get(stream, TARGETS_AT) + 8 * LANES * first, get(stream, PLANE + component)
    left, right = get(stream, blocks), get(stream, blocks + 1)
    top, bottom = get(stream, blocks + 2), get(stream, blocks + 3)
    used = get(stream, waiting)
    slot = used + get(stream, waiting + 1) * LANES
    for mcu in range(mcus):
        at = line
        for v in range(y * down, y * down + down):
            for h in range((x + mcu) * across, (x + mcu) * across + across):
                if left <= h < right and top <= v < bottom:
                    if slot >= groups * LANES:
                        slot -= groups * LANES
                    put(at, 2, coefficients + place_of(slot))
                    put(targets, slot, plane + (v * stride + h) * 8)
                    slot += 1
                    used += 1
                else:
                    put(at, 2, get(stream, UNUSED_AT) + place_of(skipped))
                    skipped += 1
                at += SCRIPT_STRIDE
        line += mcu_blocks * SCRIPT_STRIDE
    put(stream, waiting, used)
    return skipped


@inlined
def place_of(slot):
    """Offset of a block's first coefficient among groups."""
    return (slot >> 4) * GROUP_BYTES + (slot & 15) * 2


@kernel
def end_unit(stream):
    """Check a complete unit, and transform the groups that are full; whether all is well.

    Afterwards the stream is at its next unit, or at its end if Y has reached BOTTOM.
    """
    if get(stream, POSITION) > get(stream, END) or get(stream, BROKEN):
        return False
    luma, chroma = get(stream, QUANTISERS_AT), get(stream, QUANTISERS_AT) + 128
    if get(stream, DC_SEEN) * load16_signed(luma) > MAX_COEFFICIENT:
        return False
    if (get(stream, DC_SEEN + 1) | get(stream, DC_SEEN + 2)) * load16_signed(chroma) > MAX_COEFFICIENT:
        return False
    large = transform_full(stream, LUMA, 0, LUMA_GROUPS) | transform_full(
        stream, CHROMA, LUMA_GROUPS, CHROMA_GROUPS
    )
    put(stream, TO_RESTART, get(stream, TO_RESTART) - get(stream, MCUS))
    x = get(stream, X) + get(stream, MCUS)
    if x >= get(stream, RIGHT):
        x = get(stream, LEFT)
        put(stream, Y, get(stream, Y) + 1)
    put(stream, X, x)
    return large == U64(0)


@kernel
def transform_full(stream, waiting, begin, groups):
    """Transform those of luma's or chroma's groups that are full. -> as ``inverse_dct``"""
    used, first, large = get(stream, waiting), get(stream, waiting + 1), U64(0)
    while used >= LANES:
        large |= transform(stream, begin + first, waiting == CHROMA)
        used -= LANES
        first = first + 1 if first + 1 < groups else 0
    put(stream, waiting, used)
    put(stream, waiting + 1, first if used else 0)  # so that the same memory is used again and again
    return large


@kernel
def transform(stream, group, chroma):
    return inverse_dct(
        U64(get(stream, GROUPS_AT) + group * GROUP_BYTES),
        U64(get(stream, QUANTISERS_AT) + 128 * chroma),
        U64(get(stream, TARGETS_AT) + 8 * LANES * group),
        U64(get(stream, STRIDE + chroma)),
    )


@kernel
def advance(stream):
    """A unit is complete: check it, and begin the next one. -> GOES_ON, COMPLETE (it was the last) or FAILED"""
    if not end_unit(stream):
        return FAILED
    if get(stream, Y) == get(stream, BOTTOM):
        return COMPLETE if ends_well(stream) else FAILED
    if get(stream, INTERVAL) and get(stream, TO_RESTART) == 0 and not restart(stream):
        return FAILED
    return GOES_ON if begin_unit(stream) else FAILED


@kernel
def is_before(stream, marker):
    """Whether less than a byte is left before a marker (or, in a tile, its end)."""
    source = get(stream, SOURCE)
    if get(stream, END) - get(stream, POSITION) >= 8:
        return False
    if get(stream, ENDS) == A_TILE:
        return source == get(stream, SOURCE_END)
    return source + 2 <= get(stream, LIMIT) and load16(source) == U64(marker)


@kernel
def ends_well(stream):
    """Whether libjpeg-turbo accepts what follows a stream's last block. False also if only libjpeg-turbo can tell."""
    if get(stream, ENDS) != NOTHING:
        return is_before(stream, EOI)
    # It reads on to the next marker, however far below the crop.  Bytes before that are fine; else the marker must be the image's end.
    source, last = get(stream, SOURCE), get(stream, LIMIT) - 2
    if source > last:
        return False
    if load8(source) == U64(0xFF) and load8(source + 1) != U64(0):
        return load16(source) == U64(EOI)
    return get(stream, END) - get(stream, POSITION) >= READ_AHEAD_BITS and load16(last) == U64(EOI)


@kernel
def restart(stream):
    """Continue after the restart marker at which a stream has arrived; False if it has not, or if it is the wrong one."""
    number = get(stream, RESTARTS)
    if not is_before(stream, RST0 + ((number & 7) << 8)):
        return False
    put(stream, RESTARTS, number + 1)
    put(stream, TO_RESTART, get(stream, INTERVAL))
    put(stream, SOURCE, get(stream, SOURCE) + 2)
    put(stream, POSITION, get(stream, BUFFER_AT) * 8)
    put(stream, END, get(stream, BUFFER_AT) * 8)
    for component in range(3):
        put(stream, DC + component, 0)
    return True


@kernel
def flush(stream, spare):
    """Transform the groups that are not full; empty blocks go to 8 rows at the address ``spare``. -> whether all is well"""
    put(stream, LIVE, 0)
    large = U64(0)
    for chroma in range(2):
        waiting = CHROMA if chroma else LUMA
        used, group = get(stream, waiting), get(stream, waiting + 1) + (LUMA_GROUPS if chroma else 0)
        if used:
            for lane in range(used, LANES):
                store64(get(stream, TARGETS_AT) + 8 * (group * LANES + lane), spare)
            large |= transform(stream, group, chroma)
        put(stream, waiting, 0)
        put(stream, waiting + 1, 0)
    return large == U64(0)
