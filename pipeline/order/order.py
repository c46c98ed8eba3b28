"""Which samples, when: sample order and its split over batches and ranks, as pure functions.

A shuffled order is a keyed permutation that is evaluated position by position, so it costs no memory that grows
with the set. It is the swap-or-not shuffle (Hoang, Morris, Rogaway, "An enciphering scheme based on a card
shuffle", CRYPTO 2012, arXiv 1208.1176), which permutes any n, not only powers of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from headrace.pipeline.compiled import kernel, kernel_part
from headrace.pipeline.random import key_word, philox

_STREAM = key_word(0x6F72646572)  # the word "order": keeps this stream apart from the augmentations'
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_MIX_0, _MIX_1 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_0, _SHIFT_1, _SHIFT_2 = np.uint64(30), np.uint64(27), np.uint64(31)


_TOGETHER = 512  # positions that are permuted at a time

RoundKeys = tuple[np.ndarray, np.ndarray]
"""uint64 (rounds,) twice: pivots and salts of a swap-or-not shuffle."""


@dataclass(frozen=True)
class Order:
    """The permutation of range(n) of one epoch; index it with a position, a slice or an array of positions."""

    seed: int
    epoch: int
    n: int
    shuffle: bool = True

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, positions: int | slice | np.ndarray) -> np.ndarray:
        """int64 sample indices at `positions`, in the shape of `positions`."""
        wanted = inside("positions", positions, self.n)
        if not self.shuffle:
            return wanted
        return permuted(wanted, self.n, self._keys())

    def positions(self, samples: np.ndarray) -> np.ndarray:
        """int64, the shape of `samples`: when each of them comes; the inverse of indexing."""
        wanted = inside("samples", samples, self.n)
        return permuted(wanted, self.n, self._keys(), inverse=True) if self.shuffle else wanted

    def share(self, begin: int, end: int, rank: int, world_size: int) -> np.ndarray:
        """int64 sample indices that `rank` loads of the global batch [begin, end)."""
        first, last = rank_share(begin, end, rank, world_size)
        return self[first:last]

    def _keys(self) -> RoundKeys:
        return round_keys(key_word(self.seed), _STREAM, key_word(self.epoch), _ZERO, _ZERO, rounds_for(self.n))


def order(seed: int, epoch: int, n: int, shuffle: bool = True) -> Order:
    """The order of the n samples of an epoch: the same for every rank, worker count and engine."""
    if n < 0:
        raise ValueError(f"order needs n >= 0, got {n}")
    return Order(seed, epoch, n, shuffle)


def epoch_batches(n: int, batch_size: int, drop_last: bool) -> int:
    """Number of global batches in an epoch."""
    return n // batch_size if drop_last else -(-n // batch_size)


def rank_share(begin: int, end: int, rank: int, world_size: int) -> tuple[int, int]:
    """The contiguous part [begin, end) of a global batch's positions that `rank` of `world_size` loads."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must lie in [0, {world_size}), got {rank}")
    total = end - begin
    return begin + total * rank // world_size, begin + total * (rank + 1) // world_size


def rounds_for(n: int) -> int:
    """Six rounds a bit leave no measurable distance to a uniform permutation (section 4 of the paper)."""
    return 6 * max(4, math.ceil(math.log2(max(2, n))))


def permuted(places: np.ndarray, n: int, keys: RoundKeys, *, inverse: bool = False) -> np.ndarray:
    """Where the permutation of range(n) with these keys takes `places`, int64 of any shape; or whence, as `inverse`."""
    if n < 2:
        return places
    if inverse:  # each round undoes itself
        keys = keys[0][::-1].copy(), keys[1][::-1].copy()
    return _permute(np.ascontiguousarray(places).ravel(), n, *keys).reshape(places.shape)


def inside(name: str, values: int | slice | np.ndarray, n: int) -> np.ndarray:
    """`values` as int64; IndexError, with their `name`, where one is outside of range(n)."""
    if isinstance(values, slice):
        return np.arange(*values.indices(n), dtype=np.int64)
    wanted = np.asarray(values, dtype=np.int64)
    if wanted.size and not (wanted.min() >= 0 and wanted.max() < n):
        raise IndexError(f"{name} must lie in [0, {n}), got {wanted.min()} to {wanted.max()}")
    return wanted


@kernel
def round_keys(seed, stream, epoch, block, number, rounds):
    """Pivots and salts; `block` and `number` tell the permutations of one epoch apart."""
    pivots = np.empty(rounds, np.uint64)
    salts = np.empty(rounds, np.uint64)
    for i in range(rounds):
        pivots[i], salts[i], _, _ = philox(seed, stream, np.uint64(i), epoch, block, number)
    return pivots, salts


@kernel_part
def swap_or_stay(x, size, pivot, salt):
    """One round."""
    partner = pivot + size - x
    if partner >= size:
        partner -= size
    word = max(x, partner) ^ salt
    word = (word ^ (word >> _SHIFT_0)) * _MIX_0
    word = (word ^ (word >> _SHIFT_1)) * _MIX_1
    return partner if (word ^ (word >> _SHIFT_2)) & _ONE else x


@kernel_part
def swap_or_not(x, size, pivots, salts):
    """Where x, of uint64 range(size), goes; the pivots are already taken modulo `size`."""
    for k in range(len(pivots)):
        x = swap_or_stay(x, size, pivots[k], salts[k])
    return x


@kernel
def _permute(positions, n, pivots, salts):
    size = np.uint64(n)
    result = positions.astype(np.uint64)
    pivots = pivots % size
    # Round by round over some positions: their steps do not wait for one another, as those of one position do.
    for begin in range(0, len(result), _TOGETHER):
        some = result[begin : begin + _TOGETHER]
        for k in range(len(pivots)):
            for i in range(len(some)):
                some[i] = swap_or_stay(some[i], size, pivots[k], salts[k])
    return result.astype(np.int64)
