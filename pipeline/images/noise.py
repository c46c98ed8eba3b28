"""Gaussian noise that a plan asks for by one number, the same on every engine."""

from __future__ import annotations

import numpy as np

from headrace.pipeline.compiled import kernel
from headrace.pipeline.random import key_word, philox, unit

_STREAM = key_word(0x6E6F697365)  # the word "noise"
_NONE = np.uint64(0)


@kernel
def four_gaussians(word, block):
    """Four numbers of mean 0 and deviation 1, float32, by Box and Muller: two pixels of two planes."""
    a, b, c, d = philox(word, _STREAM, np.uint64(block), _NONE, _NONE, _NONE)
    first, second = np.sqrt(-2.0 * np.log(1.0 - unit(a))), np.sqrt(-2.0 * np.log(1.0 - unit(c)))
    turn, other = 2.0 * np.pi * unit(b), 2.0 * np.pi * unit(d)
    return (
        np.float32(first * np.cos(turn)),
        np.float32(first * np.sin(turn)),
        np.float32(second * np.cos(other)),
        np.float32(second * np.sin(other)),
    )


@kernel
def noise_planes(words, size):
    """float32 (B, 2, size, size) from the numbers `words`, uint64 (B,)."""
    pixels = size * size
    planes = np.empty((len(words), 2, pixels), np.float32)
    for i in range(len(words)):
        for block in range((pixels + 1) // 2):
            a, b, c, d = four_gaussians(words[i], block)
            planes[i, 0, 2 * block], planes[i, 1, 2 * block] = a, b
            if 2 * block + 1 < pixels:
                planes[i, 0, 2 * block + 1], planes[i, 1, 2 * block + 1] = c, d
    return planes.reshape(len(words), 2, size, size)
