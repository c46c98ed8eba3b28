"""Counter-based random numbers: the same numbers for (seed, epoch, sample, view), whoever asks and whenever.

Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a 256-bit counter and
a 128-bit key into 256 random bits without state. `numpy.random.Philox` is the same function; the tests hold
this one against it.
"""

from __future__ import annotations

import numpy as np
from numba import types

from headrace.pipeline.compiled import intrinsic, kernel

_MULTIPLIER_0 = np.uint64(0xD2E7470EE14C6C93)
_MULTIPLIER_1 = np.uint64(0xCA5A826395121157)
_WEYL_0 = np.uint64(0x9E3779B97F4A7C15)
_WEYL_1 = np.uint64(0xBB67AE8584CAA73B)
_TO_UNIT = 1.0 / (1 << 53)
_ELEVEN = np.uint64(11)


@intrinsic
def _high_product(typingctx, a, b):
    """Upper 64 bits of the 128-bit product of two uint64."""

    def codegen(context, builder, signature, arguments):
        from llvmlite import ir

        wide = ir.IntType(128)
        x, y = (builder.zext(argument, wide) for argument in arguments)
        return builder.trunc(builder.lshr(builder.mul(x, y), ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), codegen


@kernel
def philox(key_0, key_1, counter_0, counter_1, counter_2, counter_3):
    """Four uint64 random words of one counter. All arguments are uint64."""
    for _ in range(10):
        high_0 = _high_product(_MULTIPLIER_0, counter_0)
        low_0 = _MULTIPLIER_0 * counter_0
        high_1 = _high_product(_MULTIPLIER_1, counter_2)
        low_1 = _MULTIPLIER_1 * counter_2
        counter_0 = high_1 ^ counter_1 ^ key_0
        counter_1 = low_1
        counter_2 = high_0 ^ counter_3 ^ key_1
        counter_3 = low_0
        key_0 += _WEYL_0
        key_1 += _WEYL_1
    return counter_0, counter_1, counter_2, counter_3


@kernel
def unit(word):
    """float64 in [0, 1) from the upper 53 bits of a random word."""
    return np.float64(word >> _ELEVEN) * _TO_UNIT


def key_word(value: int) -> np.uint64:
    """Any Python integer as a 64-bit key or counter word."""
    return np.uint64(value & 0xFFFFFFFFFFFFFFFF)


@kernel
def draw_units(key_0, key_1, counter_0, epoch, sample_ids):
    """float64 (B, 4) in [0, 1): the four numbers of one counter block for each sample. `sample_ids`: int64 (B,)."""
    units = np.empty((len(sample_ids), 4))
    for i in range(len(sample_ids)):
        words = philox(key_0, key_1, counter_0, np.uint64(0), np.uint64(sample_ids[i]), epoch)
        for word in range(4):
            units[i, word] = unit(words[word])
    return units
