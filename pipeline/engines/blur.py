"""The native engine's separable Gaussian blur with reflected borders.

Levels are int16 with 6 fractional bits and weights int16 with 16, so that two taps are one 16-bit multiply. Against
exact arithmetic a level is off by one where the exact value lies within about 0.05 of a rounding border.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils

from headrace.pipeline.compiled import inlined, intrinsic, kernel
from headrace.pipeline.simd import i8, i16, i32, i64, join, load, splat, store, vector

_BLUR_BITS = 6
COLUMNS = 32
"""Levels that are blurred at once."""


def _weighted_pairs(rounded: bool) -> Any:
    """An intrinsic for one pass of the blur: int16, or uint8 levels where `rounded`."""

    def weighted_pairs(typingctx, before, after, offset, weights, reach, out):
        """`COLUMNS` levels, to address `out`: `weights[k]` times the levels at `before[k]` and `after[k]`.

        `before`, `after`: addresses of 1 + `reach` addresses of int16 levels, the centre's first; `offset` bytes are
        added to each. `weights`: address of 1 + `reach` int16.
        """

        def codegen(context, builder, signature, arguments):
            before, after, offset, weights, reach, out = arguments
            lanes = vector(16, i16)
            parts = range(COLUMNS // 16)

            def scaled(k, part):
                """The products of one pair, `(before + after) * weight >> 16`."""
                pair = []
                for table in (before, after):
                    row = load(builder, builder.add(table, builder.mul(k, i64(8))), i64)
                    pair.append(load(builder, builder.add(builder.add(row, offset), i64(32 * part)), lanes))
                weight = splat(builder, load(builder, builder.add(weights, builder.mul(k, i64(2))), i16), 16)
                wide = [builder.sext(each, vector(16, i32)) for each in (builder.add(*pair), weight)]
                return builder.trunc(builder.ashr(builder.mul(*wide), splat(builder, i32(16), 16)), lanes)

            # What cutting off the products' fractions loses on average.
            bias = builder.trunc(builder.ashr(builder.add(reach, i64(1)), i64(1)), i16)
            totals = []
            for part in parts:
                centre = builder.add(scaled(i64(0), part), splat(builder, bias, 16))
                totals.append(cgutils.alloca_once_value(builder, centre))
            with cgutils.for_range(builder, reach, intp=i64) as loop:
                k = builder.add(loop.index, i64(1))
                for part in parts:
                    builder.store(builder.add(builder.load(totals[part]), scaled(k, part)), totals[part])
            summed = join(builder, [builder.load(total) for total in totals])
            if rounded:
                half = splat(builder, i16(1 << (_BLUR_BITS - 1)), COLUMNS)
                summed = builder.ashr(builder.add(summed, half), splat(builder, i16(_BLUR_BITS), COLUMNS))
                summed = builder.trunc(summed, vector(COLUMNS, i8))
            store(builder, summed, out)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), codegen

    return intrinsic(weighted_pairs)


_to_fractions = _weighted_pairs(rounded=False)
_to_levels = _weighted_pairs(rounded=True)


@kernel
def blur_weights(sigma, kernel_taps):
    """int16 weights in 1 / 2**16 of the pairs of taps at distance 0, 1, ...; the centre counts as a pair of halves.

    The tail that rounds to nothing is left out.
    """
    radius = kernel_taps // 2
    exact = np.empty(radius + 1, np.float64)
    total = 0.0
    for k in range(radius + 1):
        exact[k] = np.exp(-0.5 * (k / sigma) ** 2)
        total += exact[k] * (1.0 if k == 0 else 2.0)
    weights = np.empty(radius + 1, np.int16)
    sides = 0
    reach = 0
    for k in range(1, radius + 1):
        weight = np.int64(np.rint(exact[k] / total * 65536.0))
        weights[k] = weight
        sides += weight
        if weight > 0:
            reach = k
    weights[0] = min(32768 - sides, 32767)
    return weights[: reach + 1]


@inlined
def _reflect(i, size):
    if i < 0:
        return -i
    return 2 * size - 2 - i if i >= size else i


@kernel
def _widen(levels, out):
    for x in range(len(levels)):
        out[x] = np.int16(levels[x]) << _BLUR_BITS


@inlined
def _pass(weighted_pairs, before, after, weights, columns, out, bytes_each):
    """One row. See `_weighted_pairs`."""
    for block in range(0, columns, COLUMNS):
        x = min(block, columns - COLUMNS)  # the last two blocks may overlap
        weighted_pairs(
            before.ctypes.data, after.ctypes.data, 2 * x, weights.ctypes.data, len(weights) - 1, out + bytes_each * x
        )


@kernel
def gaussian_blur(image, sigma, kernel_taps, scratch):
    """Separable Gaussian blur with reflected borders of a planar image (3, H, W), in place.

    `scratch`: int16, at least H * max(W, `COLUMNS`) elements.
    """
    weights = blur_weights(sigma, kernel_taps)
    reach = len(weights) - 1
    if reach == 0:
        return
    height, width = image.shape[1:]
    columns = max(width, COLUMNS)  # those beyond a narrow image are blurred, too, and not used
    plane = scratch[: height * columns].reshape(height, columns)
    padded = np.zeros(columns + 2 * reach, np.int16)
    row = padded[reach:]
    levels = np.empty(columns, np.uint8)
    above, below, left, right = np.empty((4, reach + 1), np.int64)
    for k in range(reach + 1):
        left[k] = padded.ctypes.data + 2 * (reach - k)
        right[k] = padded.ctypes.data + 2 * (reach + k)
    end = reach + width - 1
    for channel in range(3):
        for y in range(height):
            _widen(image[channel, y], plane[y])
        for y in range(height):
            for k in range(reach + 1):
                above[k] = plane.ctypes.data + 2 * columns * _reflect(y - k, height)
                below[k] = plane.ctypes.data + 2 * columns * _reflect(y + k, height)
            _pass(_to_fractions, above, below, weights, columns, row.ctypes.data, 2)
            for k in range(1, reach + 1):
                padded[reach - k] = padded[reach + k]
                padded[end + k] = padded[end - k]
            if width >= COLUMNS:
                _pass(_to_levels, left, right, weights, columns, image.ctypes.data + (channel * height + y) * width, 1)
                continue
            _pass(_to_levels, left, right, weights, columns, levels.ctypes.data, 1)
            for x in range(width):
                image[channel, y, x] = levels[x]
