"""Appending to a file in few calls, without copies, and to the disk while the file still grows."""

from __future__ import annotations

import ctypes
import io
import os
from collections.abc import Sequence

libc = ctypes.CDLL(None, use_errno=True)
SYNC_FILE_RANGE_WRITE = 2  # Linux, sync_file_range
STEP = 8 << 20
"""Bytes that the system is asked to write to the disk at a time."""
GATHERED = 1 << 20
"""Bytes that are written in one call: the page cache takes large ones at less cost, and so many are still in the
processor's caches."""
SMALL = 1 << 16
"""Bytes of a view that is rather copied than written alone."""
MOST_PARTS = 1024  # IOV_MAX of Linux and macOS


class GrowingFile:
    """Appends to an unbuffered file, and has the system write it to the disk while it grows, so that the sync at its
    end waits for little (Linux only).

    Parts wait until `GATHERED` bytes of them are together. Large views of memory that somebody may change do not wait.
    What the disk says of a part may come late, but not after `flush`.
    """

    def __init__(self, file: io.FileIO) -> None:
        self.file = file
        self.waiting: list[bytes | memoryview] = []
        self.waiting_bytes = 0
        self.begun = 0
        self.sync_file_range = getattr(libc, "sync_file_range", None)

    def append(self, parts: Sequence[bytes | memoryview]) -> None:
        """Adds parts at the end."""
        changeable = False
        for part in parts:
            if isinstance(part, memoryview):
                if len(part) < SMALL:
                    part = bytes(part)
                else:
                    changeable = True
            self.waiting.append(part)
            self.waiting_bytes += len(part)
        if changeable or self.waiting_bytes >= GATHERED:
            self.flush()

    def skip(self, size: int) -> None:
        """Leaves a hole, which reads as zeros."""
        self.flush()
        self.file.seek(size, os.SEEK_CUR)

    def flush(self) -> None:
        """Writes what waits."""
        if not self.waiting:
            return
        write_parts(self.file, self.waiting)
        self.waiting.clear()
        self.waiting_bytes = 0
        end = self.file.tell()
        if self.sync_file_range is not None and end - self.begun >= STEP:
            start, length = ctypes.c_int64(self.begun), ctypes.c_int64(end - self.begun)
            # What fails will be told by the sync at the end.
            self.sync_file_range(self.file.fileno(), start, length, SYNC_FILE_RANGE_WRITE)
            self.begun = end


def write_parts(file: io.FileIO, parts: Sequence[bytes | memoryview]) -> None:
    """Write parts to an unbuffered file, in one system call where it takes all of them."""
    rest = [memoryview(part) for part in parts if len(part)]
    while rest:
        written = os.writev(file.fileno(), rest[:MOST_PARTS])
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if written:
            rest[0] = rest[0][written:]
