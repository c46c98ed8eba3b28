"""Files that are read, not mapped: where a disk fails or a file is cut short, a read is an error with an offset, and a
map the end of the process (SIGBUS)."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from headrace.shards.errors import MachineError, ShardError

Bytes = npt.NDArray[np.uint8]

MOST_OPEN = 64
"""Descriptors that all `ReadFile`s keep open together."""
LONGEST = 1 << 30
"""Bytes of one call; Linux ends one at 2 GiB."""
CHUNK = 1 << 18
"""Bytes that are read at a time from the beginning to the end of a file: they stay in the processor's cache."""
PAGE = 4096
"""What a disk reads or fails to read as a whole."""
MOST_PAGES = 1 << 10
"""Pages of a file that are tried one by one where a chunk fails: a disk may take seconds for each."""
ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""What a system says where there is no such file. Anything else says that there is one, of which nothing is known."""
EUCLEAN = 117
"""Linux's, of a file system that is damaged; `errno` of other systems has no such name."""
OF_THE_MEDIUM = {errno.EIO, errno.EBADMSG, EUCLEAN, errno.ENODATA}
"""What a system says of some sectors of a disk, while others can be read."""


class FileBytes(Protocol):
    """A file whose bytes can be had by slicing: mapped (`MappedFile`) or read (`ReadFile`)."""

    path: Path
    size: int

    @property
    def array(self) -> Any:
        """Slices of it are uint8 (stop - start,)."""


class ReadFile:
    """A file of which only what is asked for is read, each time anew. Thread-safe.

    So many of them as a set has shards can be there: descriptors are opened again where they have been closed for
    others.
    """

    def __init__(self, path: Path) -> None:
        """ShardError where the file is missing or empty, MachineError where it cannot be read."""
        self.path = path
        self.number = next(NUMBERS)
        weakref.finalize(self, OPEN.pop, self.number, None).atexit = False
        try:
            opened = descriptor_of(self)
            self.size = os.fstat(opened.number).st_size
        except OSError as error:
            raise failed(path, error) from error
        if self.size == 0:
            self.close()
            raise ShardError(f"{path}: the file is empty")
        self.array = Slices(self)

    def read(self, start: int, stop: int) -> Bytes:
        """The bytes from `start` to before `stop`.

        Raises:
            MachineError: They cannot be read; the text says from which offset on.
            ShardError: The file is shorter by now.
        """
        parts: list[bytes] = []
        at = start
        while at < stop:
            try:
                opened = descriptor_of(self)  # held: others may push it out
                part = os.pread(opened.number, min(stop - at, LONGEST), at)
            except OSError as error:
                raise failed(self.path, error, at) from error
            if not part:
                raise ShardError(f"{self.path}, offset {at}: the file was cut short while it was read, to {at} bytes")
            parts.append(part)
            at += len(part)
        return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)

    def close(self) -> None:
        """Let go of the descriptor. The file can still be read."""
        with OPEN_LOCK:
            OPEN.pop(self.number, None)


class Slices:
    """What makes a `ReadFile` look like an array."""

    def __init__(self, file: ReadFile) -> None:
        self._file = file

    def __len__(self) -> int:
        return self._file.size

    def __getitem__(self, part: slice) -> Bytes:
        start, stop, _ = part.indices(self._file.size)
        return self._file.read(start, max(start, stop))


class Descriptor:
    """An open file, closed when nobody holds it any more: also when others have pushed it out of `OPEN`."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.number).atexit = False


OPEN: OrderedDict[int, Descriptor] = OrderedDict()
"""By number of the `ReadFile`, the least lately used first."""
NUMBERS = itertools.count()
OPEN_LOCK = threading.Lock()


def descriptor_of(file: ReadFile) -> Descriptor:
    """The file's descriptor, opened where it is not open; OSError where it cannot be."""
    with OPEN_LOCK:
        found = OPEN.get(file.number)
        if found is not None:
            OPEN.move_to_end(file.number)
            return found
    opened = Descriptor(file.path)
    with OPEN_LOCK:
        pushed_out = [OPEN.popitem(last=False)[1] for _ in range(len(OPEN) + 1 - MOST_OPEN)]
        found = OPEN.setdefault(file.number, opened)
    del pushed_out  # outside of the lock: closing a file of a far system may take its time
    return found


def failed(path: Path, error: OSError, at: int | None = None) -> ShardError:
    """The error to raise for one of the system."""
    where = f"{path}: " if at is None else f"{path}, offset {at}: "
    kind = ShardError if error.errno in ABSENT else MachineError
    return kind(f"{where}{error.strerror}")


def cause_of(error: BaseException) -> OSError | None:
    """The system's error behind another."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__
    return found


def is_unread(error: BaseException) -> bool:
    """Whether an error says that something could not be read, so that nothing is known about it; not where it is
    missing."""
    cause = cause_of(error)
    return isinstance(error, MachineError) or (cause is not None and cause.errno not in {None, *ABSENT})


def is_of_the_medium(error: BaseException) -> bool:
    """Whether a disk says that it cannot read some sectors: others of the same file may be read."""
    cause = cause_of(error)
    return cause is not None and cause.errno in OF_THE_MEDIUM


def chunks(file: ReadFile, of: range | None = None) -> Iterator[tuple[range, Bytes | MachineError]]:
    """(place, bytes) from the beginning to the end of a file, or of a range of it; (place, error) of each page that a
    disk cannot read.

    Raises:
        MachineError: Nothing can be read any more.
        ShardError: The file is shorter by now.
    """
    of = range(file.size) if of is None else of
    left = MOST_PAGES
    for start in of[::CHUNK]:
        place = range(start, min(start + CHUNK, of.stop))
        content = readable(file, place)
        if isinstance(content, MachineError) and left > 0:
            for at in place[::PAGE]:
                page = range(at, min(at + PAGE, place.stop))
                content = readable(file, page)
                left -= isinstance(content, MachineError)
                yield page, content
        else:
            yield place, content


def readable(file: ReadFile, place: range) -> Bytes | MachineError:
    """The bytes, or the error where a disk cannot read some of them; raises other errors."""
    try:
        return file.read(place.start, place.stop)
    except MachineError as error:
        if not is_of_the_medium(error):
            raise
        return error


def joined(places: Iterable[range]) -> list[range]:
    """Ranges in ascending order, those that touch as one."""
    found: list[range] = []
    for place in places:
        if found and found[-1].stop == place.start:
            found[-1] = range(found[-1].start, place.stop)
        else:
            found.append(place)
    return found
