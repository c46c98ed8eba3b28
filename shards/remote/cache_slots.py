"""The folders of caches: one serves one process at a time, and what processes leave behind stays under a size.

Below the root lies a folder for each set, and in it 0, 1, ... for the processes that have it open at the same time. A
slot is locked as long as it is used, and the lock goes with the process, however it ends. What a process leaves behind
is used again by the next one that opens the set, or removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from headrace.shards.errors import MachineError
from headrace.shards.writing.staging import remove

SET_NAME = re.compile(r".+-[0-9a-f]{16}")
"""Name of the folder with a set's slots, see `headrace.shards.remote.remote_set.cache_name`."""
PLACE = "place"
"""File of a slot that says which set it is of, for people."""


class Slot:
    """A locked folder: the first of `folder`/0, `folder`/1, ... that no other process uses.

    Raises:
        MachineError: The folder cannot be made or locked.
    """

    def __init__(self, folder: Path) -> None:
        self.lock = -1
        try:
            for number in count():
                self.path = folder / str(number)
                self.lock = self._lock()
                if self.lock >= 0:
                    os.utime(self.path)
                    return
        except OSError as error:
            self.close()
            raise MachineError(f"{folder}: cannot be used as a cache: {error.strerror}") from error

    def _lock(self) -> int:
        """As `locked`; another process's `trim` may remove the folder at any moment before."""
        for _ in range(100):
            self.path.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                return locked(self.path)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(self.path))

    def close(self) -> None:
        """Leave it to others."""
        if self.lock >= 0:
            with contextlib.suppress(OSError):
                os.utime(self.path)
            os.close(self.lock)
            self.lock = -1


def locked(folder: Path) -> int:
    """A descriptor that locks a folder as long as it is open, or -1 where another process has locked it.

    FileNotFoundError where the name does not stand for the locked folder any more.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(folder))
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return -1
        raise
    return descriptor


@contextlib.contextmanager
def unused(slot: Path) -> Iterator[bool]:
    """Whether no process uses a slot; if so, none begins to before this ends."""
    descriptor = locked(slot)
    try:
        yield descriptor >= 0
    finally:
        if descriptor >= 0:
            os.close(descriptor)


@dataclass(frozen=True, kw_only=True)
class Cached:
    """A slot as it was found."""

    path: Path
    place: str
    """URL of the set, without credentials; the name of its folder where that is not known."""
    bytes: int
    """Room on the disk."""
    used: float
    """When it was opened or closed last, in seconds since 1970."""


def slots(root: Path) -> list[Cached]:
    """All slots below a root, those used last first. What is no slot, or cannot be looked at, is left out."""
    found = []
    with contextlib.suppress(OSError):
        for folder in root.iterdir():
            if SET_NAME.fullmatch(folder.name):
                with contextlib.suppress(OSError):
                    found += [slot for slot in folder.iterdir() if slot.name.isdigit()]
    looked_at = []
    for slot in found:
        with contextlib.suppress(OSError):
            place = slot.parent.name
            with contextlib.suppress(OSError, UnicodeDecodeError):
                place = (slot / PLACE).read_text(encoding="utf-8")
            looked_at.append(Cached(path=slot, place=place, bytes=disk_bytes(slot), used=slot.stat().st_mtime))
    return sorted(looked_at, key=lambda cached: (-cached.used, cached.path))


def is_used(slot: Path) -> bool:
    """Whether a process uses a slot."""
    with contextlib.suppress(FileNotFoundError), unused(slot) as free:
        return not free
    return False


def remove_slot(slot: Path) -> bool:
    """Remove a slot; False, and nothing is removed, where a process uses it. OSError where it cannot be removed."""
    try:
        with unused(slot) as free:
            if free:
                remove(slot)
    except FileNotFoundError:  # another process was faster
        return True
    if free:
        with contextlib.suppress(OSError):
            os.rmdir(slot.parent)  # if this was the last of the set
    return free


def trim(root: Path, capacity: int) -> None:
    """Remove slots that no process uses, those used longest ago first, until the others take `capacity` bytes at most.

    Folders that are no slots are left alone, and nothing is said where one cannot be removed.
    """
    found = slots(root)
    if sum(cached.bytes for cached in found) <= capacity:
        return  # whoever uses them; most often this is all, and nobody meets a lock of ours
    room = capacity
    for cached in found:
        with contextlib.suppress(OSError):
            if not is_used(cached.path):
                room -= cached.bytes
                if room < 0:
                    remove_slot(cached.path)


def disk_bytes(folder: Path) -> int:
    """Room that the files of a folder take."""
    return sum(entry.stat().st_blocks * 512 for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False))
