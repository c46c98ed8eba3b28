"""Writing a shard set."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.shards import ffcv, webdataset
from headrace.shards.errors import ShardError
from headrace.shards.fields import Field, check_fields, check_key
from headrace.shards.index import IndexBuilder, index_bytes
from headrace.shards.manifest import (
    EXTENSIONS,
    MANIFEST_NAME,
    Format,
    Manifest,
    Shard,
    index_name,
    shard_name,
)
from headrace.shards.staging import Staging, write_file
from headrace.shards.values import settled

DEFAULT_SHARD_SIZE = 256 << 20
METADATA_SHARE = 4096
"""A .beton leaves room for the metadata of one sample per this many bytes of `shard_size`."""


def write_shards(
    path: str | os.PathLike[str],
    samples: Iterable[Mapping[str, Any]],
    fields: Mapping[str, Field],
    *,
    format: Format = "webdataset",
    shard_size: int = DEFAULT_SHARD_SIZE,
    total: int | None = None,
    progress: Callable[[int], None] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write samples to a shard set at `path`, which appears when it is complete and not before.

    Args:
        path: Folder of the set. A set that is already there is replaced at the end, in one step.
        samples: Mappings of "__key__" (str, unique) and of every field: bytes for jpg and png, uint8 (H, W,
            3) for raw images, int, float, bytes, str for text, anything JSON can hold, or an array.
        fields: What the samples hold, in the order in which shards store it.
        format: webdataset (tars) or ffcv (.beton files).
        shard_size: Bytes at which a new shard begins. A single larger sample makes a larger shard; a .beton
            has at least one page.
        total: Number of samples if it is known. Only .beton files above 1 GB use it, to leave room for their
        metadata. progress: Called with the number of samples written so far, after each.
        provenance: Where the samples come from, JSON; kept in the manifest.

    Returns:
        The manifest.

    Raises:
        ShardError: A sample is not what `fields` says, a key appears twice, `path` holds something else than
            a set, or it cannot be written. Nothing is left of the new set, and an old one stays as it was.
    """
    with ShardWriter(path, fields, format=format, shard_size=shard_size, total=total) as writer:
        for number, sample in enumerate(samples, 1):
            writer.add(sample)
            if progress is not None:
                progress(number)
        return writer.commit(provenance)


class ShardWriter:
    """Context manager behind `write_shards`, for callers that add samples one at a time."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        fields: Mapping[str, Field],
        *,
        format: Format = "webdataset",
        shard_size: int = DEFAULT_SHARD_SIZE,
        total: int | None = None,
    ) -> None:
        if format not in EXTENSIONS:
            raise ShardError(f"unknown format {format!r}, use one of {', '.join(EXTENSIONS)}")
        if shard_size < 1:
            raise ShardError(f"shard size must be positive, got {shard_size}")
        check_fields(fields)
        self.path = Path(path)
        self.fields = dict(fields)
        self.format: Format = format
        self.shard_size = shard_size
        self.capacity = min(total or 0, shard_size // METADATA_SHARE)
        self.staging = Staging(self.path)
        self.current: webdataset.TarShard | ffcv.BetonShard | None = None
        self.index: IndexBuilder | None = None
        self.shards: list[Shard] = []
        self.keys: set[bytes] = set()
        self.encodings: dict[str, set[int]] = {name: set() for name in fields}
        self.arrays: dict[str, set[tuple[str, tuple[int, ...]]]] = {name: set() for name in fields}

    def __enter__(self) -> ShardWriter:
        self.staging.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self.current is not None:
            with contextlib.suppress(OSError):  # closing writes what is buffered, perhaps to a full disk
                self.current.file.close()
        self.staging.__exit__()

    def add(self, sample: Mapping[str, Any]) -> None:
        """Write one sample."""
        key = check_key(sample.get("__key__"))
        if key in self.keys:
            raise ShardError(f"key {key.decode()}: appears twice")
        self.keys.add(key)
        if sample.keys() - {"__key__"} != self.fields.keys():
            odd = min(sample.keys() - {"__key__"} ^ self.fields.keys())
            problem = "is missing" if odd in self.fields else "is not among the fields of the set"
            raise ShardError(f"key {key.decode()}: {odd!r} {problem}")
        encoded = self._encode(key, sample)
        try:
            shard, index = self._shard_with_room(key, encoded)
            index.add(key, shard.add(key, encoded))
        except ValueError as error:
            raise ShardError(f"key {key.decode()}: {error}") from error
        except OSError as error:
            raise self._cannot_write(error) from error

    def _encode(self, key: bytes, sample: Mapping[str, Any]) -> Sequence[Any]:
        encode = webdataset.encode if self.format == "webdataset" else ffcv.encode
        encoded: list[Any] = []
        for name, field in self.fields.items():
            value = sample[name]
            try:
                if field.kind == "array" and self.format == "ffcv" and not field.dtype:
                    field = self.fields[name] = ffcv.array_field(value)
                encoded.append(encode(name, field, value))
            except ValueError as error:
                raise ShardError(f"key {key.decode()}: {name}: {error}") from error
            if field.kind == "image":
                self.encodings[name].add(encoded[-1].encoding)
            elif field.kind == "array":
                self.arrays[name].add((value.dtype.newbyteorder("<").str, value.shape))
        return encoded

    def _shard_with_room(self, key: bytes, encoded: Sequence[Any]) -> tuple[Any, IndexBuilder]:
        if self.current is not None and not self.current.room_for(key, encoded, self.shard_size):
            self._finish_shard()
        if self.current is None or self.index is None:
            path = self.staging.folder / shard_name(len(self.shards), self.format)
            if self.format == "webdataset":
                self.current = webdataset.TarShard(path)
            else:
                page_size = ffcv.page_size_for(encoded, self.shard_size)
                self.current = ffcv.BetonShard(path, self.fields, page_size, self.capacity)
            self.index = IndexBuilder(self.fields)
        return self.current, self.index

    def _finish_shard(self) -> None:
        """Complete the current shard and its index and sync both."""
        assert self.current is not None
        assert self.index is not None
        sha256 = self.current.finish()
        os.fsync(self.current.file.fileno())
        self.current.file.close()
        path = self.current.path
        content = index_bytes(self.index.build())
        write_file(path.with_name(index_name(path.name)), content)
        self.shards.append(
            Shard(
                name=path.name,
                samples=len(self.index.keys),
                bytes=path.stat().st_size,
                sha256=sha256,
                index=index_name(path.name),
                index_bytes=len(content),
                index_sha256=hashlib.sha256(content).hexdigest(),
            )
        )
        self.current = self.index = None

    def attach(self, name: str, content: bytes) -> None:
        """Put another file into the set's folder."""
        try:
            write_file(self.staging.folder / name, content)
        except OSError as error:
            raise self._cannot_write(error) from error

    def commit(self, provenance: Mapping[str, Any] | None = None) -> Manifest:
        """Complete the set and give it its name."""
        try:
            if self.current is not None:
                self._finish_shard()
            if not self.shards:
                raise ShardError(f"{self.path}: there are no samples to write")
            fields = {n: settled(f, self.encodings[n], self.arrays[n]) for n, f in self.fields.items()}
            manifest = Manifest(
                format=self.format,
                fields=fields,
                shards=tuple(self.shards),
                provenance=dict(provenance or {}),
            )
            write_file(self.staging.folder / MANIFEST_NAME, manifest.to_json().encode())
            self.staging.commit()
        except OSError as error:
            raise self._cannot_write(error) from error
        return manifest

    def _cannot_write(self, error: OSError) -> ShardError:
        return ShardError(f"{self.path}: cannot write the set: {error.strerror or error}; nothing was changed")
