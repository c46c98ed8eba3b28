"""The native engine's pixel operators, compiled, without the GIL.

Images inside the engine are planar uint8, shape (3, H, W). Each operator rounds as torchvision's does on uint8
tensors, so that views agree with the reference engine to the grey level.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from headrace.pipeline.compiled import carray, inlined, intrinsic, kernel
from headrace.pipeline.plan import BRIGHTNESS, CONTRAST, HUE, SATURATION

_LUMA_R, _LUMA_G, _LUMA_B = np.float32(0.2989), np.float32(0.587), np.float32(0.114)
_ZERO, _ONE, _WHITE = np.float32(0.0), np.float32(1.0), np.float32(255.0)
_TO_UNIT_LEVEL = np.float32(1.0 / 255.0)
_TO_LEVEL = np.float32(255.999)  # torchvision's to_dtype: 256 - 1e-3, then truncation
_SIX, _SIXTH, _TWO, _FOUR = np.float32(6.0), np.float32(1.0 / 6.0), np.float32(2.0), np.float32(4.0)


@intrinsic
def as_pointer(typingctx, address):
    """int64 address to a pointer that `carray` takes."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


@kernel
def pixels_at(address, height, width):
    """uint8 (height, width, 3) array over the memory at `address`."""
    return carray(as_pointer(address), (height, width, 3), np.uint8)


# -- Crop and resize ----------------------------------------------------------------------------------------


@kernel
def resize_weights(size_in, size_out, first, count, weights):
    """Antialiased bilinear weights in fixed point, as Pillow and torch compute them for uint8.

    Writes, for each of the `size_out` outputs, the first input and the number of inputs it reads and their
    int16 weights, 0 beyond them. Returns the number of fractional bits.
    """
    scale = size_in / size_out
    support = max(scale, 1.0)
    inverse = 1.0 / support
    exact = np.empty((size_out, weights.shape[1]), np.float64)
    largest = 0.0
    for i in range(size_out):
        center = scale * (i + 0.5)
        begin = max(np.int64(center - support + 0.5), 0)
        end = min(np.int64(center + support + 0.5), size_in)
        total = 0.0
        for k in range(end - begin):
            distance = abs((k + begin - center + 0.5) * inverse)
            exact[i, k] = 1.0 - distance if distance < 1.0 else 0.0
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
            weights[i, k] = np.int16(0.5 + exact[i, k] * (1 << bits)) if k < count[i] else 0
    return bits


@kernel
def taps(size_in, size_out):
    """Largest number of inputs that one output of a resize reads."""
    return np.int64(np.ceil(max(size_in / size_out, 1.0))) * 2 + 1


@intrinsic
def _weighted_pixel(typingctx, source, weights, pairs, bits):
    """Weighted sum of neighbouring RGB pixels in SIMD registers: uint32 whose bytes are R, G, B and a spare.

    `source`: int64 address of the first pixel. `weights`: int64 address of 2 * `pairs` int16. Each pair of pixels
    is one multiply-and-add of 16-bit lanes (r0 r1 g0 g1 b0 b1 . .) with (w0 w1 w0 w1 ...). Reads two bytes beyond
    the last pixel.
    """

    def codegen(context, builder, signature, arguments):
        source, weights, pairs, bits = arguments
        i8, i16, i32, i64 = (ir.IntType(n) for n in (8, 16, 32, 64))
        lanes = ir.VectorType(i32, 4)

        def constant(values, element=i32):
            return ir.Constant(ir.VectorType(element, len(values)), values)

        def splat(scalar):
            vector = builder.insert_element(ir.Constant(lanes, ir.Undefined), scalar, i32(0))
            return builder.shuffle_vector(vector, ir.Constant(lanes, ir.Undefined), constant([0] * 4))

        def load(address, kind, align):
            return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)

        shift = builder.trunc(bits, i32)
        half = builder.shl(i32(1), builder.sub(shift, i32(1)))
        total = cgutils.alloca_once(builder, lanes)
        builder.store(splat(half), total)
        with cgutils.for_range(builder, pairs, intp=i64) as loop:
            pixels = load(builder.add(source, builder.mul(loop.index, i64(6))), ir.VectorType(i8, 8), 1)
            pixels = builder.shuffle_vector(pixels, pixels, constant([0, 3, 1, 4, 2, 5, 6, 7]))
            pixels = builder.zext(pixels, ir.VectorType(i16, 8))
            pair = load(builder.add(weights, builder.mul(loop.index, i64(4))), i32, 4)
            pair = builder.bitcast(splat(pair), ir.VectorType(i16, 8))
            products = []
            for offset in (
                0,
                1,
            ):  # LLVM turns the sum of the two products into one multiply-and-add instruction
                chosen = constant([offset, offset + 2, offset + 4, offset + 6])
                left = builder.sext(builder.shuffle_vector(pixels, pixels, chosen), lanes)
                right = builder.sext(builder.shuffle_vector(pair, pair, chosen), lanes)
                products.append(builder.mul(left, right))
            summed = builder.add(builder.load(total), builder.add(*products))
            builder.store(summed, total)
        levels = builder.lshr(builder.load(total), splat(shift))
        return builder.bitcast(builder.trunc(levels, ir.VectorType(i8, 4)), i32)

    return types.uint32(types.int64, types.int64, types.int64, types.int64), codegen


@kernel
def _resize_row(row, first, count, weights, bits, mirrored, out):
    """The row at address `row` to `out`, uint32 (S,) of RGB and a spare byte."""
    size = len(first)
    weight = weights.ctypes.data
    stride = weights.strides[0]
    for i in range(size):
        pixel = _weighted_pixel(row + 3 * first[i], weight + i * stride, (count[i] + 1) >> 1, bits)
        out[size - 1 - i if mirrored else i] = pixel


@kernel
def _blend_rows(rows, begin, count, weights, bits, total, out):
    """Weighted sum of `count` rows of `rows` (R, N) from `begin` on, to `out` (N,). `total`: int32 (N,)."""
    n = len(out)
    half = np.int32(1 << (bits - 1))
    shift = np.int32(bits)
    weight = np.int32(weights[0])
    row = rows[begin]
    for x in range(n):
        total[x] = half + weight * np.int32(row[x])
    for k in range(1, count - 1):
        weight = np.int32(weights[k])
        row = rows[begin + k]
        for x in range(n):
            total[x] += weight * np.int32(row[x])
    weight = np.int32(weights[count - 1]) if count > 1 else np.int32(0)
    row = rows[begin + count - 1]
    for x in range(n):
        out[x] = np.uint8((total[x] + weight * np.int32(row[x])) >> shift)


@kernel
def _split_channels(row, red, green, blue):
    """A row of RGB and a spare byte (4 * S,) to three planes' rows (S,)."""
    for x in range(len(red)):
        red[x] = row[4 * x]
        green[x] = row[4 * x + 1]
        blue[x] = row[4 * x + 2]


@kernel
def crop_resize(image, top, left, height, width, mirrored, scratch_rows, out):
    """Crop an interleaved image (H, W, 3) and resize the crop, antialiased, to planar (3, S, S).

    `scratch_rows`: uint32 (at least `height`, S).
    """
    size = out.shape[1]
    first = np.empty(size, np.int32)
    count = np.empty(size, np.int32)
    weights = np.empty((size, taps(width, size) + 1), np.int16)
    bits = resize_weights(width, size, first, count, weights)
    pitch = image.strides[0]
    row = image.ctypes.data + top * pitch + left * 3
    for y in range(height):
        if top + y == image.shape[0] - 1:  # nothing may be read beyond the image's last byte
            last = np.zeros(3 * width + 8, np.uint8)
            last[: 3 * width] = image[top + y, left : left + width].copy().reshape(-1)
            _resize_row(last.ctypes.data, first, count, weights, bits, mirrored, scratch_rows[y])
        else:
            _resize_row(row + y * pitch, first, count, weights, bits, mirrored, scratch_rows[y])
    weights = np.empty((size, taps(height, size) + 1), np.int16)
    bits = resize_weights(height, size, first, count, weights)
    rows = scratch_rows.view(np.uint8)
    total = np.empty(4 * size, np.int32)
    blended = np.empty(4 * size, np.uint8)
    for y in range(size):
        _blend_rows(rows, first[y], count[y], weights[y], bits, total, blended)
        _split_channels(blended, out[0, y], out[1, y], out[2, y])


# -- Colour -------------------------------------------------------------------------------------------------


@inlined
def _clamp(x):
    return min(max(x, _ZERO), _WHITE)


@intrinsic
def _fma(typingctx, a, b, c):
    """float32 `a * b + c`, rounded once, as torch's vectorised `add(alpha=)` does."""

    def codegen(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), codegen


@inlined
def _luma(r, g, b):
    return _fma(np.float32(b), _LUMA_B, _fma(np.float32(g), _LUMA_G, np.float32(r) * _LUMA_R))


@inlined
def _blend(level, factor, other, rest):
    return np.uint8(np.int32(_clamp(_fma(other, rest, np.float32(level) * factor))))


@kernel
def brightness(pixels, factor):
    """Scale every level of a flat image (3 * N,)."""
    for i in range(len(pixels)):
        pixels[i] = np.uint8(np.int32(_clamp(np.float32(pixels[i]) * factor)))


@kernel
def contrast(red, green, blue, factor):
    """Blend with the mean grey level of the image. Planes (N,)."""
    total = 0
    for i in range(len(red)):
        total += np.int32(_luma(red[i], green[i], blue[i]))
    mean = np.float32(total / len(red))
    rest = np.float32(1.0 - np.float64(factor))
    for plane in (red, green, blue):
        for i in range(len(plane)):
            plane[i] = _blend(plane[i], factor, mean, rest)


@kernel
def saturation(red, green, blue, factor):
    """Blend each pixel with its own grey level. Planes (N,)."""
    rest = np.float32(1.0 - np.float64(factor))
    for i in range(len(red)):
        gray = np.float32(np.int32(_luma(red[i], green[i], blue[i])))
        red[i] = _blend(red[i], factor, gray, rest)
        green[i] = _blend(green[i], factor, gray, rest)
        blue[i] = _blend(blue[i], factor, gray, rest)


@kernel
def hue(red, green, blue, shift):
    """Turn the colour circle by `shift` turns in HSV. Planes (N,)."""
    for i in range(len(red)):
        r = np.float32(red[i]) * _TO_UNIT_LEVEL
        g = np.float32(green[i]) * _TO_UNIT_LEVEL
        b = np.float32(blue[i]) * _TO_UNIT_LEVEL
        high = max(max(r, g), b)
        low = min(min(r, g), b)
        spread = high - low
        gray = spread == _ZERO
        s = spread / (_ONE if gray else high)
        divisor = _ONE if gray else spread
        rc, gc, bc = (high - r) / divisor, (high - g) / divisor, (high - b) / divisor
        h = bc - gc if high == r else (_TWO + rc - bc if high == g else _FOUR + gc - rc)
        h = h * _SIXTH + _ONE
        h = h - np.floor(h)
        h = h + shift
        h = h - np.floor(h)
        h6 = h * _SIX
        sector = np.floor(h6)
        f = h6 - sector
        sector = sector if sector < _SIX else _ZERO
        sf = s * f
        p = (_ONE - s) * high
        q = (_ONE - sf) * high
        t = (sf + (_ONE - s)) * high
        # sector 0..5: (v,t,p) (q,v,p) (p,v,t) (p,q,v) (t,p,v) (v,p,q)
        if sector < _TWO:
            r2 = high if sector < _ONE else q
            g2 = t if sector < _ONE else high
            b2 = p
        elif sector < _FOUR:
            r2 = p
            g2 = high if sector < np.float32(3.0) else q
            b2 = t if sector < np.float32(3.0) else high
        else:
            r2 = t if sector < np.float32(5.0) else high
            g2 = p
            b2 = high if sector < np.float32(5.0) else q
        red[i] = np.uint8(np.int32(min(max(r2, _ZERO), _ONE) * _TO_LEVEL))
        green[i] = np.uint8(np.int32(min(max(g2, _ZERO), _ONE) * _TO_LEVEL))
        blue[i] = np.uint8(np.int32(min(max(b2, _ZERO), _ONE) * _TO_LEVEL))


@kernel
def grayscale(red, green, blue):
    """Replace each pixel by its grey level. Planes (N,)."""
    for i in range(len(red)):
        level = np.uint8(np.int32(_luma(red[i], green[i], blue[i])))
        red[i] = level
        green[i] = level
        blue[i] = level


@kernel
def solarize(pixels, threshold):
    """Invert the levels at or above `threshold` of a flat image (3 * N,)."""
    lowest = np.uint8(threshold)
    for i in range(len(pixels)):
        level = pixels[i]
        pixels[i] = ~level if level >= lowest else level


@kernel
def jitter(image, order, factors):
    """The colour changes of one plan row, in its order, on planar (3, H, W)."""
    flat = image.reshape(-1)
    n = len(flat) // 3
    red, green, blue = flat[:n], flat[n : 2 * n], flat[2 * n :]
    for code in order:
        if code == BRIGHTNESS:
            brightness(flat, factors[BRIGHTNESS])
        elif code == CONTRAST:
            contrast(red, green, blue, factors[CONTRAST])
        elif code == SATURATION:
            saturation(red, green, blue, factors[SATURATION])
        elif code == HUE:
            hue(red, green, blue, factors[HUE])


# -- Blur ---------------------------------------------------------------------------------------------------
#
# Levels are int16 with 6 fractional bits and weights int16 with 16, so that two taps are one 16-bit multiply. Against
# exact arithmetic a level is off by one where the exact value lies within about 0.05 of a rounding border.

_BLUR_BITS = 6
_HALF_LEVEL = 1 << (_BLUR_BITS - 1)


@intrinsic
def _scaled(typingctx, value, weight):
    """int16 `value * weight >> 16`: the form that LLVM turns into one SIMD instruction."""

    def codegen(context, builder, signature, arguments):
        x, y = (builder.sext(argument, ir.IntType(32)) for argument in arguments)
        return builder.trunc(builder.ashr(builder.mul(x, y), ir.IntType(32)(16)), ir.IntType(16))

    return types.int16(types.int16, types.int16), codegen


@intrinsic
def _sum(typingctx, a, b):
    """int16 sum that stays 16 bits wide."""

    def codegen(context, builder, signature, arguments):
        return builder.add(*arguments)

    return types.int16(types.int16, types.int16), codegen


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
    for x in range(len(out)):
        out[x] = np.int16(levels[x]) << _BLUR_BITS


@kernel
def _narrow(levels, out):
    for x in range(len(out)):
        out[x] = np.uint8((levels[x] + _HALF_LEVEL) >> _BLUR_BITS)


@kernel
def _scale_row(row, weight, bias, out):
    for x in range(len(out)):
        out[x] = _sum(_scaled(_sum(row[x], row[x]), weight), bias)


@kernel
def _add_pair(before, after, weight, out):
    """out += weight * (before + after): the two taps at equal distance from the centre."""
    for x in range(len(out)):
        out[x] = _sum(out[x], _scaled(_sum(before[x], after[x]), weight))


@kernel
def gaussian_blur(image, sigma, kernel_taps, scratch):
    """Separable Gaussian blur with reflected borders of a planar image (3, H, W), in place.

    `scratch`: int16, at least H * W elements.
    """
    weights = blur_weights(sigma, kernel_taps)
    reach = len(weights) - 1
    if reach == 0:
        return
    height, width = image.shape[1:]
    plane = scratch[: height * width].reshape(height, width)
    padded = np.empty(width + 2 * reach, np.int16)
    row = padded[reach : reach + width]
    result = np.empty(width, np.int16)
    bias = np.int16((reach + 1) // 2)  # what cutting off the products' fractions loses on average
    for channel in range(3):
        _widen(image[channel].reshape(-1), plane.reshape(-1))
        for y in range(height):
            _scale_row(plane[y], weights[0], bias, row)
            for k in range(1, reach + 1):
                _add_pair(plane[_reflect(y - k, height)], plane[_reflect(y + k, height)], weights[k], row)
            for k in range(1, reach + 1):
                padded[reach - k] = padded[reach + k]
                padded[reach + width - 1 + k] = padded[reach + width - 1 - k]
            _scale_row(row, weights[0], bias, result)
            for k in range(1, reach + 1):
                _add_pair(padded[reach - k :], padded[reach + k :], weights[k], result)
            _narrow(result, image[channel, y])


# -- Into the batch -----------------------------------------------------------------------------------------


@kernel
def store_levels(red, green, blue, out):
    """Planes (N,) to interleaved levels, uint8 (3 * N,)."""
    for x in range(len(red)):
        out[3 * x] = red[x]
        out[3 * x + 1] = green[x]
        out[3 * x + 2] = blue[x]


@kernel
def _scale_levels(levels, scale, shift, out):
    for x in range(len(out)):
        out[x] = np.float32(levels[x]) * scale[x] + shift[x]


@kernel
def store_floats(red, green, blue, scale, shift, out):
    """Planes (N,) to interleaved float32 (3 * N,), `level * scale + shift` with three scales and shifts."""
    block = 512  # pixels whose levels, scales and results stay in the first-level cache
    levels = np.empty(3 * block, np.uint8)
    scales = np.empty(3 * block, np.float32)
    shifts = np.empty(3 * block, np.float32)
    for x in range(3 * block):
        scales[x] = scale[x % 3]
        shifts[x] = shift[x % 3]
    for begin in range(0, len(red), block):
        end = min(begin + block, len(red))
        store_levels(red[begin:end], green[begin:end], blue[begin:end], levels)
        _scale_levels(levels, scales, shifts, out[3 * begin : 3 * end])
