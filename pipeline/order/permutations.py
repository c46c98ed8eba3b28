"""Sets of permutations that differ in as many places as they can: the labels of jigsaw puzzles."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain, permutations
from math import factorial

import numpy as np
from numpy.typing import NDArray

from headrace.pipeline.compiled import kernel

MOST_TILES = 9
"""All permutations are listed: 362,880 of nine tiles."""


@lru_cache(maxsize=8)
def permutation_set(tiles: int, count: int) -> NDArray[np.uint8]:
    """`count` different permutations of `tiles`, chosen for a large Hamming distance: uint8 (count, tiles), read-only.

    The greedy algorithm of jigsaw (1603.09246, algorithm 1): each further permutation has the largest sum of distances
    to those chosen so far. The paper begins at random; here the identity comes first and the first in alphabetical
    order of equals wins, so that a label means the same in every run. The first n of a larger set are the set of n.

    Raises:
        ValueError: for fewer than one or more than nine tiles, or more permutations than there are.
    """
    if not 1 <= tiles <= MOST_TILES:
        raise ValueError(f"tiles must lie in [1, {MOST_TILES}], got {tiles}")
    if not 1 <= count <= factorial(tiles):
        raise ValueError(f"count must lie in [1, {factorial(tiles)}] for {tiles} tiles, got {count}")
    columns = np.array(every_permutation(tiles).T, order="C")  # (tiles, permutations): one place after another
    chosen = np.empty((count, tiles), np.uint8)
    _choose(columns, chosen)
    chosen.flags.writeable = False
    return chosen


@lru_cache(maxsize=8)
def every_permutation(tiles: int) -> NDArray[np.uint8]:
    """All permutations of one to nine `tiles` in alphabetical order: uint8 (tiles!, tiles), read-only."""
    listed = np.fromiter(chain.from_iterable(permutations(range(tiles))), np.uint8, factorial(tiles) * tiles)
    listed = listed.reshape(-1, tiles)
    listed.flags.writeable = False
    return listed


_BLOCK = 4096  # permutations whose counts stay in the first-level cache


@kernel
def _count_equal(column, here, equal):
    for k in range(len(equal)):
        equal[k] += np.int32(column[k] == here)


@kernel
def _smallest(values):
    least = values[0]
    for k in range(len(values)):
        least = min(least, values[k])
    return least


@kernel
def _choose(columns, chosen):
    tiles, listed = columns.shape
    equal = np.zeros(listed, np.int32)  # places that a permutation shares with all the chosen ones together
    taken = np.int32(1 << 30)
    best = 0
    for number in range(len(chosen)):
        chosen[number] = columns[:, best]
        equal[best] = taken
        best, fewest = 0, taken
        for begin in range(0, listed, _BLOCK):
            block = equal[begin : begin + _BLOCK]
            for place in range(tiles):
                _count_equal(columns[place, begin : begin + _BLOCK], chosen[number, place], block)
            least = _smallest(block)
            if least < fewest:
                fewest = least
                best = begin + np.int64(np.argmax(block == least))
