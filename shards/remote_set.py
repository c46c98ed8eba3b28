"""A shard set on S3 or HTTP: indexes on this machine, shards fetched by blocks into a cache of bounded size."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.shards.block_cache import BlockCache, Slot
from headrace.shards.checksums import Checksums
from headrace.shards.errors import ShardError
from headrace.shards.index import misplaced
from headrace.shards.manifest import MANIFEST_NAME, Manifest, Shard, read_manifest
from headrace.shards.mapping import leased
from headrace.shards.opened import OpenShards
from headrace.shards.remote import RemoteFolder
from headrace.shards.shard_set import ChecksumError, ShardSet, Spans, open_files
from headrace.shards.staging import write_file

CACHE_BYTES = 16 << 30
BLOCK_BYTES = 1 << 20
INDEX_PART_BYTES = 8 << 20
INDEX_THREADS = 16


class RemoteShardSet(ShardSet):
    """A set whose bytes arrive when they are asked for, and stay while `Spans.address` lives. Made by `open_shards`."""

    remote = True

    def __init__(
        self,
        folder: RemoteFolder,
        manifest: Manifest,
        shards: OpenShards,
        cache: BlockCache,
        slot: Slot,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(folder, manifest, shards, check=options["check"])
        self._cache = cache
        self.block_bytes = cache.block_bytes
        self.cache_bytes = cache.capacity * cache.block_bytes
        self._slot = slot
        self._options = options

    def request(self, field: str, ids: npt.ArrayLike) -> tuple[Spans, Callable[[], None]]:
        files = self._open_files()
        number, places = self._find(field, ids)
        lease = self._cache.lease(self._cache.blocks(number, places.address, places.size))
        first, maps = files.hold(number)
        return places._replace(address=leased(first + places.address, (maps, lease))), lease.wait

    def spans(self, field: str, ids: npt.ArrayLike) -> Spans:
        spans, wait = self.request(field, ids)
        wait()
        return spans

    def read(self, i: int) -> dict[str, Any]:
        blocks = self._sample_blocks(i)
        lease = self._cache.lease(blocks)
        lease.wait()
        try:
            return super().read(i)
        except ChecksumError:
            # Changed on the way, or in the store: the blocks go, so that what was fetched wrong does not stay.
            self._cache.forget(blocks.tolist())
        del lease
        lease = self._cache.lease(blocks)
        lease.wait()
        return super().read(i)

    def close(self) -> None:
        self._cache.close()
        super().close()
        self._slot.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return open_remote, (self.path, self._options)

    def _sample_blocks(self, i: int) -> npt.NDArray[np.int64]:
        """Blocks under all fields of a sample, but for those whose place is impossible."""
        files, number, row = self._locate(i)
        record = files.index(number)[row].item()
        places = [[record[place] for place in self._places[name][:2]] for name in self.fields]
        inside = [place for place in places if not misplaced(int(files.sizes[number]), *place)]
        offset, size = np.array(inside, np.int64).reshape(-1, 2).T
        return self._cache.blocks(np.full(len(offset), number), offset, size)


def open_remote(folder: RemoteFolder, options: Mapping[str, Any]) -> RemoteShardSet:
    """Open the set in a remote folder.

    Args:
        folder: Where it lies.
        options: `check`, `cache_dir`, `cache_bytes` and `block_bytes` as `open_shards` takes them.

    Raises:
        ShardError: There is no set, it is damaged, or it cannot be cached.
    """
    slot = Slot(cache_folder(options["cache_dir"]) / cache_name(folder))
    cache = None
    try:
        manifest, identity = fetch_manifest(folder, slot.path)
        cache = BlockCache(
            folder,
            slot.path,
            identity,
            {shard.name: shard.bytes for shard in manifest.shards},
            capacity=cache_capacity(options["cache_bytes"]),
            block_bytes=options["block_bytes"],
        )
        with ThreadPoolExecutor(INDEX_THREADS) as threads:
            list(threads.map(lambda shard: fetch_index(folder, slot.path, manifest.checksums, shard), manifest.shards))
        return RemoteShardSet(folder, manifest, open_files(slot.path, manifest, changing=True), cache, slot, options)
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
    """Bytes as told, or $HEADRACE_CACHE_BYTES, or 16 GiB."""
    if capacity is not None:
        return capacity
    text = os.environ.get("HEADRACE_CACHE_BYTES") or str(CACHE_BYTES)
    if not text.isdigit():
        raise ShardError(f"HEADRACE_CACHE_BYTES: {text!r} is not a number of bytes")
    return int(text)


def cache_name(folder: RemoteFolder) -> str:
    """Folder of a set's caches: one URL, one name, without credentials."""
    shown = str(folder)
    last = re.sub(r"[^A-Za-z0-9._-]", "_", shown.rpartition("/")[2])[:40]
    return f"{last}-{hashlib.sha256(shown.encode()).hexdigest()[:16]}"


def fetch_manifest(folder: RemoteFolder, place: Path) -> tuple[Manifest, str]:
    """The manifest and its SHA-256. It is read anew each time: it says whether what the cache holds still counts."""
    if not folder.exists(MANIFEST_NAME):
        raise ShardError(f"{folder}: there is no {MANIFEST_NAME}, so no set that is complete")
    content = folder.read(MANIFEST_NAME, 0, folder.size(MANIFEST_NAME))
    scratch = place / "manifest"
    try:
        scratch.mkdir(exist_ok=True)
        write_file(scratch / MANIFEST_NAME, content)
    except OSError as error:
        raise ShardError(f"{place}: cannot be used as a cache: {error.strerror}") from error
    try:
        return read_manifest(scratch), hashlib.sha256(content).hexdigest()
    except ShardError as error:
        raise ShardError(str(error).replace(str(scratch / MANIFEST_NAME), folder / MANIFEST_NAME)) from None


def fetch_index(folder: RemoteFolder, place: Path, checksums: Checksums, shard: Shard) -> None:
    """Fetch a shard's index unless the one of an earlier process has the right checksum."""
    path = place / shard.index
    try:
        if path.exists() and checksums.of_file(path.read_bytes()) == shard.index_checksum:
            return
        parts = range(0, shard.index_bytes, INDEX_PART_BYTES)
        content = b"".join(
            folder.read(shard.index, start, min(start + INDEX_PART_BYTES, shard.index_bytes)) for start in parts
        )
        if checksums.of_file(content) != shard.index_checksum:
            raise ShardError(f"{folder / shard.index}: its {checksums.title} is not the manifest's; copy the set again")
        write_file(path, content)
    except OSError as error:
        raise ShardError(f"{path}: the cache cannot be written: {error.strerror}") from error
