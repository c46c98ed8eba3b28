"""A JPEG's coefficients at another quality: read, quantised anew and written, without going through pixels.

What a decoder and an encoder would do between them - inverse DCT, colours, and back - costs time and rounds each
sample twice more. Without it, a coefficient keeps its value as far as the new steps allow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from headrace.pipeline.compiled import intrinsic, kernel, kernel_part
from headrace.pipeline.jpeg.huffman import read_block
from headrace.pipeline.jpeg.markers import only_scan, read_header
from headrace.pipeline.jpeg.memory import load_int16, load_int32, load_word, store_word, swap_bytes
from headrace.pipeline.jpeg.scan import unread_bits
from headrace.pipeline.jpeg.scratch import DAMAGED, DECODED, MOST_BLOCKS, PLACES, TABLE_SIZE, UNSUPPORTED
from headrace.pipeline.jpeg.transform import PAIR, clear_pair
from headrace.pipeline.simd import i1, i8, i16, i32, i64, load, store, vector

BLOCK = PAIR // 2  # bytes of 64 coefficients
_ZERO_RUN, _END_OF_BLOCK = 0xF0, 0x00  # symbols of annex F of T.81
_LARGEST_DC, _LARGEST_AC = 11, 10  # bits that baseline JPEG has for a difference and for a value
_MCU_BYTES = MOST_BLOCKS * 64 * 4  # more than an MCU takes: at most 26 bits a coefficient


class Quality(NamedTuple):
    """How a JPEG of a certain quality is written: index 0 for luma, 1 for chroma."""

    biases: np.ndarray
    """float32 (2, 64), in the file's order: half a quantisation step, rounded down, and 0.5."""
    inverses: np.ndarray
    """float32 (2, 64): 1 / step. For what baseline JPEG can hold, (size + bias) * inverse rounds down to what integer
    division would give: floats miss it by less than 0.5 / step."""
    codes: np.ndarray
    """int32 (2, 2, 256): DC and AC code of each symbol, with room for the value behind it, in bits 5-30; in bits 0-4
    how many bits both have."""


class TranscodeScratch(NamedTuple):
    """Working memory of one thread, beside a `JpegScratch`."""

    in_order: np.ndarray
    """int32 (PLACES,): byte offset of each place in a block that stays in the file's order."""
    steps: np.ndarray
    """int16 (3, 64): quantisation steps of each component in the file's order."""
    levels: np.ndarray
    """int16 (64,): a block's coefficients with other steps, in the file's order."""
    raw: np.ndarray
    """uint8: the scan that is being written, without stuffed bytes."""


def transcode_scratch(size: int) -> TranscodeScratch:
    """Working memory for scans of `size` bytes."""
    return TranscodeScratch(
        in_order=np.pad(2 * np.arange(64, dtype=np.int32), (0, PLACES - 64), mode="edge"),
        steps=np.empty((3, 64), np.int16),
        levels=np.empty(64, np.int16),
        raw=np.empty(size + _MCU_BYTES, np.uint8),
    )


@kernel
def transcode_scan(data, height, width, quality, scratch, own, out):
    """Writes the scan of a JPEG anew, with stuffed bytes, up to its end marker.

    Args:
        data: uint8 (bytes of the file,), a JPEG of `height` x `width` pixels with 4:2:0 chroma.
        quality: `Quality` of the result.
        scratch: `jpeg_scratch` for at least this image.
        own: `transcode_scratch` for at least as many bytes as `out` has.
        out: uint8 for the result.

    Returns: DECODED, UNSUPPORTED or DAMAGED as `decode_region`, or UNSUPPORTED where the result does not fit into
    `out` or into baseline JPEG; and the result's bytes.
    """
    status, begin, count, restart_interval = read_header(data, height, width, scratch)
    if status != DECODED:
        return status, 0
    components = scratch.components
    if count != 3 or components[0, 1] != 2 or components[0, 2] != 2:
        return UNSUPPORTED, 0
    status, segments = only_scan(data, begin, restart_interval, scratch)
    if status != DECODED:
        return status, 0
    mcus = ((width + 15) // 16) * ((height + 15) // 16)
    if segments != (1 if restart_interval == 0 else -(-mcus // restart_interval)):
        return DAMAGED, 0
    steps = own.steps
    for c in range(3):
        for k in range(64):
            steps[c, k] = scratch.quantum[components[c, 3], scratch.natural[k]]

    stream, blocks, in_order = scratch.stream.ctypes.data, scratch.blocks.ctypes.data, own.in_order.ctypes.data
    levels = own.levels.ctypes.data
    raw = own.raw.ctypes.data
    written, pending, pending_bits = np.int64(0), np.uint64(0), np.int64(0)
    bits, available, position, segment = np.uint64(0), np.int64(0), np.int64(0), np.int64(0)
    dc_0 = dc_1 = dc_2 = np.int64(0)
    last_0 = last_1 = last_2 = np.int64(0)
    until_restart = restart_interval if restart_interval else mcus
    for _ in range(mcus):
        if until_restart == 0:
            if unread_bits(available, position, scratch.segments[segment + 1]) >= 8:
                return DAMAGED, 0
            segment += 1
            bits, available, position = np.uint64(0), np.int64(0), scratch.segments[segment]
            dc_0 = dc_1 = dc_2 = np.int64(0)
            until_restart = restart_interval
        until_restart -= 1
        for pair in range(MOST_BLOCKS // 2):
            clear_pair(blocks + PAIR * pair)
        for number in range(MOST_BLOCKS):
            c = max(0, number - 3)
            dc_table = scratch.tables.ctypes.data + TABLE_SIZE * components[c, 4]
            ac_table = scratch.tables.ctypes.data + TABLE_SIZE * components[c, 5]
            dc = dc_0 if c == 0 else (dc_1 if c == 1 else dc_2)
            bits, available, position, dc, coded = read_block(
                stream, bits, available, position, dc, dc_table, ac_table, in_order, blocks + BLOCK * number
            )
            if coded < 0:
                return DAMAGED, 0
            if c == 0:
                dc_0 = dc
            elif c == 1:
                dc_1 = dc
            else:
                dc_2 = dc
        if unread_bits(available, position, scratch.segments[segment + 1]) < 0:
            return DAMAGED, 0
        if written > len(out):
            return UNSUPPORTED, 0
        for number in range(MOST_BLOCKS):
            c = max(0, number - 3)
            table = min(c, 1)
            coded_at = quantize(
                blocks + BLOCK * number,
                steps.ctypes.data + BLOCK * c,
                quality.biases.ctypes.data + 4 * 64 * table,
                quality.inverses.ctypes.data + 4 * 64 * table,
                levels,
            )
            dc = load_int16(levels)
            last = last_0 if c == 0 else (last_1 if c == 1 else last_2)
            codes = quality.codes.ctypes.data + 2 * 4 * 256 * table
            written, pending, pending_bits, fits = _write_block(
                levels, coded_at, dc - last, codes, raw, written, pending, pending_bits
            )
            if not fits:
                return UNSUPPORTED, 0
            if c == 0:
                last_0 = dc
            elif c == 1:
                last_1 = dc
            else:
                last_2 = dc
    if unread_bits(available, position, scratch.segments[segment + 1]) >= 8:
        return DAMAGED, 0
    # The last byte is filled with ones (F.1.2.3).
    pending |= (~np.uint64(0)) >> np.uint64(pending_bits)
    store_word(raw + written, swap_bytes(pending))
    return stuffed(own.raw, written + ((pending_bits + 7) >> 3), out)


@intrinsic
def quantize(typingctx, block, steps, biases, inverses, levels):
    """Turns 64 coefficients (int16 at `block`), which count `steps`, into `levels` (int16) that count other steps.

    Rounded to the nearest, halves away from zero. Returns a bit for each that is not 0.

    `biases` and `inverses` (float32) are those of `Quality`.
    """

    def codegen(context, builder, signature, arguments):
        block, steps, biases, inverses, levels = arguments
        eight, wide, real = vector(8, i16), vector(8, i32), vector(8, ir.FloatType())
        most = ir.Constant(wide, [0x7FFF] * 8)
        mask = i64(0)
        for at in range(0, 64, 8):
            values, factors = (
                builder.sext(load(builder, builder.add(base, i64(2 * at)), eight), wide) for base in (block, steps)
            )
            values = builder.mul(values, factors)
            negative = builder.icmp_signed("<", values, ir.Constant(wide, [0] * 8))
            sizes = builder.sitofp(builder.select(negative, builder.neg(values), values), real)
            bias, inverse = (load(builder, builder.add(base, i64(4 * at)), real) for base in (biases, inverses))
            sizes = builder.fptosi(builder.fmul(builder.fadd(sizes, bias), inverse), wide)
            # What 16 bits do not hold stays too large for baseline JPEG, instead of wrapping round to what it holds.
            sizes = builder.select(builder.icmp_signed("<", sizes, most), sizes, most)
            found = builder.trunc(builder.select(negative, builder.neg(sizes), sizes), eight)
            store(builder, found, builder.add(levels, i64(2 * at)))
            coded = builder.icmp_signed("!=", found, ir.Constant(eight, [0] * 8))
            byte = builder.bitcast(coded, i8)
            mask = builder.or_(mask, builder.shl(builder.zext(byte, i64), i64(at)))
        return mask

    return types.uint64(*[types.int64] * 5), codegen


@intrinsic
def _trailing_zeros(typingctx, word):
    """Zero bits below the lowest one of a uint64."""

    def codegen(context, builder, signature, arguments):
        return builder.cttz(arguments[0], i1(0))

    return types.int64(types.uint64), codegen


@intrinsic
def _leading_zeros(typingctx, word):
    """Zero bits above the highest one of an int64; 64 for 0."""

    def codegen(context, builder, signature, arguments):
        return builder.ctlz(arguments[0], i1(0))

    return types.int64(types.int64), codegen


@kernel_part
def _write_bits(raw, written, pending, pending_bits, code, length):
    """`length` bits, up to 56, behind those that are pending; whole bytes go to `raw`."""
    pending |= np.uint64(code) << np.uint64(64 - pending_bits - length)
    pending_bits += length
    store_word(raw + written, swap_bytes(pending))
    return written + (pending_bits >> 3), pending << np.uint64(pending_bits & 56), pending_bits & 7


@kernel_part
def _coded_value(value, symbol, table):
    """The code of a symbol and the bits of its value behind it (F.1.2.1 and F.1.2.2), and their number."""
    entry = np.int64(load_int32(table + 4 * symbol))
    low = (value + (value >> 63)) & ((1 << (symbol & 15)) - 1)
    return (entry >> 5) | low, entry & 31


@kernel_part
def _write_block(levels, coded, difference, codes, raw, written, pending, pending_bits):
    """One block: the difference of its DC, then each AC coefficient whose bit is set in `coded`."""
    size = 64 - _leading_zeros(abs(difference))
    if size > _LARGEST_DC:
        return written, pending, pending_bits, False
    code, length = _coded_value(difference, size, codes)
    written, pending, pending_bits = _write_bits(raw, written, pending, pending_bits, code, length)
    table = codes + 4 * 256
    coded &= ~np.uint64(1)
    last = np.int64(0)
    while coded:
        k = _trailing_zeros(coded)
        coded &= coded - np.uint64(1)
        run = k - last - 1
        last = k
        while run > 15:
            code, length = _coded_value(0, _ZERO_RUN, table)
            written, pending, pending_bits = _write_bits(raw, written, pending, pending_bits, code, length)
            run -= 16
        value = load_int16(levels + 2 * k)
        size = 64 - _leading_zeros(abs(value))
        if size > _LARGEST_AC:
            return written, pending, pending_bits, False
        code, length = _coded_value(value, (run << 4) | size, table)
        written, pending, pending_bits = _write_bits(raw, written, pending, pending_bits, code, length)
    if last < 63:
        code, length = _coded_value(0, _END_OF_BLOCK, table)
        written, pending, pending_bits = _write_bits(raw, written, pending, pending_bits, code, length)
    return written, pending, pending_bits, True


@kernel
def stuffed(raw, size, out):
    """Copies `size` bytes with a zero byte behind each FF (B.1.1.5). Returns status and bytes."""
    position = written = 0
    while position < size:
        if written + 16 > len(out):
            return UNSUPPORTED, 0
        if position + 8 <= size:
            word = load_word(raw.ctypes.data + position)
            inverse = ~word
            if not (inverse - np.uint64(0x0101010101010101)) & word & np.uint64(0x8080808080808080):
                store_word(out.ctypes.data + written, word)
                position += 8
                written += 8
                continue
        out[written] = raw[position]
        written += 1
        if raw[position] == 0xFF:
            out[written] = 0
            written += 1
        position += 1
    return DECODED, written
