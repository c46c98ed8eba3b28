"""Blocks of remote files in local, memory-mapped files that together stay under a size.

Each remote file has a local one of the same size that is sparse: it takes room only where blocks were written. A block
is evicted by a hole in the file, so an address into the map never becomes invalid; what protects its bytes is a lease.
A leased block is not evicted, and neither is one that is on its way. Of the others the least recently leased go first.

A table beside the files holds, for every block, 0 or its CRC-32 with a bit above it. The entry is written after the
block and erased before the hole is made, so a process that is killed leaves no entry for a block that is not whole. A
later process trusts no entry before it has compared the block with its CRC-32, which a lost power supply may have
made wrong.

One folder serves one process at a time: it is locked, and other processes take others. The lock goes with the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headrace.shards.errors import ShardError
from headrace.shards.mapping import punch_hole
from headrace.shards.remote import RemoteFolder
from headrace.shards.staging import remove

RUN_BYTES = 4 << 20
"""Neighbouring blocks are fetched by one request up to this size."""
PROBE = "probe"
"""A file on which it is tried whether holes can be made."""
WHOLE = np.uint64(1 << 32)
"""The bit of a table entry that says that the block is there."""


class Slot:
    """A locked folder: the first of `folder`/0, `folder`/1, ... that no other process uses.

    Raises:
        ShardError: The folder cannot be made or locked.
    """

    def __init__(self, folder: Path) -> None:
        self.lock = -1
        try:
            for number in count():
                self.path = folder / str(number)
                self.path.mkdir(parents=True, exist_ok=True)
                self.lock = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except OSError as error:
                    self.close()
                    if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                        raise
        except OSError as error:
            raise ShardError(f"{folder}: cannot be used as a cache: {error.strerror}") from error

    def close(self) -> None:
        """Leave it to others."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


@dataclass(eq=False, slots=True)
class Block:
    """A block that has room in the cache."""

    leases: int = 0
    arrived: Future[None] | None = None
    """None for one of an earlier process that nobody has asked for yet."""


class Lease:
    """Keeps blocks in the cache as long as this object lives."""

    def __init__(self, blocks: list[Block], released: deque[list[Block]]) -> None:
        self._blocks = blocks
        self._released = released

    def wait(self) -> None:
        """Until all bytes are there; ShardError where they cannot be fetched or kept."""
        for block in self._blocks:
            assert block.arrived is not None
            try:
                block.arrived.result()
            except CancelledError:
                raise ValueError("the set was closed while its bytes were on the way") from None

    def __del__(self) -> None:
        # This may run in any thread, in the middle of anything, the cache's own locked parts included: so it only
        # leaves a note, which the next request reads.
        self._released.append(self._blocks)


class BlockCache:
    """The blocks of some remote files. Thread-safe, for one process.

    Args:
        remote: Where the files come from.
        folder: Of a `Slot`; what is in it is used again if it is of the same files, else removed.
        identity: Changes with the files' content.
        files: Name to size, bytes.
        capacity: Bytes of blocks to hold.
        block_bytes: Size of a block, a multiple of 4096.
        connections: Requests at the same time.

    Raises:
        ShardError: The folder cannot hold the files, or the capacity is less than a block.
    """

    def __init__(
        self,
        remote: RemoteFolder,
        folder: Path,
        identity: str,
        files: Mapping[str, int],
        *,
        capacity: int,
        block_bytes: int,
        connections: int = 32,
    ) -> None:
        if block_bytes < 4096 or block_bytes % 4096:
            raise ShardError(f"a block must be a multiple of 4096 bytes, got {block_bytes}")
        if capacity < block_bytes:
            raise ShardError(f"a cache of {capacity:,} bytes does not hold a block of {block_bytes:,}")
        self.remote = remote
        self.folder = folder
        self.names = list(files)
        self.sizes = np.array(list(files.values()), np.int64)
        self.block_bytes = block_bytes
        self.capacity = capacity // block_bytes
        counts = -(-self.sizes // block_bytes)
        self.first_block = np.concatenate([[0], np.cumsum(counts)])
        self._file_starts = frozenset(self.first_block.tolist())
        self._lock = threading.Lock()
        self._released: deque[list[Block]] = deque()
        self._pid = os.getpid()
        self._closed = False
        try:
            self._table = self._open_table(f"blocks-{block_bytes}-{identity}")
            self._blocks: OrderedDict[int, Block] = OrderedDict(
                (block, Block()) for block in np.flatnonzero(self._table).tolist()
            )
            self._evict(len(self._blocks) - self.capacity)
            punch_hole(self.folder / PROBE, 0, block_bytes)
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno == errno.EOPNOTSUPP:
                why = "its file system cannot make holes in files; name another folder, on ext4, XFS, Btrfs or tmpfs"
            raise ShardError(f"{folder}: cannot be used as a cache: {why}") from error
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="headrace-fetch")

    patience_s = 5.0
    """How long `lease` waits for room that readers hold."""

    def path(self, number: int) -> Path:
        """The local file that stands for a remote one."""
        return self.folder / self.names[number]

    def blocks(
        self, number: npt.NDArray[np.int64], offset: npt.NDArray[np.int64], size: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Sorted numbers of the blocks under n ranges, each of the file `number`: int64 (n,) each."""
        some = size > 0
        number, offset, size = number[some], offset[some], size[some]
        first = self.first_block[number] + offset // self.block_bytes
        last = self.first_block[number] + (offset + size - 1) // self.block_bytes
        longest = int((last - first).max(initial=0))
        found: npt.NDArray[np.int64] = np.unique(np.minimum(first[:, None] + np.arange(longest + 1), last[:, None]))
        return found

    def lease(self, blocks: npt.NDArray[np.int64]) -> Lease:
        """Keep blocks, sorted and unique, and begin to fetch those that are not there. Does not wait.

        Raises:
            ShardError: They do not fit beside what is leased already.
            ValueError: The cache is closed.
        """
        if self._pid != os.getpid():
            raise ShardError(f"{self.remote}: a forked process must open the set again, or get it pickled")
        numbers = blocks.tolist()
        deadline = time.monotonic() + self.patience_s
        while True:
            with self._lock:
                if self._closed:
                    raise ValueError(f"{self.remote}: the set is closed")
                self._take_back()
                if self._make_room(numbers):
                    return self._leased(numbers)
                held = sum(block.leases > 0 for block in self._blocks.values()) * self.block_bytes
            # Readers that are about to finish, or what is on the way for nobody any more, may make room soon.
            if len(numbers) > self.capacity or time.monotonic() > deadline:
                raise ShardError(
                    f"{self.remote}: {len(numbers) * self.block_bytes:,} bytes are needed at once; the cache has "
                    f"{self.capacity * self.block_bytes:,}, of which readers hold {held:,}: give it more, "
                    "or load smaller batches or fewer of them ahead"
                )
            time.sleep(0.01)

    def forget(self, blocks: Iterable[int]) -> None:
        """Evict blocks whose bytes turned out to be wrong, unless others lease them too."""
        with self._lock:
            self._take_back()
            for number in blocks:
                block = self._blocks.get(number)
                if block is not None and block.leases <= 1 and block.arrived is not None and block.arrived.done():
                    self._drop(number)

    def close(self) -> None:
        """Wait for what is on the way and end the threads."""
        with self._lock:
            self._closed = True
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _open_table(self, name: str) -> npt.NDArray[np.uint64]:
        """The table of an earlier process if files and blocks are the same, else empty files and a table of zeros."""
        path = self.folder / name
        total = int(self.first_block[-1])
        fits = path.exists() and path.stat().st_size == 8 * total
        if not (fits and all(has_size(self.path(n), size) for n, size in enumerate(self.sizes.tolist()))):
            for leftover in self.folder.iterdir():
                remove(leftover)
            for number, size in enumerate(self.sizes.tolist()):
                make_sparse(self.path(number), size)
            unnamed = self.folder / f"{name}.partial"
            make_sparse(unnamed, 8 * total)
            make_sparse(self.folder / PROBE, self.block_bytes)
            os.rename(unnamed, path)
        return np.memmap(path, "<u8", "r+", shape=(total,))

    def _take_back(self) -> None:
        while self._released:
            for block in self._released.popleft():
                block.leases -= 1

    def _make_room(self, numbers: list[int]) -> bool:
        """Evict others until these blocks fit; False, and nothing is evicted, if they cannot."""
        absent = 0
        for number in numbers:
            if number in self._blocks:
                self._blocks.move_to_end(number)
            else:
                absent += 1
        return self._evict(len(self._blocks) + absent - self.capacity, set(numbers))

    def _evict(self, wanted: int, keep: Container[int] = ()) -> bool:
        """Evict this many blocks, those leased longest ago first; False, and none, where so many may not go."""
        found: list[int] = []
        if wanted > 0:
            for number, block in self._blocks.items():
                if block.leases == 0 and number not in keep and (block.arrived is None or block.arrived.done()):
                    found.append(number)
                    if len(found) == wanted:
                        break
        if len(found) < wanted:
            return False
        for number in found:
            self._drop(number)
        return True

    def _leased(self, numbers: list[int]) -> Lease:
        """Lease blocks for which there is room, and begin to fetch what is new."""
        leased = [self._blocks.setdefault(number, Block()) for number in numbers]
        new = [number for number, block in zip(numbers, leased, strict=True) if block.arrived is None]
        for block in leased:
            block.leases += 1
        for run in self._runs(new):
            arrived = self._threads.submit(self._bring, run)
            for number in run:
                self._blocks[number].arrived = arrived
        return Lease(leased, self._released)

    def _drop(self, number: int) -> None:
        """Evict one block; OSError where the file cannot be changed."""
        file, start, stop = self._range(number)
        del self._blocks[number]
        self._table[number] = 0
        punch_hole(self.path(file), start, stop - start)

    def _range(self, number: int) -> tuple[int, int, int]:
        """(file, start, stop) of a block."""
        file = int(np.searchsorted(self.first_block, number, side="right")) - 1
        start = int(number - self.first_block[file]) * self.block_bytes
        return file, start, min(start + self.block_bytes, int(self.sizes[file]))

    def _runs(self, numbers: list[int]) -> Iterator[list[int]]:
        """Neighbours of one file, all kept or all not, in runs of at most `RUN_BYTES`."""
        longest = max(1, RUN_BYTES // self.block_bytes)
        run: list[int] = []
        for number in numbers:
            if run and (
                number != run[-1] + 1
                or len(run) == longest
                or number in self._file_starts
                or bool(self._table[number]) != bool(self._table[run[0]])
            ):
                yield run
                run = []
            run.append(number)
        if run:
            yield run

    def _bring(self, run: list[int]) -> None:
        """Fetch a run of blocks, or find that an earlier process did."""
        file, start, _ = self._range(run[0])
        stop = self._range(run[-1])[2]
        path = self.path(file)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if self._table[run[0]] and self._intact(descriptor, run):
                    return
                self._table[run[0] : run[-1] + 1] = 0
                content = memoryview(self.remote.read(self.names[file], start, stop))
                written = 0
                while written < len(content):
                    written += os.pwrite(descriptor, content[written:], start + written)
                for number in run:
                    at = (number - run[0]) * self.block_bytes
                    self._table[number] = np.uint64(zlib.crc32(content[at : at + self.block_bytes])) | WHOLE
            finally:
                os.close(descriptor)
        except BaseException as error:
            with self._lock:
                for number in run:
                    with contextlib.suppress(OSError):
                        self._drop(number)
            if isinstance(error, OSError):
                raise ShardError(f"{path}: the cache cannot be written: {error.strerror}") from error
            raise

    def _intact(self, descriptor: int, run: list[int]) -> bool:
        for number in run:
            _, start, stop = self._range(number)
            content = os.pread(descriptor, stop - start, start)
            if len(content) != stop - start or np.uint64(zlib.crc32(content)) | WHOLE != self._table[number]:
                return False
        return True


def has_size(path: Path, size: int) -> bool:
    """Whether there is a file of this size."""
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def make_sparse(path: Path, size: int) -> None:
    """An empty file of a size, without room taken."""
    with open(path, "wb") as file:
        file.truncate(size)
