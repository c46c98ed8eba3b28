"""One sampling rate to another, at any place of a sound: what is cut out is what the whole would have there.

Rates are whole numbers, so that output m lies at the input's time m * down / up, and one filter has all that is needed:
a windowed sinc, of which every output takes the taps of its phase. Nothing depends on where a cut begins.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from headrace.pipeline.compiled import kernel

CROSSINGS = 32
"""Zero crossings of the sinc on either side, counted at the lower of the two rates."""
CUTOFF = 0.92
"""Of the lower rate's Nyquist frequency; the filter is flat to 0.84 of it."""
BETA = 8.0
"""Of the Kaiser window: 80 dB in the stop band, which begins at the Nyquist frequency."""
MAX_RATE = 384_000
"""Of a file: a filter has a row of taps for each phase, as many as the higher rate has in the worst case."""


def resampled_length(samples: Any, rate: Any, wanted: int) -> Any:
    """Samples of a whole sound at the rate `wanted`; of several, if these are arrays of int64."""
    return -(-samples * wanted // rate)


def needed(first: int, count: int, length: int, rate: int, wanted: int) -> tuple[int, int]:
    """Begin and end of the `length` samples that outputs `first` to `first + count` are made of."""
    if rate == wanted:
        return first, min(first + count, length)
    up, down = _ratio(rate, wanted)
    half = CROSSINGS * max(up, down)
    begin = -(-(first * down - half) // up)
    end = ((first + count - 1) * down + half) // up + 1
    return max(0, begin), min(length, end)


def resample(wave: np.ndarray, begin: int, first: int, count: int, rate: int, wanted: int) -> np.ndarray:
    """Outputs `first` to `first + count` at the rate `wanted`, float32 (count,).

    Args:
        wave: float32, the samples that `needed` names, at `rate`.
        begin: number of the first of them in the whole sound. Beyond its ends there is silence.
    """
    if rate == wanted:
        return wave[first - begin : first - begin + count]
    up, down = _ratio(rate, wanted)
    outputs = np.empty(count, np.float32)
    _convolve(wave, begin, first, up, down, CROSSINGS * max(up, down), _taps(up, down), outputs)
    return outputs


def _ratio(rate: int, wanted: int) -> tuple[int, int]:
    """up and down: outputs and inputs of the same time."""
    common = math.gcd(rate, wanted)
    return wanted // common, rate // common


@lru_cache(maxsize=16)
def _taps(up: int, down: int) -> np.ndarray:
    """float32 (up, K): for each phase, which is m * down % up of output m, the weights of the inputs from the first
    that it reaches."""
    largest = max(up, down)
    half = CROSSINGS * largest
    at = np.arange(-half, half + 1)
    whole = CUTOFF * np.sinc(CUTOFF * at / largest) * np.kaiser(2 * half + 1, BETA)
    whole *= up / whole.sum()
    taps = np.zeros((up, 2 * half // up + 1), np.float32)
    for phase in range(up):
        own = whole[(half + phase) % up :: up][::-1]  # later inputs have earlier taps
        taps[phase, : len(own)] = own
    return taps


@kernel
def _convolve(wave, begin, first, up, down, half, taps, outputs):
    for i in range(len(outputs)):
        time = (first + i) * down
        start = -((half - time) // up)  # the first input within reach
        row = taps[time % up]
        low = max(0, begin - start)
        high = min(len(row), begin + len(wave) - start)
        total = 0.0
        for tap in range(low, high):
            total += np.float64(row[tap]) * np.float64(wave[start + tap - begin])
        outputs[i] = total
