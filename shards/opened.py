"""The files of an open set: all mapped where they are few, mapped when they are read where they are many.

A process may have some 65,000 maps (`vm.max_map_count`), and each costs time and memory at opening. Whoever reads holds
a lease on the maps that it reads from, so that no memory goes while somebody reads it, whatever is evicted or closed.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.shards.errors import MachineError, ShardError
from headrace.shards.index import IndexReader, OpenShard
from headrace.shards.manifest import Manifest
from headrace.shards.mapping import FileState, MappedFile, cannot_read

FEW = 4_096
"""Shards that are mapped, with their indexes, when the set is opened."""
SHARD_MAPS = 16_384
"""Maps of shards that a larger set keeps for whoever reads next; those that somebody reads come on top."""
INDEX_MAPS = 1_024
"""Likewise of indexes."""


SHARD, INDEX = range(2)
"""Kinds of files."""


class OpenShards(ABC):
    """What a `ShardSet` reads. Thread-safe. n is the number of shards."""

    samples: npt.NDArray[np.int64]
    """(n,): samples of each."""
    sizes: npt.NDArray[np.int64]
    """(n,): bytes of each."""

    @abstractmethod
    def path(self, number: int) -> str:
        """Where the shard lies."""

    @abstractmethod
    def mapped(self, number: int) -> MappedFile:
        """The shard; its map lives as long as `array`."""

    @abstractmethod
    def index(self, number: int) -> npt.NDArray[np.void]:
        """Its index, to look rows up."""

    @abstractmethod
    def passing(self, number: int) -> npt.NDArray[np.void]:
        """Its index for one look at all of it, which nothing is kept for."""

    @abstractmethod
    def hold(self, numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Any]:
        """Addresses of the first bytes of some shards, one for each of `numbers`, and what keeps these maps alive."""

    def unreadable(self, number: int, field: str) -> Set[int]:
        """Rows of a shard that hold no number where an int field has one: of another program's."""
        return frozenset()

    @abstractmethod
    def unlock(self) -> None:
        """Forget who holds locks: in a forked process, which has none of the other threads."""


class FewShards(OpenShards):
    """Shards that are open already."""

    def __init__(self, shards: Sequence[OpenShard]) -> None:
        self._shards = shards
        self.samples = np.array([len(shard.index) for shard in shards], np.int64)
        self.sizes = np.array([shard.mapped.size for shard in shards], np.int64)
        self._first: npt.NDArray[np.int64] | None = None  # shards that are read and not mapped have no addresses
        self._lease = [shard.mapped.array for shard in shards]

    def path(self, number: int) -> str:
        return str(self._shards[number].mapped.path)

    def mapped(self, number: int) -> MappedFile:
        return self._shards[number].mapped

    def index(self, number: int) -> npt.NDArray[np.void]:
        return self._shards[number].index

    passing = index

    def unreadable(self, number: int, field: str) -> Set[int]:
        return self._shards[number].unreadable.get(field, frozenset())

    def unlock(self) -> None:
        pass

    def hold(self, numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Any]:
        if self._first is None:
            self._first = np.array([shard.mapped.address for shard in self._shards], np.int64)
        return self._first[numbers], self._lease


class ManyShards(OpenShards):
    """Shards of a folder that are mapped when they are read. Opening asks for the files' sizes only.

    Args:
        folder: Where they lie.
        manifest: What should lie there.
        check: Whether all indexes must have their checksums.
        changing: Whether files may be written to, as those of a cache are.

    Raises:
        ShardError: A file is missing, or has not the size or the checksum that it should have.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, check: bool = False, changing: bool = False) -> None:
        self._folder = str(folder)
        self._shards = manifest.shards
        self._reader = IndexReader(folder, manifest)
        self.samples = np.array([shard.samples for shard in manifest.shards], np.int64)
        self.sizes = np.array([shard.bytes for shard in manifest.shards], np.int64)
        self._times: list[npt.NDArray[np.int64]] | None = None if changing else []
        for names, sizes in (
            ([shard.name for shard in manifest.shards], self.sizes.tolist()),
            ([shard.index for shard in manifest.shards], [shard.index_bytes for shard in manifest.shards]),
        ):
            times = np.empty(len(names), np.int64)
            for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
                times[number] = _state(f"{self._folder}/{name}", size).mtime_ns
            if self._times is not None:
                self._times.append(times)
        if check:
            for shard in manifest.shards:
                self._reader.read(shard, check=True)
        self._lock = threading.Lock()
        self._maps: OrderedDict[int, MappedFile] = OrderedDict()
        self._index_maps: OrderedDict[int, tuple[MappedFile, npt.NDArray[np.void]]] = OrderedDict()
        self._first = np.zeros(len(manifest.shards), np.int64)

    def path(self, number: int) -> str:
        return f"{self._folder}/{self._shards[number].name}"

    def mapped(self, number: int) -> MappedFile:
        with self._lock:
            mapped = self._map(number)
            self._evict(self._maps, SHARD_MAPS)
            return mapped

    def index(self, number: int) -> npt.NDArray[np.void]:
        with self._lock:
            if number in self._index_maps:
                self._index_maps.move_to_end(number)
            else:
                with _of_an_open_set():
                    mapped, index = self._reader.map(self._shards[number])
                    self._check(mapped.path, mapped.state, number, INDEX)
                self._index_maps[number] = mapped, index
                self._evict(self._index_maps, INDEX_MAPS)
            return self._index_maps[number][1]

    def passing(self, number: int) -> npt.NDArray[np.void]:
        with _of_an_open_set():
            index, state = self._reader.read(self._shards[number])
            self._check(self._reader.path(self._shards[number]), state, number, INDEX)
        return index

    def unlock(self) -> None:
        self._lock = threading.Lock()

    def hold(self, numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Any]:
        with self._lock:
            held = [self._map(number).array for number in np.unique(numbers).tolist()]
            self._evict(self._maps, SHARD_MAPS)
            return self._first[numbers], held

    def _map(self, number: int) -> MappedFile:
        """The shard's map, from now on the one that was used last."""
        mapped = self._maps.get(number)
        if mapped is not None:
            self._maps.move_to_end(number)
            return mapped
        with _of_an_open_set():
            mapped = MappedFile(Path(self.path(number)))
            self._check(mapped.path, mapped.state, number, SHARD)
        self._maps[number] = mapped
        self._first[number] = mapped.address
        return mapped

    def _check(self, path: Path | str, state: FileState, number: int, kind: int) -> None:
        """ShardError where a file is not the one that was there when the set was opened."""
        shard = self._shards[number]
        size = shard.index_bytes if kind == INDEX else shard.bytes
        if state.size != size or (self._times is not None and state.mtime_ns != self._times[kind][number]):
            raise ShardError(f"{path}: has changed since the set was opened; open it again")

    @staticmethod
    def _evict(maps: OrderedDict[int, Any], limit: int) -> None:
        while len(maps) > limit:
            maps.popitem(last=False)


def _state(path: str, size: int) -> FileState:
    """The state of a file that should have this size; ShardError where it has not."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise cannot_read(path, error) from error
    if status.st_size != size:
        raise ShardError(f"{path}: {status.st_size} bytes, the manifest says {size}; copy the file again")
    return FileState(status.st_size, status.st_mtime_ns)


@contextmanager
def _of_an_open_set() -> Iterator[None]:
    """What was there at opening and cannot be read any more says nothing about the samples: MachineError."""
    try:
        yield
    except MachineError:
        raise
    except ShardError as error:
        raise MachineError(str(error)) from error
