"""The scan: every block up to the region's last row is read, those of the region are transformed."""

from __future__ import annotations

import numpy as np

from headrace.pipeline.compiled import inlined, kernel, kernel_part
from headrace.pipeline.jpeg.colour import convert_region
from headrace.pipeline.jpeg.huffman import read_block, skip_block
from headrace.pipeline.jpeg.memory import load_int16
from headrace.pipeline.jpeg.scratch import DAMAGED, DECODED, TABLE_SIZE
from headrace.pipeline.jpeg.transform import PAIR, PAIR_ROW, clear_pair, fill_block, inverse_dct

# Where a block's coefficients add up to no more than this (without sign), nothing overflows the 16 bits in which sums
# are held between the passes of the inverse DCT (4 * 1.387 * 5900 < 2**15). Damaged files have more.
_LARGEST_BLOCK = 5900


@inlined
def unread_bits(available, position, end):
    """Bits between what has been decoded and the segment's last byte; negative beyond it."""
    return 8 * end - (8 * position - available)


@kernel
def decode_scan(top, left, height, width, count, restart_interval, segments, scratch, image):
    components = scratch.components
    rows, columns = image.shape[0], image.shape[1]
    mcu_height, mcu_width = 8 * components[0, 2], 8 * components[0, 1]
    mcu_columns = (columns + mcu_width - 1) // mcu_width
    mcu_rows = (rows + mcu_height - 1) // mcu_height
    size = 0
    for c in range(count):
        components[c, 6] = size
        size += 64 * mcu_rows * mcu_columns * components[c, 1] * components[c, 2]
    mcu_blocks = _place_blocks(count, mcu_columns, scratch)
    # Chroma upsampling looks one chroma sample beyond the region on each side.
    begin_row = max(0, top - 2) // mcu_height
    end_row = (min(rows, top + height + 2) + mcu_height - 1) // mcu_height
    begin_column = max(0, left - 2) // mcu_width
    end_column = (min(columns, left + width + 2) + mcu_width - 1) // mcu_width

    expected_segments = 1 if restart_interval == 0 else -(-(mcu_rows * mcu_columns) // restart_interval)
    if segments != expected_segments:
        return DAMAGED
    # The loop works on addresses: passing arrays from call to call would cost more than a block.
    stream, blocks, zigzag = scratch.stream.ctypes.data, scratch.blocks.ctypes.data, scratch.zigzag.ctypes.data
    segment = 0
    until_restart = restart_interval if restart_interval else mcu_rows * mcu_columns
    bits, available, position = np.uint64(0), np.int64(0), np.int64(0)
    dc_0 = dc_1 = dc_2 = np.int64(0)
    for mcu_row in range(end_row):
        for mcu_column in range(mcu_columns):
            if until_restart == 0:
                if unread_bits(available, position, scratch.segments[segment + 1]) >= 8:
                    return DAMAGED  # bytes that no MCU has used
                segment += 1
                bits, available, position = np.uint64(0), np.int64(0), scratch.segments[segment]
                dc_0 = dc_1 = dc_2 = np.int64(0)
                until_restart = restart_interval
            until_restart -= 1
            wanted = mcu_row >= begin_row and begin_column <= mcu_column < end_column
            number = 0
            if wanted:
                clear_pair(blocks)
                if mcu_blocks > 2:
                    clear_pair(blocks + PAIR)
                if mcu_blocks > 4:
                    clear_pair(blocks + 2 * PAIR)
            for c in range(count):
                dc_table = scratch.tables.ctypes.data + TABLE_SIZE * components[c, 4]
                ac_table = scratch.tables.ctypes.data + TABLE_SIZE * components[c, 5]
                dc = dc_0 if c == 0 else (dc_1 if c == 1 else dc_2)
                for _ in range(components[c, 1] * components[c, 2]):
                    if wanted:
                        block = blocks + PAIR * (number >> 1) + (PAIR_ROW >> 1) * (number & 1)
                        bits, available, position, dc, last = read_block(
                            stream, bits, available, position, dc, dc_table, ac_table, zigzag, block
                        )
                        scratch.coded[number] = last
                        number += 1
                    else:
                        bits, available, position, dc, last = skip_block(
                            stream, bits, available, position, dc, dc_table, ac_table
                        )
                    if last < 0:
                        return DAMAGED
                if c == 0:
                    dc_0 = dc
                elif c == 1:
                    dc_1 = dc
                else:
                    dc_2 = dc
            if wanted and not _transform_mcu(mcu_row, mcu_column, mcu_blocks, scratch.places, scratch.coded, blocks):
                return DAMAGED
            if unread_bits(available, position, scratch.segments[segment + 1]) < 0:
                return DAMAGED  # read beyond the data
    if end_row == mcu_rows and unread_bits(available, position, scratch.segments[segment + 1]) >= 8:
        return DAMAGED
    convert_region(top, left, height, width, count, mcu_columns, scratch, image)
    return DECODED


@kernel
def _place_blocks(count, mcu_columns, scratch):
    """Fills `scratch.places`; returns the blocks of an MCU."""
    places, number = scratch.places, 0
    for c in range(count):
        across, down = scratch.components[c, 1], scratch.components[c, 2]
        pitch = 8 * across * mcu_columns
        plane = scratch.planes.ctypes.data + scratch.components[c, 6]
        for v in range(down):
            for h in range(across):
                places[number, 0] = plane + 8 * (pitch * v + h)
                places[number, 1], places[number, 2] = 8 * pitch * down, 8 * across
                places[number, 3], places[number, 4] = pitch, scratch.quantum[scratch.components[c, 3]].ctypes.data
                number += 1
    if number & 1:  # the other half of the last pair goes nowhere
        places[number] = places[number - 1]
        places[number, 0] = scratch.pixels.ctypes.data
        places[number, 1:4] = 0
        scratch.coded[number] = 0
    return number


@kernel_part
def _transform_mcu(mcu_row, mcu_column, mcu_blocks, places, coded, blocks):
    """Samples of an MCU whose coefficients have been read; False where they are larger than any encoder writes.

    Blocks are transformed only when all of an MCU have been read: to load what has just been stored in small pieces
    would make the processor wait.
    """
    weight = 0
    for a in range(0, mcu_blocks, 2):
        pair, b = blocks + PAIR // 2 * a, a + 1
        corner_a = places[a, 0] + mcu_row * places[a, 1] + mcu_column * places[a, 2]
        corner_b = places[b, 0] + mcu_row * places[b, 1] + mcu_column * places[b, 2]
        if coded[a] | coded[b]:
            largest = inverse_dct(pair, places[a, 4], places[b, 4], corner_a, corner_b, places[a, 3], places[b, 3])
        else:
            level_a = load_int16(pair) * load_int16(places[a, 4])
            level_b = load_int16(pair + PAIR_ROW // 2) * load_int16(places[b, 4])
            largest = max(abs(level_a), abs(level_b))
            fill_block(level_a, corner_a, places[a, 3])
            fill_block(level_b, corner_b, places[b, 3])
        weight = max(weight, largest)
    return weight <= _LARGEST_BLOCK
