"""A shard set on S3 or HTTP: indexes on this machine, shards fetched by blocks into a cache of bounded size.

No payload is handed out that has not been compared with its checksum in the index since it arrived: the cache compares
what lies whole in what a request brings, and what lies across blocks is compared whenever it is asked for, when the
last of them is there. A payload that differs is fetched once more, by itself. If that differs, too, either the set has
been replaced, as its manifest tells, or the sample is bad.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.shards.checksums import Checksums
from headrace.shards.errors import MachineError, RemoteError, ShardError
from headrace.shards.fields import UNREADABLE
from headrace.shards.index import misplaced
from headrace.shards.manifest import MANIFEST_NAME, Manifest, Shard, read_manifest
from headrace.shards.mapping import leased
from headrace.shards.opened import OpenShards
from headrace.shards.remote.block_cache import BlockCache, Lease
from headrace.shards.remote.cache_slots import PLACE, Slot, trim
from headrace.shards.remote.payloads import Payloads
from headrace.shards.remote.remote import REPLACED, RemoteFolder, Unchanging
from headrace.shards.remote.stores import NO_RANGES, WebPage
from headrace.shards.shard_set import ChecksumError, ShardSet, Spans, open_files
from headrace.shards.writing.staging import write_file

CACHE_BYTES = 16 << 30
BLOCK_BYTES = 1 << 20
INDEX_PART_BYTES = PAYLOAD_PART_BYTES = 8 << 20
INDEX_THREADS = 16


class RemoteShardSet(ShardSet):
    """A set whose bytes arrive when they are asked for, and stay while `Spans.address` lives. Made by `open_shards`."""

    remote = True

    def __init__(
        self,
        source: Unchanging,
        manifest: Manifest,
        identity: str,
        files: OpenShards,
        cache: BlockCache,
        slot: Slot,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(source.folder, manifest, files, check=options["check"], orientation=options["orientation"])
        self._source = source
        self._identity = identity
        self._payloads = Payloads(manifest, files.index)
        self._cache = cache
        self.block_bytes = cache.block_bytes
        self.cache_bytes = cache.capacity * cache.block_bytes
        self._slot = slot
        self._options = options
        self._mending = threading.Lock()
        self._replaced = ""
        """Why this set is not in its place any more."""

    def request(self, field: str, ids: npt.ArrayLike) -> tuple[Spans, Callable[[], None]]:
        files = self._open_files()
        number, places = self._find(field, ids)
        offset, rows = places.address, np.asarray(ids, np.int64)
        can = places.encoding != UNREADABLE
        lease = self._cache.lease(self._cache.blocks(number, offset, places.size))
        first, maps = files.hold(number)
        fields = np.full(len(rows), list(self.fields).index(field))
        wanted = Wanted(rows[can], fields[can], number[can], offset[can], places.size[can])
        spans = places._replace(address=leased(first + offset, (maps, lease)))
        return spans, Arrival(lease, lambda: self._look_at(wanted)).wait

    def read(self, i: int, fields: Iterable[str] | None = None) -> dict[str, Any]:
        wanted = self._sample(i, self.fields if fields is None else fields)
        lease = self._cache.lease(self._cache.blocks(*wanted[2:]))
        lease.wait()
        self._look_at(wanted)
        return super().read(i, fields)

    def close(self) -> None:
        self._cache.close()
        super().close()
        self._slot.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return open_remote, (self.path, self._options)

    def _sample(self, i: int, fields: Iterable[str]) -> Wanted:
        """Fields of a sample, but for those whose place is impossible."""
        files, number, row = self._locate(i)
        record = files.index(number)[row].item()
        numbers = {name: k for k, name in enumerate(self.fields)}
        places = [(numbers[name], *(record[place] for place in self._places[name][:2])) for name in fields]
        inside = [place for place in places if not misplaced(int(files.sizes[number]), *place[1:])]
        field, offset, size = np.array(inside, np.int64).reshape(-1, 3).T
        return Wanted(np.full(len(field), i), field, np.full(len(field), number), offset, size)

    def _look_at(self, wanted: Wanted) -> None:
        """Compare what nobody has looked at since it arrived with its checksums, and fetch once more what differs.

        Raises:
            MachineError: The set has been replaced, or its store does not answer.
            ChecksumError: What lies in the store is damaged.
        """
        if self._replaced:
            raise MachineError(self._replaced)
        look = wanted.size > 0 if self.check else self._cache.must_look(*wanted[2:])
        if not look.any():
            return
        for i, field, number, offset, size in zip(*(column[look].tolist() for column in wanted), strict=True):
            files, _, row = self._locate(i)
            payload = files.mapped(number).array[offset : offset + size]
            if self._payloads.is_right(number, row, field, payload.data):
                continue
            with self._mending:
                if self._replaced:
                    raise MachineError(self._replaced)
                if not self._payloads.is_right(number, row, field, payload.data):
                    content = self._again(os.path.basename(files.path(number)), offset, size)
                    if not self._payloads.is_right(number, row, field, content):
                        raise self._blame(i, list(self.fields)[field])
                    self._cache.replace(number, offset, content)

    def _again(self, name: str, offset: int, size: int) -> bytes:
        """A payload as the store has it, whatever lies in caches."""
        stop = offset + size
        parts = range(offset, stop, PAYLOAD_PART_BYTES)
        read = self._source.read
        return b"".join(read(name, at, min(at + PAYLOAD_PART_BYTES, stop), fresh=True) for at in parts)

    def _blame(self, i: int, field: str) -> ShardError:
        """Whose fault it is that a payload differs, fetched twice."""
        path = self._source.folder / MANIFEST_NAME
        content = whole(self._source.folder, MANIFEST_NAME)
        if content is None:
            self._replaced = f"{path}: there is none any more: {REPLACED}"
        elif hashlib.sha256(content).hexdigest() != self._identity:
            self._replaced = f"{path}: not the one that it was: {REPLACED}"
        if self._replaced:
            return MachineError(self._replaced)
        return ChecksumError(
            f"{self.where(i, field)}: {field} differs from its checksum, and so it does when fetched again from "
            f"{self.path}; copy the shard there again"
        )


class Wanted(NamedTuple):
    """n payloads, int64 (n,) each."""

    rows: npt.NDArray[np.int64]
    """Samples."""
    field: npt.NDArray[np.int64]
    """Position of the field."""
    number: npt.NDArray[np.int64]
    """Shard."""
    offset: npt.NDArray[np.int64]
    """First byte in the shard."""
    size: npt.NDArray[np.int64]
    """Bytes."""


class Arrival:
    """What to wait for before bytes are read, in any number of threads; what comes then is done once.

    Args:
        lease: Of the bytes.
        then: To be done when they are there.
    """

    def __init__(self, lease: Lease, then: Callable[[], None]) -> None:
        self._lease = lease
        self._then = then
        self._lock = threading.Lock()
        self._done = False
        # Not the exception itself: it would keep this object, and so the lease, until garbage is collected.
        self._failure: tuple[type[ShardError], str] | None = None

    def wait(self) -> None:
        """Until all bytes are there and right; ShardError where they are not."""
        self._lease.wait()
        with self._lock:
            if not self._done:
                try:
                    self._then()
                except ShardError as error:
                    self._failure = type(error), str(error)
                self._done = True
        if self._failure is not None:
            kind, text = self._failure
            raise kind(text)


def open_remote(folder: RemoteFolder, options: Mapping[str, Any]) -> RemoteShardSet:
    """Open the set in a remote folder.

    Args:
        folder: Where it lies.
        options: `check`, `orientation`, `cache_dir`, `cache_bytes` and `block_bytes` as `open_shards` takes them.

    Raises:
        ShardError: There is no set, it is damaged, or it cannot be cached.
    """
    root = cache_folder(options["cache_dir"])
    capacity = cache_capacity(options["cache_bytes"])
    slot = Slot(root / cache_name(folder))
    files: list[OpenShards] = []
    cache = None
    try:
        trim(root, capacity)
        manifest, identity = fetch_manifest(folder, slot.path)
        sizes = {shard.name: shard.bytes for shard in manifest.shards}
        indexes = {shard.index: shard.index_bytes for shard in manifest.shards}
        source = Unchanging(folder, {**sizes, **indexes})
        cache = BlockCache(
            source,
            slot.path,
            identity,
            sizes,
            Payloads(manifest, lambda number: files[0].index(number)).wrong,
            capacity=capacity,
            block_bytes=options["block_bytes"],
        )
        with contextlib.suppress(OSError):
            (slot.path / PLACE).write_text(str(folder), encoding="utf-8")
        with ThreadPoolExecutor(INDEX_THREADS) as threads:
            list(threads.map(lambda shard: fetch_index(source, slot.path, manifest.checksums, shard), manifest.shards))
        files.append(open_files(slot.path, manifest, changing=True))
        return RemoteShardSet(source, manifest, identity, files[0], cache, slot, options)
    except BaseException:
        if cache is not None:
            cache.close()
        slot.close()
        raise


def cache_folder(path: str | os.PathLike[str] | None) -> Path:
    """Where caches lie: as told, or $HEADRACE_CACHE, or `headrace` in the user's cache folder."""
    if path is not None:
        return Path(path)
    if os.environ.get("HEADRACE_CACHE"):
        return Path(os.environ["HEADRACE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"


def cache_capacity(capacity: int | None) -> int:
    """Bytes as told, or this process's share of $HEADRACE_CACHE_BYTES or 16 GiB: the ranks that torchrun starts on a
    machine divide it among them."""
    if capacity is not None:
        return capacity
    text = os.environ.get("HEADRACE_CACHE_BYTES") or str(CACHE_BYTES)
    if not text.isdigit():
        raise ShardError(f"HEADRACE_CACHE_BYTES: {text!r} is not a number of bytes")
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(text) // max(1, int(ranks) if ranks.isdigit() else 1)


def cache_name(folder: RemoteFolder) -> str:
    """Folder of a set's caches: one URL, one name, without credentials."""
    shown = str(folder)
    last = re.sub(r"[^A-Za-z0-9._-]", "_", shown.rpartition("/")[2])[:40]
    return f"{last}-{hashlib.sha256(shown.encode()).hexdigest()[:16]}"


def whole(folder: RemoteFolder, name: str) -> bytes | None:
    """All of a small object, None where there is none. RemoteError where the server does not answer ranges."""
    version = folder.look(name)
    if version is None:
        return None
    if not version.ranges:
        raise RemoteError(f"{folder / name}: {NO_RANGES}")
    return folder.fetch(name, 0, version.size, version)[0]


def fetch_manifest(folder: RemoteFolder, place: Path) -> tuple[Manifest, str]:
    """The manifest and its SHA-256. It is read anew each time: it says whether what the cache holds still counts."""
    content = whole(folder, MANIFEST_NAME)
    if content is None:
        raise ShardError(
            f"{folder}: there is no {MANIFEST_NAME}, so no set that is complete; tars of other programs are read from "
            "a disk: copy them here"
        )
    if content.lstrip()[:1] == b"<":
        raise RemoteError(f"{folder / MANIFEST_NAME}: {WebPage()}")
    scratch = place / "manifest"
    try:
        scratch.mkdir(exist_ok=True)
        write_file(scratch / MANIFEST_NAME, content)
    except OSError as error:
        raise MachineError(f"{place}: cannot be used as a cache: {error.strerror}") from error
    try:
        return read_manifest(scratch), hashlib.sha256(content).hexdigest()
    except ShardError as error:
        raise ShardError(str(error).replace(str(scratch / MANIFEST_NAME), folder / MANIFEST_NAME)) from None


def fetch_index(source: Unchanging, place: Path, checksums: Checksums, shard: Shard) -> None:
    """Fetch a shard's index unless the one of an earlier process has the right checksum. What comes is compared with
    the manifest's, and fetched once more where it differs."""
    path = place / shard.index
    try:
        if path.exists() and checksums.of_file(path.read_bytes()) == shard.index_checksum:
            return
        for fresh in (False, True):
            content = b"".join(
                source.read(shard.index, start, min(start + INDEX_PART_BYTES, shard.index_bytes), fresh=fresh)
                for start in range(0, shard.index_bytes, INDEX_PART_BYTES)
            )
            if checksums.of_file(content) == shard.index_checksum:
                write_file(path, content)
                return
    except OSError as error:
        raise MachineError(f"{path}: the cache cannot be written: {error.strerror}") from error
    raise ShardError(f"{source.folder / shard.index}: its {checksums.title} is not the manifest's; copy the set again")
