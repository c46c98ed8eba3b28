"""FFCV's .beton files, version 2: read and written without the ffcv package, OpenCV or a compiler.

A file, little endian throughout (ffcv/types.py, ffcv/memory_allocator.py at ffcv 1.0.2):

    offset  0        version      u2    2
            2        num_fields   u2
            4        page_size    u4    power of two, at least 2 MiB
            8        num_samples  u8
           16        alloc_table  u8    offset of the table at the end
           24        descriptors        num_fields times 1,041 bytes:
                       type_id    u1    0 float, 1 int, 2 image, 3 bytes, 4 array, 5 json, 6 tensor
                       name       16    ASCII, padded with zeros
                       arguments  1024  arrays: 32 times u8 shape, 0 ends it; u8 length; descr as JSON
           ...       metadata           num_samples records, the fields in order, aligned as C aligns a struct:
                       float      f8    the value
                       int        i8    the value
                       image      13    u1 mode (0 jpg, 1 raw), u2 width, u2 height, u8 offset; packed
                       bytes      16    u8 offset, u8 size; packed
                       json       16    likewise, the text ends with a zero byte
                       array      u8    offset
           ...       zeros up to a multiple of page_size
           ...       data               whole pages, the last padded; all regions of a sample lie in one
           alloc_table                  one record per region: u8 sample, u8 offset, u8 size

ffcv's process cache reads page by page, so pages begin at multiples of their size and no sample crosses one.
Sizes of images and arrays stand only in the allocation table. Text is stored as a JSON string, which ffcv's
JSONField.unpack turns into a str. Video and audio are bytes to a .beton; the manifest says what they are.
"""

from __future__ import annotations

import array
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.shards.checksums import Checksums
from headrace.shards.errors import ShardError
from headrace.shards.fields import ENCODINGS, PNG, RAW, Field
from headrace.shards.formats.orientation import UPRIGHT
from headrace.shards.formats.values import (
    check_array,
    check_bytes,
    check_float,
    check_int,
    check_text,
    image_payload,
    json_bytes,
    media_payload,
)
from headrace.shards.index import Entry, index_dtype
from headrace.shards.reading import FileBytes
from headrace.shards.write_back import GrowingFile, write_parts

VERSION = 2
MIN_PAGE_SIZE = 1 << 21
DEFAULT_PAGE_SIZE = 1 << 23
MIN_SHARD_SIZE = 5 << 20
"""A .beton has at least a page of metadata, a page of data and the allocation table."""
MAX_PAGE_SIZE = 1 << 31  # the largest power of two that fits into the header

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table", "<u8"),
    ]
)
DESCRIPTOR = np.dtype([("type_id", "|u1"), ("name", "|u1", 16), ("arguments", "|u1", 1024)])
ALLOCATION = np.dtype([("sample", "<u8"), ("offset", "<u8"), ("size", "<u8")])
ARRAY_ARGUMENTS = np.dtype([("shape", "<u8", 32), ("length", "<u8")])

IMAGE = np.dtype([("mode", "|u1"), ("width", "<u2"), ("height", "<u2"), ("offset", "<u8")])
BYTES = np.dtype([("offset", "<u8"), ("size", "<u8")])
OWN_KINDS = {"text": "json", "video": "bytes", "audio": "bytes"}
"""What a .beton calls the kinds that it does not know."""
OWN_METADATA: dict[str, np.dtype[Any]] = {
    "float": np.dtype("<f8"),
    "int": np.dtype("<i8"),
    "image": IMAGE,
    "bytes": BYTES,
    "array": np.dtype("<u8"),
    "json": BYTES,
}
OWN_TYPE_IDS = {"float": 0, "int": 1, "image": 2, "bytes": 3, "array": 4, "json": 5}
MAX_SIDE = 0xFFFF
ZERO = b"\0"


def own_kind(kind: str) -> str:
    """What a .beton calls a field of this kind."""
    return OWN_KINDS.get(kind, kind)


def metadata_dtype(kinds: Sequence[str]) -> np.dtype[Any]:
    """Record of one sample; its columns are called f0, f1, ... as in ffcv."""
    return np.dtype([("", OWN_METADATA[own_kind(kind)]) for kind in kinds], align=True)


class Region(NamedTuple):
    """One field of a sample, ready to be written."""

    payload: bytes | memoryview | None
    """None for numbers, which stand in the metadata."""
    trail: bytes = b""
    """The zero byte after JSON; the index leaves it out."""
    height: int = 0
    width: int = 0
    encoding: int = 0
    value: int | float = 0
    orientation: int = UPRIGHT


def encode(name: str, field: Field, value: object) -> Region:
    """One field of a sample; ValueError where the value is not what the field says or does not fit."""
    if field.kind == "image":
        payload, height, width, code, orientation = image_payload(field, value)
        if code == PNG:
            raise ValueError("a .beton holds no PNG; use --encode raw or --encode jpeg")
        if max(height, width) > MAX_SIDE:
            raise ValueError(f"{width}x{height} pixels, a .beton holds at most {MAX_SIDE} a side; use --max-side")
        return Region(payload, b"", height, width, code, orientation=orientation)
    if field.kind in ENCODINGS:
        content, code = media_payload(field, value)
        return Region(content, encoding=code)
    if field.kind == "int":
        return Region(None, value=check_int(value))
    if field.kind == "float":
        return Region(None, value=check_float(value))
    if field.kind == "text":
        return Region(json_bytes(check_text(value)), ZERO)
    if field.kind == "json":
        return Region(json_bytes(value), ZERO)
    if field.kind == "array":
        values = check_array(value)
        if (values.dtype.str, values.shape) != (field.dtype, field.shape):
            expected, found = f"{field.dtype} {field.shape}", f"{values.dtype.str} {values.shape}"
            raise ValueError(f"arrays of a .beton have one type and shape, {expected}, got {found}")
        return Region(values.reshape(-1).view(np.uint8).data)
    content = check_bytes(value)
    # Two regions at one offset would confuse ffcv's search in the allocation table.
    return Region(content, b"" if content else ZERO)


def decode(field: Field, payload: npt.NDArray[np.uint8], height: int = 0, width: int = 0, encoding: int = 0) -> Any:
    """Inverse of `encode` for one payload (uint8, one dimension); ValueError where it does not decode."""
    if field.kind == "image":
        return payload.reshape(height, width, 3).copy() if encoding == RAW else payload.tobytes()
    if field.kind == "array":
        return payload.view(field.dtype).reshape(field.shape).copy()
    if field.kind in ("int", "float"):
        (number,) = payload.view("<i8" if field.kind == "int" else "<f8").tolist()
        return number
    content = payload.tobytes()
    if own_kind(field.kind) == "bytes":
        return content
    value = json.loads(content)
    if field.kind == "text" and not isinstance(value, str):
        raise ValueError(f"expected text, found {type(value).__name__}")
    return value


def array_field(value: object) -> Field:
    """The field for arrays like this one; ValueError where a .beton cannot hold them."""
    values = check_array(value)
    if not 1 <= values.ndim <= 32 or values.size == 0:
        raise ValueError(f"a .beton holds arrays of 1 to 32 dimensions, none of them empty, got shape {values.shape}")
    return Field(kind="array", dtype=values.dtype.str, shape=values.shape)


class BetonShard:
    """Writes one .beton.

    Data goes out as it comes. The metadata precedes it but is complete only at the end, so space for
    `capacity` samples, and at least one page, is left in front of the data.
    """

    def __init__(
        self, path: Path, fields: Mapping[str, Field], checksums: Checksums, page_size: int, capacity: int
    ) -> None:
        self.path = path
        self.fields = fields
        self.checksums = checksums
        self.page_size = page_size
        self.metadata = metadata_dtype([field.kind for field in fields.values()])
        self.metadata_start = HEADER.itemsize + len(fields) * DESCRIPTOR.itemsize
        pages = -(-(self.metadata_start + capacity * self.metadata.itemsize) // page_size)
        self.data_start = pages * page_size
        self.capacity = (self.data_start - self.metadata_start) // self.metadata.itemsize
        self.samples = 0
        self.at = self.data_start
        self.records: list[bytes] = []
        self.allocations = array.array("Q")
        self.file = open(path, "w+b", buffering=0)  # noqa: SIM115  closed by the caller after `finish`
        self.growing = GrowingFile(self.file)
        self.growing.skip(self.data_start)

    @property
    def size(self) -> int:
        """Bytes of the file if it ended with the page that is being filled."""
        return self.at + self.room + 8 * len(self.allocations)

    @property
    def room(self) -> int:
        """Bytes left of the page that is being filled; 0 where none is."""
        return -(self.at - self.data_start) % self.page_size

    def room_for(self, key: bytes, regions: Sequence[Region], shard_size: int) -> bool:
        """True if the sample fits into a page, under `shard_size` and into the space left for metadata."""
        needed = sample_size(regions)
        if needed > self.page_size or self.samples == self.capacity:
            return False
        table = ALLOCATION.itemsize * sum(region.payload is not None for region in regions)
        if needed <= self.room:  # a page is written whole, so filling it up costs nothing but the table
            return self.size + table <= max(shard_size, MIN_SHARD_SIZE)
        return self.size + self.page_size + table <= shard_size

    def add(self, key: bytes, regions: Sequence[Region]) -> list[Entry]:
        """Append one sample."""
        if sample_size(regions) > self.room:
            self._fill_page()
        record = np.zeros((), self.metadata)
        record_start = self.metadata_start + self.samples * self.metadata.itemsize
        entries = []
        parts: list[bytes | memoryview] = []
        for (column, (_, within)), region in zip(columns(self.metadata), regions, strict=True):
            if region.payload is None:
                record[column] = region.value
                number = record[column].tobytes()
                entries.append(
                    Entry(record_start + within, len(number), self.checksums.of_payload(number), region.value)
                )
                continue
            offset, size = self.at, len(region.payload)
            parts += (region.payload, region.trail)
            self.at += size + len(region.trail)
            self.allocations.extend((self.samples, offset, size + len(region.trail)))
            shape = (region.height, region.width, region.encoding, region.orientation)
            if region.height:
                record[column] = (region.encoding, region.width, region.height, offset)
            elif record.dtype[column] == BYTES:
                record[column] = (offset, size + len(region.trail) if size else 0)
            else:
                record[column] = offset
            entries.append(Entry(offset, size, self.checksums.of_payload(region.payload), 0, *shape))
        self.growing.append(parts)
        self.records.append(record.tobytes())
        self.samples += 1
        return entries

    def _fill_page(self) -> None:
        self.growing.skip(self.room)
        self.at += self.room

    def finish(self) -> str:
        """Write what is missing and return the checksum; the file stays open for the caller to sync."""
        self._fill_page()
        self.file.truncate(self.at)  # a set of numbers alone has no pages
        write_parts(self.file, [np.asarray(self.allocations, "<u8").tobytes()])
        header = np.zeros((), HEADER)
        for name, value in (
            ("version", VERSION),
            ("num_fields", len(self.fields)),
            ("page_size", self.page_size),
            ("num_samples", self.samples),
            ("alloc_table", self.at),
        ):
            header[name] = value
        self.file.seek(0)
        write_parts(self.file, [header.tobytes(), descriptors(self.fields).tobytes(), *self.records])
        self.file.seek(0)
        return self.checksums.of_open_file(self.file)


def columns(dtype: np.dtype[Any]) -> list[tuple[str, tuple[Any, int]]]:
    """(name, (dtype, offset)) of a record's columns."""
    assert dtype.fields is not None
    return [(name, (part[0], part[1])) for name, part in dtype.fields.items()]


def sample_size(regions: Sequence[Region]) -> int:
    """Bytes that a sample takes of a page."""
    return sum(len(region.payload) + len(region.trail) for region in regions if region.payload is not None)


def check_fits(key: bytes, regions: Sequence[Region]) -> None:
    """ValueError where no page of a .beton can hold a sample."""
    if sample_size(regions) > MAX_PAGE_SIZE:
        raise ValueError(f"{sample_size(regions)} bytes, a sample of a .beton has at most {MAX_PAGE_SIZE}")


def page_size_for(regions: Sequence[Region], shard_size: int) -> int:
    """The page size of a file that begins with this sample, which passes `check_fits`."""
    size = DEFAULT_PAGE_SIZE if shard_size >= 4 * DEFAULT_PAGE_SIZE else MIN_PAGE_SIZE
    while size < sample_size(regions):
        size *= 2
    return size


def descriptors(fields: Mapping[str, Field]) -> npt.NDArray[np.void]:
    """The field descriptors of a file."""
    table = np.zeros(len(fields), DESCRIPTOR)
    for row, (name, field) in zip(table, fields.items(), strict=True):
        row["type_id"] = OWN_TYPE_IDS[own_kind(field.kind)]
        row["name"][: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
        if field.kind == "array":
            descr = json.dumps(np.dtype(field.dtype).descr).encode("ascii")
            arguments = np.zeros((), ARRAY_ARGUMENTS)
            arguments["shape"][: len(field.shape)] = field.shape
            arguments["length"] = len(descr)
            content = np.frombuffer(arguments.tobytes() + descr, np.uint8)
            row["arguments"][: len(content)] = content
    return table


class BetonFile(NamedTuple):
    """The tables of a .beton, as views of its bytes."""

    fields: dict[str, Field]
    metadata: npt.NDArray[np.void]
    allocations: npt.NDArray[np.void]
    page_size: int


def read_beton(mapped: FileBytes) -> BetonFile:
    """The tables of a .beton, whoever wrote it; ShardError where it is damaged or has custom fields."""

    def fail(offset: int, what: str) -> ShardError:
        return ShardError(f"{mapped.path}, offset {offset}: {what}")

    if mapped.size < HEADER.itemsize:
        raise fail(0, "too short for a .beton")
    header = np.frombuffer(mapped.array[: HEADER.itemsize].data, HEADER)[0]
    version, num_fields, page_size, samples, table = (int(header[name]) for name in HEADER.names or ())
    if version != VERSION:
        raise fail(0, f"not a .beton of version {VERSION} (found {version})")
    if page_size < 1 or page_size & (page_size - 1):
        raise fail(4, f"page size {page_size} is not a power of two; the header is damaged")
    metadata_start = HEADER.itemsize + num_fields * DESCRIPTOR.itemsize
    if num_fields < 1 or metadata_start > mapped.size:
        raise fail(2, f"{num_fields} fields do not fit; the header is damaged")
    rows = np.frombuffer(mapped.array[HEADER.itemsize : metadata_start].data, DESCRIPTOR)
    fields: dict[str, Field] = {}
    for number, row in enumerate(rows):
        at = HEADER.itemsize + number * DESCRIPTOR.itemsize
        try:
            name = row["name"].tobytes().split(b"\0")[0].decode("ascii")
            fields[name] = read_descriptor(int(row["type_id"]), row["arguments"].tobytes())
        except (ValueError, TypeError, KeyError, SyntaxError, RecursionError) as error:
            raise fail(at, f"field {number} cannot be read ({error})") from error
    if len(fields) != num_fields:
        raise fail(HEADER.itemsize, "two fields have the same name")
    record = metadata_dtype([field.kind for field in fields.values()])
    if samples < 1 or samples > (mapped.size - metadata_start) // record.itemsize:
        raise fail(8, f"{samples} samples do not fit into {mapped.size} bytes; the file is truncated or damaged")
    metadata_end = metadata_start + samples * record.itemsize
    if not metadata_end <= table <= mapped.size:
        raise fail(16, f"allocation table at {table} of {mapped.size} bytes; the file is truncated or damaged")
    if (mapped.size - table) % ALLOCATION.itemsize:
        raise fail(table, "the allocation table is cut off; the file is truncated or damaged")
    metadata = np.frombuffer(mapped.array[metadata_start:metadata_end].data, record)
    count = (mapped.size - table) // ALLOCATION.itemsize
    allocations = (
        np.frombuffer(mapped.array[table:].data, ALLOCATION, count=count) if count else np.empty(0, ALLOCATION)
    )
    return BetonFile(fields, metadata, allocations, page_size)


def read_descriptor(type_id: int, arguments: bytes) -> Field:
    """The field of a descriptor; images are mixed, since a .beton says only per sample what they are."""
    if type_id in (4, 6):
        head = np.frombuffer(arguments, ARRAY_ARGUMENTS, count=1)[0]
        start = ARRAY_ARGUMENTS.itemsize
        ((_, code),) = json.loads(arguments[start : start + int(head["length"])].decode("ascii"))
        shape = head["shape"].tolist()
        while shape and shape[-1] == 0:
            shape.pop()
        dtype = np.dtype(str(code))
        if dtype.kind not in "biufc" or not shape or not 0 < math.prod(shape) <= MAX_PAGE_SIZE // dtype.itemsize:
            raise ValueError(f"an array of {code} with shape {tuple(shape)}")
        return Field(kind="array", dtype=dtype.str, shape=tuple(shape))
    kinds = {0: "float", 1: "int", 2: "image", 3: "bytes", 5: "json"}
    if type_id not in kinds:
        raise ValueError(f"type {type_id} is a custom field, which only its own code can read")
    kind = kinds[type_id]
    return Field(kind=kind, encoding="mixed" if kind == "image" else "")  # type: ignore[arg-type]


def index_beton(mapped: FileBytes, beton: BetonFile, checksums: Checksums, first_key: int) -> npt.NDArray[np.void]:
    """Index of a .beton without one, keys being consecutive numbers from `first_key`; the checksums are 0."""
    samples = len(beton.metadata)
    index = np.zeros(samples, index_dtype(beton.fields, checksums, 9))
    index["key"] = [b"%09d" % number for number in range(first_key, first_key + samples)]
    order = np.argsort(beton.allocations["offset"], kind="stable")
    allocations = beton.allocations[order]
    record_size = beton.metadata.dtype.itemsize
    metadata_start = HEADER.itemsize + len(beton.fields) * DESCRIPTOR.itemsize
    for (column, (_, within)), (name, field) in zip(columns(beton.metadata.dtype), beton.fields.items(), strict=True):
        values = beton.metadata[column]
        if field.kind in ("int", "float"):
            index[f"{name}.offset"] = metadata_start + np.arange(samples) * record_size + within
            index[f"{name}.size"] = 8
            index[f"{name}.value"] = values
            continue
        offset = values if field.kind == "array" else values["offset"]
        if field.kind == "array":
            size = np.full(samples, np.dtype(field.dtype).itemsize * int(np.prod(field.shape)), np.uint64)
        elif field.kind == "image":
            size = allocated(mapped, name, offset, allocations)
            index[f"{name}.height"] = values["height"]
            index[f"{name}.width"] = values["width"]
            index[f"{name}.encoding"] = np.where(values["mode"] < 2, values["mode"], 0xFF)
        else:
            size = values["size"]
            if field.kind == "json":
                size = size - np.minimum(size, np.uint64(1))  # the zero byte at the end
        index[f"{name}.offset"] = np.minimum(offset, np.uint64(1 << 62))
        index[f"{name}.size"] = np.minimum(size, np.uint64(1 << 62))
    return index


def allocated(
    mapped: FileBytes, name: str, wanted: npt.NDArray[np.uint64], allocations: npt.NDArray[np.void]
) -> npt.NDArray[np.uint64]:
    """Size of the region at each sample's wanted offset; `allocations` are sorted by offset.

    ShardError where there is none, or it is another sample's: then the metadata is damaged."""
    place = np.searchsorted(allocations["offset"], wanted)
    lost = place >= len(allocations)
    if len(allocations):
        place = np.minimum(place, len(allocations) - 1)
        lost |= allocations["offset"][place] != wanted
        lost |= allocations["sample"][place] != np.arange(len(wanted), dtype=np.uint64)
    if lost.any():
        sample = int(np.argmax(lost))
        raise ShardError(
            f"{mapped.path}, offset {wanted[sample]}, sample {sample}: {name} is not in the allocation table"
        )
    return allocations["size"][place]
