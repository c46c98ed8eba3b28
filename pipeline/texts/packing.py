"""Documents end to end, cut into blocks of one length: which tokens each block of an epoch has.

The epoch's documents, in the loader's order, make one long stream of tokens, each between its special tokens. Block b
is its tokens from b * length to before (b + 1) * length, so that no place is padding, and a document that does not end
in a block goes on in the next. Blocks come in an order of their own, since neighbours may be of one document. All of it
is a function of (seed, epoch) and the documents' lengths: not of ranks, threads or where a run began. The fewer than
`length` tokens behind the last block are left out; they are others in each epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.pipeline.compiled import kernel
from headrace.pipeline.order.order import Order
from headrace.pipeline.order.window import WindowOrder
from headrace.pipeline.random import key_word, philox

GROUP = 16
"""Documents of which the stream knows where the first begins: half a byte each."""
CHUNK = 1 << 16
"""Documents that are gone through together, a multiple of `GROUP`."""

_STREAM = key_word(0x7061636B)  # the word "pack"
_ZERO = np.uint64(0)

Sizes = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
"""Tokens of some documents, special ones counted; 0 of one that has no part in the stream."""


class Pieces(NamedTuple):
    """The pieces of documents that make B blocks, in the order of blocks and of places in them."""

    row: npt.NDArray[np.int64]
    """Which of the blocks."""
    at: npt.NDArray[np.int64]
    """Place in it."""
    document: npt.NDArray[np.int64]
    """Number of the sample in the set."""
    first: npt.NDArray[np.int64]
    """First token, of the document between its special tokens."""
    size: npt.NDArray[np.int64]
    """Tokens."""
    whole: npt.NDArray[np.int64]
    """Tokens of the whole document."""


class PackedEpoch:
    """The stream of one epoch. Memory: half a byte a document, and what `order` and `sizes` need.

    Args:
        order: of the documents.
        sizes: of some of them.
        length: tokens of a block.
    """

    def __init__(self, order: Order | WindowOrder, sizes: Sizes, length: int) -> None:
        self.order, self.length = order, length
        self._sizes = sizes
        sums = np.empty(-(-len(order) // GROUP), np.int64)
        for begin in range(0, len(order), CHUNK):
            some = sizes(order[begin : begin + CHUNK])
            sums[begin // GROUP : -(-(begin + len(some)) // GROUP)] = np.add.reduceat(
                some, np.arange(0, len(some), GROUP)
            )
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sums)])
        """Where in the stream each group of documents begins, and where the stream ends."""

    def __len__(self) -> int:
        """Blocks."""
        return int(self._starts[-1]) // self.length

    def pieces(self, blocks: npt.NDArray[np.int64]) -> Pieces:
        """What B blocks consist of. IndexError outside of the epoch."""
        if len(blocks) and not (blocks.min() >= 0 and blocks.max() < len(self)):
            raise IndexError(f"blocks must lie in [0, {len(self)}), got {blocks.min()} to {blocks.max()}")
        begins = np.ascontiguousarray(blocks, np.int64) * self.length
        first = np.searchsorted(self._starts, begins, side="right") - 1
        behind = np.searchsorted(self._starts, begins + self.length, side="left")
        counts = np.minimum(behind * GROUP, len(self.order)) - first * GROUP
        starts = np.cumsum(counts) - counts
        positions = np.arange(counts.sum()) - np.repeat(starts - first * GROUP, counts)
        documents = self.order[positions]
        found = np.empty((6, len(documents)), np.int64)
        number = _cut(begins, self._starts[first], counts, documents, self._sizes(documents), self.length, found)
        return Pieces(*found[:, :number])


@kernel
def _cut(begins, starts, counts, documents, sizes, length, found):
    """Which of the documents reach into each block, and with which tokens; returns how many pieces there are."""
    pieces, place = 0, 0
    for row in range(len(begins)):
        at = starts[row]
        for _ in range(counts[row]):
            first = max(at, begins[row])
            end = min(at + sizes[place], begins[row] + length)
            if first < end:
                found[0, pieces] = row
                found[1, pieces] = first - begins[row]
                found[2, pieces] = documents[place]
                found[3, pieces] = first - at
                found[4, pieces] = end - first
                found[5, pieces] = sizes[place]
                pieces += 1
            at += sizes[place]
            place += 1
    return pieces


@dataclass(frozen=True)
class BlockOrder:
    """When the blocks of an epoch come. It stands for an `Order` in the loader."""

    documents: Order | WindowOrder
    blocks: int

    @property
    def seed(self) -> int:
        return self.documents.seed

    @property
    def epoch(self) -> int:
        return self.documents.epoch

    def __len__(self) -> int:
        return self.blocks

    def share(self, begin: int, end: int, rank: int, world_size: int) -> npt.NDArray[np.int64]:
        """int64 numbers of the blocks that `rank` loads of the global batch [begin, end)."""
        return self._inner().share(begin, end, rank, world_size)

    def _inner(self) -> Order | WindowOrder:
        """Of blocks, by a seed of its own. Where documents are read by windows, so are blocks: what lies far apart in
        the stream comes far apart in time."""
        seed = int(philox(key_word(self.seed), _STREAM, _ZERO, _ZERO, _ZERO, _ZERO)[0] >> np.uint64(1))
        if isinstance(self.documents, WindowOrder):
            return WindowOrder(seed, self.epoch, [self.blocks], self.documents.window, 1)
        return Order(seed, self.epoch, self.blocks, self.documents.shuffle)
