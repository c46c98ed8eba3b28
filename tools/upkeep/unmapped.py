"""Sets whose files are read, not mapped, so that what a disk cannot read is an error of one place."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from headrace.shards import Manifest, ShardError, ShardSet, open_shards
from headrace.shards.errors import MachineError
from headrace.shards.formats.foreign import Foreign, scan_shards
from headrace.shards.index import OpenShard, close_shards, parse_index
from headrace.shards.manifest import MANIFEST_NAME, Shard, read_manifest
from headrace.shards.mapping import MappedFile
from headrace.shards.opened import FewShards
from headrace.shards.reading import ABSENT, ReadFile
from headrace.shards.remote.remote import is_remote


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; MachineError where that cannot be told."""
    try:
        os.stat(path)
    except OSError as error:
        if error.errno in ABSENT:
            return False
        raise MachineError(f"{path}: {error.strerror}") from error
    return True


def scan(folder: Path) -> Foreign:
    """`scan_shards`, read and not mapped."""
    try:
        return scan_shards(folder, cast(Callable[[Path], MappedFile], ReadFile))
    except OSError as error:
        raise MachineError(f"{folder}: {error.strerror}") from error


def open_to_read(folder: Path, manifest: Manifest, shard: Shard, *, check: bool = False) -> OpenShard:
    """`open_shard`, read and not mapped; raises also what `ReadFile` does."""
    file = ReadFile(folder / shard.name)
    try:
        if file.size != shard.bytes:
            sizes = f"{file.size} bytes, the manifest says {shard.bytes}"
            raise ShardError(f"{file.path}: {sizes}; copy the shard again")
        return without_map(file, index_to_read(folder, manifest, shard, check=check))
    except BaseException:
        file.close()
        raise


def index_to_read(folder: Path, manifest: Manifest, shard: Shard, *, check: bool = False) -> npt.NDArray[np.void]:
    """The records of an index, read and not mapped; raises as `read_index` and `ReadFile` do."""
    file = ReadFile(folder / shard.index)
    try:
        return parse_index(file.path, file.read(0, file.size), manifest, shard, check=check)
    finally:
        file.close()


class ReadShards(FewShards):
    """Shards that are read, not mapped, and whose samples are."""

    def __init__(self, shards: Sequence[OpenShard]) -> None:
        self._shards = shards
        self.samples = np.array([len(shard.index) for shard in shards], np.int64)
        self.sizes = np.array([shard.mapped.size for shard in shards], np.int64)

    def hold(self, numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Any]:
        raise NotImplementedError("what is not mapped has no address")


def without_map(file: ReadFile, index: npt.NDArray[np.void]) -> OpenShard:
    """A shard for those who read samples; only addresses, which nobody may ask for, need a map."""
    return OpenShard(cast(MappedFile, file), index, None)


def open_checked(path: str) -> ShardSet:
    """A set whose samples are compared with their checksums, where it has some, and read, not mapped, where it lies on
    this machine; raises as `open_shards` does."""
    folder = Path(path)
    if is_remote(path):
        return open_shards(path, check=True)
    if not is_there(folder / MANIFEST_NAME):
        if not is_there(folder):
            raise ShardError(f"{folder}: there is no such file or folder")
        manifest, scanned, omitted = scan(folder)
        return ShardSet(folder, manifest, ReadShards(scanned), omitted=omitted)
    manifest = read_manifest(folder)
    shards: list[OpenShard] = []
    try:
        for shard in manifest.shards:
            shards.append(open_to_read(folder, manifest, shard, check=True))
    except BaseException:
        close_shards(shards)
        raise
    return ShardSet(folder, manifest, ReadShards(shards), check=True)
