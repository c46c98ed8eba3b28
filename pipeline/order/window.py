"""An order for sets that are slow to read at random: shards in a random order, samples shuffled within a window.

The epoch's shards, in a seeded order, make one long stream of samples. It is cut into `lanes`, and each lane is read
from its beginning to its end, all of them at the same pace: position p of the epoch belongs to lane p modulo `lanes`.
Within a lane, a window moves over the stream and its samples come in a random order before the next window's begin. So
at any time one window of each lane is being read, and with a cache of some windows each block of a shard is fetched
once an epoch, however large the set. The windows of different lanes begin at different times, so that the network has
the same to do at all times.

The order is a function of (seed, epoch, position); what is kept is a table of the shards. A global batch is a slice of
it, sorted by lane, and ranks take contiguous shares of that: a rank reads its own lanes and no others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headrace.pipeline.compiled import kernel
from headrace.pipeline.order.order import inside, permuted, rank_share, round_keys, rounds_for, swap_or_not
from headrace.pipeline.random import key_word, philox

WINDOW = 16384
LANES = 64

_SHARD_STREAM = key_word(0x7368617264)  # the word "shard"
_WINDOW_STREAM = key_word(0x77696E646F77)  # the word "window"
_SHIFT_STREAM = key_word(0x7368696674)  # the word "shift"
_ZERO = np.uint64(0)


def cache_needed(sample_bytes: float, window: int, lanes: int, block_bytes: int) -> int:
    """Bytes of blocks to keep so that each is fetched about once an epoch.

    The window's samples, a block for each lane because windows begin within one, and a quarter more, because a block
    is needed until the last of its samples has come, while the next window begins. With as much, a simulation of the
    cache fetches 1.01 to 1.1 times the set, for samples of 3 kB to 1 MB; with a window's bytes 1.1 to 1.8 times, and
    with half of that 1.5 to 6 times. Where a place's share of the window is smaller than a block it fetches 1.2 times
    the set, and with less than this size the same blocks over and over, a hundred times the set.
    """
    return int(1.25 * window * sample_bytes) + lanes * block_bytes


class WindowOrder:
    """The order of one epoch; index it with a position, a slice or an array of positions.

    Args:
        seed, epoch: any integers.
        shard_samples: int (S,), samples of each shard as stored.
        window: samples over which the order is random: `window // lanes` neighbours in each lane.
        lanes: places of the set that are read at the same time. Each rank reads its own where the number of ranks
            divides this one and this one the batch size.

    Raises:
        ValueError: for a window that does not hold a sample of each lane.
    """

    def __init__(
        self,
        seed: int,
        epoch: int,
        shard_samples: Sequence[int] | np.ndarray,
        window: int = WINDOW,
        lanes: int = LANES,
    ) -> None:
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, got {lanes}")
        if window < lanes:
            raise ValueError(f"window must be at least {lanes}, the number of lanes, got {window}")
        samples = np.asarray(shard_samples, dtype=np.int64)
        self.seed, self.epoch, self.window, self.lanes = seed, epoch, window, lanes
        self.n = int(samples.sum())
        self._firsts = np.cumsum(samples) - samples
        keys = round_keys(key_word(seed), _SHARD_STREAM, key_word(epoch), _ZERO, _ZERO, rounds_for(len(samples)))
        self._shards = permuted(np.arange(len(samples)), len(samples), keys)
        """int64 (S,): which shard comes where in the stream."""
        self._starts = np.concatenate([[0], np.cumsum(samples[self._shards])])
        """int64 (S + 1,): where in the stream it begins."""
        # The stream begins in the midst of a shard, so that windows have other borders in each epoch.
        word = philox(key_word(seed), _SHIFT_STREAM, _ZERO, key_word(epoch), _ZERO, _ZERO)[0]
        self._settings = (self.n, lanes, window // lanes, int(word) % max(1, self.n))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, positions: int | slice | np.ndarray) -> np.ndarray:
        """int64 sample indices at `positions`, in the shape of `positions`."""
        places = self._within_windows(inside("positions", positions, self.n), inverse=False)
        number = np.searchsorted(self._starts, places, side="right") - 1
        return self._firsts[self._shards[number]] + places - self._starts[number]

    def positions(self, samples: np.ndarray) -> np.ndarray:
        """int64, the shape of `samples`: when each of them comes; the inverse of indexing."""
        wanted = inside("samples", samples, self.n)
        shard = np.searchsorted(self._firsts, wanted, side="right") - 1
        number = np.argsort(self._shards)[shard]
        return self._within_windows(self._starts[number] + wanted - self._firsts[shard], inverse=True)

    def share(self, begin: int, end: int, rank: int, world_size: int) -> np.ndarray:
        """int64 sample indices that `rank` loads of the global batch [begin, end), which is sorted by lane."""
        lane = np.arange(self.lanes)
        first = begin + (lane - begin) % self.lanes
        ends = np.cumsum((end - first + self.lanes - 1) // self.lanes)
        place = np.arange(*rank_share(0, end - begin, rank, world_size))
        its_lane = np.searchsorted(ends, place, side="right")
        in_lane = place - np.concatenate([[0], ends])[its_lane]
        return self[first[its_lane] + self.lanes * in_lane]

    def _within_windows(self, wanted: np.ndarray, *, inverse: bool) -> np.ndarray:
        keys = key_word(self.seed), key_word(self.epoch)
        work = _positions_of if inverse else _places_at
        rounds = rounds_for(self.window // self.lanes)
        return work(np.ascontiguousarray(wanted).ravel(), *keys, rounds, *self._settings).reshape(wanted.shape)


@kernel
def _window(lane, place, n, lanes, window):
    """(begin of the lane in the stream; number, begin and size of the window in the lane) around a lane's `place`."""
    each, more = n // lanes, n % lanes
    size = each + (1 if lane < more else 0)
    # The golden section spreads the windows' borders of any few neighbouring lanes evenly over time.
    ahead = (lane * max(1, np.int64(0.6180339887498949 * window))) % window
    number = (place + ahead) // window
    begin = max(0, number * window - ahead)
    end = min(size, (number + 1) * window - ahead)
    return lane * each + min(lane, more), number, begin, end - begin


@kernel
def _places_at(positions, seed, epoch, rounds, n, lanes, window, shift):
    """Places in the stream of shards of the samples at `positions`."""
    places = np.empty(len(positions), np.int64)
    last_lane, last_number, last_size = -1, -1, 1
    pivots, salts = round_keys(seed, _WINDOW_STREAM, epoch, _ZERO, _ZERO, rounds)
    for i in range(len(positions)):
        lane, place = positions[i] % lanes, positions[i] // lanes
        start, number, begin, size = _window(lane, place, n, lanes, window)
        if lane != last_lane or number != last_number:
            pivots, salts = round_keys(seed, _WINDOW_STREAM, epoch, np.uint64(lane), np.uint64(number), rounds)
            pivots %= np.uint64(size)
            last_lane, last_number, last_size = lane, number, size
        other = swap_or_not(np.uint64(place - begin), np.uint64(last_size), pivots, salts)
        places[i] = (start + begin + np.int64(other) + shift) % n
    return places


@kernel
def _positions_of(places, seed, epoch, rounds, n, lanes, window, shift):
    """The inverse of `_places_at`."""
    positions = np.empty(len(places), np.int64)
    each, more = n // lanes, n % lanes
    for i in range(len(places)):
        place = (places[i] - shift) % n
        larger = more * (each + 1)
        lane = place // (each + 1) if place < larger else more + (place - larger) // each
        start = lane * each + min(lane, more)
        start, number, begin, size = _window(lane, place - start, n, lanes, window)
        pivots, salts = round_keys(seed, _WINDOW_STREAM, epoch, np.uint64(lane), np.uint64(number), rounds)
        backward = (pivots % np.uint64(size))[::-1]  # each round undoes itself
        other = swap_or_not(np.uint64(place - start - begin), np.uint64(size), backward, salts[::-1])
        positions[i] = (begin + np.int64(other)) * lanes + lane
    return positions
