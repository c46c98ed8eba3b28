"""Random words without any of Headrace's code, for plain loops to draw with."""

from __future__ import annotations

import numpy as np

WORD = 2**64 - 1


def philox(seed: int, stream: str, *counter: int) -> list[int]:
    """Four words of Philox, by numpy, which counts one up before it begins; `stream` is a key of up to 8 letters."""
    counted = (sum((word & WORD) << (64 * i) for i, word in enumerate(counter)) - 1) % 2**256
    words = [(counted >> (64 * i)) & WORD for i in range(4)]
    key = [seed & WORD, int.from_bytes(stream.encode())]
    drawn = np.random.Philox(key=np.array(key, np.uint64), counter=np.array(words, np.uint64)).random_raw(4)
    return [int(word) for word in drawn]


def unit(word: int) -> float:
    """In [0, 1), of the upper 53 bits."""
    return (word >> 11) / 2**53
