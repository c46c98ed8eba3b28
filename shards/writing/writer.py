"""Writing a shard set."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.shards.checksums import CURRENT
from headrace.shards.errors import MachineError, ShardError
from headrace.shards.fields import ENCODINGS, Field, check_fields, check_key
from headrace.shards.formats import ffcv, webdataset
from headrace.shards.formats.values import settled
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
from headrace.shards.writing.staging import Staging, write_file

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


class ShardStream:
    """Writes samples into the shards of a folder, one shard after the other.

    Args:
        folder: Where the files go; it exists.
        fields: What the samples hold, in the order in which shards store it. Types and shapes of arrays are filled in
            from the samples.
        format: webdataset or ffcv.
        shard_size: Bytes at which a new shard begins.
        capacity: Samples for which a .beton leaves room, see `METADATA_SHARE`.
    """

    def __init__(
        self, folder: Path, fields: Mapping[str, Field], *, format: Format, shard_size: int, capacity: int
    ) -> None:
        if format not in EXTENSIONS:
            raise ShardError(f"unknown format {format!r}, use one of {', '.join(EXTENSIONS)}")
        if shard_size < 1:
            raise ShardError(f"shard size must be positive, got {shard_size}")
        check_fields(fields)
        self.folder = folder
        self.fields = dict(fields)
        self.format: Format = format
        self.shard_size = shard_size
        self.capacity = min(capacity, shard_size // METADATA_SHARE)
        self.current: webdataset.TarShard | ffcv.BetonShard | None = None
        self.index: IndexBuilder | None = None
        self.shards: list[Shard] = []
        self.encodings: dict[str, set[int]] = {name: set() for name in fields}
        self.oriented: set[str] = set()
        """Fields of which a finished shard has a sample that is to be turned."""
        self.arrays: dict[str, set[tuple[str, tuple[int, ...]]]] = {name: set() for name in fields}
        self.broken = False

    def add(self, key: bytes, sample: Mapping[str, Any]) -> None:
        """Write one sample. Raises ShardError where it is not what the fields say, or no shard can hold it: then it has
        left no trace. OSError where it cannot be written: then the stream cannot go on."""
        # Only a sample that is taken decides what the arrays of a .beton are.
        fields = self.fields if self.format == "webdataset" else with_arrays(self.fields, key, sample)
        encoded = encode_sample(self.format, fields, key, sample)
        self.fields = fields
        with self._writing():
            shard, index = self._shard_with_room(key, encoded)
            index.add(key, shard.add(key, encoded))
        for (name, field), part in zip(self.fields.items(), encoded, strict=True):
            if field.kind in ENCODINGS:
                self.encodings[name].add(part.encoding)
            elif field.kind == "array":
                self.arrays[name].add((sample[name].dtype.newbyteorder("<").str, sample[name].shape))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Where writing fails, part of a sample may stand in the shard: nothing may follow it."""
        if self.broken:
            raise MachineError("nothing more can be written after writing has failed; begin anew")
        self.broken = True
        yield
        self.broken = False

    def _shard_with_room(self, key: bytes, encoded: Sequence[Any]) -> tuple[Any, IndexBuilder]:
        if self.current is not None and not self.current.room_for(key, encoded, self.shard_size):
            self._finish()
        if self.current is None or self.index is None:
            path = self.folder / shard_name(len(self.shards), self.format)
            if self.format == "webdataset":
                self.current = webdataset.TarShard(path, CURRENT)
            else:
                page_size = ffcv.page_size_for(encoded, self.shard_size)
                self.current = ffcv.BetonShard(path, self.fields, CURRENT, page_size, self.capacity)
            self.index = IndexBuilder(self.fields, CURRENT)
        return self.current, self.index

    def finish(self) -> None:
        """Complete the last shard, if there is one, and its index, and sync both.

        Raises OSError where they cannot be written."""
        with self._writing():
            self._finish()

    def _finish(self) -> None:
        if self.current is None or self.index is None:
            return
        checksum = self.current.finish()
        os.fsync(self.current.file.fileno())
        self.current.file.close()
        path = self.current.path
        content = index_bytes(self.index.build())
        self.oriented |= self.index.turned()
        write_file(path.with_name(index_name(path.name)), content)
        self.shards.append(
            Shard(
                name=path.name,
                samples=len(self.index.keys),
                bytes=path.stat().st_size,
                checksum=checksum,
                index=index_name(path.name),
                index_bytes=len(content),
                index_checksum=CURRENT.of_file(content),
            )
        )
        self.current = self.index = None

    def close(self) -> None:
        """Let go of an unfinished shard's file."""
        if self.current is not None:
            with contextlib.suppress(OSError):  # closing writes what is buffered, perhaps to a full disk
                self.current.file.close()
            self.current = self.index = None


BESIDE = {"__key__", "__orientation__"}
"""What `ShardSet.read` gives besides the fields; a picture's orientation is in its file."""


def encode_sample(format: Format, fields: Mapping[str, Field], key: bytes, sample: Mapping[str, Any]) -> list[Any]:
    """A sample's fields ready to be written; ShardError where it is not what the fields say."""
    named = sample.keys() - BESIDE
    if named != fields.keys():
        odd = min(named ^ fields.keys())
        problem = "is missing" if odd in fields else "is not among the fields of the set"
        raise ShardError(f"key {key.decode()}: {odd!r} {problem}")
    encode = webdataset.encode if format == "webdataset" else ffcv.encode
    encoded: list[Any] = []
    for name, field in fields.items():
        try:
            encoded.append(encode(name, field, sample[name]))
        except ValueError as error:
            raise ShardError(f"key {key.decode()}: {name}: {error}") from error
    try:
        (webdataset if format == "webdataset" else ffcv).check_fits(key, encoded)
    except ValueError as error:
        raise ShardError(f"key {key.decode()}: {error}") from error
    return encoded


def with_arrays(fields: Mapping[str, Field], key: bytes, sample: Mapping[str, Any]) -> dict[str, Field]:
    """The fields of a .beton, with the type and shape of this sample's arrays where they have none yet.

    ShardError where no .beton holds such arrays."""
    found = dict(fields)
    for name, field in fields.items():
        if field.kind == "array" and not field.dtype and name in sample:
            try:
                found[name] = ffcv.array_field(sample[name])
            except ValueError as error:
                raise ShardError(f"key {key.decode()}: {name}: {error}") from error
    return found


def stored_size(format: Format, fields: Mapping[str, Field], key: bytes, sample: Mapping[str, Any]) -> int:
    """Bytes that a sample takes of a shard; ShardError where it is not what the fields say."""
    if format == "webdataset":
        return webdataset.sample_size(encode_sample(format, fields, key, sample))
    return ffcv.sample_size(encode_sample(format, with_arrays(fields, key, sample), key, sample))


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
        self.path = Path(path)
        self.staging = Staging(self.path)
        self.stream = ShardStream(self.staging.set, fields, format=format, shard_size=shard_size, capacity=total or 0)
        self.keys: set[bytes] = set()

    def __enter__(self) -> ShardWriter:
        self.staging.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self.staging.__exit__()

    def add(self, sample: Mapping[str, Any]) -> None:
        """Write one sample."""
        key = check_key(sample.get("__key__"))
        if key in self.keys:
            raise ShardError(f"key {key.decode()}: appears twice")
        try:
            self.stream.add(key, sample)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.keys.add(key)

    def commit(self, provenance: Mapping[str, Any] | None = None) -> Manifest:
        """Complete the set and give it its name."""
        stream = self.stream
        try:
            stream.finish()
            if not stream.shards:
                raise ShardError(f"{self.path}: there are no samples to write")
            fields = {
                name: settled(field, stream.encodings[name], stream.arrays[name], name in stream.oriented)
                for name, field in stream.fields.items()
            }
            manifest = Manifest(
                format=stream.format,
                fields=fields,
                shards=tuple(stream.shards),
                provenance=dict(provenance or {}),
            )
            write_file(self.staging.set / MANIFEST_NAME, manifest.to_json().encode())
            return self.staging.commit()
        except OSError as error:
            raise cannot_write(self.path, error) from error


def cannot_write(path: Path, error: OSError) -> ShardError:
    """What a full disk and the like come to."""
    return ShardError(f"{path}: cannot write the set: {error.strerror or error}; nothing was changed")
