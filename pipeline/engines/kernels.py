"""The native engine's pixel operators, compiled, without the GIL.

Images inside the engine are planar uint8, shape (3, H, W). Each operator rounds as torchvision's does on uint8
tensors, so that views agree with the reference engine to the grey level.
"""

from __future__ import annotations

import numpy as np
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
