"""Samples to pixels: libjpeg-turbo's upsampling of chroma (jdsample.c) and conversion to RGB (jdcolor.c)."""

from __future__ import annotations

from llvmlite import ir
from numba import types

from headrace.pipeline.compiled import intrinsic, kernel


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
