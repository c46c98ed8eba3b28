"""The scan: every block up to the region's last row is read, those of the region are transformed."""

from __future__ import annotations

import numpy as np

from headrace.pipeline.compiled import kernel
from headrace.pipeline.jpeg.colour import convert_region
from headrace.pipeline.jpeg.huffman import read_block, skip_block
from headrace.pipeline.jpeg.memory import load_int32
from headrace.pipeline.jpeg.scratch import DAMAGED, DECODED, PLACES, TABLE_SIZE
from headrace.pipeline.jpeg.transform import fill_block, inverse_dct


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
    # Chroma upsampling looks one chroma sample beyond the region on each side.
    begin_row = max(0, top - 2) // mcu_height
    end_row = (min(rows, top + height + 2) + mcu_height - 1) // mcu_height
    begin_column = max(0, left - 2) // mcu_width
    end_column = (min(columns, left + width + 2) + mcu_width - 1) // mcu_width

    expected_segments = 1 if restart_interval == 0 else -(-(mcu_rows * mcu_columns) // restart_interval)
    if segments != expected_segments:
        return DAMAGED
    # The loop works on addresses: passing arrays from call to call would cost more than a block.
    stream, block, zigzag = scratch.stream.ctypes.data, scratch.block.ctypes.data, scratch.zigzag.ctypes.data
    segment = 0
    until_restart = restart_interval if restart_interval else mcu_rows * mcu_columns
    bits, available, position = np.uint64(0), np.int64(0), np.int64(0)
    dc_0 = dc_1 = dc_2 = np.int64(0)
    for mcu_row in range(end_row):
        for mcu_column in range(mcu_columns):
            if until_restart == 0:
                if 8 * scratch.segments[segment + 1] - (8 * position - available) >= 8:
                    return DAMAGED  # bytes that no MCU has used
                segment += 1
                bits, available, position = np.uint64(0), np.int64(0), scratch.segments[segment]
                dc_0 = dc_1 = dc_2 = np.int64(0)
                until_restart = restart_interval
            until_restart -= 1
            wanted = mcu_row >= begin_row and begin_column <= mcu_column < end_column
            for c in range(count):
                across, down = components[c, 1], components[c, 2]
                pitch = 8 * across * mcu_columns
                plane = scratch.planes.ctypes.data + components[c, 6]
                quantum = scratch.quantum.ctypes.data + 4 * PLACES * components[c, 3]
                dc_table = scratch.tables.ctypes.data + TABLE_SIZE * components[c, 4]
                ac_table = scratch.tables.ctypes.data + TABLE_SIZE * components[c, 5]
                dc = dc_0 if c == 0 else (dc_1 if c == 1 else dc_2)
                for v in range(down):
                    for h in range(across):
                        if wanted:
                            bits, available, position, dc, last = read_block(
                                stream, bits, available, position, dc, dc_table, ac_table, quantum, zigzag, block
                            )
                            corner = plane + pitch * 8 * (mcu_row * down + v) + 8 * (mcu_column * across + h)
                            if last > 0:
                                inverse_dct(block, corner, pitch)
                            elif last == 0:
                                fill_block(dc * load_int32(quantum), corner, pitch)
                            else:
                                return DAMAGED
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
            if 8 * position - available > 8 * scratch.segments[segment + 1]:
                return DAMAGED  # read beyond the data
    if end_row == mcu_rows and 8 * scratch.segments[segment + 1] - (8 * position - available) >= 8:
        return DAMAGED
    convert_region(top, left, height, width, count, mcu_columns, scratch, image)
    return DECODED
