"""The checksums of a shard set: which ones a version of manifest and index has, decided in one table.

Versions 2 and 3 have XXH3 (https://github.com/Cyan4973/xxHash, seed 0), version 1 had SHA-256 and CRC-32. Both find
damage. Neither proves who wrote a set: whoever can change a shard can change the manifest beside it.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import xxhash


@dataclass(frozen=True, kw_only=True)
class Checksums:
    """Those of one version. All of them let go of the GIL where the content is not small."""

    file: str
    """Member of the manifest that holds a shard's; with "index_" before it, its index's."""
    title: str
    """Name of that function, for a person."""
    digits: int
    """Hexadecimal digits of it, lower case."""
    start: Callable[[], Any]
    """Begins one over a whole file; what it returns is used as hashlib's objects are."""
    payload: str
    """Column of the index, behind the field's name and a dot."""
    payload_type: str
    """numpy's name of the column's type."""
    of_payload: Callable[[bytes | memoryview], int]
    """That of a field of a sample."""

    def of_file(self, content: bytes | memoryview) -> str:
        """That of a whole file in memory."""
        found = self.start()
        found.update(content)
        return str(found.hexdigest())

    def of_open_file(self, file: io.FileIO | io.BufferedReader) -> str:
        """That of a file from where it stands to its end; OSError where it cannot be read.

        Pieces of it stay in the processor's cache: to map it would take four times as long.
        """
        return str(hashlib.file_digest(file, self.start).hexdigest())


CHECKSUMS = {
    1: Checksums(
        file="sha256",
        title="SHA-256",
        digits=64,
        start=hashlib.sha256,
        payload="crc32",
        payload_type="<u4",
        of_payload=zlib.crc32,
    ),
    2: Checksums(
        file="xxh128",
        title="XXH3-128",
        digits=32,
        start=xxhash.xxh3_128,
        payload="xxh64",
        payload_type="<u8",
        of_payload=xxhash.xxh3_64_intdigest,
    ),
}
"""By version of manifest and index; these can be read."""

VERSION = 2
"""The version that is written where no field is `Field.oriented` or `Field.as_stored`."""

ORIENTED_VERSION = 3
"""The version that is written where one is: 2, with the columns of orientations."""

CHECKSUMS[ORIENTED_VERSION] = CHECKSUMS[VERSION]

CURRENT = CHECKSUMS[VERSION]
