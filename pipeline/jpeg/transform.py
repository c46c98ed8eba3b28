"""The inverse DCT of one block, jidctint.c's accurate integer one, in vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from headrace.pipeline.compiled import intrinsic, kernel
from headrace.pipeline.jpeg.memory import store_word
from headrace.pipeline.simd import i8, i16, i32, i64, load, multiply_pairs, numbers, store, vector

# A pair of blocks lies row beside row: eight int16 of the one, eight of the other, eight of the one's next row. So each
# half of a 256-bit register works on one block, which is how x86 wants it.
PAIR = 256  # bytes
PAIR_ROW = 32
_LOW = numbers([0, 16, 1, 17, 2, 18, 3, 19, 8, 24, 9, 25, 10, 26, 11, 27])
_HIGH = numbers([4, 20, 5, 21, 6, 22, 7, 23, 12, 28, 13, 29, 14, 30, 15, 31])
_REJOIN = numbers([0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15])
_ROW, _SUMS = vector(16, i16), vector(8, i32)


@intrinsic
def clear_pair(typingctx, address):
    """Zero a pair of blocks."""

    def codegen(context, builder, signature, arguments):
        for offset in range(0, PAIR, PAIR_ROW):
            store(builder, _constant(_ROW, 0), builder.add(arguments[0], i64(offset)))
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def inverse_dct(typingctx, pair, steps, other_steps, corner, other_corner, pitch, other_pitch):
    """A pair of blocks of coefficients (int16, natural order) to samples (uint8).

    `steps` are addresses of each block's quantisation steps (int16, natural order), `corner` of its first sample, and
    its rows are `pitch` bytes apart. Returns the sum of a block's dequantised coefficients without their
    signs, of the block that has more.

    jidctint.c with products of 32 bits and sums of 16, as in libjpeg-turbo's SIMD code: first all columns at once,
    then all rows.
    """

    def codegen(context, builder, signature, arguments):
        pair, *both_steps = arguments[:3]
        corners, pitches = list(arguments[3:5]), arguments[5:]
        rows, weights = [], []
        for r in range(8):
            levels = load(builder, builder.add(pair, i64(PAIR_ROW * r)), _ROW)
            halves = [load(builder, builder.add(address, i64(16 * r)), vector(8, i16)) for address in both_steps]
            steps = builder.shuffle_vector(*halves, numbers(range(16)))
            negative = builder.icmp_signed("<", levels, _constant(_ROW, 0))
            magnitudes = builder.select(negative, builder.neg(levels), levels)
            weights.append(multiply_pairs(context, builder, magnitudes, steps))
            rows.append(builder.mul(levels, steps))
        columns = _transpose(builder, _idct_pass(context, builder, rows, 11))
        for levels in _transpose(builder, _idct_pass(context, builder, columns, 18)):
            levels = _clamp(builder, builder.add(levels, _constant(_ROW, 128)), 0, 255)
            samples = builder.bitcast(builder.trunc(levels, vector(16, i8)), vector(2, i64))
            for half in range(2):
                store(builder, builder.extract_element(samples, i32(half)), corners[half])
                corners[half] = builder.add(corners[half], pitches[half])
        return _larger_half(builder, reduce(builder.add, weights))

    return types.int64(*[types.int64] * 7), codegen


def _constant(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _larger_half(builder: Any, lanes: Any) -> Any:
    """int64: the larger one of the sums of int32 lanes 0-3 and 4-7."""
    for step in (2, 1):
        neighbours = numbers([lane ^ step for lane in range(8)])
        lanes = builder.add(lanes, builder.shuffle_vector(lanes, lanes, neighbours))
    one, other = (builder.extract_element(lanes, i32(lane)) for lane in (0, 4))
    return builder.sext(builder.select(builder.icmp_signed(">", one, other), one, other), i64)


def _clamp(builder: Any, values: Any, low: int, high: int) -> Any:
    low, high = _constant(values.type, low), _constant(values.type, high)
    values = builder.select(builder.icmp_signed("<", values, low), low, values)
    return builder.select(builder.icmp_signed(">", values, high), high, values)


def _transpose(builder: Any, rows: Sequence[Any]) -> list[Any]:
    """Eight rows of a pair, rows and columns exchanged in each block, by three rounds of interleaving."""
    rows = list(rows)
    for _ in range(3):
        rows = [builder.shuffle_vector(rows[i], rows[i + 4], half) for i in range(4) for half in (_LOW, _HIGH)]
    return rows


def _idct_pass(context: Any, builder: Any, z: Sequence[Any], shift: int) -> list[Any]:
    """The one-dimensional transform of jidctint.c over eight int16 vectors, descaled by `shift` bits."""

    # Sums of 32 bits come as two vectors: lanes 0-3 of each block, and 4-7.
    def interleaved(a: Any, b: Any) -> list[Any]:
        return [builder.shuffle_vector(a, b, half) for half in (_LOW, _HIGH)]

    def combine(pair: Sequence[Any], first: int, second: int) -> list[Any]:
        """int32 `first * a + second * b`"""
        weights = ir.Constant(_ROW, [first, second] * 8)
        return [multiply_pairs(context, builder, half, weights) for half in pair]

    def add(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
        return [builder.add(*halves) for halves in zip(a, b, strict=True)]

    def sub(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
        return [builder.sub(*halves) for halves in zip(a, b, strict=True)]

    def descaled(total: Sequence[Any]) -> Any:
        half, places = _constant(_SUMS, 1 << (shift - 1)), _constant(_SUMS, shift)
        levels = [builder.ashr(builder.add(each, half), places) for each in total]
        return builder.trunc(builder.shuffle_vector(*levels, _REJOIN), _ROW)

    # The factors are the cosines of jidctint.c times 2**13, multiplied out so that each line has two products.
    z04, z26, z71, z53 = (interleaved(z[a], z[b]) for a, b in ((0, 4), (2, 6), (7, 1), (5, 3)))
    even_0, even_1 = combine(z04, 8192, 8192), combine(z04, 8192, -8192)
    even_2, even_3 = combine(z26, 4433, 4433 - 15137), combine(z26, 4433 + 6270, 4433)
    even = [add(even_0, even_3), add(even_1, even_2), sub(even_1, even_2), sub(even_0, even_3)]
    sums = interleaved(builder.add(z[7], z[3]), builder.add(z[5], z[1]))
    z3, z4 = combine(sums, 9633 - 16069, 9633), combine(sums, 9633, 9633 - 3196)
    odd = [
        add(combine(z71, -7373, 12299 - 7373), z4),
        add(combine(z53, -20995, 25172 - 20995), z3),
        add(combine(z53, 16819 - 20995, -20995), z4),
        add(combine(z71, 2446 - 7373, -7373), z3),
    ]
    totals = [add(e, o) for e, o in zip(even, odd, strict=True)]
    differences = [sub(e, o) for e, o in zip(even, odd, strict=True)]
    return [descaled(total) for total in (*totals, *reversed(differences))]


@kernel
def fill_block(dc, corner, pitch):
    """The inverse DCT of a block that has a DC coefficient only."""
    level = min(max((((np.int64(np.int16(dc)) << 2) + 16) >> 5) + 128, 0), 255)
    word = np.uint64(level) * np.uint64(0x0101010101010101)
    for r in range(8):
        store_word(corner + r * pitch, word)
