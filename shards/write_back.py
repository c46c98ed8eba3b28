"""Appending to a file without copies, and to the disk while the file still grows."""

from __future__ import annotations

import ctypes
import io
import os
from collections.abc import Sequence

libc = ctypes.CDLL(None, use_errno=True)
SYNC_FILE_RANGE_WRITE = 2  # Linux, sync_file_range
STEP = 8 << 20
"""Bytes that the system is asked to write at a time."""
MOST_PARTS = 1024  # IOV_MAX of Linux and macOS


class WriteBack:
    """Has the system write a growing file to the disk while it grows, so that the sync at its end waits for little.

    Linux only; elsewhere it does nothing.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.begun = 0
        self.call = getattr(libc, "sync_file_range", None)

    def grown(self, size: int) -> None:
        """The file has `size` bytes now."""
        if self.call is not None and size - self.begun >= STEP:
            start, length = ctypes.c_int64(self.begun), ctypes.c_int64(size - self.begun)
            self.call(self.descriptor, start, length, SYNC_FILE_RANGE_WRITE)  # the sync will say what fails
            self.begun = size


def write_parts(file: io.FileIO, parts: Sequence[bytes | memoryview]) -> None:
    """Append parts to an unbuffered file, in one system call where it takes all of them."""
    rest = [memoryview(part) for part in parts if len(part)]
    while rest:
        written = os.writev(file.fileno(), rest[:MOST_PARTS])
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if written:
            rest[0] = rest[0][written:]
