"""Index files: where every field of every sample lies.

`shard-000000.index.npy` is a plain .npy file that holds a one-dimensional structured array, one record a sample,
little endian, packed without holes (the key's width makes a record a multiple of 8 bytes). For each field NAME:

    NAME.offset     <i8   first byte of the payload in the shard
    NAME.size       <i8   bytes of the payload
    NAME.xxh64      <u8   XXH3-64 of the payload; version 1 had NAME.crc32 instead, <u4, zlib's CRC-32
    NAME.value      <i8   int fields
    NAME.value      <f8   float fields
    NAME.height     <i4   image fields, pixels
    NAME.width      <i4   image fields, pixels
    NAME.encoding   |u1   image fields: 0 jpg, 1 raw, 2 png

for those of them that are `Field.oriented`, in the shards where one sample has another number than 1

    NAME.orientation  |u1  how the picture is to be shown, 1 to 8; see `headrace.shards.formats.orientation`

and for the sample

    key             S     UTF-8, padded with zeros

The payload of a raw image is its pixels alone: H * W * 3 bytes, also in a tar, where the .npy header comes
before it. Records are sorted by column size: first all 8-byte columns, then 4, then 1, then the orientations, then the
key. So the other columns have the same places in all shards of a set.
"""

from __future__ import annotations

import array
import dataclasses
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.shards.checksums import Checksums
from headrace.shards.errors import ShardError
from headrace.shards.fields import OTHER, RAW, Field
from headrace.shards.formats.npy import npy_header, parse_npy_header
from headrace.shards.formats.orientation import UPRIGHT
from headrace.shards.manifest import Manifest, Shard
from headrace.shards.mapping import FileState, MappedFile, cannot_read


class Entry(NamedTuple):
    """Where one field of one sample lies; the columns that its kind lacks stay 0."""

    offset: int
    size: int
    checksum: int
    value: int | float = 0
    height: int = 0
    width: int = 0
    encoding: int = 0
    orientation: int = UPRIGHT


KIND_COLUMNS: dict[str, dict[str, str]] = {
    "int": {"value": "<i8"},
    "float": {"value": "<f8"},
    "image": {"height": "<i4", "width": "<i4", "encoding": "|u1"},
}


def entry_columns(kind: str, checksums: Checksums) -> dict[str, str]:
    """Type of each column of a field of this kind, in the order of `Entry`."""
    columns = {"offset": "<i8", "size": "<i8", checksums.payload: checksums.payload_type}
    return {**columns, **KIND_COLUMNS.get(kind, {})}


def index_dtype(
    fields: Mapping[str, Field], checksums: Checksums, key_bytes: int, turned: Collection[str] = ()
) -> np.dtype[Any]:
    """Record of a sample whose key takes at most `key_bytes` bytes; `turned` are the fields with an orientation."""
    columns = [
        (f"{name}.{column}", code)
        for name, field in fields.items()
        for column, code in entry_columns(field.kind, checksums).items()
    ]
    columns.sort(key=lambda column: -np.dtype(column[1]).itemsize)
    columns += [(f"{name}.orientation", "|u1") for name in fields if name in turned]
    packed = sum(np.dtype(code).itemsize for _, code in columns)
    key_bytes += -(packed + key_bytes) % 8
    return np.dtype([*columns, ("key", f"S{key_bytes}")])


def entry_places(fields: Mapping[str, Field], checksums: Checksums, name: str) -> tuple[int, ...]:
    """Positions in a record of a field's offset, size and checksum, for an image also of height, width, encoding."""
    columns = ["offset", "size", checksums.payload]
    if fields[name].kind == "image":
        columns += ["height", "width", "encoding"]
    names = list(index_dtype(fields, checksums, 1).names or ())
    return tuple(names.index(f"{name}.{column}") for column in columns)


TYPECODES = {"<i8": "q", "<f8": "d", "<i4": "i", "<u4": "I", "<u8": "Q", "|u1": "B"}


class IndexBuilder:
    """Collects the records of one shard, in compact columns."""

    def __init__(self, fields: Mapping[str, Field], checksums: Checksums) -> None:
        self.fields = fields
        self.checksums = checksums
        self.keys: list[bytes] = []
        self.columns: dict[str, array.array[Any]] = {}
        self.orientations = {name: array.array("B") for name, field in fields.items() if field.oriented}
        self.appends: list[list[tuple[int, Callable[[Any], None]]]] = []
        for name, field in fields.items():
            self.appends.append([])
            for column, code in entry_columns(field.kind, checksums).items():
                values = self.columns[f"{name}.{column}"] = array.array(TYPECODES[code])
                part = "checksum" if column == checksums.payload else column
                self.appends[-1].append((Entry._fields.index(part), values.append))
            if field.oriented:
                self.appends[-1].append((Entry._fields.index("orientation"), self.orientations[name].append))

    def add(self, key: bytes, entries: Sequence[Entry]) -> None:
        """One sample; entries in the order of the fields."""
        self.keys.append(key)
        for appends, entry in zip(self.appends, entries, strict=True):
            for position, append in appends:
                append(entry[position])

    def build(self) -> npt.NDArray[np.void]:
        """The records so far."""
        turned = self.turned()
        dtype = index_dtype(self.fields, self.checksums, max(map(len, self.keys), default=1), turned)
        index = np.zeros(len(self.keys), dtype)
        index["key"] = self.keys
        for name, values in self.columns.items():
            index[name] = values
        for name in turned:
            index[f"{name}.orientation"] = self.orientations[name]
        return index

    def turned(self) -> set[str]:
        """The fields of which at least one sample so far has another orientation than 1."""
        return {name for name, values in self.orientations.items() if values.count(UPRIGHT) < len(values)}


def index_bytes(index: npt.NDArray[np.void]) -> bytes:
    """The content of an index file."""
    return npy_header(index.dtype, index.shape) + index.tobytes()


class IndexReader:
    """Reads the indexes of a set."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = str(folder)
        self._manifest = manifest
        self._types: dict[bytes, np.dtype[Any]] = {}

    def path(self, shard: Shard) -> str:
        """Where the index of a shard lies."""
        return f"{self._folder}/{shard.index}"

    def map(self, shard: Shard, *, check: bool = False) -> tuple[MappedFile, npt.NDArray[np.void]]:
        """Map the index of a shard; the array is a view of the map. See `read_index`."""
        mapped = MappedFile(Path(self.path(shard)))
        return mapped, self._parse(shard, mapped.array, check)

    def read(self, shard: Shard, *, check: bool = False) -> tuple[npt.NDArray[np.void], FileState]:
        """The index of a shard as a copy in memory, for a look at many of them. See `read_index`."""
        path = self.path(shard)
        try:
            with open(path, "rb", buffering=0) as file:
                content = np.frombuffer(file.read(), np.uint8)
                status = os.fstat(file.fileno())
        except OSError as error:
            raise cannot_read(path, error) from error
        return self._parse(shard, content, check), FileState(status.st_size, status.st_mtime_ns)

    def _parse(self, shard: Shard, content: npt.NDArray[np.uint8], check: bool) -> npt.NDArray[np.void]:
        path = self.path(shard)
        return parse_index(path, content, self._manifest, shard, check=check, types=self._types)


USUAL_HEADER = re.compile(rb"(\x93NUMPY\x01\x00.+'fortran_order': False, 'shape': \()(\d{1,18}),\), \} *\n", re.DOTALL)
"""Of an index: what many have in common, and the number of samples."""


def read_index(
    folder: Path, manifest: Manifest, shard: Shard, *, check: bool = False
) -> tuple[MappedFile, npt.NDArray[np.void]]:
    """Map the index of a shard; the array is a view of the map. ShardError if it does not fit fields and count, with
    `check` also if it differs from its checksum: only then are its keys and numbers proven."""
    return IndexReader(folder, manifest).map(shard, check=check)


def parse_index(
    path: Path | str,
    content: npt.NDArray[np.uint8],
    manifest: Manifest,
    shard: Shard,
    *,
    check: bool = False,
    types: dict[bytes, np.dtype[Any]] | None = None,
) -> npt.NDArray[np.void]:
    """The records in the content of an index file, uint8 (bytes,), as a view of it; raises as `read_index` does.

    `types` keeps what the headers of a set's indexes have in common, so that it is parsed once.
    """
    checksums, samples = manifest.checksums, shard.samples
    try:
        if check and checksums.of_file(content.data) != shard.index_checksum:
            raise ValueError(f"its {checksums.title} is not the manifest's")
        dtype, shape, start = _parse_header(content, manifest, {} if types is None else types)
        if shape != (samples,):
            raise ValueError(f"it holds {shape} samples, the manifest says {samples}")
        if start + samples * dtype.itemsize != len(content):
            raise ValueError(f"{len(content)} bytes, expected {start + samples * dtype.itemsize}")
    except (ValueError, TypeError, IndexError, SyntaxError) as error:
        raise ShardError(f"{path}: not a valid index ({error}); write the set again") from error
    return np.frombuffer(content.data, dtype, count=samples, offset=start)


def _parse_header(
    content: npt.NDArray[np.uint8], manifest: Manifest, types: dict[bytes, np.dtype[Any]]
) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """(type of a record, shape, bytes of the header); ValueError where the columns are not the fields'."""
    start = 10 + int.from_bytes(content[8:10].tobytes(), "little")
    usual = USUAL_HEADER.fullmatch(content[:start].tobytes())
    known = types.get(usual[1]) if usual else None
    if usual and known is not None:
        return known, (int(usual[2]),), start
    dtype, shape, start = parse_npy_header(content[: 1 << 16].data)
    columns: Mapping[str, Any] = dtype.fields or {}
    key = columns["key"][0] if "key" in columns else None
    turned = {n for n, field in manifest.fields.items() if field.oriented and f"{n}.orientation" in columns}
    if (
        key is None
        or key.kind != "S"
        or dtype != index_dtype(manifest.fields, manifest.checksums, key.itemsize, turned)
    ):
        raise ValueError("its columns are not those of the manifest's fields")
    if usual:
        types[usual[1]] = dtype
    return dtype, shape, start


@dataclass(frozen=True)
class OpenShard:
    """A mapped shard, its index, and the map that the index is a view of (None if it was built in memory)."""

    mapped: MappedFile
    index: npt.NDArray[np.void]
    index_map: MappedFile | None
    unreadable: Mapping[str, Set[int]] = dataclasses.field(default_factory=dict)
    """Of another program's: rows by int field whose files hold no number."""


def close_shards(shards: Iterable[OpenShard]) -> None:
    """Unmap everything."""
    for shard in shards:
        shard.mapped.close()
        if shard.index_map is not None:
            shard.index_map.close()


MAX_SIDE = 1 << 24
"""Pixels; beyond it the product of two sides could overflow 64 bits."""


def misplaced(shard_bytes: int, offset: Any, size: Any) -> Any:
    """True where a payload does not lie inside the shard. For numbers and for arrays.

    Every address handed out passes this check, so no index can make a reader leave the file.
    """
    return (offset < 0) | (size < 0) | (offset > shard_bytes - size)


def orientations(index: npt.NDArray[np.void], name: str) -> npt.NDArray[np.uint8]:
    """Those of an image field in an index, uint8 (samples,); a view, not to be written to. Also numbers that are none:
    see `unturnable`."""
    column = f"{name}.orientation"
    if column in (index.dtype.names or ()):
        found: npt.NDArray[np.uint8] = index[column]
        return found
    return all_upright(len(index))


def all_upright(count: int) -> npt.NDArray[np.uint8]:
    """(count,) ones that take no memory; not to be written to."""
    return np.broadcast_to(np.uint8(UPRIGHT), count)


def unturnable(orientation: Any) -> Any:
    """True for a number that is no orientation. For numbers and for arrays."""
    return (orientation < 1) | (orientation > 8)


def misshaped(size: Any, height: Any, width: Any, encoding: Any) -> Any:
    """True where an image has no size, or raw pixels do not fill theirs. For numbers and for arrays."""
    bad = (height < 1) | (width < 1) | (height > MAX_SIDE) | (width > MAX_SIDE) | (encoding > OTHER) | (size < 1)
    return bad | ((encoding == RAW) & (size != height * width * 3))
