"""Is a shard set what its manifest says, and do two sets hold the same?"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
import xxhash

from headrace.shards import IMAGE_ENCODINGS, PNG, Field, Manifest, ShardError, ShardSet, open_shards
from headrace.shards.checksums import Checksums
from headrace.shards.errors import MachineError
from headrace.shards.fields import ENCODINGS
from headrace.shards.formats.ffcv import index_beton, own_kind, read_beton
from headrace.shards.formats.foreign import scan_shards
from headrace.shards.formats.images import image_header
from headrace.shards.formats.npy import npy_header
from headrace.shards.formats.webdataset import extension, scan_tar, stored_encoding
from headrace.shards.index import OpenShard, close_shards, misplaced, parse_index
from headrace.shards.machine import cores
from headrace.shards.manifest import MANIFEST_NAME, Shard, read_manifest
from headrace.shards.mapping import MappedFile
from headrace.shards.opened import FewShards
from headrace.shards.printing import printable
from headrace.shards.reading import ABSENT, ReadFile, cause_of, chunks, is_of_the_medium, is_unread, joined
from headrace.shards.remote.remote import RemoteFolder, is_remote
from headrace.tools.errors import UserError
from headrace.tools.keys import KeyCheck, Keys
from headrace.tools.media.images import check_decodes, decode_rgb, to_pixels

SHOWN = 20
"""Problems that a printed report lists; the JSON has all of them."""
CHUNK = 64
"""Samples that a thread checks at a time."""
AHEAD = 2
"""Shards that are under way at a time: while the last samples of one are checked, the next one is begun."""
COPIED = 8 << 20
"""Bytes of a remote shard that are asked for at a time."""
MOST_RANGES = 8
"""Ranges of a file that cannot be read which a line names."""

Work = TypeVar("Work")
Done = TypeVar("Done")


class Finding(NamedTuple):
    """One thing that is wrong."""

    shard: str
    """File name of the shard; empty for the set as a whole."""
    row: int | None
    """Number of the sample in its shard; None where it is the shard or its index."""
    line: str
    """File, offset and key as far as they are known, and what is wrong."""
    unread: bool = False
    """True where something could not be read, so that nothing is known about it."""


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
    """In the order of the shards; keys that appear twice come last."""
    seconds: float
    """Wall time."""
    decoded: bool = True
    """Whether samples were decoded."""

    @property
    def ok(self) -> bool:
        """True if everything could be read and nothing is wrong."""
        return not self.findings

    @property
    def unread(self) -> bool:
        """True if something could not be read and nothing is wrong with the rest."""
        return bool(self.findings) and all(finding.unread for finding in self.findings)

    @property
    def problems(self) -> list[str]:
        """The lines of the findings."""
        return [finding.line for finding in self.findings]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        findings = [finding._asdict() for finding in self.findings]
        told = {"findings": findings, "problems": self.problems, "ok": self.ok, "unread": self.unread}
        return {**vars(self), **told}

    def __str__(self) -> str:
        figures = f"{self.samples:,} samples, {self.bytes / 1e6:,.1f} MB, {self.seconds:.1f} s"
        said = [f"{self.path}: ok, {figures}"]
        if self.unread:
            title = f"{self.path}: cannot be read everywhere, {len(self.findings)} failures; nothing else is wrong"
            said = [listing(title, self.problems)]
        elif not self.ok:
            said = [listing(f"{self.path}: {len(self.findings)} problems", self.problems)]
        if not self.decoded:
            said.append("names, sizes and checksums only: nothing was decoded (--fast)")
        return "\n".join(said)


def listing(title: str, lines: list[str]) -> str:
    """A title and the first lines."""
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([printable(title), *(f"  {printable(line)}" for line in lines[:SHOWN]), *more])


def verify(
    path: str | os.PathLike[str],
    *,
    fast: bool = False,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    started: Callable[[int], None] | None = None,
) -> VerifyReport:
    """Read every byte of a shard set and decode every sample.

    Checked are the manifest, the size and checksum of every file, that the index and the shard's own headers name the
    same places, that keys are unique, each payload's checksum, and that every value, image, video and sound decodes,
    all of it. One broken shard or sample does not hide the others. Sets that other programs wrote have no checksums,
    the rest is checked.

    Files are read, not mapped: what a disk cannot read is a finding like others, with its place.

    Args:
        path: The set, or the URL of one. Of a remote set two shards at a time are copied to this machine.
        fast: Decode nothing, nor look at the checksums of payloads, which those of the files cover.
        workers: Threads; None takes one per core. Reading, checksums and decoding hold no GIL.
        progress: Called with the number of samples checked so far.
        started: Called once with the number of samples in the set, when it is known.

    Raises:
        ShardError: There is no set, or one of another program cannot be scanned, or a store does not answer.
        UserError: The set holds videos and there is no PyAV.
    """
    if not is_remote(path):
        return verify_folder(Path(path), fast, workers, progress, started)
    remote = RemoteFolder(os.fspath(path))
    with TemporaryDirectory(prefix="headrace-verify-") as folder:
        copy_here(remote, MANIFEST_NAME, Path(folder))
        report = verify_folder(Path(folder), fast, workers, progress, started, remote)
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
    fast: bool,
    workers: int | None,
    progress: Callable[[int], None] | None,
    started: Callable[[int], None] | None,
    remote: RemoteFolder | None = None,
) -> VerifyReport:
    """`verify` of a folder; with `remote`, of a folder that holds its manifest and room for its shards."""
    start = time.perf_counter()
    shards: Iterable[tuple[Shard, OpenShard | None]]
    try:
        manifest = read_manifest(folder) if is_there(folder / MANIFEST_NAME) else None
    except ShardError as error:
        findings = [Finding("", None, str(error), is_unread(error))]
        seconds = time.perf_counter() - start
        return VerifyReport(
            path=str(folder), format="", samples=0, bytes=0, findings=findings, seconds=seconds, decoded=not fast
        )
    if manifest is not None:
        shards = ((shard, None) for shard in manifest.shards)
    else:
        if not is_there(folder):
            raise ShardError(f"{folder}: there is no such file or folder")
        if remote is not None:
            raise ShardError(f"{remote}: holds no {MANIFEST_NAME}; only a set with one can be verified from here")
        manifest, scanned = scan(folder)
        shards = zip(manifest.shards, scanned, strict=True)
    if not fast and any(field.kind in ("video", "audio") for field in manifest.fields.values()):
        media_probes()  # fails here, before the work, where there is no decoder
    if started is not None:
        started(manifest.samples)
    findings = []
    done = 0
    keys = KeyCheck()
    with_keys: list[Shard] = []
    with ThreadPoolExecutor(workers or cores()) as pool:
        under_way: deque[ShardCheck] = deque()
        try:
            remaining = iter(shards)
            while True:
                under_way.extend(
                    ShardCheck(pool, folder, manifest, shard, part, remote, fast)
                    for shard, part in islice(remaining, AHEAD - len(under_way))
                )
                if not under_way:
                    break
                check = under_way[0]
                for samples, found in check.results():
                    findings += found
                    done += samples
                    if progress is not None:
                        progress(done)
                if check.of_manifest and check.part is not None:
                    keys.add(check.part.index["key"])
                    with_keys.append(check.shard)
                under_way.popleft().close()
        finally:
            for check in under_way:
                check.close()
    findings += keys_again(folder, manifest, keys, with_keys, remote)
    return VerifyReport(
        path=str(folder),
        format=manifest.format,
        samples=manifest.samples,
        bytes=manifest.bytes,
        findings=findings,
        seconds=time.perf_counter() - start,
        decoded=not fast,
    )


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; MachineError where that cannot be told."""
    try:
        os.stat(path)
    except OSError as error:
        if error.errno in ABSENT:
            return False
        raise MachineError(f"{path}: {error.strerror}") from error
    return True


def scan(folder: Path) -> tuple[Manifest, list[OpenShard]]:
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
        fast: bool,
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
        self.digests: list[Future[FileCheck]] = []
        self.chunks: deque[tuple[int, Future[list[Finding]]]] = deque()
        if part is None:
            files = ((shard.name, shard.checksum), (shard.index, shard.index_checksum))
            self.digests = [
                pool.submit(check_file, folder / name, checksum, manifest.checksums) for name, checksum in files
            ]
            try:
                self.part = open_to_read(folder, manifest, shard)
            except ShardError as error:
                self.findings.append(Finding(shard.name, None, str(error), is_unread(error)))
                return
        assert self.part is not None
        one = replace(manifest, shards=(shard,))
        self.set = ShardSet(folder, one, ReadShards([self.part]), check=self.of_manifest)
        for first in range(0, 0 if fast else len(self.set), CHUNK):
            chunk = range(first, min(first + CHUNK, len(self.set)))
            self.chunks.append((len(chunk), pool.submit(check_samples, self.set, self.part, chunk)))

    def results(self) -> Iterator[tuple[int, list[Finding]]]:
        """(samples, what is wrong with them), part after part."""
        files = [digest.result() for digest in self.digests]
        found = [Finding(self.shard.name, None, file.line, file.unread) for file in files if not file.right]
        found += self.findings
        if self.part is not None and self.of_manifest:
            try:
                found += check_places(self.manifest, self.shard, self.part)
            except ShardError as error:
                found.append(Finding(self.shard.name, None, str(error), is_unread(error)))
        yield 0, list(dict.fromkeys(found))  # what cannot be opened was found twice
        checked = 0
        while self.chunks:
            samples, chunk = self.chunks.popleft()
            checked += samples
            yield samples, chunk.result()
        yield self.shard.samples - checked, []

    def close(self) -> None:
        """Let go of the shard."""
        for _, chunk in self.chunks:
            chunk.cancel()
        wait(future for _, future in self.chunks)
        wait(self.digests)
        if self.set is not None:
            self.set.close()
        if self.part is not None:
            self.part.mapped.close()
        for copy in self.copies:
            copy.unlink(missing_ok=True)


class FileCheck(NamedTuple):
    """What a file is, held against its checksum."""

    line: str
    """What is wrong; empty where the file is right."""
    unread: bool = False
    """Whether it is that the file, or a part of it, cannot be read."""
    may_pass: bool = False
    """Whether that is no matter of some sectors of a disk."""

    @property
    def right(self) -> bool:
        """True where all of the file was read and is what it should be."""
        return not self.line


def check_file(path: Path, checksum: str, checksums: Checksums) -> FileCheck:
    """Read a file from end to end."""
    digest = checksums.start()
    lost: list[range] = []
    reason = ""
    try:
        file = ReadFile(path)
        try:
            for place, content in chunks(file):
                if isinstance(content, MachineError):
                    lost.append(place)
                    cause = cause_of(content)
                    reason = f" ({cause.strerror})" if cause is not None else ""
                else:
                    digest.update(content.data)
        finally:
            file.close()
    except ShardError as error:
        return FileCheck(str(error), is_unread(error), is_unread(error) and not is_of_the_medium(error))
    if lost:
        ranges = joined(lost)
        named = ", ".join(f"{part.start} to {part.stop - 1}" for part in ranges[:MOST_RANGES])
        more = f" and {len(ranges) - MOST_RANGES} ranges more" if len(ranges) > MOST_RANGES else ""
        return FileCheck(f"{path}: bytes {named}{more} cannot be read{reason}", unread=True)
    if digest.hexdigest() != checksum:
        return FileCheck(f"{path}: its {checksums.title} is not the manifest's; copy the file again")
    return FileCheck("")


def keys_again(
    folder: Path, manifest: Manifest, keys: KeyCheck, shards: list[Shard], remote: RemoteFolder | None
) -> Iterator[Finding]:
    """Samples whose keys earlier ones have; `shards` are those of which `keys` has taken the keys."""
    number, index = 0, np.empty(0, np.void)

    def again(part: int) -> Keys:
        nonlocal number, index
        number = part
        copy = folder / shards[part].index
        if remote is not None:
            copy_here(remote, copy.name, folder)
        try:
            index = index_to_read(folder, manifest, shards[part])
        finally:
            if remote is not None:
                copy.unlink(missing_ok=True)
        found: Keys = index["key"]
        return found

    first = next(iter(manifest.fields))
    try:
        for _, row, key in keys.repeated(again):
            name, offset = shards[number].name, index[f"{first}.offset"][row]
            at = f"{folder / name}, offset {offset}, key {key.decode(errors='surrogateescape')}"
            yield Finding(name, row, f"{at}: the key appears twice")
    except ShardError as error:
        yield Finding(shards[number].name, None, str(error), is_unread(error))


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
        key = record["key"].decode(errors="surrogateescape")
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
    key = record["key"].decode(errors="surrogateescape")
    return f"{opened.mapped.path}, offset {record[f'{name}.offset']}, key {key}"


def check_samples(shards: ShardSet, opened: OpenShard, numbers: range) -> list[Finding]:
    """What is wrong with these samples of a set of one shard: place, checksum, value, image, video, sound."""
    findings = []
    for i in numbers:
        try:
            sample = shards.read(i)
        except ShardError as error:
            line = str(error)
            if is_unread(error):
                line = f"{shards.where(i, next(iter(shards.fields)))}: cannot be read ({error})"
            findings.append(Finding(opened.mapped.path.name, i, line, is_unread(error)))
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
    """ValueError unless a video or a sound decodes, all of it."""
    media_probes()[kind](data)


@cache
def media_probes() -> dict[str, Callable[[bytes], object]]:
    """What decodes videos and sounds; UserError where PyAV, which sets of pictures need not, is not installed."""
    try:
        from headrace.tools.media.videos import probe_audio, probe_video
    except ImportError as error:
        raise UserError(f"checking videos and sounds needs PyAV: pip install 'headrace[video]' ({error})") from error
    return {"video": partial(probe_video, whole=True), "audio": probe_audio}


def open_checked(path: str) -> ShardSet:
    """A set whose samples are compared with their checksums, where it has some, and read, not mapped, where it lies on
    this machine; raises as `open_shards` does."""
    folder = Path(path)
    if is_remote(path):
        return open_shards(path, check=True)
    if not is_there(folder / MANIFEST_NAME):
        if not is_there(folder):
            raise ShardError(f"{folder}: there is no such file or folder")
        manifest, scanned = scan(folder)
        return ShardSet(folder, manifest, ReadShards(scanned))
    manifest = read_manifest(folder)
    shards: list[OpenShard] = []
    try:
        for shard in manifest.shards:
            shards.append(open_to_read(folder, manifest, shard, check=True))
    except BaseException:
        close_shards(shards)
        raise
    return ShardSet(folder, manifest, ReadShards(shards), check=True)


@dataclass(frozen=True, kw_only=True)
class CompareReport:
    """What `compare` found."""

    samples: int
    """Samples that both sets have."""
    differences: list[str]
    """One line each: key and what differs."""
    unread: list[str]
    """One line for each sample of which nothing is known, because one of the two cannot be read."""

    @property
    def ok(self) -> bool:
        """True if the sets hold the same samples."""
        return not self.differences and not self.unread

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "ok": self.ok}

    def __str__(self) -> str:
        if self.ok:
            return f"the same {self.samples:,} samples"
        said = [listing(f"{len(self.differences)} differences", self.differences)]
        if self.unread:
            said.append(listing(f"{len(self.unread)} samples cannot be read", self.unread))
        return "\n".join(said)


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
    with its raw copy. The order of the samples does not matter, nor does the format. Takes some 60 bytes a sample.

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
    partner = partners(a, b)
    alone = np.ones(len(b), np.bool_)
    alone[partner[partner >= 0]] = False
    differences += [f"key {a.key(i)}: only in {a.path}" for i in np.flatnonzero(partner < 0).tolist()]
    differences += [f"key {b.key(i)}: only in {b.path}" for i in np.flatnonzero(alone).tolist()]
    in_both = np.flatnonzero(partner >= 0)
    if started is not None:
        started(len(in_both))

    def differing(numbers: npt.NDArray[np.int64]) -> tuple[list[str], list[str]]:
        differ: list[str] = []
        unread: list[str] = []
        for i in numbers.tolist():
            try:
                differ += differing_fields(a, b, (i, int(partner[i])), shared)
            except MachineError as error:
                unread.append(f"key {a.key(i)}: {error}")
        return differ, unread

    unread: list[str] = []
    done = 0
    threads = workers or cores()
    chunks = (in_both[first : first + CHUNK] for first in range(0, len(in_both), CHUNK))
    with ThreadPoolExecutor(threads) as pool:
        for chunk, (differ, lost) in in_order(pool, differing, chunks, 4 * threads):
            differences += differ
            unread += lost
            done += len(chunk)
            if progress is not None:
                progress(done)
    return CompareReport(samples=len(in_both), differences=differences, unread=unread)


def partners(a: ShardSet, b: ShardSet) -> npt.NDArray[np.int64]:
    """For each sample of a set the number of that of the other which has its key, or -1: (samples of a,)."""
    of_a, of_b = hashed_keys(a), hashed_keys(b)
    order = np.argsort(of_b, kind="stable")
    of_b = of_b[order]
    first, last = (np.searchsorted(of_b, of_a, side=side) for side in ("left", "right"))
    found = np.full(len(a), -1, np.int64)
    taken = np.zeros(len(b), np.bool_)
    for i in np.flatnonzero(first < last).tolist():
        for other in order[first[i] : last[i]].tolist():
            if not taken[other] and a.key(i) == b.key(other):
                found[i] = other
                taken[other] = True
                break
    return found


def hashed_keys(shards: ShardSet) -> npt.NDArray[np.uint64]:
    """XXH3-64 of each key, (samples,)."""
    encoded = (shards.key(i).encode(errors="surrogateescape") for i in range(len(shards)))
    return np.fromiter(map(xxhash.xxh3_64_intdigest, encoded), np.uint64, len(shards))


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Work], Done], items: Iterable[Work], ahead: int
) -> Iterator[tuple[Work, Done]]:
    """(item, what `work` makes of it) in the order of the items, with so many under way at a time."""
    under_way: deque[tuple[Work, Future[Done]]] = deque()
    for item in items:
        under_way.append((item, pool.submit(work, item)))
        if len(under_way) > ahead:
            first, future = under_way.popleft()
            yield first, future.result()
    for item, future in under_way:
        yield item, future.result()


def differing_fields(a: ShardSet, b: ShardSet, pair: tuple[int, int], shared: list[str]) -> list[str]:
    """A line for each field in which two samples differ, or one where a sample is damaged; MachineError where one
    cannot be read."""
    try:
        one, other = a.read(pair[0]), b.read(pair[1])
        differ = [name for name in shared if not same(a.fields[name].kind, one[name], other[name])]
        return [f"key {one['__key__']}: {name} differs" for name in differ]
    except MachineError:
        raise
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
