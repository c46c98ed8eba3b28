"""Random access into archives as they were downloaded: tars, tars in tars, zips. Nothing is unpacked.

A table of members is made once: for a tar by a walk from header to header, for a zip from the directory at its end
(PKWARE APPNOTE, 4.3), for a .tar.gz by going through it. From then on a member is read at its offset, without a cursor,
so that any number of threads may read from one open file.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import sys
import tarfile
import threading
import weakref
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from headrace.shards.formats.tar import (
    BLOCK,
    FILES,
    HARD_LINK,
    LINKS,
    MAX_NAME_ENTRY,
    NAMES,
    Said,
    check_header,
    header_name,
    link_target,
    packed_by,
    padded,
)
from headrace.shards.formats.tar_links import BrokenLink, TarLink, TarMember, followed
from headrace.tools.errors import UserError
from headrace.tools.sources.listing import (
    SpecialFile,
    check_mode,
    check_no_special,
    findable,
    open_file,
    unreadable,
)
from headrace.tools.sources.source import BadSample

MAX_PICTURE = 64 << 20
"""Bytes of one picture, also unpacked from a zip; the largest pictures of the known data sets have 15 MB."""
MAX_UNPACKED = 1 << 30
"""Bytes in a .tar.gz; CIFAR-10 has 186 MB, the development kit of ImageNet 6 MB."""
CHUNK = 1 << 20
"""Bytes that are looked at together behind the end of a tar."""


class ArchiveFile:
    """An open file that threads read at offsets."""

    def __init__(self, path: Path) -> None:
        try:
            check_mode(os.stat(path).st_mode)
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except SpecialFile as error:
            raise UserError(f"{findable(path)}: {error}") from error
        except OSError as error:
            raise unreadable(path, error) from error
        weakref.finalize(self, os.close, self.descriptor)
        self.path = path
        self.status = [os.fstat(self.descriptor)]
        """Of each file that it consists of."""
        self.size = self.status[0].st_size
        if sys.platform == "linux":
            # Members are read in random order: reading ahead would fetch, and throw away, what nobody asked for.
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; BadSample where the file ends before, OSError where it cannot be read."""
        parts = []
        missing = size
        while missing:
            part = os.pread(self.descriptor, missing, offset + size - missing)
            if not part:
                raise BadSample(f"{self.path}, offset {offset}: the file ends {missing} bytes too early")
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


SEEK_SPACING = 32 << 20
"""Bytes between the places of an unpacked .gz at which reading may begin; each takes 32 kB of memory."""
MAX_RATIO = 50
"""Times that a .gz of videos or pictures may be larger unpacked; they hardly shrink at all."""


class GzipArchive(ArchiveFile):
    """A .gz, whole or in parts that follow each other, read at offsets of what it unpacks to.

    It is gone through once, which finds damage and notes places to begin at. A read then unpacks half of
    `spacing` bytes more than it needs, on average.

    Raises:
        UserError: It is damaged or cut off, unpacks to far more than such files do, or indexed_gzip is missing.
    """

    def __init__(self, parts: Sequence[Path], spacing: int = SEEK_SPACING) -> None:
        try:
            from indexed_gzip import IndexedGzipFile
        except ImportError as error:
            raise UserError(f"{parts[0]}: unpack it, or pip install headrace[video] or headrace[sound]") from error
        self.path = parts[0]
        files = [ArchiveFile(part) for part in parts]
        self.status = [file.status[0] for file in files]
        self._joined = joined = Joined(files)
        self._lock = threading.Lock()
        self._file = IndexedGzipFile(fileobj=io.BufferedReader(joined, CHUNK), spacing=spacing)
        try:
            self.size = self._go_through(MAX_RATIO * joined.size + SEEK_SPACING)
            self._check_readable()
        except (OSError, ValueError, EOFError, BadSample) as error:
            if joined.failure is not None:
                raise unreadable(self.path, joined.failure) from error
            raise UserError(f"{self.path}: cannot be unpacked ({' '.join(str(error).split())})") from error

    def _check_readable(self) -> None:
        """The system's error, of which the library tells at most that there was one."""
        if self._joined.failure is not None:
            failure, self._joined.failure = self._joined.failure, None
            raise failure

    def _go_through(self, most: int) -> int:
        """Size of what it unpacks to."""
        size = 0
        while part := self._file.read(CHUNK):
            size += len(part)
            if size > most:
                raise ValueError(f"it unpacks to more than {most:,} bytes")
        self._file.build_full_index()  # an error unless all was covered
        return size

    def read(self, offset: int, size: int) -> bytes:
        """See `ArchiveFile`."""
        with self._lock:
            try:
                self._file.seek(offset)
                content: bytes = self._file.read(size)
                self._check_readable()
            except OSError as error:
                self._check_readable()
                if error.errno is not None:
                    raise
                raise BadSample(f"{self.path}, offset {offset}: cannot be unpacked ({error})") from error
        if len(content) != size:
            raise BadSample(f"{self.path}, offset {offset}: the file ends {size - len(content)} bytes too early")
        return content


class Joined(io.RawIOBase):
    """Files read as one, the one behind the other. What reads through a library that has its own errors finds that of
    the system in `failure`."""

    def __init__(self, files: Sequence[ArchiveFile]) -> None:
        self.failure: OSError | None = None
        self.files = files
        self.starts = [0, *accumulate(file.size for file in files)]
        self.size = self.starts[-1]
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        if at < 0:
            raise OSError("a place before the beginning")
        self.at = at
        return self.at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if self.at >= self.size:
            return 0
        number = bisect_right(self.starts, self.at) - 1
        size = min(len(view), self.starts[number + 1] - self.at)
        try:
            view[:size] = self.files[number].read(self.at - self.starts[number], size)
        except OSError as error:
            self.failure = error
            raise
        self.at += size
        return size


class SparseMember(TarMember):
    """A file in a tar of which the holes are left out."""

    reason = "a sparse member, whose holes the tar leaves out: unpack the tar, or pack it without --sparse"


def problem(entry: TarMember) -> str:
    """Why a file in a tar cannot be read; empty where it can."""
    return entry.reason if isinstance(entry, BrokenLink | SparseMember) else ""


def scan_tar(
    file: ArchiveFile, inside: TarMember | None = None, passed: Callable[[str, str], object] = lambda what, name: None
) -> list[TarMember]:
    """The files of a tar, or of the tar that is a member of it, in their order; one block is read for each. A link is
    the file that it leads to once more, and left out where that is a folder. Some cannot be read, see `problem`.

    Args:
        passed: called with what else there is, folders apart: a kind and a name.

    Raises:
        UserError: with the offset in the outermost file, on anything but a whole tar.
    """
    found = list(walk_tar(file, inside, passed))
    if any(type(entry) is TarLink for entry in found):
        sparse = {entry.offset for entry in found if isinstance(entry, SparseMember)}
        entries = followed(found)
        return [SparseMember(*entry) if entry.offset in sparse else entry for entry in entries]
    return found  # type: ignore[return-value]


def walk_tar(
    file: ArchiveFile, inside: TarMember | None, passed: Callable[[str, str], object]
) -> Iterator[TarMember | TarLink]:
    """The files and links of a tar in their order; see `scan_tar`."""
    at, end, where = 0, file.size, findable(file.path)
    if inside is not None:
        at, end, where = inside.offset, inside.offset + inside.size, f"{where}, {findable(inside.name)}"
    begin, type_flag, said = at, b"", Said()
    while True:
        try:
            head = file.read(at, min(BLOCK, end - at))
            if at == begin and (packer := packed_by(head)):
                raise UserError(f"{where}: {packer}")
            if len(head) < BLOCK:
                raise UserError(f"{where}, offset {at}: the tar has no end, so it is cut off; download it again")
            block = head
            if not any(block):
                if type_flag and type_flag in NAMES:
                    raise ValueError("a name without its file")
                for start in range(at, end, CHUNK):
                    if any(file.read(start, min(CHUNK, end - start))):
                        raise ValueError("zeros as at the end, but data behind them")
                return
            size, type_flag = check_header(block)
        except OSError as error:
            raise unreadable(file.path, error) from error
        except (ValueError, BadSample) as error:
            raise UserError(f"{where}, offset {at}: damaged tar header ({error}); download it again") from error
        at += BLOCK
        size = said.size_of(size, type_flag)
        name = said.name or header_name(block)
        if type_flag == SPARSE:
            at = behind_map(file, block, at, end)
        if size > end - at:
            raise UserError(
                f"{where}, offset {at}: {findable(name)} lacks {at + size - end} bytes, so the tar is cut off; "
                "download it again"
            )
        if type_flag in NAMES:
            try:
                if size > MAX_NAME_ENTRY:
                    raise ValueError(f"{size} bytes")
                said.add(file.read(at, size), type_flag)
            except OSError as error:
                raise unreadable(file.path, error) from error
            except (ValueError, BadSample) as error:
                raise UserError(f"{where}, offset {at}: damaged name ({error}); download it again") from error
        elif type_flag == SPARSE or (type_flag in FILES and said.sparse):
            yield SparseMember(name, at, size)
            said = Said()
        elif type_flag in FILES:
            yield TarMember(name, at, size)
            said = Said()
        elif type_flag in LINKS:
            yield TarLink(name, at - BLOCK, said.link or link_target(block), hard=type_flag == HARD_LINK)
            said = Said()
        elif type_flag != b"g":  # the attributes of the tar belong to no file
            if type_flag != FOLDER:
                passed({b"3": "devices", b"4": "devices", b"6": "named pipes"}.get(type_flag, "of no known type"), name)
            said = Said()
        at += padded(size)


SPARSE, FOLDER = b"S", b"5"
MAP_GOES_ON, MORE_MAP_GOES_ON = 482, 504
"""Places in the header of a sparse file, and in the blocks behind it, that say whether another block of its map follows
(GNU tar's manual, "Old GNU Format")."""


def behind_map(file: ArchiveFile, block: bytes, at: int, end: int) -> int:
    """Where the content of GNU's sparse file begins, whose header stands before `at`."""
    more = block[MAP_GOES_ON]
    while more and end - at >= BLOCK:
        try:
            more = file.read(at, BLOCK)[MORE_MAP_GOES_ON]
        except OSError as error:
            raise unreadable(file.path, error) from error
        at += BLOCK
    return at


class Limited(io.RawIOBase):
    """A stream that ends with an OSError after `MAX_UNPACKED` bytes: a few megabytes can unpack to terabytes, and
    Python's tarfile takes the name of a file, however long, into memory."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self.stream = stream
        self.left = MAX_UNPACKED

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        content = self.stream.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        self.left -= len(content)
        if self.left < 0:
            raise OSError(f"it unpacks to more than {MAX_UNPACKED:,} bytes")
        return content


@contextmanager
def tar_gz(path: Path) -> Iterator[tarfile.TarFile]:
    """A small .tar.gz, to be read once from begin to end."""
    check_no_special(path)
    with gzip.open(path) as stream, tarfile.open(fileobj=Limited(stream), mode="r|") as tar:
        yield tar


class ZipEntry(NamedTuple):
    """A file in a zip, as the directory describes it."""

    offset: int
    """Of its local header."""
    compressed: int
    """Bytes in the zip."""
    size: int
    """Bytes unpacked."""
    crc32: int
    method: int
    """0 stored, 8 deflated."""
    problem: str
    """Why it is not read; empty where it is."""


LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, sizes of name and extra field; the rest is in the directory too


ENCRYPTED = 1
"""A bit of a file's flags."""
ZIP_ERRORS = (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, OverflowError, struct.error)
"""What Python's zipfile raises on a damaged directory."""


def zip_entries(file: ArchiveFile) -> dict[str, ZipEntry]:
    """The files of a zip by name; UserError where it has no whole directory."""
    stream = Joined([file])
    try:
        with zipfile.ZipFile(io.BufferedReader(stream, CHUNK)) as archive:
            return {
                info.filename: ZipEntry(
                    info.header_offset,
                    info.compress_size,
                    info.file_size,
                    info.CRC,
                    info.compress_type,
                    "a link, which is not followed in a zip: unpack it"
                    if stat.S_ISLNK(info.external_attr >> 16)
                    else "encrypted: unpack the zip"
                    if info.flag_bits & ENCRYPTED
                    else "",
                )
                for info in archive.infolist()
                if not info.is_dir()
            }
    except (*ZIP_ERRORS, BadSample) as error:
        if stream.failure is not None:
            raise unreadable(file.path, stream.failure) from error
        raise UserError(f"{file.path}: the zip is damaged or cut off ({error}); download it again") from error


def read_zip(file: ArchiveFile, name: str, entry: ZipEntry, limit: int = MAX_PICTURE) -> bytes:
    """Content of a file in a zip, its checksum verified; BadSample where it is damaged or larger than `limit`.

    Never takes more memory than the directory says and `limit` allows, whatever the compressed bytes unpack to.
    """
    check_size(max(entry.size, entry.compressed), limit)
    where = f"{file.path}, offset {entry.offset}, {name}"
    if entry.problem:
        raise BadSample(f"{where}: {entry.problem}")
    if entry.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadSample(f"{where}: packed by method {entry.method}, expected 0 (stored) or 8 (deflated)")
    if not 0 <= entry.offset <= file.size - entry.compressed:
        raise BadSample(f"{where}: lies outside of the zip")
    signature, *lengths = LOCAL_HEADER.unpack(file.read(entry.offset, LOCAL_HEADER.size))
    if signature != b"PK\3\4":
        raise BadSample(f"{where}: damaged header")
    content = file.read(entry.offset + LOCAL_HEADER.size + sum(lengths), entry.compressed)
    if entry.method == zipfile.ZIP_DEFLATED:
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, entry.size + 1)
        except zlib.error as error:
            raise BadSample(f"{where}: cannot be unpacked ({error})") from error
    if len(content) != entry.size or zlib.crc32(content) != entry.crc32:
        raise BadSample(f"{where}: differs from its checksum")
    return content


def read_file(path: str | os.PathLike[str], limit: int = MAX_PICTURE) -> bytes:
    """Content of a file; BadSample where it is no regular file or has more than `limit` bytes, OSError where it cannot
    be read."""
    try:
        with open_file(path) as file:
            check_size(os.fstat(file.fileno()).st_size, limit)
            return file.read()
    except SpecialFile as error:
        raise BadSample(str(error)) from error


def check_size(size: int, limit: int) -> None:
    """BadSample above the limit."""
    if size > limit:
        raise BadSample(f"{size:,} bytes, more than the limit of {limit:,}")
