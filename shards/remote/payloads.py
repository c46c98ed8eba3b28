"""Which payloads lie in a part of a shard, and whether bytes that arrived are theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.shards.manifest import Manifest


class Payloads:
    """The places and checksums of a set's payloads.

    Args:
        manifest: Of the set.
        index: The index of a shard, by its number.
    """

    def __init__(self, manifest: Manifest, index: Callable[[int], npt.NDArray[np.void]]) -> None:
        self._index = index
        self._checksum = manifest.checksums.of_payload
        ends = ("offset", "size", manifest.checksums.payload)
        self._columns = [[f"{name}.{end}" for end in ends] for name in manifest.fields]

    def wrong(self, number: int, start: int, content: memoryview) -> npt.NDArray[np.int64]:
        """The payloads that lie whole in bytes of shard `number` from `start` on and differ from their checksums:
        offset and size, int64 (n, 2).

        The index is gone through once, without a loop over the samples that lie elsewhere.
        """
        index = self._index(number)
        stop = start + len(content)
        found = []
        for columns in self._columns:
            offset, size, checksum = (np.asarray(index[column]) for column in columns)
            # A size that an index lies about may be anything, so nothing is added that could overflow.
            inside = (offset >= start) & (size > 0) & (offset < stop) & (size <= stop - offset)
            rows = np.flatnonzero(inside)
            places = zip(offset[rows].tolist(), size[rows].tolist(), checksum[rows].tolist(), strict=True)
            found += [
                (at, length)
                for at, length, expected in places
                if self._checksum(content[at - start : at - start + length]) != expected
            ]
        return np.array(found, np.int64).reshape(-1, 2)

    def is_right(self, number: int, row: int, field: int, content: Any) -> bool:
        """Whether bytes are those of a field, by its position, of a sample, by its row in the shard."""
        record = self._index(number)[row]
        return bool(self._checksum(content) == record[self._columns[field][2]])
