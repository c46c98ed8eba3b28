"""Samples to pixels: libjpeg-turbo's upsampling of chroma (jdsample.c) and conversion to RGB (jdcolor.c).

Rows are handled `STEP` samples at a time, at addresses: what is read and written beyond their ends lies in the scratch
memory.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from headrace.pipeline.compiled import intrinsic, kernel
from headrace.pipeline.jpeg.scratch import STEP
from headrace.pipeline.simd import i8, i16, i32, i64, load, multiply_pairs, numbers, store, vector

_WIDE = vector(STEP, i16)


@kernel
def convert_region(top, left, height, width, count, mcu_columns, scratch, image):
    components = scratch.components
    across, down = components[0, 1], components[0, 2]
    luma_pitch, chroma_pitch = 8 * across * mcu_columns, 8 * mcu_columns
    chroma_rows = (image.shape[0] + down - 1) // down
    chroma_columns = (image.shape[1] + across - 1) // across
    # Chroma columns that the region's upsampling reads.
    begin = max(0, left // across - 1)
    end = min(chroma_columns, (left + width - 1) // across + 2)
    planes, upsampled, pixels = scratch.planes.ctypes.data, scratch.upsampled, scratch.pixels
    for y in range(top, top + height):
        row = image[y].reshape(-1)[3 * left : 3 * (left + width)]
        luma_at = y * luma_pitch + left
        if count == 1:
            _store_gray(scratch.planes[luma_at : luma_at + width], row)
            continue
        near = y // down
        far = near if down == 1 else min(max(near + (1 if y & 1 else -1), 0), chroma_rows - 1)
        for c in range(2):
            plane = scratch.planes[components[c + 1, 6] :]
            near_row = plane[near * chroma_pitch + begin : near * chroma_pitch + end]
            far_row = plane[far * chroma_pitch + begin : far * chroma_pitch + end]
            if across == 1:
                upsampled[c, : end - begin] = near_row
            elif down == 1:
                _upsample_row(near_row, near_row, 1, 0, scratch.chroma[c], upsampled[c])
            else:
                _upsample_row(near_row, far_row, 3, 1, scratch.chroma[c], upsampled[c])
        skip = left - across * begin
        luma, out = planes + luma_at, row.ctypes.data
        blue, red = upsampled[0].ctypes.data + skip, upsampled[1].ctypes.data + skip
        whole = width - width % STEP
        for x in range(0, whole, STEP):
            _store_colour(luma + x, blue + x, red + x, out + 3 * x)
        if whole < width:
            _store_colour(luma + whole, blue + whole, red + whole, pixels.ctypes.data)
            row[3 * whole :] = pixels[: 3 * (width - whole)]


@kernel
def _upsample_row(near, far, near_weight, far_weight, blended, out):
    """Twice as many columns of a row that is blended of two: 3/4 of the nearer and 1/4 of the farther column.

    The image's outermost columns are their own neighbours; a region's outermost ones are not used.
    """
    n = len(near)
    for i in range(n):
        blended[i + 1] = near[i] * near_weight + far[i] * far_weight
    blended[0], blended[n + 1] = blended[1], blended[n]
    source, target = blended.ctypes.data + 2, out.ctypes.data
    for x in range(0, n, STEP):
        if far_weight:
            _double_blended(source + 2 * x, target + 2 * x)
        else:
            _double_plain(source + 2 * x, target + 2 * x)


def _double(bias_left: int, bias_right: int, shift: int) -> Any:
    """An intrinsic that turns STEP int16 into twice as many uint8, with the roundings of jdsample.c."""

    def double(typingctx, source, target):
        def codegen(context, builder, signature, arguments):
            source, target = arguments
            left, middle, right = (load(builder, builder.add(source, i64(at)), _WIDE) for at in (-2, 0, 2))
            tripled = builder.mul(middle, _constant(3))
            halves = []
            for neighbour, bias in ((left, bias_left), (right, bias_right)):
                total = builder.add(builder.add(tripled, neighbour), _constant(bias))
                halves.append(builder.lshr(total, _constant(shift)))
            store(builder, builder.or_(halves[0], builder.shl(halves[1], _constant(8))), target)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return intrinsic(double)


_double_plain = _double(1, 2, 2)
_double_blended = _double(8, 7, 4)


@intrinsic
def _store_colour(typingctx, luma, blue, red, out):
    """STEP samples of Y, Cb and Cr (uint8) to interleaved RGB, with the factors of jdcolor.c times 2**16."""

    def codegen(context, builder, signature, arguments):
        add, sub = builder.add, builder.sub
        luma, blue, red = (builder.zext(load(builder, address, vector(STEP, i8)), _WIDE) for address in arguments[:3])
        blue, red = sub(blue, _constant(128)), sub(red, _constant(128))
        # 91881 and 116130 are more than 16 bits hold, hence whole multiples of chroma beside the products.
        colours = [
            add(add(luma, red), _scaled(builder, red, 91881 - 65536)),
            add(sub(luma, red), _scaled_sum(context, builder, blue, -22554, red, 65536 - 46802)),
            add(add(luma, add(blue, blue)), _scaled(builder, blue, 116130 - 2 * 65536)),
        ]
        colours = [builder.trunc(_clamped(builder, colour), vector(STEP, i8)) for colour in colours]
        reds_greens = builder.shuffle_vector(colours[0], colours[1], numbers(range(2 * STEP)))
        blues = builder.shuffle_vector(colours[2], colours[2], numbers(range(2 * STEP)))
        places = [colour * STEP + x for x in range(STEP) for colour in range(3)]
        store(builder, builder.shuffle_vector(reds_greens, blues, numbers(places)), arguments[3])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


def _constant(value: int) -> Any:
    return ir.Constant(_WIDE, [value] * STEP)


def _scaled(builder: Any, chroma: Any, factor: int) -> Any:
    """`(factor * chroma + 2**15) >> 16` of levels of 9 bits."""
    double = vector(STEP, i32)
    product = builder.mul(builder.sext(builder.shl(chroma, _constant(1)), double), ir.Constant(double, [factor] * STEP))
    high = builder.trunc(builder.ashr(product, ir.Constant(double, [16] * STEP)), _WIDE)
    return builder.ashr(builder.add(high, _constant(1)), _constant(1))


_HALVES = ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])
"""Samples whose two chroma values one instruction of x86 puts side by side."""


def _scaled_sum(context: Any, builder: Any, blue: Any, blue_factor: int, red: Any, red_factor: int) -> Any:
    """`(blue_factor * blue + red_factor * red + 2**15) >> 16`"""
    weights = ir.Constant(_WIDE, [blue_factor, red_factor] * (STEP // 2))
    eight = vector(8, i32)
    halves = []
    for half in _HALVES:
        pairs = builder.shuffle_vector(blue, red, numbers([place for x in half for place in (x, STEP + x)]))
        total = builder.add(multiply_pairs(context, builder, pairs, weights), ir.Constant(eight, [1 << 15] * 8))
        halves.append(builder.ashr(total, ir.Constant(eight, [16] * 8)))
    order = [(_HALVES[0] + _HALVES[1]).index(x) for x in range(STEP)]
    return builder.trunc(builder.shuffle_vector(*halves, numbers(order)), _WIDE)


def _clamped(builder: Any, levels: Any) -> Any:
    levels = builder.select(builder.icmp_signed("<", levels, _constant(0)), _constant(0), levels)
    return builder.select(builder.icmp_signed(">", levels, _constant(255)), _constant(255), levels)


@kernel
def _store_gray(luma, out):
    for x in range(len(luma)):
        out[3 * x] = luma[x]
        out[3 * x + 1] = luma[x]
        out[3 * x + 2] = luma[x]
