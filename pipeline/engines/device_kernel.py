"""One Triton kernel that draws views on the device, from decoded pixels to what the network reads.

A program makes one view of one sample from beginning to end: the crop's antialiased resize with flip and turn, then the
operations of the view in their order, then the normalised values, channels last. In between, the view's levels lie in
scratch memory of the program, which the cache of its multiprocessor mostly holds; a barrier of the program separates
what is written from what is read. So a batch of views of one size is one launch, whatever was drawn for each.

Every step rounds as the native engine's does (`headrace.pipeline.engines.kernels` and `resize`): the resize in the same
fixed point, colours with the same fused multiplications. The blur alone is calculated otherwise, in float32 with
an intermediate of 7 fractional bits, and lies within a level.

With TRITON_INTERPRET=1 the kernel runs on the CPU, slowly, for tests.
"""

from __future__ import annotations

import numpy as np
import triton
import triton.language as tl

from headrace.pipeline.images.colour import D65, LUMA, XYZ_OF_RGB
from headrace.pipeline.images.view import BRIGHTNESS, CONTRAST, HUE, SATURATION

RECORD = np.dtype(
    [
        ("address", "<i8"),  # of the first level of the picture's upper left pixel
        ("row", "<i4"),  # bytes from a row of the picture to the next
        ("pixel", "<i4"),  # from a pixel to the next
        ("plane", "<i4"),  # from a channel to the next
        ("crop", "<i4", 4),  # top, left, height, width in the picture
        ("flip", "<i4"),
        ("turns", "<i4"),
        ("jitter_order", "<i4", 4),
        ("jitter_factor", "<f4", 4),
        ("project", "<i4"),
        ("kept", "<i4"),
        ("noise", "<i4"),  # row of the noise that takes the place of dropped channels
        ("grayscale", "<i4"),
        ("blur_sigma", "<f4"),
        ("solarize", "<i4"),
        ("erase", "<i4", 4),
        ("unused", "<i4", 3),
    ]
)
"""What is drawn for one view of one sample, and where its picture lies: 32 words."""

_WORDS = tl.constexpr(RECORD.itemsize // 4)


def _place(name: str) -> tl.constexpr:
    fields = RECORD.fields
    assert fields is not None
    return tl.constexpr(fields[name][1] // 4)


_ADDRESS, _ROW, _PIXEL, _PLANE, _CROP = map(_place, ("address", "row", "pixel", "plane", "crop"))
_FLIP, _TURNS, _ORDER, _FACTOR = map(_place, ("flip", "turns", "jitter_order", "jitter_factor"))
_PROJECT_DRAWN, _KEPT, _NOISE = map(_place, ("project", "kept", "noise"))
_GRAY, _SIGMA, _SOLARIZE_DRAWN, _ERASE_BOX = map(_place, ("grayscale", "blur_sigma", "solarize", "erase"))

CODES = {
    name: code
    for code, name in enumerate(("jitter", "project", "drop_channels", "grayscale", "blur", "solarize", "erase"), 1)
}
"""Operations of views, by which the kernel knows them, from 1 on: digits of a number that holds several."""
_JITTER, _PROJECT, _DROP, _GRAYSCALE, _BLUR, _SOLARIZE, _ERASE = (tl.constexpr(code) for code in CODES.values())

LEVELS, RGB, LAB, OWN = range(4)
"""What is delivered: levels, or floats: scaled levels, scaled Lab, levels by their own mean and deviation."""
_LEVELS, _LAB, _OWN = tl.constexpr(LEVELS), tl.constexpr(LAB), tl.constexpr(OWN)

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = map(tl.constexpr, (BRIGHTNESS, CONTRAST, SATURATION, HUE))
_LUMA_R, _LUMA_G, _LUMA_B = (tl.constexpr(float(np.float32(weight))) for weight in LUMA)
_TO_UNIT = tl.constexpr(float(np.float32(1 / 255)))
_SIXTH = tl.constexpr(float(np.float32(1 / 6)))
_TO_LEVEL = tl.constexpr(float(np.float32(255.999)))
_BLUR_STEPS = tl.constexpr(128.0)
_XR, _XG, _XB = (tl.constexpr(value / D65[0]) for value in XYZ_OF_RGB[0])
_YR, _YG, _YB = (tl.constexpr(value / D65[1]) for value in XYZ_OF_RGB[1])
_ZR, _ZG, _ZB = (tl.constexpr(value / D65[2]) for value in XYZ_OF_RGB[2])


@triton.jit
def _float_at(record, place):
    return tl.load(record + place).to(tl.float32, bitcast=True)


# -- Crop and resize -----------------------------------------------------------------------------------------


@triton.jit
def _weight(k, begin, center, stretch, BICUBIC: tl.constexpr):
    """Of input `begin` + `k`, not normalised; float64."""
    distance = tl.abs((k + begin - center + 0.5) / stretch)
    if BICUBIC:
        near = (1.5 * distance - 2.5) * distance * distance + 1.0
        far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
        weight = tl.where(distance < 1.0, near, tl.where(distance < 2.0, far, 0.0))
    else:
        weight = tl.where(distance < 1.0, 1.0 - distance, 0.0)
    return weight


@triton.jit
def _write_weights(out, size_in, SIZE: tl.constexpr, SIDE: tl.constexpr, BICUBIC: tl.constexpr):
    """`headrace.pipeline.engines.resize.resize_weights`, to int32 (1 + taps, SIZE): the first inputs, then weights.
    Returns the number of taps and of fractional bits."""
    i = tl.arange(0, SIDE)
    inside = i < SIZE
    scale = size_in.to(tl.float64) / SIZE
    stretch = tl.maximum(scale, 1.0)
    support = stretch * 2.0 if BICUBIC else stretch
    center = scale * (i.to(tl.float64) + 0.5)
    begin = tl.maximum((center - support + 0.5).to(tl.int32), 0)
    end = tl.minimum((center + support + 0.5).to(tl.int32), size_in)
    count = tl.where(inside, end - begin, 0)
    taps = tl.max(count, axis=0)
    total = tl.zeros([SIDE], tl.float64)
    for k in range(0, taps):
        total += tl.where(k < count, _weight(k, begin, center, stretch, BICUBIC), 0.0)
    total = tl.where(inside, total, 1.0)
    largest = tl.zeros([SIDE], tl.float64)
    for k in range(0, taps):
        weight = tl.where(k < count, _weight(k, begin, center, stretch, BICUBIC), 0.0)
        largest = tl.maximum(largest, weight / total)
    most = tl.max(largest, axis=0)
    bits = 0
    one = most * 0.0 + 1.0
    for _ in range(0, 22):
        one *= 2.0
        bits += ((0.5 + most * one).to(tl.int64) < 32768).to(tl.int32)
    one = (tl.zeros([1], tl.int32) + 1 << bits).to(tl.float64)
    tl.store(out + i, begin, mask=inside)
    for k in range(0, taps):
        weight = tl.where(k < count, _weight(k, begin, center, stretch, BICUBIC), 0.0) / total
        fixed = (tl.where(weight >= 0.0, 0.5, -0.5) + weight * one).to(tl.int32)
        tl.store(out + (k + 1) * SIZE + i, fixed, mask=inside)
    return taps, bits


@triton.jit
def _as_level(total, bits):
    """A fixed-point sum, rounded to a level."""
    return tl.minimum(tl.maximum((total + (1 << (bits - 1))) >> bits, 0), 255)


@triton.jit
def _crop_resize(
    record, levels, weights, pitch, SIZE: tl.constexpr, SIDE: tl.constexpr, BICUBIC: tl.constexpr, BLOCK: tl.constexpr
):
    """The crop, resized, flipped and turned, to planar levels (3, SIZE, SIZE). `weights`: int32 (2, `pitch`)."""
    low = tl.load(record + _ADDRESS).to(tl.int64) & 0xFFFFFFFF
    high = tl.load(record + _ADDRESS + 1).to(tl.int64)
    picture = (high << 32 | low).to(tl.pointer_type(tl.uint8))
    row_bytes = tl.load(record + _ROW).to(tl.int64)
    pixel_bytes, plane_bytes = tl.load(record + _PIXEL), tl.load(record + _PLANE).to(tl.int64)
    top, left = tl.load(record + _CROP), tl.load(record + _CROP + 1)
    height, width = tl.load(record + _CROP + 2), tl.load(record + _CROP + 3)
    flip, turns = tl.load(record + _FLIP), tl.load(record + _TURNS)
    of_rows, of_columns = weights, weights + pitch
    taps_y, bits_y = _write_weights(of_rows, height, SIZE, SIDE, BICUBIC)
    taps_x, bits_x = _write_weights(of_columns, width, SIZE, SIDE, BICUBIC)
    tl.debug_barrier()
    corner = picture + top * row_bytes + left * pixel_bytes
    for start in range(0, SIZE * SIZE, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < SIZE * SIZE
        i, j = place // SIZE, place % SIZE
        # The pixel of the view before it was turned, counter-clockwise, and mirrored before that.
        y = tl.where(turns == 0, i, tl.where(turns == 1, j, tl.where(turns == 2, SIZE - 1 - i, SIZE - 1 - j)))
        x = tl.where(turns == 0, j, tl.where(turns == 1, SIZE - 1 - i, tl.where(turns == 2, SIZE - 1 - j, i)))
        x = tl.where(flip != 0, SIZE - 1 - x, x)
        first_y = tl.load(of_rows + y, mask=inside, other=0)
        first_x = tl.load(of_columns + x, mask=inside, other=0)
        red = tl.zeros([BLOCK], tl.int32)
        green = tl.zeros([BLOCK], tl.int32)
        blue = tl.zeros([BLOCK], tl.int32)
        for k in range(0, taps_y):
            weight_y = tl.load(of_rows + (k + 1) * SIZE + y, mask=inside, other=0)
            # Where there is no such row or column, the weight is 0.
            row = corner + tl.minimum(first_y + k, height - 1) * row_bytes
            red_x = tl.zeros([BLOCK], tl.int32)
            green_x = tl.zeros([BLOCK], tl.int32)
            blue_x = tl.zeros([BLOCK], tl.int32)
            for m in range(0, taps_x):
                weight_x = tl.load(of_columns + (m + 1) * SIZE + x, mask=inside, other=0)
                pixel = row + tl.minimum(first_x + m, width - 1) * pixel_bytes
                red_x += tl.load(pixel, mask=inside, other=0).to(tl.int32) * weight_x
                green_x += tl.load(pixel + plane_bytes, mask=inside, other=0).to(tl.int32) * weight_x
                blue_x += tl.load(pixel + 2 * plane_bytes, mask=inside, other=0).to(tl.int32) * weight_x
            red += _as_level(red_x, bits_x) * weight_y
            green += _as_level(green_x, bits_x) * weight_y
            blue += _as_level(blue_x, bits_x) * weight_y
        _store(levels, place, inside, _as_level(red, bits_y), _as_level(green, bits_y), _as_level(blue, bits_y), SIZE)
    tl.debug_barrier()


# -- Operations ----------------------------------------------------------------------------------------------


@triton.jit
def _load(levels, place, inside, SIZE: tl.constexpr):
    red = tl.load(levels + place, mask=inside, other=0).to(tl.int32)
    green = tl.load(levels + SIZE * SIZE + place, mask=inside, other=0).to(tl.int32)
    blue = tl.load(levels + 2 * SIZE * SIZE + place, mask=inside, other=0).to(tl.int32)
    return red, green, blue


@triton.jit
def _store(levels, place, inside, red, green, blue, SIZE: tl.constexpr):
    tl.store(levels + place, red.to(tl.uint8), mask=inside)
    tl.store(levels + SIZE * SIZE + place, green.to(tl.uint8), mask=inside)
    tl.store(levels + 2 * SIZE * SIZE + place, blue.to(tl.uint8), mask=inside)


@triton.jit
def _clamp(value):
    return tl.minimum(tl.maximum(value, 0.0), 255.0)


@triton.jit
def _gray(red, green, blue):
    """Grey level, int32."""
    r, g, b = red.to(tl.float32), green.to(tl.float32), blue.to(tl.float32)
    return tl.fma(b, b * 0 + _LUMA_B, tl.fma(g, g * 0 + _LUMA_G, r * _LUMA_R)).to(tl.int32)


@triton.jit
def _blend(level, factor, other, rest):
    """float32 `level * factor + other * rest` as a level."""
    return _clamp(tl.fma(other, rest, level.to(tl.float32) * factor)).to(tl.int32)


@triton.jit
def _brightness(levels, factor, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    for start in range(0, 3 * SIZE * SIZE, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < 3 * SIZE * SIZE
        level = tl.load(levels + place, mask=inside, other=0).to(tl.float32)
        tl.store(levels + place, _clamp(level * factor).to(tl.int32).to(tl.uint8), mask=inside)


@triton.jit
def _mean_gray(levels, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], tl.int32)
    for start in range(0, SIZE * SIZE, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < SIZE * SIZE
        red, green, blue = _load(levels, place, inside, SIZE)
        total += tl.where(inside, _gray(red, green, blue), 0)
    return (tl.sum(total.to(tl.int64), axis=0).to(tl.float64) / (SIZE * SIZE)).to(tl.float32)


@triton.jit
def _contrast(levels, factor, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    mean = _mean_gray(levels, SIZE, BLOCK)
    tl.debug_barrier()
    rest = (1.0 - factor.to(tl.float64)).to(tl.float32)
    for start in range(0, 3 * SIZE * SIZE, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < 3 * SIZE * SIZE
        level = tl.load(levels + place, mask=inside, other=0)
        zeros = tl.zeros([BLOCK], tl.float32)
        tl.store(levels + place, _blend(level, factor, zeros + mean, zeros + rest).to(tl.uint8), mask=inside)


@triton.jit
def _saturation(levels, factor, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    rest = (1.0 - factor.to(tl.float64)).to(tl.float32) + tl.zeros([BLOCK], tl.float32)
    for start in range(0, SIZE * SIZE, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < SIZE * SIZE
        red, green, blue = _load(levels, place, inside, SIZE)
        gray = _gray(red, green, blue).to(tl.float32)
        red, green = _blend(red, factor, gray, rest), _blend(green, factor, gray, rest)
        _store(levels, place, inside, red, green, _blend(blue, factor, gray, rest), SIZE)


@triton.jit
def _unit_level(value):
    return (tl.minimum(tl.maximum(value, 0.0), 1.0) * _TO_LEVEL).to(tl.int32)


@triton.jit
def _hue(levels, shift, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Turn the colour circle by `shift` turns in HSV."""
    for start in range(0, SIZE * SIZE, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < SIZE * SIZE
        red, green, blue = _load(levels, place, inside, SIZE)
        r, g, b = red.to(tl.float32) * _TO_UNIT, green.to(tl.float32) * _TO_UNIT, blue.to(tl.float32) * _TO_UNIT
        high, low = tl.maximum(tl.maximum(r, g), b), tl.minimum(tl.minimum(r, g), b)
        spread = high - low
        gray = spread == 0.0
        s = tl.div_rn(spread, tl.where(gray, 1.0, high))
        divisor = tl.where(gray, 1.0, spread)
        rc, gc, bc = tl.div_rn(high - r, divisor), tl.div_rn(high - g, divisor), tl.div_rn(high - b, divisor)
        h = tl.where(high == r, bc - gc, tl.where(high == g, 2.0 + rc - bc, 4.0 + gc - rc))
        h = h * _SIXTH + 1.0
        h = h - tl.floor(h)
        h = h + shift
        h = (h - tl.floor(h)) * 6.0
        sector = tl.floor(h)
        f = h - sector
        sector = tl.where(sector < 6.0, sector, 0.0)
        sf = s * f
        p, q, t = (1.0 - s) * high, (1.0 - sf) * high, (sf + (1.0 - s)) * high
        # sector 0..5: (v,t,p) (q,v,p) (p,v,t) (p,q,v) (t,p,v) (v,p,q)
        r = tl.where(
            sector == 0, high, tl.where(sector == 1, q, tl.where(sector < 4, p, tl.where(sector == 4, t, high)))
        )
        g = tl.where(sector == 0, t, tl.where(sector < 3, high, tl.where(sector == 3, q, p)))
        b = tl.where(sector < 2, p, tl.where(sector == 2, t, tl.where(sector < 5, high, q)))
        _store(levels, place, inside, _unit_level(r), _unit_level(g), _unit_level(b), SIZE)


@triton.jit
def _jitter(record, levels, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    for position in range(0, 4):
        code = tl.load(record + _ORDER + position)
        if code >= 0:
            factor = _float_at(record, _FACTOR + code)
            if code == _BRIGHTNESS:
                _brightness(levels, factor, SIZE, BLOCK)
            if code == _CONTRAST:
                _contrast(levels, factor, SIZE, BLOCK)
            if code == _SATURATION:
                _saturation(levels, factor, SIZE, BLOCK)
            if code == _HUE:
                _hue(levels, factor, SIZE, BLOCK)
            tl.debug_barrier()


@triton.jit
def _sixth(total):
    """An integer over 6, to the nearest level, halves upwards."""
    return tl.minimum(tl.maximum(total + 3, 0) // 6, 255)


@triton.jit
def _project(levels, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Take out each pixel's part along (-1, 2, -1)."""
    for start in range(0, SIZE * SIZE, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < SIZE * SIZE
        r, g, b = _load(levels, place, inside, SIZE)
        red, green, blue = _sixth(5 * r + 2 * g - b), _sixth(2 * (r + g + b)), _sixth(5 * b + 2 * g - r)
        _store(levels, place, inside, red, green, blue, SIZE)


@triton.jit
def _moments(plane, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Mean and deviation of a plane, float64."""
    total = tl.zeros([BLOCK], tl.int64)
    squares = tl.zeros([BLOCK], tl.int64)
    for start in range(0, SIZE * SIZE, BLOCK):
        place = start + tl.arange(0, BLOCK)
        level = tl.load(plane + place, mask=place < SIZE * SIZE, other=0).to(tl.int64)
        total += level
        squares += level * level
    mean = tl.sum(total, axis=0).to(tl.float64) / (SIZE * SIZE)
    variance = tl.sum(squares, axis=0).to(tl.float64) / (SIZE * SIZE) - mean * mean
    return mean, tl.sqrt(tl.maximum(variance, 0.0))


@triton.jit
def _drop_channels(levels, kept, noise, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """All channels but one become noise around its mean. `noise`: float32 (2, SIZE, SIZE)."""
    mean, deviation = _moments(levels + kept * SIZE * SIZE, SIZE, BLOCK)
    deviation = deviation / 100.0
    first = tl.where(kept == 0, 1, 0)
    second = tl.where(kept == 2, 1, 2)
    for number in range(0, 2):
        plane = levels + tl.where(number == 0, first, second) * SIZE * SIZE
        for start in range(0, SIZE * SIZE, BLOCK):
            place = start + tl.arange(0, BLOCK)
            inside = place < SIZE * SIZE
            drawn = tl.load(noise + number * SIZE * SIZE + place, mask=inside, other=0.0).to(tl.float64)
            level = tl.floor(mean + deviation * drawn + 0.5)
            level = tl.minimum(tl.maximum(level, 0.0), 255.0)
            tl.store(plane + place, level.to(tl.int32).to(tl.uint8), mask=inside)


@triton.jit
def _grayscale(levels, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    for start in range(0, SIZE * SIZE, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < SIZE * SIZE
        red, green, blue = _load(levels, place, inside, SIZE)
        gray = _gray(red, green, blue)
        _store(levels, place, inside, gray, gray, gray, SIZE)


@triton.jit
def _solarize(levels, threshold, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    for start in range(0, 3 * SIZE * SIZE, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < 3 * SIZE * SIZE
        level = tl.load(levels + place, mask=inside, other=0).to(tl.int32)
        tl.store(levels + place, tl.where(level >= threshold, 255 - level, level).to(tl.uint8), mask=inside)


@triton.jit
def _reflect(i, SIZE: tl.constexpr):
    i = tl.abs(i)
    return tl.where(i >= SIZE, 2 * SIZE - 2 - i, i)


@triton.jit
def _blur(levels, blurred, sigma, TAPS: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Separable Gaussian with reflected borders. `blurred`: int16 (3, SIZE, SIZE)."""
    total = sigma * 0.0 + 1.0
    for k in range(1, TAPS // 2 + 1):
        total += 2.0 * tl.exp(-0.5 * (k / sigma) * (k / sigma))
    for start in range(0, 3 * SIZE * SIZE, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < 3 * SIZE * SIZE
        y, x = place // SIZE % SIZE, place % SIZE
        plane = place // (SIZE * SIZE) * (SIZE * SIZE)
        value = tl.load(levels + place, mask=inside, other=0).to(tl.float32)
        for k in range(1, TAPS // 2 + 1):
            weight = tl.exp(-0.5 * (k / sigma) * (k / sigma))
            above = tl.load(levels + plane + _reflect(y - k, SIZE) * SIZE + x, mask=inside, other=0)
            below = tl.load(levels + plane + _reflect(y + k, SIZE) * SIZE + x, mask=inside, other=0)
            value += weight * (above.to(tl.float32) + below.to(tl.float32))
        fraction = tl.floor(value / total * _BLUR_STEPS + 0.5)
        tl.store(blurred + place, fraction.to(tl.int16), mask=inside)
    tl.debug_barrier()
    for start in range(0, 3 * SIZE * SIZE, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < 3 * SIZE * SIZE
        x = place % SIZE
        value = tl.load(blurred + place, mask=inside, other=0).to(tl.float32)
        for k in range(1, TAPS // 2 + 1):
            weight = tl.exp(-0.5 * (k / sigma) * (k / sigma))
            left = tl.load(blurred + place - x + _reflect(x - k, SIZE), mask=inside, other=0)
            right = tl.load(blurred + place - x + _reflect(x + k, SIZE), mask=inside, other=0)
            value += weight * (left.to(tl.float32) + right.to(tl.float32))
        level = tl.floor(value / (total * _BLUR_STEPS) + 0.5)
        tl.store(levels + place, _clamp(level).to(tl.int32).to(tl.uint8), mask=inside)


@triton.jit
def _erase(record, levels, constants, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    top, left = tl.load(record + _ERASE_BOX), tl.load(record + _ERASE_BOX + 1)
    height, width = tl.load(record + _ERASE_BOX + 2), tl.load(record + _ERASE_BOX + 3)
    for start in range(0, 3 * SIZE * SIZE, BLOCK):
        place = start + tl.arange(0, BLOCK)
        y, x = place // SIZE % SIZE, place % SIZE
        inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width) & (place < 3 * SIZE * SIZE)
        value = tl.load(constants + 6 + place // (SIZE * SIZE), mask=inside, other=0.0)
        tl.store(levels + place, value.to(tl.int32).to(tl.uint8), mask=inside)


@triton.jit
def _operate(
    record,
    constants,
    noise,
    levels,
    blurred,
    threshold,
    CODE: tl.constexpr,
    TAPS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Do one operation, CODE 0 for none, if the record says so."""
    if CODE == _JITTER:
        _jitter(record, levels, SIZE, BLOCK)
    elif CODE == _PROJECT:
        if tl.load(record + _PROJECT_DRAWN) != 0:
            _project(levels, SIZE, BLOCK)
    elif CODE == _DROP:
        kept = tl.load(record + _KEPT)
        if kept >= 0:
            row = tl.load(record + _NOISE).to(tl.int64)
            _drop_channels(levels, kept, noise + row * (2 * SIZE * SIZE), SIZE, BLOCK)
    elif CODE == _GRAYSCALE:
        if tl.load(record + _GRAY) != 0:
            _grayscale(levels, SIZE, BLOCK)
    elif CODE == _BLUR:
        sigma = _float_at(record, _SIGMA)
        if sigma > 0.0:
            _blur(levels, blurred, sigma, TAPS, SIZE, BLOCK)
    elif CODE == _SOLARIZE:
        if tl.load(record + _SOLARIZE_DRAWN) != 0:
            _solarize(levels, threshold, SIZE, BLOCK)
    elif CODE == _ERASE:  # noqa: SIM102 - Triton has no short circuit
        if tl.load(record + _ERASE_BOX + 2) != 0:
            _erase(record, levels, constants, SIZE, BLOCK)


# -- What is delivered ---------------------------------------------------------------------------------------


@triton.jit
def _light(level):
    """A level of sRGB as light."""
    unit = level.to(tl.float32) / 255.0
    return tl.where(unit > 0.04045, tl.exp(tl.log((unit + 0.055) / 1.055) * 2.4), unit / 12.92)


@triton.jit
def _lab_curve(t):
    return tl.where(t > 0.008856, tl.exp(tl.log(tl.maximum(t, 0.008856)) / 3.0), 7.787 * t + 16.0 / 116.0)


@triton.jit
def _deliver(levels, constants, out, SPACE: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """`constants`: float32, three scales, three shifts."""
    if SPACE == _OWN:
        mean_r, deviation_r = _moments(levels, SIZE, BLOCK)
        mean_g, deviation_g = _moments(levels + SIZE * SIZE, SIZE, BLOCK)
        mean_b, deviation_b = _moments(levels + 2 * SIZE * SIZE, SIZE, BLOCK)
        exact_r, exact_g = 1.0 / tl.maximum(deviation_r, 1.0), 1.0 / tl.maximum(deviation_g, 1.0)
        exact_b = 1.0 / tl.maximum(deviation_b, 1.0)
        scale_r, scale_g, scale_b = exact_r.to(tl.float32), exact_g.to(tl.float32), exact_b.to(tl.float32)
        shift_r, shift_g = (-mean_r * exact_r).to(tl.float32), (-mean_g * exact_g).to(tl.float32)
        shift_b = (-mean_b * exact_b).to(tl.float32)
    else:
        scale_r, scale_g, scale_b = tl.load(constants), tl.load(constants + 1), tl.load(constants + 2)
        shift_r, shift_g, shift_b = tl.load(constants + 3), tl.load(constants + 4), tl.load(constants + 5)
    for start in range(0, SIZE * SIZE, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < SIZE * SIZE
        red, green, blue = _load(levels, place, inside, SIZE)
        if SPACE == _LEVELS:
            a, b, c = red.to(tl.uint8), green.to(tl.uint8), blue.to(tl.uint8)
        else:
            if SPACE == _LAB:
                r, g, u = _light(red), _light(green), _light(blue)
                x = _lab_curve(r * _XR + g * _XG + u * _XB)
                y = _lab_curve(r * _YR + g * _YG + u * _YB)
                z = _lab_curve(r * _ZR + g * _ZG + u * _ZB)
                a, b, c = 116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)
            else:
                a, b, c = red.to(tl.float32), green.to(tl.float32), blue.to(tl.float32)
            a, b, c = a * scale_r + shift_r, b * scale_g + shift_g, c * scale_b + shift_b
        tl.store(out + 3 * place, a.to(out.dtype.element_ty), mask=inside)
        tl.store(out + 3 * place + 1, b.to(out.dtype.element_ty), mask=inside)
        tl.store(out + 3 * place + 2, c.to(out.dtype.element_ty), mask=inside)


@triton.jit
def draw_views(
    records,
    constants,
    noise,
    levels,
    weights,
    blurred,
    out,
    pitch,
    threshold,
    OPERATIONS: tl.constexpr,
    TAPS: tl.constexpr,
    BICUBIC: tl.constexpr,
    SPACE: tl.constexpr,
    SIZE: tl.constexpr,
    SIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """n views, a program each.

    Args:
        records: `RECORD` (n,).
        constants: float32 (9,): scales and shifts of the channels, levels of an erased rectangle.
        noise: float32 (rows, 2, SIZE, SIZE) for views whose channels are dropped.
        levels, weights, blurred: scratch: uint8 (n, 3, SIZE, SIZE), int32 (n, 2, `pitch`), int16 (n, 3, SIZE, SIZE).
        out: (n, SIZE, SIZE, 3), uint8 for levels, else floating point.
        pitch: at least (1 + the most taps of a crop) * SIZE.
        threshold: level from which on solarising inverts.
        OPERATIONS: `CODES` of the view's operations in their order, as digits of a decimal number, the lowest first.
        TAPS: of the blur.
        SPACE: what is delivered.
        SIZE, SIDE: side of the views; a power of two that is not smaller.
        BLOCK: pixels that a program makes at once, a power of two.
    """
    view = tl.program_id(0).to(tl.int64)
    record = records + view * _WORDS
    levels += view * (3 * SIZE * SIZE)
    blurred += view * (3 * SIZE * SIZE)
    _crop_resize(record, levels, weights + view * 2 * pitch, pitch, SIZE, SIDE, BICUBIC, BLOCK)
    for position in tl.static_range(7):
        _operate(
            record, constants, noise, levels, blurred, threshold, OPERATIONS // 10**position % 10, TAPS, SIZE, BLOCK
        )
        tl.debug_barrier()
    _deliver(levels, constants, out + view * (3 * SIZE * SIZE), SPACE, SIZE, BLOCK)
