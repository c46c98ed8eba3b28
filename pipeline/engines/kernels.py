"""The native engine's pixel operators, compiled, without the GIL.

Images inside the engine are planar uint8, shape (3, H, W). Each operator rounds as torchvision's does on uint8
tensors, so that views agree with the reference engine to the grey level.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.core import cgutils

from headrace.pipeline.compiled import carray, inlined, intrinsic, kernel
from headrace.pipeline.engines.blur import gaussian_blur
from headrace.pipeline.images.colour import D65, LUMA, XYZ_OF_RGB
from headrace.pipeline.images.noise import four_gaussians
from headrace.pipeline.images.view import BRIGHTNESS, CONTRAST, HUE, SATURATION

_LUMA_R, _LUMA_G, _LUMA_B = map(np.float32, LUMA)
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


# -- Place ---------------------------------------------------------------------------------------------------


@kernel
def turn(image, turns):
    """Turn a planar square image (3, S, S) by quarters counter-clockwise, in place, as `torch.rot90` does."""
    size = image.shape[1]
    last = size - 1
    for channel in range(3):
        plane = image[channel]
        for y in range(size // 2):
            for x in range((size + 1) // 2):
                # The four pixels that a quarter turn passes on to each other, clockwise from the upper left.
                a, b, c, d = plane[y, x], plane[x, last - y], plane[last - y, last - x], plane[last - x, y]
                if turns == 1:
                    a, b, c, d = b, c, d, a
                elif turns == 2:
                    a, b, c, d = c, d, a, b
                elif turns == 3:
                    a, b, c, d = d, a, b, c
                plane[y, x], plane[x, last - y], plane[last - y, last - x], plane[last - x, y] = a, b, c, d


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


@inlined
def _sixth(total):
    """An integer over 6, to the nearest level, halves upwards."""
    return np.uint8(min(max(total + np.int32(3), np.int32(0)) // np.int32(6), np.int32(255)))


@kernel
def project(red, green, blue):
    """Take out each pixel's part along (-1, 2, -1): green against magenta. Planes (N,)."""
    for i in range(len(red)):
        r, g, b = np.int32(red[i]), np.int32(green[i]), np.int32(blue[i])
        red[i] = _sixth(np.int32(5) * r + np.int32(2) * g - b)
        green[i] = _sixth(np.int32(2) * (r + g + b))
        blue[i] = _sixth(np.int32(5) * b + np.int32(2) * g - r)


@inlined
def _noisy(mean, deviation, gaussian):
    return np.uint8(min(max(np.floor(mean + deviation * np.float64(gaussian) + 0.5), 0.0), 255.0))


@kernel
def drop_channels(pixels, kept, noise):
    """Replace all channels of a flat image (3 * N,) but one by noise around its mean; see `View.drop_channels`."""
    n = len(pixels) // 3
    total, squares = np.int64(0), np.int64(0)
    for i in range(kept * n, kept * n + n):
        level = np.int64(pixels[i])
        total += level
        squares += level * level
    mean = total / n
    deviation = np.sqrt(max(squares / n - mean * mean, 0.0)) / 100.0
    first, second = n * (1 if kept == 0 else 0), n * (1 if kept == 2 else 2)
    for block in range((n + 1) // 2):
        a, b, c, d = four_gaussians(noise, block)
        pixels[first + 2 * block] = _noisy(mean, deviation, a)
        pixels[second + 2 * block] = _noisy(mean, deviation, b)
        if 2 * block + 1 < n:
            pixels[first + 2 * block + 1] = _noisy(mean, deviation, c)
            pixels[second + 2 * block + 1] = _noisy(mean, deviation, d)


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
def erase(image, box, value):
    """Fill a rectangle (top, left, height, width) of a planar image (3, H, W) with a level for each channel."""
    top, left, height, width = box
    for channel in range(3):
        for y in range(top, top + height):
            image[channel, y, left : left + width] = value[channel]


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


_JITTER, _PROJECT, _DROP_CHANNELS, _GRAYSCALE, _BLUR, _SOLARIZE, _ERASE = range(7)
CODES = {
    "jitter": _JITTER,
    "project": _PROJECT,
    "drop_channels": _DROP_CHANNELS,
    "grayscale": _GRAYSCALE,
    "blur": _BLUR,
    "solarize": _SOLARIZE,
    "erase": _ERASE,
}
"""Operations of views, by which `operate` knows them."""


@kernel
def operate(code, image, view, drawn, plane):
    """Do one of CODES to a planar image (3, S, S), in place, if its draws say so. `view`: of SETTINGS; `drawn`:
    of DRAWS; `plane`: see `gaussian_blur`."""
    flat = image.reshape(-1)
    n = len(flat) // 3
    red, green, blue = flat[:n], flat[n : 2 * n], flat[2 * n :]
    if code == _JITTER:
        jitter(image, drawn.jitter_order, drawn.jitter_factor)
    elif code == _PROJECT:
        if drawn.project:
            project(red, green, blue)
    elif code == _DROP_CHANNELS:
        if drawn.kept >= 0:
            drop_channels(flat, np.int64(drawn.kept), drawn.noise)
    elif code == _GRAYSCALE:
        if drawn.grayscale:
            grayscale(red, green, blue)
    elif code == _BLUR:
        if drawn.blur_sigma > 0.0:
            gaussian_blur(image, drawn.blur_sigma, view.blur_taps, plane)
    elif code == _SOLARIZE:
        if drawn.solarize:
            solarize(flat, view.solarize_threshold)
    elif code == _ERASE and drawn.erase[2]:
        erase(image, drawn.erase, view.erase_value)


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


@kernel
def standard_scale(plane):
    """(scale, shift) that bring a plane (N,) to mean 0 and deviation 1; a deviation below one level counts as one."""
    total, squares = np.int64(0), np.int64(0)
    for i in range(len(plane)):
        level = np.int64(plane[i])
        total += level
        squares += level * level
    mean = total / len(plane)
    deviation = np.sqrt(max(squares / len(plane) - mean * mean, 0.0))
    scale = 1.0 / max(deviation, 1.0)
    return np.float32(scale), np.float32(-mean * scale)


_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS > 0.04045, ((_LEVELS + 0.055) / 1.055) ** 2.4, _LEVELS / 12.92).astype(np.float32)
"""Levels of sRGB as light."""
_TO_XYZ = (np.array(XYZ_OF_RGB) / np.array(D65)[:, None]).astype(np.float32)
"""Light to the tristimulus values over those of white."""
_THIRD = np.float32(1 / 3)
_THIRD_OF_EXPONENT = np.int32(709958130)  # the FreeBSD libm's: a float's bits over 3, plus this, are near its cube root
_LAB_KNEE, _LAB_SLOPE, _LAB_OFFSET = np.float32(0.008856), np.float32(7.787), np.float32(16 / 116)
_LAB_L, _LAB_A, _LAB_B, _SIXTEEN = np.float32(116), np.float32(500), np.float32(200), np.float32(16)


@kernel
def _lab_curve(t, guess):
    """The cube root of Lab with its straight foot, in place. float32 (N,); `guess`: float32 (N,).

    Two of Halley's steps, each of which triples the digits, from a guess that is right to 5 bits.
    """
    t_bits, guess_bits = t.view(np.int32), guess.view(np.int32)
    for k in range(len(t)):
        guess_bits[k] = np.int32(np.float32(t_bits[k]) * _THIRD) + _THIRD_OF_EXPONENT
    for k in range(len(t)):
        x, root = t[k], guess[k]
        for _ in range(2):
            cube = root * root * root
            root = root * (x + x + cube) / (x + cube + cube)
        t[k] = root if x > _LAB_KNEE else _LAB_SLOPE * x + _LAB_OFFSET


@kernel
def store_lab(red, green, blue, scale, shift, out):
    """Planes (N,) as CIE Lab, `lab * scale + shift` with three scales and shifts, to interleaved float32 (3 * N,)."""
    block = 256  # pixels whose intermediate values stay in the first-level cache
    values = np.empty(3 * block, np.float32)
    guess = np.empty(3 * block, np.float32)
    for begin in range(0, len(red), block):
        n = min(block, len(red) - begin)
        x, y, z = values[:n], values[n : 2 * n], values[2 * n : 3 * n]
        for k in range(n):
            x[k] = _LINEAR[red[begin + k]]
            y[k] = _LINEAR[green[begin + k]]
            z[k] = _LINEAR[blue[begin + k]]
        for k in range(n):
            r, g, b = x[k], y[k], z[k]
            x[k] = _TO_XYZ[0, 0] * r + _TO_XYZ[0, 1] * g + _TO_XYZ[0, 2] * b
            y[k] = _TO_XYZ[1, 0] * r + _TO_XYZ[1, 1] * g + _TO_XYZ[1, 2] * b
            z[k] = _TO_XYZ[2, 0] * r + _TO_XYZ[2, 1] * g + _TO_XYZ[2, 2] * b
        _lab_curve(values[: 3 * n], guess[: 3 * n])
        for k in range(n):
            at = 3 * (begin + k)
            out[at] = (_LAB_L * y[k] - _SIXTEEN) * scale[0] + shift[0]
            out[at + 1] = _LAB_A * (x[k] - y[k]) * scale[1] + shift[1]
            out[at + 2] = _LAB_B * (y[k] - z[k]) * scale[2] + shift[2]
