"""Huffman codes to coefficients: tables (annex C of T.81), symbols and whole blocks (annex F)."""

from __future__ import annotations

import numpy as np

from headrace.pipeline.compiled import kernel, kernel_part
from headrace.pipeline.jpeg.memory import load_entry, load_int32, load_word, store_int16, swap_bytes
from headrace.pipeline.jpeg.scratch import LAST_CODE, LOOK_BITS, OFFSET, SYMBOLS

# An AC look-up entry: bits 0-5 how many bits code and value take together (the code alone at an end of block), which a
# shift of 64 bits takes without a mask; 6-10 the run of zeros plus 1, 11-13 flags, 16-31 the value, where the string
# has all of its bits; else 16-19 the value's size in bits and 20-24 the code's; at an end of block 16-19 the run, which
# says of how many blocks in progressive scans. Every flag makes an entry "unusual".
_END_OF_BLOCK, _LONGER_CODE, _LONGER_VALUE = 1 << 11, 1 << 12, 1 << 13
_UNUSUAL = _END_OF_BLOCK | _LONGER_CODE | _LONGER_VALUE
_BLOCK_ENDS, _BAD_CODE = 100, 101


@kernel
def build_table(data, at, end, table, scratch):
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
            if length <= LOOK_BITS:
                spare = LOOK_BITS - length
                for rest in range(1 << spare):
                    entry = _ac_entry(symbol, length) if is_ac else (symbol << 10) | length
                    size = symbol & 15
                    if is_ac and entry & _LONGER_VALUE and size <= spare:
                        entry = (entry & 0x7FF) | (_value(np.int64(rest >> (spare - size)), size) << 16)
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
        return (run << 16) | _END_OF_BLOCK | length
    return (length << 20) | (size << 16) | _LONGER_VALUE | ((run + 1) << 6) | (length + size)


@kernel_part
def _value(raw, size):
    """Figure F.12 of T.81: the value of `size` bits, of which a first bit of 0 means negative."""
    return raw - ((1 << size) - 1 if raw < ((1 << size) >> 1) else 0)


@kernel_part
def _refill(stream, bits, available, position):
    """At least 56 bits in the reader: the bits, left-aligned, their number, and the position of the next byte.

    Of `available` only the lowest six bits count: so whole look-up entries can be taken from it.
    """
    available &= 63
    bits |= swap_bytes(load_word(stream + position)) >> np.uint64(available)
    return bits, available | 56, position + ((63 - available) >> 3)


@kernel
def _long_code(bits, table):
    """Symbol and length of a code longer than the look-up; length 0 if there is no such code."""
    for length in range(LOOK_BITS + 1, 17):
        code = np.int64(bits >> np.uint64(64 - length))
        if code <= load_int32(table + LAST_CODE + 4 * length):
            place = code + load_int32(table + OFFSET + 4 * length)
            return np.int64(load_int32(table + SYMBOLS + 4 * (place & 255))), length
    return 0, 0


@kernel_part
def _read_dc(stream, bits, available, position, dc, table):
    """The block's DC coefficient, read as a difference to the previous one. Length 0 marks a bad code."""
    bits, available, position = _refill(stream, bits, available, position)
    entry = load_entry(table, bits >> np.uint64(64 - LOOK_BITS))
    length, size = entry & 63, entry >> 10
    if length == 0:
        size, length = _long_code(bits, table)
    bits <<= np.uint64(length)
    available -= length
    if size:
        dc += _value(np.int64(bits >> np.uint64(64 - size)), size)
        bits <<= np.uint64(size)
        available -= size
    return bits, available, position, dc, length


@kernel_part
def _read_symbol(bits, available, k, table):
    """One AC symbol and its value. `k` moves to the value's place; `_BLOCK_ENDS` and `_BAD_CODE` are beyond any place.

    Both a value and the common run of 16 zeros take the same way, since the processor cannot foresee which comes.
    """
    entry = load_entry(table, bits >> np.uint64(64 - LOOK_BITS))
    value = entry >> 16
    if entry & _UNUSUAL:
        if entry & _LONGER_CODE:
            symbol, length = _long_code(bits, table)
            if length == 0:
                return bits, available, _BAD_CODE, 0
            entry = _ac_entry(symbol, length)
        if entry & _END_OF_BLOCK:
            return bits << np.uint64(entry & 63), available - entry, _BLOCK_ENDS, 0
        size, length = (entry >> 16) & 15, entry >> 20
        value = _value(np.int64(((bits << np.uint64(length)) >> np.uint64(1)) >> np.uint64(63 - size)), size)
    return bits << np.uint64(entry & 63), available - entry, k + ((entry >> 6) & 31), value


@kernel_part
def read_block(stream, bits, available, position, dc, dc_table, ac_table, zigzag, block):
    """One block to `block` of a cleared pair, not dequantised.

    Returns the reader, the DC and whether any AC was there; -1 if bad.
    """
    bits, available, position, dc, length = _read_dc(stream, bits, available, position, dc, dc_table)
    if length == 0 or abs(dc) > 0x7FFF:
        return bits, available, position, dc, -1
    store_int16(block, dc)
    k = 0
    coded = 0
    while k < 63:
        bits, available, position = _refill(stream, bits, available, position)
        for _ in range(2):  # 56 bits are enough for two symbols of 16 + 11 bits
            place = k
            bits, available, k, value = _read_symbol(bits, available, place, ac_table)
            if k >= _BLOCK_ENDS:
                return bits, available & 63, position, dc, coded if k == _BLOCK_ENDS else -1
            store_int16(block + load_int32(zigzag + 4 * k), value)
            coded = 1
            if k >= 63:
                break
    return bits, available & 63, position, dc, coded if k == 63 else -1


@kernel_part
def skip_block(stream, bits, available, position, dc, dc_table, ac_table):
    """Read past one block. Returns as `read_block`."""
    bits, available, position, dc, length = _read_dc(stream, bits, available, position, dc, dc_table)
    if length == 0:
        return bits, available, position, dc, -1
    k = 0
    while k < 63:
        bits, available, position = _refill(stream, bits, available, position)
        for _ in range(2):
            bits, available, k, _value = _read_symbol(bits, available, k, ac_table)
            if k >= _BLOCK_ENDS:
                return bits, available & 63, position, dc, 0 if k == _BLOCK_ENDS else -1
            if k >= 63:
                break
    return bits, available & 63, position, dc, 0 if k == 63 else -1


@kernel_part
def skip_bits(stream, bits, available, position, count):
    """Past so many bits, up to 64 at a time; at least 40 bits are in the reader then."""
    bits, available, position = _refill(stream, bits, available, position)
    while count > 16:
        bits <<= np.uint64(16)
        available -= 16
        count -= 16
        bits, available, position = _refill(stream, bits, available, position)
    return bits << np.uint64(count), available - count, position


@kernel_part
def skip_dc(stream, bits, available, position, table):
    """Past a DC coefficient: the reader, and whether it has a code."""
    bits, available, position, _dc, length = _read_dc(stream, bits, available, position, np.int64(0), table)
    return bits, available, position, length > 0


@kernel_part
def ac_step(stream, bits, available, position, table):
    """Past one AC symbol and the value behind it.

    Returns: the reader; the run of zeros before the value, or that of an end of blocks; something that is 0 where there
    is no value and -1, 1 where it is one bit; and the code's length, 0 if bad.
    """
    bits, available, position = _refill(stream, bits, available, position)
    entry = load_entry(table, bits >> np.uint64(64 - LOOK_BITS))
    if entry & _LONGER_CODE:
        symbol, length = _long_code(bits, table)
        if length == 0:
            return bits, available & 63, position, 0, 0, 0
        entry = _ac_entry(symbol, length)
    run, value = ((entry >> 6) & 31) - 1, entry >> 16
    if entry & _END_OF_BLOCK:
        run, value = (entry >> 16) & 15, 0
    elif entry & _LONGER_VALUE:
        value = (entry >> 16) & 15  # its size
    length = entry & 63
    return bits << np.uint64(length), (available - length) & 63, position, run, value, length
