"""Is a shard set what its manifest says, and do two sets hold the same?"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.shards import IMAGE_ENCODINGS, PNG, Field, Manifest, ShardError, ShardSet
from headrace.shards.checksums import Checksums
from headrace.shards.ffcv import index_beton, own_kind, read_beton
from headrace.shards.fields import ENCODINGS
from headrace.shards.foreign import scan_shards
from headrace.shards.images import image_header
from headrace.shards.index import OpenShard, misplaced
from headrace.shards.machine import cores
from headrace.shards.manifest import MANIFEST_NAME, Shard, read_manifest
from headrace.shards.npy import npy_header
from headrace.shards.remote import RemoteFolder, is_remote
from headrace.shards.shard_set import open_shard
from headrace.shards.webdataset import extension, scan_tar, stored_encoding
from headrace.tools.errors import UserError
from headrace.tools.images import check_decodes, decode_rgb, to_pixels

SHOWN = 20
"""Problems that a printed report lists; the JSON has all of them."""
CHUNK = 64
"""Samples that a thread checks at a time."""
AHEAD = 2
"""Shards that are under way at a time: while the last samples of one are checked, the next one is begun."""
COPIED = 8 << 20
"""Bytes of a remote shard that are asked for at a time."""


class Finding(NamedTuple):
    """One thing that is wrong."""

    shard: str
    """File name of the shard; empty for the set as a whole."""
    row: int | None
    """Number of the sample in its shard; None where it is the shard or its index."""
    line: str
    """File, offset and key as far as they are known, and what is wrong."""


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
    findings: list[Finding]
    """In the order of the shards."""
    seconds: float
    """Wall time."""

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return not self.findings

    @property
    def problems(self) -> list[str]:
        """The lines of the findings."""
        return [finding.line for finding in self.findings]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        findings = [finding._asdict() for finding in self.findings]
        return {**vars(self), "findings": findings, "problems": self.problems, "ok": self.ok}

    def __str__(self) -> str:
        if self.ok:
            return f"{self.path}: ok, {self.samples:,} samples, {self.bytes / 1e6:,.1f} MB, {self.seconds:.1f} s"
        return listing(f"{self.path}: {len(self.findings)} problems", self.problems)


def listing(title: str, lines: list[str]) -> str:
    """A title and the first lines."""
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([title, *(f"  {line}" for line in lines[:SHOWN]), *more])


def verify(
    path: str | os.PathLike[str],
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    started: Callable[[int], None] | None = None,
) -> VerifyReport:
    """Read every byte of a shard set and decode every sample.

    Checked are the manifest, the size and checksum of every file, that the index and the shard's own headers name the
    same places, that keys are unique, each payload's checksum, and that every value, image, video and sound decodes to
    its end. One broken shard or sample does not hide the others. Sets that other programs wrote have no checksums, the
    rest is checked.

    Args:
        path: The set, or the URL of one. Of a remote set two shards at a time are copied to this machine.
        workers: Threads; None takes one per core. Reading, checksums and decoding hold no GIL.
        progress: Called with the number of samples checked so far.
        started: Called once with the number of samples in the set, when it is known.

    Raises:
        ShardError: There is no set, or one of another program cannot be scanned, or a store does not answer.
        UserError: The set holds videos and there is no PyAV.
    """
    if not is_remote(path):
        return verify_folder(Path(path), workers, progress, started)
    remote = RemoteFolder(os.fspath(path))
    with TemporaryDirectory(prefix="headrace-verify-") as folder:
        copy_here(remote, MANIFEST_NAME, Path(folder))
        report = verify_folder(Path(folder), workers, progress, started, remote)
        findings = [found._replace(line=found.line.replace(folder, str(remote))) for found in report.findings]
    return replace(report, path=str(remote), findings=findings)


def copy_here(remote: RemoteFolder, name: str, folder: Path) -> None:
    """Copy an object, where there is one, into a folder."""
    if not remote.exists(name):
        return
    size = remote.size(name)
    with open(folder / name, "wb") as file:
        for at in range(0, size, COPIED):
            file.write(remote.read(name, at, min(at + COPIED, size)))


def verify_folder(
    folder: Path,
    workers: int | None,
    progress: Callable[[int], None] | None,
    started: Callable[[int], None] | None,
    remote: RemoteFolder | None = None,
) -> VerifyReport:
    """`verify` of a folder; with `remote`, of a folder that holds its manifest and room for its shards."""
    start = time.perf_counter()
    shards: Iterable[tuple[Shard, OpenShard | None]]
    if folder.is_dir() and (folder / MANIFEST_NAME).exists():
        try:
            manifest = read_manifest(folder)
        except ShardError as error:
            seconds = time.perf_counter() - start
            findings = [Finding("", None, str(error))]
            return VerifyReport(path=str(folder), format="", samples=0, bytes=0, findings=findings, seconds=seconds)
        shards = ((shard, None) for shard in manifest.shards)
    else:
        if not folder.exists():
            raise ShardError(f"{folder}: there is no such file or folder")
        if remote is not None:
            raise ShardError(f"{remote}: holds no {MANIFEST_NAME}; only a set with one can be verified from here")
        manifest, scanned = scan_shards(folder)
        shards = zip(manifest.shards, scanned, strict=True)
    if any(field.kind in ("video", "audio") for field in manifest.fields.values()):
        media_probes()  # fails here, before the work, where there is no decoder
    if started is not None:
        started(manifest.samples)
    findings = []
    done = 0
    keys: set[str] = set()
    with ThreadPoolExecutor(workers or cores()) as pool:
        under_way: deque[ShardCheck] = deque()
        try:
            remaining = iter(shards)
            while True:
                under_way.extend(
                    ShardCheck(pool, folder, manifest, shard, part, remote)
                    for shard, part in islice(remaining, AHEAD - len(under_way))
                )
                if not under_way:
                    break
                for samples, found in under_way[0].results(keys):
                    findings += found
                    done += samples
                    if progress is not None:
                        progress(done)
                under_way.popleft().close()
        finally:
            for check in under_way:
                check.close()
    return VerifyReport(
        path=str(folder),
        format=manifest.format,
        samples=manifest.samples,
        bytes=manifest.bytes,
        findings=findings,
        seconds=time.perf_counter() - start,
    )


class ShardCheck:
    """The check of one shard: everything that can run beside other work is given to the threads at once."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        folder: Path,
        manifest: Manifest,
        shard: Shard,
        part: OpenShard | None,
        remote: RemoteFolder | None,
    ) -> None:
        """`part` is None for a shard of a manifest, which is opened here. What `remote` has is copied to `folder`
        before, and deleted after the check."""
        self.copies = [folder / name for name in (shard.name, shard.index)] if remote is not None else []
        if remote is not None:
            for copy in self.copies:
                copy_here(remote, copy.name, folder)
        self.shard = shard
        self.manifest = manifest
        self.part = part
        self.set: ShardSet | None = None
        self.findings: list[Finding] = []
        self.of_manifest = part is None
        self.digests: list[Future[str]] = []
        self.chunks: deque[tuple[int, Future[list[Finding]]]] = deque()
        if part is None:
            files = ((shard.name, shard.checksum), (shard.index, shard.index_checksum))
            self.digests = [
                pool.submit(check_file, folder / name, checksum, manifest.checksums) for name, checksum in files
            ]
            try:
                self.part = open_shard(folder, manifest, shard)
            except ShardError as error:
                self.findings.append(Finding(shard.name, None, str(error)))
                return
        assert self.part is not None
        self.set = ShardSet(folder, replace(manifest, shards=(shard,)), [self.part], check=self.of_manifest)
        for first in range(0, len(self.set), CHUNK):
            chunk = range(first, min(first + CHUNK, len(self.set)))
            self.chunks.append((len(chunk), pool.submit(check_samples, self.set, self.part, chunk)))

    def results(self, keys: set[str]) -> Iterator[tuple[int, list[Finding]]]:
        """(samples, what is wrong with them), part after part; `keys` are those of the shards before."""
        lines = [line for digest in self.digests if (line := digest.result())]
        if self.part is not None and self.of_manifest:
            try:
                self.findings += check_places(self.manifest, self.shard, self.part)
            except ShardError as error:
                lines.append(str(error))
        yield 0, [Finding(self.shard.name, None, line) for line in lines] + self.findings
        while self.chunks:
            samples, chunk = self.chunks.popleft()
            yield samples, chunk.result()
        if self.set is not None and self.of_manifest:
            yield 0, check_keys(self.set, self.shard, keys)

    def close(self) -> None:
        """Let go of the shard."""
        for _, chunk in self.chunks:
            chunk.cancel()
        wait(future for _, future in self.chunks)
        wait(self.digests)
        if self.set is not None:
            self.set.close()
        for copy in self.copies:
            copy.unlink(missing_ok=True)


def check_file(path: Path, checksum: str, checksums: Checksums) -> str:
    """What is wrong with a file that can be read; opening it says what is wrong with others."""
    try:
        with open(path, "rb") as file:
            found = checksums.of_open_file(file)
    except OSError:
        return ""
    return "" if found == checksum else f"{path}: its {checksums.title} is not the manifest's; copy the file again"


def check_places(manifest: Manifest, shard: Shard, opened: OpenShard) -> list[Finding]:
    """Does the index name the places that the shard's own headers or tables name?"""
    if manifest.format == "webdataset":
        return check_tar(manifest.fields, shard, opened)
    beton = read_beton(opened.mapped)
    if len(beton.metadata) != shard.samples:
        line = f"{opened.mapped.path}: {len(beton.metadata)} samples, the manifest says {shard.samples}"
        return [Finding(shard.name, None, line)]
    if not same_kinds(manifest.fields, beton.fields):
        return [Finding(shard.name, None, f"{opened.mapped.path}: its fields are not those of the manifest")]
    tables = index_beton(opened.mapped, beton, manifest.checksums, 0)
    findings = []
    for column in tables.dtype.names or ():
        if column == "key" or column.endswith(f".{manifest.checksums.payload}"):
            continue
        differs = tables[column] != opened.index[column]
        if column.endswith(".value"):  # a NaN is the same as a NaN
            differs &= ~((tables[column] != tables[column]) & (opened.index[column] != opened.index[column]))
        for row in np.flatnonzero(differs).tolist():
            says = f"the index says {column} {opened.index[column][row]}, the .beton {tables[column][row]}"
            findings.append(Finding(shard.name, row, f"{where(opened, row, column.partition('.')[0])}: {says}"))
    return findings


def same_kinds(fields: Mapping[str, Field], of_beton: Mapping[str, Field]) -> bool:
    """Are these the fields that a .beton describes, as far as it can?"""
    return {name: own_kind(field.kind) for name, field in fields.items()} == {
        name: field.kind for name, field in of_beton.items()
    }


def check_tar(fields: Mapping[str, Field], shard: Shard, opened: OpenShard) -> list[Finding]:
    """Every field of every sample must be a member of the tar, and nothing else."""
    members = {member.name: member for member in scan_tar(opened.mapped)}
    findings = []
    expected = 0
    for row, record in enumerate(opened.index):
        key = record["key"].decode(errors="replace")
        for name, field in fields.items():
            expected += 1
            offset, size = int(record[f"{name}.offset"]), int(record[f"{name}.size"])
            lead = b""
            encoding = ""
            if field.kind == "image":
                encoding = IMAGE_ENCODINGS[min(int(record[f"{name}.encoding"]), PNG)]
                if encoding == "raw":  # the payload is the pixels behind the header
                    height, width = int(record[f"{name}.height"]), int(record[f"{name}.width"])
                    lead = npy_header(np.dtype(np.uint8), (height, width, 3))
            elif field.kind in ENCODINGS and not misplaced(opened.mapped.size, offset, size):
                try:
                    encoding = stored_encoding(field, opened.mapped.array[offset : offset + size], 0)
                except ValueError as error:
                    findings.append(Finding(shard.name, row, f"{where(opened, row, name)}: {name}: {error}"))
                    continue
            member = members.get(f"{key}.{extension(name, field.kind, encoding)}")
            if member is None or (member.offset + len(lead), member.size - len(lead)) != (offset, size):
                line = f"{where(opened, row, name)}: the tar has no such file there"
                findings.append(Finding(shard.name, row, line))
            elif opened.mapped.array[member.offset : offset].tobytes() != lead:
                line = f"{where(opened, row, name)}: its .npy header does not say the size in the index"
                findings.append(Finding(shard.name, row, line))
    if len(members) != expected:
        line = f"{opened.mapped.path}: {len(members)} files in the tar, the index knows {expected}"
        findings.append(Finding(shard.name, None, line))
    return findings


def where(opened: OpenShard, row: int, name: str) -> str:
    """File, offset and key of a field."""
    record = opened.index[row]
    key = record["key"].decode(errors="replace")
    return f"{opened.mapped.path}, offset {record[f'{name}.offset']}, key {key}"


def check_samples(shards: ShardSet, opened: OpenShard, numbers: range) -> list[Finding]:
    """What is wrong with these samples of a set of one shard: place, checksum, value, image, video, sound."""
    findings = []
    for i in numbers:
        try:
            sample = shards.read(i)
        except ShardError as error:
            findings.append(Finding(opened.mapped.path.name, i, str(error)))
            continue
        for name, field in shards.fields.items():
            line = ""
            if field.kind in ("int", "float"):
                value = opened.index[f"{name}.value"][i].item()
                if not same(field.kind, sample[name], value):
                    line = f"{name} is {sample[name]}, the index says {value}"
            elif field.kind in ENCODINGS:
                try:
                    if field.kind == "image" and isinstance(sample[name], bytes):
                        columns = ("encoding", "height", "width")
                        check_image(sample[name], tuple(opened.index[f"{name}.{column}"][i] for column in columns))
                    elif field.kind != "image":
                        check_media(field.kind, sample[name])
                except ValueError as error:
                    line = f"{name} does not decode ({error})"
            if line:
                findings.append(Finding(opened.mapped.path.name, i, f"{shards.where(i, name)}: {line}"))
    return findings


def check_image(data: bytes, expected: tuple[int, ...]) -> None:
    """ValueError unless a picture decodes and is what the index says: encoding, height and width."""
    if image_header(data)[:3] != expected:
        raise ValueError("its header does not say the size in the index")
    check_decodes(data)


def check_media(kind: str, data: bytes) -> None:
    """ValueError unless a video or a sound decodes to its end."""
    media_probes()[kind](data)


@cache
def media_probes() -> dict[str, Callable[[bytes], object]]:
    """What decodes videos and sounds; UserError where PyAV, which sets of pictures need not, is not installed."""
    try:
        from headrace.tools.videos import probe_audio, probe_video
    except ImportError as error:
        raise UserError(f"checking videos and sounds needs PyAV: pip install 'headrace[video]' ({error})") from error
    return {"video": partial(probe_video, whole=True), "audio": probe_audio}


def check_keys(shards: ShardSet, shard: Shard, seen: set[str]) -> list[Finding]:
    """Keys that an earlier sample has; the others are added to `seen`."""
    findings = []
    for i in range(len(shards)):
        key = shards.key(i)
        if key in seen:
            line = f"{shards.path / shards.where(i, next(iter(shards.fields)))}: the key appears twice"
            findings.append(Finding(shard.name, i, line))
        seen.add(key)
    return findings


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

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "ok": self.ok}

    def __str__(self) -> str:
        if self.ok:
            return f"the same {self.samples:,} samples"
        return listing(f"{len(self.differences)} differences", self.differences)


def compare(
    a: ShardSet,
    b: ShardSet,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    started: Callable[[int], None] | None = None,
) -> CompareReport:
    """Hold two sets against each other, sample by sample, matched by key.

    Images are the same if their bytes are or if they decode to the same pixels, so that a JPEG set may be compared
    with its raw copy. The order of the samples does not matter, nor does the format.

    Args:
        a: One set.
        b: The other.
        workers: Threads; None takes one per core.
        progress: Called with the number of samples compared so far.
        started: Called once with the number of samples that both have.
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

    if started is not None:
        started(len(pairs))

    def differing(chunk: list[tuple[int, int]]) -> list[str]:
        return [line for pair in chunk for line in differing_fields(a, b, pair, shared)]

    chunks = [pairs[first : first + CHUNK] for first in range(0, len(pairs), CHUNK)]
    done = 0
    with ThreadPoolExecutor(workers or cores()) as pool:
        for chunk, found in zip(chunks, pool.map(differing, chunks), strict=True):
            differences += found
            done += len(chunk)
            if progress is not None:
                progress(done)
    return CompareReport(samples=len(pairs), differences=differences)


def differing_fields(a: ShardSet, b: ShardSet, pair: tuple[int, int], shared: list[str]) -> list[str]:
    """A line for each field in which two samples differ, or one where a sample cannot be read."""
    try:
        one, other = a.read(pair[0]), b.read(pair[1])
        differ = [name for name in shared if not same(a.fields[name].kind, one[name], other[name])]
        return [f"key {one['__key__']}: {name} differs" for name in differ]
    except (ShardError, ValueError) as error:
        return [f"key {a.key(pair[0])}: {error}"]


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
