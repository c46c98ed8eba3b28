"""Read-only memory maps."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headrace.shards.errors import ShardError

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
MAP_FAILED = ctypes.c_void_p(-1).value


class MappedFile:
    """A whole file, mapped read-only: `array` (uint8) and the `address` of its first byte.

    Python's own mmap keeps a descriptor open for each map. A set the size of ImageNet has more than a
    thousand files, and 1,024 open descriptors are the usual limit, so the map is made by the C library.
    """

    def __init__(self, path: Path) -> None:
        """ShardError where the file is missing, unreadable or empty."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ShardError(f"{path}: {error.strerror}") from error
        try:
            self.size = os.fstat(descriptor).st_size
            if self.size == 0:
                raise ShardError(f"{path}: the file is empty")
            address = libc.mmap(None, self.size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
            if address is None or address == MAP_FAILED:
                raise ShardError(f"{path}: cannot map the file: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(descriptor)
        self.path = path
        self.address: int = address
        pages = (ctypes.c_ubyte * self.size).from_address(address)
        self.array: npt.NDArray[np.uint8] = np.ctypeslib.as_array(pages)
        self.array.flags.writeable = False
        # Every view of `array` keeps `pages` alive, so none can outlive the map. At exit the system unmaps:
        # doing it sooner would pull the memory from under threads that still read.
        weakref.finalize(pages, libc.munmap, address, self.size).atexit = False

    def close(self) -> None:
        """Let go of the map, which goes with the last view of `array`; `address` must not be used any more."""
        self.array = np.empty(0, np.uint8)
