"""The native engine's antialiased resize, as torchvision and Pillow have it for uint8: a horizontal and a vertical pass
in 16-bit fixed point, each rounded to levels.

Both passes multiply and add pairs of neighbours in SIMD registers. In between, an image's rows hold its three planes
one after the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from headrace.pipeline.compiled import inlined, intrinsic, kernel
from headrace.pipeline.simd import i8, i16, i32, i64, join, load, multiply_pairs, numbers, splat, store, vector

_AT_ONCE = 4  # pixels that the horizontal pass makes at once
_GROUP = 4  # taps that it multiplies at once
_COLUMNS = 32  # levels that the vertical pass makes at once


# -- Weights ------------------------------------------------------------------------------------------------


@inlined
def _triangle(distance):
    return 1.0 - distance if distance < 1.0 else 0.0


@inlined
def _cubic(distance):
    """Keys' cubic convolution with a = -0.5, as Pillow and torch have it where they antialias."""
    if distance < 1.0:
        return (1.5 * distance - 2.5) * distance * distance + 1.0
    if distance < 2.0:
        return ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return 0.0


@kernel
def resize_weights(size_in, size_out, bicubic, first, count, weights):
    """Antialiased weights, bilinear or bicubic, in fixed point, as Pillow and torch compute them for uint8.

    Writes, for each of the `size_out` outputs, the first input and the number of inputs it reads and their
    int16 weights, 0 beyond them. Returns the number of fractional bits.
    """
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    support = 2.0 * stretch if bicubic else stretch
    exact = np.empty((size_out, weights.shape[1]), np.float64)
    largest = 0.0
    for i in range(size_out):
        center = scale * (i + 0.5)
        begin = max(np.int64(center - support + 0.5), 0)
        end = min(np.int64(center + support + 0.5), size_in)
        total = 0.0
        for k in range(end - begin):
            distance = abs((k + begin - center + 0.5) / stretch)
            exact[i, k] = _cubic(distance) if bicubic else _triangle(distance)
            total += exact[i, k]
        for k in range(end - begin):
            exact[i, k] /= total
            largest = max(largest, exact[i, k])
        first[i] = begin
        count[i] = end - begin
    bits = 0
    while bits < 22 and np.int64(0.5 + largest * (1 << (bits + 1))) < (1 << 15):
        bits += 1
    for i in range(size_out):
        for k in range(weights.shape[1]):
            half = 0.5 if exact[i, k] >= 0.0 else -0.5
            weights[i, k] = np.int16(half + exact[i, k] * (1 << bits)) if k < count[i] else 0
    return bits


@kernel
def taps(size_in, size_out, bicubic):
    """Largest number of inputs that one output of a resize reads."""
    return np.int64(np.ceil(max(size_in / size_out, 1.0) * (2 if bicubic else 1))) * 2 + 1


@kernel
def _spread_weights(first, count, weights, mirrored, offsets, spread):
    """Weights in the order in which `_weighted_pixels` multiplies.

    Args:
        first, count, weights: of `resize_weights`, for S outputs.
        mirrored: from right to left.
        offsets: int32 (at least S,): bytes from the row's begin to an output's first input.
        spread: int16 (at least S, G, 16), zeros: (w0 w1) four times and (w2 w3) four times for each group of taps.
    """
    size = len(first)
    for i in range(size):
        x = size - 1 - i if mirrored else i
        offsets[x] = 3 * first[i]
        for k in range(count[i]):
            group, lane = k // _GROUP, 8 * (k % _GROUP // 2) + k % 2
            for channel in range(4):
                spread[x, group, lane + 2 * channel] = weights[i, k]


# -- SIMD ------------------------------------------------------------------------------------------------------


def _as_levels(builder: Any, totals: Any, bits: Any) -> Any:
    """Fixed-point sums, int32, rounded and clamped to uint8."""
    count = totals.type.count
    shift = builder.trunc(bits, i32)
    half = builder.shl(i32(1), builder.sub(shift, i32(1)))
    level = builder.ashr(builder.add(totals, splat(builder, half, count)), splat(builder, shift, count))
    for order, limit in (("<", 0), (">", 255)):  # bicubic weights overshoot
        limits = ir.Constant(level.type, [limit] * count)
        level = builder.select(builder.icmp_signed(order, level, limits), limits, level)
    return builder.trunc(level, vector(count, i8))


@intrinsic
def _weighted_pixels(typingctx, row, offsets, weights, groups, bits, red, green, blue):
    """Four pixels of a row's horizontal pass, to four bytes at each of the addresses `red`, `green` and `blue`.

    `row`, `offsets`, `weights`: addresses of a row of RGB, of four offsets and of their spread weights. From each
    offset on, 12 * `groups` + 4 bytes are read.
    """

    def codegen(context, builder, signature, arguments):
        row, offsets, weights, groups, bits, *planes = arguments
        bytes16, lanes = vector(16, i8), vector(8, i32)
        zero = 16  # of the second operand
        order = []  # r0 r1 g0 g1 b0 b1 . . and r2 r3 g2 g3 b2 b3 . ., as 16-bit numbers
        for pair in (0, 6):
            order += [place for channel in range(3) for place in (pair + channel, zero, pair + channel + 3, zero)]
            order += [zero] * 4
        sources, totals = [], []
        for x in range(_AT_ONCE):
            offset = load(builder, builder.add(offsets, i64(4 * x)), i32)
            sources.append(builder.add(row, builder.sext(offset, i64)))
            totals.append(cgutils.alloca_once_value(builder, ir.Constant(lanes, [0] * 8)))
        pitch = builder.mul(groups, i64(32))
        with cgutils.for_range(builder, groups, intp=i64) as loop:
            for x, (source, total) in enumerate(zip(sources, totals, strict=True)):
                pixels = load(builder, builder.add(source, builder.mul(loop.index, i64(3 * _GROUP))), bytes16)
                levels = builder.shuffle_vector(pixels, ir.Constant(bytes16, [0] * 16), numbers(order))
                levels = builder.bitcast(levels, vector(16, i16))
                place = builder.add(builder.mul(pitch, i64(x)), builder.mul(loop.index, i64(32)))
                weight = load(builder, builder.add(weights, place), vector(16, i16))
                product = multiply_pairs(context, builder, levels, weight)
                builder.store(builder.add(builder.load(total), product), total)
        halves = []
        for one, two in zip(totals[::2], totals[1::2], strict=True):
            a, b = builder.load(one), builder.load(two)
            low = builder.shuffle_vector(a, b, numbers([0, 1, 2, 3, 8, 9, 10, 11]))
            high = builder.shuffle_vector(a, b, numbers([4, 5, 6, 7, 12, 13, 14, 15]))
            halves.append(builder.add(low, high))
        levels = _as_levels(builder, join(builder, halves), bits)  # r g b . of each pixel
        by_plane = builder.shuffle_vector(
            levels, levels, numbers([4 * x + channel for channel in range(4) for x in range(4)])
        )
        words = builder.bitcast(by_plane, vector(4, i32))
        for channel, plane in enumerate(planes):
            store(builder, builder.extract_element(words, i32(channel)), plane)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), codegen


@intrinsic
def _weighted_levels(typingctx, rows, pitch, last, weights, pairs, bits, out):
    """`_COLUMNS` levels of the vertical pass, to address `out`.

    `rows`: address of the first row's levels, the next rows follow at `pitch` bytes; a row beyond the address `last`
    is `last`. `weights`: address of 2 * `pairs` int16.
    """

    def codegen(context, builder, signature, arguments):
        rows, pitch, last, weights, pairs, bits, out = arguments
        lanes = vector(8, i32)
        totals = [cgutils.alloca_once_value(builder, ir.Constant(lanes, [0] * 8)) for _ in range(_COLUMNS // 8)]
        with cgutils.for_range(builder, pairs, intp=i64) as loop:
            upper = builder.add(rows, builder.mul(loop.index, builder.mul(pitch, i64(2))))
            lower = builder.add(upper, pitch)
            lower = builder.select(builder.icmp_signed("<", lower, last), lower, last)
            pair = load(builder, builder.add(weights, builder.mul(loop.index, i64(4))), i32)
            weight = builder.bitcast(splat(builder, pair, 8), vector(16, i16))
            for block in range(_COLUMNS // 16):
                a, b = (
                    load(builder, builder.add(address, i64(16 * block)), vector(16, i8)) for address in (upper, lower)
                )
                for half in range(2):
                    order = [place for x in range(8 * half, 8 * half + 8) for place in (x, 16 + x)]
                    levels = builder.zext(builder.shuffle_vector(a, b, numbers(order)), vector(16, i16))
                    total = totals[2 * block + half]
                    product = multiply_pairs(context, builder, levels, weight)
                    builder.store(builder.add(builder.load(total), product), total)
        summed = join(builder, [builder.load(total) for total in totals])
        store(builder, _as_levels(builder, summed, bits), out)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), codegen


# -- Passes -------------------------------------------------------------------------------------------------


@kernel
def _resize_row(row, offsets, spread, bits, size, out):
    """The RGB row at address `row` to three planes' rows of `size` levels at address `out`, one after the other.

    From right to left, because up to three levels are written beyond the end of each.
    """
    groups = spread.shape[1]
    for x in range((size - 1) // _AT_ONCE * _AT_ONCE, -1, -_AT_ONCE):
        red = out + x
        _weighted_pixels(
            row,
            offsets.ctypes.data + 4 * x,
            spread.ctypes.data + 32 * groups * x,
            groups,
            bits,
            red,
            red + size,
            red + 2 * size,
        )


@kernel
def _blend_few(rows, begin, count, weights, bits, total, out):
    """Weighted sum of `count` rows of `rows` (R, N) from `begin` on, to `out` (N,). `total`: int32 (N,)."""
    total[:] = 1 << (bits - 1)
    for k in range(count):
        weight = np.int32(weights[k])
        row = rows[begin + k]
        for x in range(len(out)):
            total[x] += weight * np.int32(row[x])
    for x in range(len(out)):
        out[x] = min(max(total[x] >> np.int32(bits), 0), 255)


@kernel
def _blend_rows(rows, height, bicubic, out):
    """The vertical pass: rows (at least `height`, 3 * S and more) that hold three planes to planar (3, S, S)."""
    size = out.shape[1]
    first = np.empty(size, np.int32)
    count = np.empty(size, np.int32)
    weights = np.empty((size, taps(height, size, bicubic) + 1), np.int16)
    bits = resize_weights(height, size, bicubic, first, count, weights)
    total = np.empty(size, np.int32)
    pitch = rows.strides[0]
    for y in range(size):
        for channel in range(3):
            if size < _COLUMNS:
                part = rows[:, channel * size : (channel + 1) * size]
                _blend_few(part, first[y], count[y], weights[y], bits, total, out[channel, y])
                continue
            above = rows.ctypes.data + channel * size
            for block in range(0, size, _COLUMNS):
                x = min(block, size - _COLUMNS)  # the last two blocks may overlap
                _weighted_levels(
                    above + x + first[y] * pitch,
                    pitch,
                    above + x + (height - 1) * pitch,
                    weights.ctypes.data + y * weights.strides[0],
                    (count[y] + 1) >> 1,
                    bits,
                    out.ctypes.data + (channel * size + y) * size + x,
                )


@kernel
def crop_resize(image, top, left, height, width, mirrored, bicubic, scratch_rows, out):
    """Crop an interleaved image (H, W, 3) and resize the crop, antialiased, to planar (3, S, S).

    `scratch_rows`: uint32 (more than `height`, S), contiguous. `out`: contiguous.
    """
    size = out.shape[1]
    first = np.empty(size, np.int32)
    count = np.empty(size, np.int32)
    weights = np.empty((size, taps(width, size, bicubic)), np.int16)
    bits = resize_weights(width, size, bicubic, first, count, weights)
    groups = (count.max() + _GROUP - 1) // _GROUP
    padded = (size + _AT_ONCE - 1) // _AT_ONCE * _AT_ONCE
    offsets = np.zeros(padded, np.int32)
    spread = np.zeros((padded, groups, 16), np.int16)
    _spread_weights(first, count, weights, mirrored, offsets, spread)
    rows = scratch_rows.view(np.uint8)
    pitch = image.strides[0]
    row = image.ctypes.data + top * pitch + left * 3
    end = image.ctypes.data + image.shape[0] * pitch
    reach = offsets.max() + 3 * _GROUP * groups + 4  # bytes from the row's begin that are read, weighted with 0 or not
    copied = np.zeros(max(reach, 3 * width), np.uint8)
    for y in range(height):
        source = row + y * pitch
        if source + reach > end:  # nothing may be read beyond the image's last byte
            copied[: 3 * width] = image[top + y, left : left + width].copy().reshape(-1)
            source = copied.ctypes.data
        _resize_row(source, offsets, spread, bits, size, rows.ctypes.data + y * rows.strides[0])
    _blend_rows(rows, height, bicubic, out)
