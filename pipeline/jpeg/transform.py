"""The inverse DCT of one block, jidctint.c's accurate integer one, in vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from headrace.pipeline.compiled import intrinsic, kernel
from headrace.pipeline.jpeg.memory import store_word


@intrinsic
def clear_block(typingctx, address):
    """Zero 64 int16 at `address`."""

    def codegen(context, builder, signature, arguments):
        quarter = ir.VectorType(ir.IntType(64), 4)
        for offset in range(0, 128, 32):
            pointer = builder.inttoptr(builder.add(arguments[0], ir.IntType(64)(offset)), quarter.as_pointer())
            builder.store(ir.Constant(quarter, [0] * 4), pointer, align=2)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def inverse_dct(typingctx, block, corner, pitch):
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
def fill_block(dc, corner, pitch):
    """The inverse DCT of a block that has a DC coefficient only."""
    level = min(max((((np.int64(np.int16(dc)) << 2) + 16) >> 5) + 128, 0), 255)
    word = np.uint64(level) * np.uint64(0x0101010101010101)
    for r in range(8):
        store_word(corner + r * pitch, word)
