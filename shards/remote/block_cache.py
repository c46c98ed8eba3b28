"""Blocks of remote files in local, memory-mapped files that together stay under a size.

Each remote file has a local one of the same size that is sparse: it takes room only where blocks were written. A block
is evicted by a hole in the file, so an address into the map never becomes invalid; what protects its bytes is a lease.
A leased block is not evicted, and neither is one that is on its way. Of the others the least recently leased go first.

A table beside the files holds, for every block, 0 or its CRC-32 with a bit above it. The entry is written after the
block and erased before the hole is made, so a process that is killed leaves no entry for a block that is not whole. A
later process trusts no entry before it has compared the block with its CRC-32, which a lost power supply may have
made wrong.

What arrives is compared with what is known of it. A block in which something is wrong is `suspect`: it serves those who
look at what they read, and gets no entry. Whoever leases blocks looks at what lies across several himself.

One folder serves one process at a time, see `headrace.shards.remote.cache_slots`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headrace.shards.errors import ClosedError, MachineError, ShardError
from headrace.shards.mapping import MAKES_HOLES, punch_hole
from headrace.shards.remote.remote import Unchanging
from headrace.shards.writing.staging import remove

RUN_BYTES = 4 << 20
"""Neighbouring blocks are fetched by one request up to this size."""
PROBE = "probe"
"""A file on which it is tried whether holes can be made."""
WHOLE = np.uint64(1 << 32)
"""The bit of a table entry that says that the block is there."""


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
        """Until all bytes are there; MachineError where they cannot be fetched or kept."""
        for block in self._blocks:
            assert block.arrived is not None
            try:
                block.arrived.result()
            except CancelledError:
                raise ClosedError("the set was closed while its bytes were on the way") from None

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
        wrong: Of a file's number, an offset and bytes from there: what in them is not as it should be, offset and size,
            int64 (n, 2).
        capacity: Bytes of blocks to hold.
        block_bytes: Size of a block, a multiple of 4096.
        connections: Requests at the same time.

    Raises:
        MachineError: The folder cannot hold the files.
        ShardError: The capacity is less than a block.
    """

    def __init__(
        self,
        remote: Unchanging,
        folder: Path,
        identity: str,
        files: Mapping[str, int],
        wrong: Callable[[int, int, memoryview], npt.NDArray[np.int64]],
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
        self._wrong = wrong
        self._suspect: set[int] = set()
        try:
            self._table = self._open_table(f"checked-{block_bytes}-{identity}")
            self._blocks: OrderedDict[int, Block] = OrderedDict(
                (block, Block()) for block in np.flatnonzero(self._table).tolist()
            )
            self._evict(len(self._blocks) - self.capacity)
            punch_hole(self.folder / PROBE, 0, block_bytes)
        except OSError as error:
            why = error.strerror or str(error)
            if not MAKES_HOLES:
                why = "this system has no call to make holes in files as Linux has; copy the set to this machine"
            elif error.errno == errno.EOPNOTSUPP:
                why = "its file system cannot make holes in files; name another folder, on ext4, XFS, Btrfs or tmpfs"
            raise MachineError(f"{folder}: cannot be used as a cache: {why}") from error
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
            MachineError: They do not fit beside what is leased already, or the process was forked.
            ClosedError: The cache is closed.
        """
        if self._pid != os.getpid():
            raise MachineError(f"{self.remote}: a forked process must open the set again, or get it pickled")
        numbers = blocks.tolist()
        deadline = time.monotonic() + self.patience_s
        while True:
            with self._lock:
                if self._closed:
                    raise ClosedError(f"{self.remote}: the set is closed")
                self._take_back()
                if self._make_room(numbers):
                    return self._leased(numbers)
                held = sum(block.leases > 0 for block in self._blocks.values()) * self.block_bytes
            # Readers that are about to finish, or what is on the way for nobody any more, may make room soon.
            if len(numbers) > self.capacity or time.monotonic() > deadline:
                raise MachineError(
                    f"{self.remote}: {len(numbers) * self.block_bytes:,} bytes are needed at once; the cache has "
                    f"{self.capacity * self.block_bytes:,}, of which readers hold {held:,}: give it more, "
                    "or load smaller batches or fewer of them ahead"
                )
            time.sleep(0.01)

    def must_look(
        self, number: npt.NDArray[np.int64], offset: npt.NDArray[np.int64], size: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Of n ranges as in `blocks`: which of them nobody has looked at, because they lie across several blocks, or in
        which something may be wrong. To be asked when they are there."""
        first = self.first_block[number] + offset // self.block_bytes
        last = self.first_block[number] + (offset + size - 1) // self.block_bytes
        found: npt.NDArray[np.bool_] = (first != last) & (size > 0)
        with self._lock:
            if self._suspect:
                found |= np.isin(first, list(self._suspect)) & (size > 0)
        return found

    def replace(self, number: int, offset: int, content: bytes) -> None:
        """Put other bytes in the place of leased ones that are wrong. MachineError where they cannot be written."""
        path = self.path(number)
        first = self.first_block[number] + offset // self.block_bytes
        last = self.first_block[number] + (offset + len(content) - 1) // self.block_bytes
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._table[first : last + 1] = 0  # their CRC-32s are of what is replaced
                write_all(descriptor, memoryview(content), offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise MachineError(f"{path}: the cache cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Wait for what is on the way and end the threads. In a forked process, where there are none, do nothing."""
        if self._pid != os.getpid():
            return
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
        """Evict one block; MachineError where the file cannot be changed."""
        file, start, stop = self._range(number)
        del self._blocks[number]
        self._suspect.discard(number)
        self._table[number] = 0
        try:
            punch_hole(self.path(file), start, stop - start)
        except OSError as error:
            raise MachineError(f"{self.path(file)}: the cache cannot be changed: {error.strerror}") from error

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
                suspect = self._touched(file, self._wrong(file, start, content))
                write_all(descriptor, content, start)
                with self._lock:
                    self._suspect |= suspect
                for number in run:
                    if number in suspect:
                        continue
                    at = (number - run[0]) * self.block_bytes
                    self._table[number] = np.uint64(zlib.crc32(content[at : at + self.block_bytes])) | WHOLE
            finally:
                os.close(descriptor)
        except BaseException as error:
            with self._lock:
                for number in run:
                    with contextlib.suppress(MachineError):
                        self._drop(number)
            if isinstance(error, OSError):
                raise MachineError(f"{path}: the cache cannot be written: {error.strerror}") from error
            raise

    def _touched(self, file: int, wrong: npt.NDArray[np.int64]) -> set[int]:
        """The blocks under ranges of a file, int64 (n, 2)."""
        return set(self.blocks(np.full(len(wrong), file), wrong[:, 0], wrong[:, 1]).tolist())

    def _intact(self, descriptor: int, run: list[int]) -> bool:
        for number in run:
            _, start, stop = self._range(number)
            content = os.pread(descriptor, stop - start, start)
            if len(content) != stop - start or np.uint64(zlib.crc32(content)) | WHOLE != self._table[number]:
                return False
        return True


def write_all(descriptor: int, content: memoryview, start: int) -> None:
    """All bytes, however many a call takes."""
    written = 0
    while written < len(content):
        written += os.pwrite(descriptor, content[written:], start + written)


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
