"""Is a shard set what its manifest says, and do two sets hold the same?"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.shards import IMAGE_ENCODINGS, Field, Manifest, ShardError, ShardSet
from headrace.shards.ffcv import index_beton, read_beton
from headrace.shards.foreign import scan_shards
from headrace.shards.images import image_header
from headrace.shards.index import OpenShard
from headrace.shards.manifest import MANIFEST_NAME, Shard, read_manifest
from headrace.shards.npy import npy_header
from headrace.shards.shard_set import open_shard
from headrace.shards.webdataset import extension, scan_tar
from headrace.tools.images import check_decodes, decode_rgb, to_pixels

SHOWN = 20
"""Problems that a printed report lists; the JSON has all of them."""
CHUNK = 256
"""Samples that a thread checks at a time."""


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What `verify` found."""

    path: str
    """The set."""
    format: str
    """webdataset or ffcv; empty if the manifest cannot be read."""
    samples: int
    """Samples that the manifest lists."""
    bytes: int
    """Bytes of all shards."""
    problems: list[str]
    """One line each: file, offset and key as far as they are known, and what is wrong."""
    seconds: float
    """Wall time."""

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ok": self.ok}

    def __str__(self) -> str:
        if self.ok:
            return f"{self.path}: ok, {self.samples:,} samples, {self.bytes / 1e6:,.1f} MB, {self.seconds:.1f} s"
        return listing(f"{self.path}: {len(self.problems)} problems", self.problems)


def listing(title: str, lines: list[str]) -> str:
    """A title and the first lines."""
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([title, *(f"  {line}" for line in lines[:SHOWN]), *more])


def verify(
    path: str | os.PathLike[str], *, workers: int | None = None, progress: Callable[[int], None] | None = None
) -> VerifyReport:
    """Read every byte of a shard set and decode every sample.

    Checked are the manifest, the size and SHA-256 of every file, that the index and the shard's own headers name the
    same places, that keys are unique, each payload's CRC-32, and that every value and image decodes to its end. One
    broken shard or sample does not hide the others. Sets that other programs wrote have no checksums, the rest is
    checked.

    Args:
        path: The set.
        workers: Threads; None takes one per core.
        progress: Called with the number of samples checked so far.
    """
    start = time.perf_counter()
    folder = Path(path)
    problems: list[str] = []
    workers = workers or os.cpu_count() or 1
    if folder.is_dir() and (folder / MANIFEST_NAME).exists():
        try:
            manifest = read_manifest(folder)
        except ShardError as error:
            seconds = time.perf_counter() - start
            return VerifyReport(path=str(path), format="", samples=0, bytes=0, problems=[str(error)], seconds=seconds)
        opened: Iterable[tuple[Shard, OpenShard]] = whole_shards(folder, manifest, problems)
    else:
        if not folder.exists():
            raise ShardError(f"{folder}: there is no such file or folder")
        manifest, scanned = scan_shards(folder)
        opened = zip(manifest.shards, scanned, strict=True)
    done = 0
    keys: set[str] = set()
    with ThreadPoolExecutor(workers) as pool:
        for shard, part in opened:
            check = bool(shard.sha256)
            with ShardSet(folder, replace(manifest, shards=(shard,)), [part], check=check) as shards:
                chunks = [range(first, min(first + CHUNK, len(shards))) for first in range(0, len(shards), CHUNK)]
                work = partial(check_samples, shards, part)
                for chunk, found in zip(chunks, pool.map(work, chunks), strict=True):
                    problems += found
                    done += len(chunk)
                    if progress is not None:
                        progress(done)
                if check:
                    problems += check_keys(shards, keys)
    return VerifyReport(
        path=str(path),
        format=manifest.format,
        samples=manifest.samples,
        bytes=manifest.bytes,
        problems=problems,
        seconds=time.perf_counter() - start,
    )


def whole_shards(folder: Path, manifest: Manifest, problems: list[str]) -> Iterator[tuple[Shard, OpenShard]]:
    """The shards that can be opened, after their files have been checked; problems go to the list."""
    for shard in manifest.shards:
        for name, checksum in ((shard.name, shard.sha256), (shard.index, shard.index_sha256)):
            try:
                with open(folder / name, "rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError:
                continue  # opening it below says what is wrong
            if found != checksum:
                problems.append(f"{folder / name}: its SHA-256 is not the manifest's; copy the file again")
        try:
            opened = open_shard(folder, manifest, shard)
        except ShardError as error:
            problems.append(str(error))
            continue
        try:
            problems += check_places(manifest, shard, opened)
        except ShardError as error:
            problems.append(str(error))
        yield shard, opened


def check_places(manifest: Manifest, shard: Shard, opened: OpenShard) -> list[str]:
    """Does the index name the places that the shard's own headers or tables name?"""
    if manifest.format == "webdataset":
        return check_tar(manifest.fields, opened)
    beton = read_beton(opened.mapped)
    if len(beton.metadata) != shard.samples:
        return [f"{opened.mapped.path}: {len(beton.metadata)} samples, the manifest says {shard.samples}"]
    kinds = {name: "json" if field.kind == "text" else field.kind for name, field in manifest.fields.items()}
    if kinds != {name: field.kind for name, field in beton.fields.items()}:
        return [f"{opened.mapped.path}: its fields are not those of the manifest"]
    tables = index_beton(opened.mapped, beton, 0)
    problems = []
    for column in tables.dtype.names or ():
        if column == "key" or column.endswith(".crc32"):
            continue
        differs = tables[column] != opened.index[column]
        if column.endswith(".value"):  # a NaN is the same as a NaN
            differs &= ~((tables[column] != tables[column]) & (opened.index[column] != opened.index[column]))
        for row in np.flatnonzero(differs):
            problems.append(
                f"{where(opened, int(row), column.partition('.')[0])}: the index says {column} "
                f"{opened.index[column][row]}, the .beton {tables[column][row]}"
            )
    return problems


def check_tar(fields: Mapping[str, Field], opened: OpenShard) -> list[str]:
    """Every field of every sample must be a member of the tar, and nothing else."""
    members = {member.name: member for member in scan_tar(opened.mapped)}
    problems = []
    expected = 0
    for row, record in enumerate(opened.index):
        key = record["key"].decode(errors="replace")
        for name, field in fields.items():
            encoding = ""
            if field.kind == "image":
                encoding = IMAGE_ENCODINGS[min(int(record[f"{name}.encoding"]), 2)]
            member = members.get(f"{key}.{extension(name, field.kind, encoding)}")
            expected += 1
            lead = b""
            if encoding == "raw":  # the payload is the pixels behind the header
                lead = npy_header(np.dtype(np.uint8), (int(record[f"{name}.height"]), int(record[f"{name}.width"]), 3))
            offset, size = int(record[f"{name}.offset"]), int(record[f"{name}.size"])
            if member is None or (member.offset + len(lead), member.size - len(lead)) != (offset, size):
                problems.append(f"{where(opened, row, name)}: the tar has no such file there")
            elif opened.mapped.array[member.offset : offset].tobytes() != lead:
                problems.append(f"{where(opened, row, name)}: its .npy header does not say the size in the index")
    if len(members) != expected:
        problems.append(f"{opened.mapped.path}: {len(members)} files in the tar, the index knows {expected}")
    return problems


def where(opened: OpenShard, row: int, name: str) -> str:
    """File, offset and key of a field."""
    record = opened.index[row]
    key = record["key"].decode(errors="replace")
    return f"{opened.mapped.path}, offset {record[f'{name}.offset']}, key {key}"


def check_samples(shards: ShardSet, opened: OpenShard, numbers: range) -> list[str]:
    """Problems of these samples of a set of one shard: place, checksum, value, image."""
    problems = []
    for i in numbers:
        try:
            sample = shards.read(i)
        except ShardError as error:
            problems.append(str(error))
            continue
        for name, field in shards.fields.items():
            if field.kind in ("int", "float"):
                value = opened.index[f"{name}.value"][i].item()
                if not same(field.kind, sample[name], value):
                    problems.append(f"{shards.where(i, name)}: {name} is {sample[name]}, the index says {value}")
            elif field.kind == "image" and isinstance(sample[name], bytes):
                expected = tuple(opened.index[f"{name}.{column}"][i] for column in ("encoding", "height", "width"))
                try:
                    if image_header(sample[name])[:3] != expected:
                        raise ValueError("its header does not say the size in the index")
                    check_decodes(sample[name])
                except ValueError as error:
                    problems.append(f"{shards.where(i, name)}: {name} does not decode ({error})")
    return problems


def check_keys(shards: ShardSet, seen: set[str]) -> list[str]:
    """Keys that an earlier sample has; the others are added to `seen`."""
    problems = []
    for i in range(len(shards)):
        key = shards.key(i)
        if key in seen:
            problems.append(f"{shards.path / shards.where(i, next(iter(shards.fields)))}: the key appears twice")
        seen.add(key)
    return problems


@dataclass(frozen=True, kw_only=True)
class CompareReport:
    """What `compare` found."""

    samples: int
    """Samples that both sets have."""
    differences: list[str]
    """One line each: key and what differs."""

    @property
    def ok(self) -> bool:
        """True if the sets hold the same samples."""
        return not self.differences

    def __str__(self) -> str:
        if self.ok:
            return f"the same {self.samples:,} samples"
        return listing(f"{len(self.differences)} differences", self.differences)


def compare(
    a: ShardSet, b: ShardSet, *, workers: int | None = None, progress: Callable[[int], None] | None = None
) -> CompareReport:
    """Hold two sets against each other, sample by sample, matched by key.

    Images are the same if their bytes are or if they decode to the same pixels, so that a JPEG set may be compared
    with its raw copy. The order of the samples does not matter, nor does the format.

    Args:
        a: One set.
        b: The other.
        workers: Threads; None takes one per core.
        progress: Called with the number of samples compared so far.
    """
    differences = [
        f"field {name}: {describe(a, name)} against {describe(b, name)}"
        for name in {**a.fields, **b.fields}
        if describe(a, name) != describe(b, name)
    ]
    shared = [name for name in a.fields if describe(a, name) == describe(b, name)]
    place = {b.key(i): i for i in range(len(b))}
    pairs: list[tuple[int, int]] = []
    for i in range(len(a)):
        other = place.pop(a.key(i), None)
        if other is None:
            differences.append(f"key {a.key(i)}: only in {a.path}")
        else:
            pairs.append((i, other))
    differences += [f"key {key}: only in {b.path}" for key in place]

    def differing(pair: tuple[int, int]) -> list[str]:
        try:
            one, other = a.read(pair[0]), b.read(pair[1])
            differ = [name for name in shared if not same(a.fields[name].kind, one[name], other[name])]
            return [f"key {one['__key__']}: {name} differs" for name in differ]
        except (ShardError, ValueError) as error:
            return [f"key {a.key(pair[0])}: {error}"]

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for done, found in enumerate(pool.map(differing, pairs), 1):
            differences += found
            if progress is not None:
                progress(done)
    return CompareReport(samples=len(pairs), differences=differences)


def describe(shards: ShardSet, name: str) -> str:
    """What a field is, without how it is stored."""
    field: Field | None = shards.fields.get(name)
    if field is None:
        return "none"
    return f"{field.kind} of {len(field.classes)} classes" if field.classes else field.kind


def same(kind: str, one: Any, other: Any) -> bool:
    """Are two values of a field the same? ValueError where an image does not decode."""
    if kind == "image":
        both_files = isinstance(one, bytes) and isinstance(other, bytes)
        return (both_files and one == other) or np.array_equal(pixels(one), pixels(other))
    if kind == "array":
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    return bool(one == other or (one != one and other != other))  # a NaN is the same as a NaN


def pixels(image: bytes | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3)."""
    return to_pixels(decode_rgb(image)) if isinstance(image, bytes) else image
