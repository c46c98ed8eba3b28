"""Read-only memory maps, and holes in the files under them."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.shards.errors import MachineError, ShardError, is_machine_fault

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
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2


MAKES_HOLES = hasattr(libc, "fallocate")
"""Linux does. macOS has a call of its own, on which nothing was ever tried."""


def punch_hole(path: Path, start: int, length: int) -> None:
    """Give back the room that a range of a file takes; it reads as zeros, also through maps of the file.

    OSError, with EOPNOTSUPP where the system or the file system has no holes.
    """
    if not MAKES_HOLES:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if length == 0:
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        if libc.fallocate(descriptor, mode, ctypes.c_int64(start), ctypes.c_int64(length)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(descriptor)


class IoVector(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("address", ctypes.c_void_p), ("size", ctypes.c_size_t))


def _missing(*arguments: Any) -> int:
    ctypes.set_errno(errno.ENOSYS)
    return -1


process_vm_readv: Any = getattr(libc, "process_vm_readv", _missing)  # Linux has it
if process_vm_readv is not _missing:
    process_vm_readv.restype = ctypes.c_ssize_t
    process_vm_readv.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_ulong,
    )


class FileState(NamedTuple):
    """What tells a file that was replaced from the one that a set was opened with."""

    size: int
    """Bytes."""
    mtime_ns: int


def cannot_read(path: Path | str, error: OSError) -> ShardError:
    """What to raise where a file cannot be read: a `MachineError` where that says nothing about the file."""
    kind = MachineError if is_machine_fault(error) else ShardError
    return kind(f"{path}: {error.strerror or error}")


class LeasedAddresses(np.ndarray[Any, Any]):
    """Addresses that keep alive what they point at, as does every array made from them by slicing or copying."""

    lease: Any
    """Whatever must live: maps of files, blocks of a cache."""

    def __array_finalize__(self, made_from: Any) -> None:
        self.lease = getattr(made_from, "lease", None)


def leased(addresses: npt.NDArray[np.int64], lease: object) -> npt.NDArray[np.int64]:
    """`addresses`, the same memory, with a lease."""
    kept = addresses.view(LeasedAddresses)
    kept.lease = lease
    return kept


class MappedFile:
    """A whole file, mapped read-only: `array` (uint8) and the `address` of its first byte.

    Python's own mmap keeps a descriptor open for each map. A set the size of ImageNet has more than a
    thousand files, and 1,024 open descriptors are the usual limit, so the map is made by the C library.
    """

    def __init__(self, path: Path) -> None:
        """ShardError where the file is missing, unreadable or empty, MachineError where the system fails."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise cannot_read(path, error) from error
        try:
            status = os.fstat(descriptor)
            self.size = status.st_size
            self.state = FileState(status.st_size, status.st_mtime_ns)
            if self.size == 0:
                raise ShardError(f"{path}: the file is empty")
            address = libc.mmap(None, self.size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
            if address is None or address == MAP_FAILED:
                raise MachineError(f"{path}: cannot map the file: {os.strerror(ctypes.get_errno())}")
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

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """A copy of the bytes from `start` to before `stop`, made by the system.

        Raises:
            MachineError: The disk fails, or the file is shorter by now. To touch such memory ends the process
                (SIGBUS), which is what happens where the system does not let a process copy (`process_vm_readv`).
        """
        copy = np.empty(stop - start, np.uint8)
        done = 0
        while done < len(copy):
            here = IoVector(copy.ctypes.data + done, len(copy) - done)
            there = IoVector(self.address + start + done, len(copy) - done)
            count = process_vm_readv(os.getpid(), ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
            if count <= 0:
                if ctypes.get_errno() != errno.EFAULT:
                    return self.array[start:stop].copy()
                raise MachineError(
                    f"{self.path}, offset {start + done}: cannot be read: the disk fails, or the file is shorter by now"
                )
            done += count
        return copy

    def close(self) -> None:
        """Let go of the map, which goes with the last view of `array`; `address` must not be used any more."""
        self.array = np.empty(0, np.uint8)
