"""Is each key of a set there once? Eight bytes a sample, whatever its keys are: they are looked at only where their
hashes meet."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

Keys = npt.NDArray[np.bytes_]
"""The keys of a shard as its index has them, (samples,), UTF-8 padded with zeros; shards differ in the width."""
SEARCHED = 1 << 20
"""Keys that are looked through at a time."""


class Repeated(NamedTuple):
    """A key that an earlier sample has too."""

    part: int
    """Number of the shard, in the order in which they were added."""
    row: int
    """Of the later sample in it."""
    key: bytes
    """Without its padding."""


class KeyCheck:
    """Takes the keys of one shard after another and says which of them are there more than once."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._parts = 0

    def add(self, keys: Keys) -> None:
        """The keys of the next shard, which are not kept."""
        self._hashes.frombytes(hashes(keys).tobytes())
        self._parts += 1

    def known(self, keys: Keys, again: Callable[[int], Keys]) -> set[bytes]:
        """Those of the keys of another shard that were added before; `again` as in `repeated`."""
        of_keys = hashes(keys)
        few, meeting = np.unique(of_keys), set[int]()
        for start in range(0, len(self._hashes) if len(few) else 0, SEARCHED):
            added = np.array(self._hashes[start : start + SEARCHED], np.uint64)
            nearest = few[np.minimum(np.searchsorted(few, added), len(few) - 1)]
            meeting.update(added[nearest == added].tolist())
        if not meeting:
            return set()
        wanted = {key for key, of_key in zip(keys.tolist(), of_keys.tolist(), strict=True) if of_key in meeting}
        return {key for part in range(self._parts) for key in again(part).tolist() if key in wanted}

    def repeated(self, again: Callable[[int], Keys]) -> Iterator[Repeated]:
        """Every sample whose key an earlier one has, in order.

        Args:
            again: Gives the keys of a shard, by its number, once more. It is called, for one shard after another, only
                if hashes meet: where keys appear twice, or once in a thousand sets of a hundred million samples.
        """
        ordered = np.frombuffer(self._hashes, np.uint64)
        ordered.sort()  # in place: which hashes there are matters, not where
        meeting = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        del ordered  # until then nothing can be added
        if not meeting.size:
            return
        seen: set[bytes] = set()
        for part in range(self._parts):
            keys = again(part)
            for row in np.flatnonzero(np.isin(hashes(keys), meeting)).tolist():
                key = bytes(keys[row])
                if key in seen:
                    yield Repeated(part, row, key)
                seen.add(key)


def first_repeated(parts: Iterable[Keys], again: Callable[[int], Keys]) -> bytes | None:
    """The first key that two samples have, or None; `parts` has the keys of each shard, `again` as in
    `KeyCheck.repeated`."""
    check = KeyCheck()
    for keys in parts:
        check.add(keys)
    found = next(check.repeated(again), None)
    return None if found is None else found.key


def hashes(keys: Keys) -> npt.NDArray[np.uint64]:
    """XXH3-64 of each key without its padding, (samples,)."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, keys.tolist()), np.uint64, len(keys))
