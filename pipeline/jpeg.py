"""A compiled baseline JPEG decoder that decodes no more than a region of the image.

ITU-T T.81 (JPEG) with the arithmetic of libjpeg-turbo: the accurate integer inverse DCT (jidctint.c), "fancy"
triangle upsampling of chroma (jdsample.c) and 16-bit fixed-point colour conversion (jdcolor.c), so that pixels equal
those of libjpeg-turbo bit for bit. It takes what cameras, ImageNet and most tools write: baseline Huffman, 8 bits,
one interleaved scan, grey or YCbCr with 4:4:4, 4:2:2 or 4:2:0 chroma. Everything else (progressive, CMYK, ...), and
everything that looks damaged, is declined with a status other than `DECODED`; libjpeg-turbo then decodes it or says
what is wrong.

Huffman codes can only be read one after the other, so rows above the region are read but not reconstructed, and
reading stops after the region's last row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from headrace.pipeline.compiled import inlined, intrinsic, kernel, kernel_part

DECODED, UNSUPPORTED, DAMAGED = 0, 1, 2
"""Statuses of `decode_region`."""

_LOOK_BITS = 10  # codes up to this length are decoded by one table look-up, often together with their value
_STREAM_SLACK = 4096  # zero bytes behind the scan: more than the longest MCU (10 blocks of 64 coefficients) can read

# Marker codes, table B.1 of T.81.
_SOF0, _DHT, _EOI, _SOS, _DQT, _DRI, _APP0, _APP14, _APP15, _COM = (
    0xC0,
    0xC4,
    0xD9,
    0xDA,
    0xDB,
    0xDD,
    0xE0,
    0xEE,
    0xEF,
    0xFE,
)
_RST0, _RST7 = 0xD0, 0xD7

# An AC look-up entry: bits 0-4 how many bits code and value take together (the code alone at an end of block), 5-9 the
# run of zeros plus 1, 10-13 the value's size in bits, 14-18 the code's. Both flags also make an entry "unusual".
_END_OF_BLOCK, _LONGER_CODE = 1 << 20, 1 << 21
_UNUSUAL = _END_OF_BLOCK | _LONGER_CODE
_BLOCK_ENDS, _BAD_CODE = 100, 101

# Where a block's coefficients add up to no more than this (without sign), nothing overflows the 16 bits in which
# libjpeg-turbo's SIMD code holds sums between its passes (4 * 1.387 * 5900 < 2**15). Damaged files have more.
_LARGEST_BLOCK = 5900

_ZIGZAG = np.array(
    [
        [0, 1, 8, 16, 9, 2, 3, 10],
        [17, 24, 32, 25, 18, 11, 4, 5],
        [12, 19, 26, 33, 40, 48, 41, 34],
        [27, 20, 13, 6, 7, 14, 21, 28],
        [35, 42, 49, 56, 57, 50, 43, 36],
        [29, 22, 15, 23, 30, 37, 44, 51],
        [58, 59, 52, 45, 38, 31, 39, 46],
        [53, 60, 61, 54, 47, 55, 62, 63],
    ],
    np.int32,
).ravel()
"""Natural position of the k-th coefficient in the file, figure A.6 of T.81."""

_PLACES = 64 + 16  # a damaged block's last run can end up to 16 places beyond the block

_HUFFMAN_TABLE = np.dtype(
    [
        ("look", "i4", 1 << _LOOK_BITS),  # entry of each string of _LOOK_BITS bits
        ("last_code", "i4", 17),  # largest code of each length, -1 where there is none
        ("offset", "i4", 17),  # what turns a code of that length into a position in `symbols`
        ("symbols", "i4", 256),
    ]
)
_TABLE_SIZE = _HUFFMAN_TABLE.itemsize
_LAST_CODE, _OFFSET, _SYMBOLS = (4 << _LOOK_BITS), (4 << _LOOK_BITS) + 68, (4 << _LOOK_BITS) + 136


class JpegScratch(NamedTuple):
    """Working memory of one thread."""

    tables: np.ndarray
    """_HUFFMAN_TABLE (8,): 0-3 for DC, 4-7 for AC."""
    quantum: np.ndarray
    """int32 (4, _PLACES): quantisation steps in the file's (zigzag) order."""
    zigzag: np.ndarray
    """int32 (_PLACES,): byte offset of each place in `block`."""
    components: np.ndarray
    """int64 (3, 7): id, horizontal and vertical sampling, quantisation, DC and AC table, offset of the plane."""
    stream: np.ndarray
    """uint8: the scan without stuffed bytes."""
    segments: np.ndarray
    """int64: where each restart interval begins in `stream`, and the end."""
    block: np.ndarray
    """int16 (64): dequantised coefficients in natural order."""
    planes: np.ndarray
    """uint8: the components' samples, MCU-aligned."""
    chroma: np.ndarray
    """int16 (2, ...): vertically blended chroma of one row."""
    upsampled: np.ndarray
    """uint8 (2, ...): chroma of one row at full width."""


def jpeg_scratch(height: int, width: int, size: int) -> JpegScratch:
    """Working memory for images of up to `height` x `width` pixels and `size` bytes."""
    aligned = width + 64
    return JpegScratch(
        tables=np.zeros(8, _HUFFMAN_TABLE),
        quantum=np.zeros((4, _PLACES), np.int32),
        zigzag=np.pad(2 * _ZIGZAG, (0, _PLACES - 64), mode="edge"),
        components=np.zeros((3, 7), np.int64),
        stream=np.empty(size + _STREAM_SLACK, np.uint8),
        segments=np.empty(size // 2 + 2, np.int64),
        block=np.zeros(64, np.int16),
        planes=np.empty(3 * aligned * (height + 64), np.uint8),
        chroma=np.empty((2, aligned), np.int16),
        upsampled=np.empty((2, 2 * aligned), np.uint8),
    )


@kernel
def decode_region(data, top, left, height, width, scratch, image):
    """Decode the region of `height` x `width` pixels at (`top`, `left`) into its place in `image`.

    Args:
        data: uint8 (bytes of the file,).
        scratch: `jpeg_scratch` for at least this image.
        image: uint8 (H, W, 3) of the whole image's size; pixels outside of the region are unspecified.

    Returns: DECODED; UNSUPPORTED or DAMAGED if libjpeg-turbo must look at the file.
    """
    status, begin, count, restart_interval = _read_header(data, image.shape[0], image.shape[1], scratch)
    if status != DECODED:
        return status
    status, segments = _unstuff(data, begin, restart_interval, scratch)
    if status != DECODED:
        return status
    return _decode_scan(top, left, height, width, count, restart_interval, segments, scratch, image)


# -- Header -------------------------------------------------------------------------------------------------


@inlined
def _word(data, position):
    return (np.int64(data[position]) << 8) | np.int64(data[position + 1])


@kernel
def _read_header(data, height, width, scratch):
    """Markers up to the scan. Returns status, where the scan's data begins, components, restart interval."""
    end = len(data)
    position = 2
    count = 0
    restart_interval = 0
    colour_transform = -1
    tables = 0  # bit per Huffman table seen
    quantums = 0  # bit per quantisation table seen
    if end < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return DAMAGED, 0, 0, 0
    while position + 4 <= end:
        if data[position] != 0xFF:
            return DAMAGED, 0, 0, 0
        marker = np.int64(data[position + 1])
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        length = _word(data, position + 2)
        at = position + 4
        position += 2 + length
        if length < 2 or position > end:
            return DAMAGED, 0, 0, 0
        if marker == _DQT:
            while at < position:
                if data[at] > 3:  # 16-bit steps, or no such table
                    return UNSUPPORTED, 0, 0, 0
                if at + 65 > position:
                    return DAMAGED, 0, 0, 0
                quantums |= 1 << data[at]
                for k in range(64):
                    scratch.quantum[data[at], k] = data[at + 1 + k]
                at += 65
        elif marker == _DHT:
            while at < position:
                if at + 17 > position or (data[at] & 15) > 3 or data[at] > 31:
                    return DAMAGED, 0, 0, 0
                table = np.int64(data[at] >> 4) * 4 + np.int64(data[at] & 15)
                used = _build_table(data, at + 1, position, table, scratch)
                if used == 0:
                    return DAMAGED, 0, 0, 0
                tables |= 1 << table
                at += 1 + used
        elif marker == _SOF0:
            if length < 8 or count > 0:
                return DAMAGED, 0, 0, 0
            count = np.int64(data[at + 5])
            if data[at] != 8 or (count != 1 and count != 3) or length != 8 + 3 * count:
                return UNSUPPORTED, 0, 0, 0
            if _word(data, at + 1) != height or _word(data, at + 3) != width:
                return DAMAGED, 0, 0, 0
            for c in range(count):
                entry = at + 6 + 3 * c
                component = scratch.components[c]
                component[0] = data[entry]
                component[1] = data[entry + 1] >> 4
                component[2] = data[entry + 1] & 15
                component[3] = data[entry + 2]
                if component[3] > 3:
                    return DAMAGED, 0, 0, 0
        elif marker == _DRI:
            if length != 4:
                return DAMAGED, 0, 0, 0
            restart_interval = _word(data, at)
        elif marker == _APP0:
            if length >= 16 and data[at] == 0x4A and data[at + 1] == 0x46 and data[at + 5] != 1:  # "JF(IF)", revision
                return DAMAGED, 0, 0, 0
        elif marker == _APP14:
            if length >= 14 and data[at] == 0x41 and data[at + 1] == 0x64:  # "Ad(obe)"
                colour_transform = np.int64(data[at + 11])
        elif marker == _SOS:
            if count == 0 or length != 6 + 2 * count or np.int64(data[at]) != count:
                return UNSUPPORTED, 0, 0, 0
            tail = at + 1 + 2 * count
            if data[tail] != 0 or data[tail + 1] != 63 or data[tail + 2] != 0:  # not one sequential scan
                return DAMAGED, 0, 0, 0
            for c in range(count):
                selector = np.int64(data[at + 2 + 2 * c])
                component = scratch.components[c]
                component[4] = selector >> 4
                component[5] = 4 + (selector & 15)
                known = component[4] <= 3 and component[5] <= 7
                if np.int64(data[at + 1 + 2 * c]) != component[0] or not known:
                    return UNSUPPORTED, 0, 0, 0
                if not (tables >> component[4] & 1 and tables >> component[5] & 1 and quantums >> component[3] & 1):
                    return DAMAGED, 0, 0, 0
            if not _samples_supported(count, colour_transform, width, height, scratch.components):
                return UNSUPPORTED, 0, 0, 0
            return DECODED, position, count, restart_interval
        elif marker != _COM and not _APP0 < marker <= _APP15:  # another kind of frame, arithmetic coding, no scan, ...
            return UNSUPPORTED, 0, 0, 0
    return DAMAGED, 0, 0, 0


@kernel
def _samples_supported(count, colour_transform, width, height, components):
    """Grey; or YCbCr with 4:4:4, 4:2:2 or 4:2:0 chroma."""
    if width < 8 or height < 8:  # libjpeg-turbo upsamples the narrowest images in another way
        return False
    if count == 1:
        components[0, 1] = components[0, 2] = 1  # one component is never interleaved: sampling does not matter
        return True
    if colour_transform == 0:
        return False
    # Without an Adobe marker, components named R, G, B are RGB.
    if components[0, 0] == 82 and components[1, 0] == 71 and components[2, 0] == 66:
        return False
    for c in (1, 2):
        if components[c, 1] != 1 or components[c, 2] != 1:
            return False
    h, v = components[0, 1], components[0, 2]
    return (h == 1 and v == 1) or (h == 2 and v == 1) or (h == 2 and v == 2)


@kernel
def _build_table(data, at, end, table, scratch):
    """Huffman table from its 16 counts and symbols at `at` (annex C of T.81). Returns the bytes used; 0 if bad."""
    target = scratch.tables[table]
    look = target.look
    is_ac = table >= 4
    look[:] = _LONGER_CODE if is_ac else 0
    total = 0
    for length in range(1, 17):
        total += np.int64(data[at + length - 1])
    if total > 256 or at + 16 + total > end:
        return 0
    code = 0
    position = 0
    for length in range(1, 17):
        count = np.int64(data[at + length - 1])
        if code + count > (1 << length):
            return 0
        target.offset[length] = position - code
        target.last_code[length] = code + count - 1 if count else -1
        for _ in range(count):
            symbol = np.int64(data[at + 16 + position])
            target.symbols[position] = symbol
            if not is_ac and symbol > 11:
                return 0
            if length <= _LOOK_BITS:
                spare = _LOOK_BITS - length
                for rest in range(1 << spare):
                    entry = _ac_entry(symbol, length) if is_ac else (symbol << 10) | length
                    look[(code << spare) | rest] = entry
            code += 1
            position += 1
        code <<= 1
    return 16 + total


@kernel_part
def _ac_entry(symbol, length):
    """Look-up entry of a code of `length` bits."""
    run, size = symbol >> 4, symbol & 15
    if size == 0 and run < 15:
        return _END_OF_BLOCK | length
    return (length << 14) | (size << 10) | ((run + 1) << 5) | (length + size)


@inlined
def _extend(value, size):
    """The signed value of `size` bits, figure F.12 of T.81."""
    return value if value >> (size - 1) else value - (1 << size) + 1


@kernel
def _unstuff(data, begin, restart_interval, scratch):
    """Copy the scan without stuffed zero bytes. Returns status and the number of restart segments."""
    stream, segments = scratch.stream, scratch.segments
    end = len(data)
    position = begin
    written = 0
    count = 1
    segments[0] = 0
    while position < end:
        # Eight bytes at a time while none is 0xFF.
        while position + 8 <= end:
            word = _load_word(data.ctypes.data + position)
            inverse = ~word
            if (inverse - np.uint64(0x0101010101010101)) & word & np.uint64(0x8080808080808080):
                break
            _store_word(stream.ctypes.data + written, word)
            position += 8
            written += 8
        byte = data[position]
        if byte != 0xFF:
            stream[written] = byte
            written += 1
            position += 1
            continue
        if position + 1 >= end:
            return DAMAGED, 0
        follower = data[position + 1]
        if follower == 0:
            stream[written] = 0xFF
            written += 1
            position += 2
        elif follower == 0xFF:
            position += 1
        elif _RST0 <= follower <= _RST7:
            if restart_interval == 0 or np.int64(follower) != _RST0 + (count - 1) % 8:
                return DAMAGED, 0
            segments[count] = written
            count += 1
            position += 2
        elif follower == _EOI:
            segments[count] = written
            stream[written : written + _STREAM_SLACK] = 0
            return DECODED, count
        else:  # more scans
            return UNSUPPORTED, 0
    return DAMAGED, 0


# -- Scan ---------------------------------------------------------------------------------------------------


@kernel
def _decode_scan(top, left, height, width, count, restart_interval, segments, scratch, image):
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
                quantum = scratch.quantum.ctypes.data + 4 * _PLACES * components[c, 3]
                dc_table = scratch.tables.ctypes.data + _TABLE_SIZE * components[c, 4]
                ac_table = scratch.tables.ctypes.data + _TABLE_SIZE * components[c, 5]
                dc = dc_0 if c == 0 else (dc_1 if c == 1 else dc_2)
                for v in range(down):
                    for h in range(across):
                        if wanted:
                            bits, available, position, dc, last = _read_block(
                                stream, bits, available, position, dc, dc_table, ac_table, quantum, zigzag, block
                            )
                            corner = plane + pitch * 8 * (mcu_row * down + v) + 8 * (mcu_column * across + h)
                            if last > 0:
                                _inverse_dct(block, corner, pitch)
                            elif last == 0:
                                _fill_block(dc * _load_int32(quantum), corner, pitch)
                            else:
                                return DAMAGED
                        else:
                            bits, available, position, dc, last = _skip_block(
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
    _convert_region(top, left, height, width, count, mcu_columns, scratch, image)
    return DECODED


@kernel_part
def _refill(stream, bits, available, position):
    """At least 56 bits in the reader: the bits, left-aligned, their number, and the position of the next byte."""
    bits |= _swap_bytes(_load_word(stream + position)) >> np.uint64(available)
    return bits, available | 56, position + ((63 - available) >> 3)


@kernel
def _long_code(bits, table):
    """Symbol and length of a code longer than the look-up; length 0 if there is no such code."""
    for length in range(_LOOK_BITS + 1, 17):
        code = np.int64(bits >> np.uint64(64 - length))
        if code <= _load_int32(table + _LAST_CODE + 4 * length):
            place = code + _load_int32(table + _OFFSET + 4 * length)
            return np.int64(_load_int32(table + _SYMBOLS + 4 * (place & 255))), length
    return 0, 0


@kernel_part
def _read_dc(stream, bits, available, position, dc, table):
    """The block's DC coefficient, read as a difference to the previous one. Length 0 marks a bad code."""
    bits, available, position = _refill(stream, bits, available, position)
    entry = np.int64(_load_int32(table + 4 * np.int64(bits >> np.uint64(64 - _LOOK_BITS))))
    length, size = entry & 63, entry >> 10
    if length == 0:
        size, length = _long_code(bits, table)
    bits <<= np.uint64(length)
    available -= length
    if size:
        dc += _extend(np.int64(bits >> np.uint64(64 - size)), size)
        bits <<= np.uint64(size)
        available -= size
    return bits, available, position, dc, length


@kernel_part
def _read_symbol(bits, available, k, table):
    """One AC symbol and its value. `k` moves to the value's place; `_BLOCK_ENDS` and `_BAD_CODE` are beyond any place.

    Both a value and the common run of 16 zeros take the same way, since the processor cannot foresee which comes.
    """
    entry = np.int64(_load_int32(table + 4 * np.int64(bits >> np.uint64(64 - _LOOK_BITS))))
    if entry & _UNUSUAL:
        if entry & _END_OF_BLOCK:
            length = entry & 31
            return bits << np.uint64(length), available - length, _BLOCK_ENDS, 0
        symbol, length = _long_code(bits, table)
        if length == 0:
            return bits, available, _BAD_CODE, 0
        entry = _ac_entry(symbol, length)
        if entry & _END_OF_BLOCK:
            return bits << np.uint64(length), available - length, _BLOCK_ENDS, 0
    size = (entry >> 10) & 15
    length = (entry >> 14) & 31
    # Figure F.12 of T.81: the value of `size` bits, of which a first bit of 0 means negative.
    raw = np.int64(((bits << np.uint64(length)) >> np.uint64(1)) >> np.uint64(63 - size))
    value = raw - ((1 << size) - 1 if raw < ((1 << size) >> 1) else 0)
    total = entry & 31
    return bits << np.uint64(total), available - total, k + ((entry >> 5) & 31), value


@kernel_part
def _read_block(stream, bits, available, position, dc, dc_table, ac_table, quantum, zigzag, block):
    """One block to `block`, dequantised. Returns the reader, the DC and whether any AC was there; -1 if bad."""
    bits, available, position, dc, length = _read_dc(stream, bits, available, position, dc, dc_table)
    if length == 0:
        return bits, available, position, dc, -1
    _clear_block(block)
    level = dc * _load_int32(quantum)
    _store_int16(block, level)
    weight = abs(level)
    k = 0
    coded = 0
    while k < 63:
        bits, available, position = _refill(stream, bits, available, position)
        for _ in range(2):  # 56 bits are enough for two symbols of 16 + 11 bits
            place = k
            bits, available, k, value = _read_symbol(bits, available, place, ac_table)
            if k >= _BLOCK_ENDS:
                good = k == _BLOCK_ENDS and weight <= _LARGEST_BLOCK
                return bits, available, position, dc, coded if good else -1
            level = value * _load_int32(quantum + 4 * k)
            _store_int16(block + _load_int32(zigzag + 4 * k), level)
            weight += abs(level)
            coded = 1
            if k >= 63:
                break
    good = k == 63 and weight <= _LARGEST_BLOCK
    return bits, available, position, dc, coded if good else -1


@kernel_part
def _skip_block(stream, bits, available, position, dc, dc_table, ac_table):
    """Read past one block. Returns as `_read_block`."""
    bits, available, position, dc, length = _read_dc(stream, bits, available, position, dc, dc_table)
    if length == 0:
        return bits, available, position, dc, -1
    k = 0
    while k < 63:
        bits, available, position = _refill(stream, bits, available, position)
        for _ in range(2):
            bits, available, k, _value = _read_symbol(bits, available, k, ac_table)
            if k >= _BLOCK_ENDS:
                return bits, available, position, dc, 0 if k == _BLOCK_ENDS else -1
            if k >= 63:
                break
    return bits, available, position, dc, 0 if k == 63 else -1


# -- Memory -------------------------------------------------------------------------------------------------


def _load(result, element):
    """An intrinsic that loads an integer at an address."""

    def load(typingctx, address):
        def codegen(context, builder, signature, arguments):
            return builder.load(builder.inttoptr(arguments[0], element.as_pointer()), align=1)

        return result(types.int64), codegen

    return intrinsic(load)


def _store(value, element):
    """An intrinsic that stores the low bits of an integer at an address."""

    def store(typingctx, address, number):
        def codegen(context, builder, signature, arguments):
            narrow = arguments[1] if arguments[1].type == element else builder.trunc(arguments[1], element)
            builder.store(narrow, builder.inttoptr(arguments[0], element.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, value), codegen

    return intrinsic(store)


_load_word = _load(types.uint64, ir.IntType(64))
_load_int32 = _load(types.int32, ir.IntType(32))
_store_word = _store(types.uint64, ir.IntType(64))
_store_int16 = _store(types.int64, ir.IntType(16))


@intrinsic
def _swap_bytes(typingctx, word):
    """uint64 with its bytes in the other order."""

    def codegen(context, builder, signature, arguments):
        return builder.bswap(arguments[0])

    return types.uint64(types.uint64), codegen


@intrinsic
def _clear_block(typingctx, address):
    """Zero 64 int16 at `address`."""

    def codegen(context, builder, signature, arguments):
        quarter = ir.VectorType(ir.IntType(64), 4)
        for offset in range(0, 128, 32):
            pointer = builder.inttoptr(builder.add(arguments[0], ir.IntType(64)(offset)), quarter.as_pointer())
            builder.store(ir.Constant(quarter, [0] * 4), pointer, align=2)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


# -- Inverse DCT --------------------------------------------------------------------------------------------


@intrinsic
def _inverse_dct(typingctx, block, corner, pitch):
    """8 x 8 coefficients (int16, natural order) at `block` to samples at `corner`, rows `pitch` bytes apart.

    jidctint.c, in vectors of eight 32-bit lanes: first all columns at once, then all rows.
    """

    def codegen(context, builder, signature, arguments):
        block, corner, pitch = arguments
        i8, i16, i32, i64 = (ir.IntType(n) for n in (8, 16, 32, 64))
        row16 = ir.VectorType(i16, 8)
        rows = []
        for r in range(8):
            pointer = builder.inttoptr(builder.add(block, i64(16 * r)), row16.as_pointer())
            rows.append(builder.sext(builder.load(pointer, align=2), ir.VectorType(i32, 8)))
        columns = _transpose(builder, _idct_pass(builder, rows, 11))
        levels = []
        for column in _idct_pass(builder, columns, 18):
            level = builder.add(column, _splat(i32, 128))
            level = builder.select(builder.icmp_signed("<", level, _splat(i32, 0)), _splat(i32, 0), level)
            level = builder.select(builder.icmp_signed(">", level, _splat(i32, 255)), _splat(i32, 255), level)
            levels.append(builder.trunc(level, row16))
        address = corner
        for row in _transpose(builder, levels):
            pointer = builder.inttoptr(address, ir.VectorType(i8, 8).as_pointer())
            builder.store(builder.trunc(row, ir.VectorType(i8, 8)), pointer, align=1)
            address = builder.add(address, pitch)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


def _splat(element: Any, value: int) -> Any:
    return ir.Constant(ir.VectorType(element, 8), [value] * 8)


def _transpose(builder: Any, rows: Sequence[Any]) -> list[Any]:
    """Eight vectors of eight lanes, rows and columns exchanged, by three rounds of interleaving."""
    low = ir.Constant(ir.VectorType(ir.IntType(32), 8), [0, 8, 1, 9, 2, 10, 3, 11])
    high = ir.Constant(ir.VectorType(ir.IntType(32), 8), [4, 12, 5, 13, 6, 14, 7, 15])
    rows = list(rows)
    for _ in range(3):
        rows = [builder.shuffle_vector(rows[i], rows[i + 4], half) for i in range(4) for half in (low, high)]
    return rows


def _idct_pass(builder: Any, z: Sequence[Any], shift: int) -> list[Any]:
    """The one-dimensional transform of jidctint.c over the eight vectors `z`, descaled by `shift` bits."""
    i32 = ir.IntType(32)
    add, sub = builder.add, builder.sub

    def times(vector: Any, factor: int) -> Any:
        return builder.mul(vector, _splat(i32, factor))

    def fixed(vector: Any) -> Any:
        return builder.shl(vector, _splat(i32, 13))

    # Even part. The factors are the cosines of jidctint.c times 2**13.
    z1 = times(add(z[2], z[6]), 4433)
    even_2 = add(z1, times(z[6], -15137))
    even_3 = add(z1, times(z[2], 6270))
    even_0, even_1 = fixed(add(z[0], z[4])), fixed(sub(z[0], z[4]))
    even = [add(even_0, even_3), add(even_1, even_2), sub(even_1, even_2), sub(even_0, even_3)]
    # Odd part.
    z5 = times(add(add(z[7], z[3]), add(z[5], z[1])), 9633)
    z3 = add(times(add(z[7], z[3]), -16069), z5)
    z4 = add(times(add(z[5], z[1]), -3196), z5)
    z1 = times(add(z[7], z[1]), -7373)
    z2 = times(add(z[5], z[3]), -20995)
    odd = [
        add(times(z[1], 12299), add(z1, z4)),
        add(times(z[3], 25172), add(z2, z3)),
        add(times(z[5], 16819), add(z2, z4)),
        add(times(z[7], 2446), add(z1, z3)),
    ]
    half = _splat(i32, 1 << (shift - 1))
    sums = [add(e, o) for e, o in zip(even, odd, strict=True)]
    differences = [sub(e, o) for e, o in zip(even, odd, strict=True)]
    return [builder.ashr(add(total, half), _splat(i32, shift)) for total in (*sums, *reversed(differences))]


@kernel
def _fill_block(dc, corner, pitch):
    """The inverse DCT of a block that has a DC coefficient only."""
    level = min(max((((np.int64(np.int16(dc)) << 2) + 16) >> 5) + 128, 0), 255)
    word = np.uint64(level) * np.uint64(0x0101010101010101)
    for r in range(8):
        _store_word(corner + r * pitch, word)


# -- Upsampling and colour ----------------------------------------------------------------------------------


@kernel
def _convert_region(top, left, height, width, count, mcu_columns, scratch, image):
    components = scratch.components
    across, down = components[0, 1], components[0, 2]
    luma_pitch, chroma_pitch = 8 * across * mcu_columns, 8 * mcu_columns
    chroma_rows = (image.shape[0] + down - 1) // down
    chroma_columns = (image.shape[1] + across - 1) // across
    # Chroma columns that the region's upsampling reads.
    begin = max(0, left // across - 1)
    end = min(chroma_columns, (left + width - 1) // across + 2)
    for y in range(top, top + height):
        row = image[y].reshape(-1)[3 * left : 3 * (left + width)]
        luma_at = y * luma_pitch + left
        luma = scratch.planes[luma_at : luma_at + width]
        if count == 1:
            _store_gray(luma, row)
            continue
        near = y // down
        far = near if down == 1 else min(max(near + (1 if y & 1 else -1), 0), chroma_rows - 1)
        for c in range(2):
            plane = scratch.planes[components[c + 1, 6] :]
            near_row = plane[near * chroma_pitch + begin : near * chroma_pitch + end]
            far_row = plane[far * chroma_pitch + begin : far * chroma_pitch + end]
            out = scratch.upsampled[c]
            if across == 1:
                out[: end - begin] = near_row
            elif down == 1:
                _upsample_row(near_row, begin == 0, end == chroma_columns, 1, 2, 2, out)
            else:
                blended = scratch.chroma[c, : end - begin]
                _blend_rows(near_row, far_row, blended)
                _upsample_row(blended, begin == 0, end == chroma_columns, 8, 7, 4, out)
        skip = left - across * begin
        _store_colour(luma, scratch.upsampled[0, skip : skip + width], scratch.upsampled[1, skip : skip + width], row)


@intrinsic
def _three_to_one(typingctx, near, far, bias, shift):
    """int16 `(3 * near + far + bias) >> shift`, in 16 bits."""

    def codegen(context, builder, signature, arguments):
        near, far, bias, shift = arguments
        total = builder.add(builder.add(builder.mul(near, ir.IntType(16)(3)), far), bias)
        return builder.ashr(total, shift)

    int16 = types.int16
    return int16(int16, int16, int16, int16), codegen


@kernel
def _blend_rows(near, far, out):
    for i in range(len(out)):
        out[i] = _three_to_one(near[i], far[i], 0, 0)


@kernel
def _upsample_row(row, at_left, at_right, bias_left, bias_right, shift, out):
    """Twice as many columns: 3/4 of the nearer and 1/4 of the farther column, as jdsample.c rounds it."""
    n = len(row)
    for i in range(1, n - 1):
        out[2 * i] = _three_to_one(row[i], row[i - 1], bias_left, shift)
        out[2 * i + 1] = _three_to_one(row[i], row[i + 1], bias_right, shift)
    # The image's outermost columns are their own neighbours; the region's outermost ones are not used.
    out[0] = _three_to_one(row[0], row[0], bias_left, shift) if at_left else 0
    out[1] = _three_to_one(row[0], row[min(1, n - 1)], bias_right, shift)
    out[2 * n - 2] = _three_to_one(row[n - 1], row[max(n - 2, 0)], bias_left, shift)
    out[2 * n - 1] = _three_to_one(row[n - 1], row[n - 1], bias_right, shift) if at_right else 0


@intrinsic
def _colour_level(typingctx, luma, blue, blue_factor, red, red_factor):
    """uint8 level of one colour: luma plus two chroma shares, factors times 2**16, rounded, clamped, in 32 bits."""

    def codegen(context, builder, signature, arguments):
        luma, blue, blue_factor, red, red_factor = arguments
        i32 = ir.IntType(32)
        y, cb, cr = (builder.zext(level, i32) for level in (luma, blue, red))
        cb, cr = builder.sub(cb, i32(128)), builder.sub(cr, i32(128))
        share = builder.add(builder.mul(cb, blue_factor), builder.mul(cr, red_factor))
        level = builder.add(y, builder.ashr(builder.add(share, i32(32768)), i32(16)))
        level = builder.select(builder.icmp_signed("<", level, i32(0)), i32(0), level)
        level = builder.select(builder.icmp_signed(">", level, i32(255)), i32(255), level)
        return builder.trunc(level, ir.IntType(8))

    uint8, int32 = types.uint8, types.int32
    return uint8(uint8, uint8, int32, uint8, int32), codegen


@kernel
def _store_colour(luma, blue, red, out):
    """YCbCr to interleaved RGB with the factors of jdcolor.c."""
    for x in range(len(luma)):
        out[3 * x] = _colour_level(luma[x], blue[x], 0, red[x], 91881)
        out[3 * x + 1] = _colour_level(luma[x], blue[x], -22554, red[x], -46802)
        out[3 * x + 2] = _colour_level(luma[x], blue[x], 116130, red[x], 0)


@kernel
def _store_gray(luma, out):
    for x in range(len(luma)):
        out[3 * x] = luma[x]
        out[3 * x + 1] = luma[x]
        out[3 * x + 2] = luma[x]
