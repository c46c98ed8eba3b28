"""Random access into RAR archives as they were downloaded.

The headers are read by rarfile (https://rarfile.readthedocs.io), stored files too, where they lie. Compressed files are
unpacked by a program, in one of two ways:

    alone     Its compressed bytes are handed over as an archive of one file: a process and the file's own bytes,
              however many others there are.
    together  In a solid archive a file unpacks only behind all files before it, and in volumes a file may be cut.
              Everything is unpacked once, in the archive's order and as one stream, into a temporary file, from which
              files are then read at their offsets.

rarfile runs such programs as well, but (4.5) takes their warnings for content, and gives bsdtar no archive.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from heapq import nsmallest
from itertools import accumulate
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from tempfile import NamedTemporaryFile, gettempdir
from typing import IO, Any

from headrace.shards.errors import MachineError, is_machine_fault
from headrace.tools.errors import UserError
from headrace.tools.progress import say
from headrace.tools.sources.archives import CHUNK, MAX_RATIO, SEEK_SPACING, ArchiveFile, check_size
from headrace.tools.sources.listing import check_no_special, raise_cause
from headrace.tools.sources.source import BadSample

PROGRAMS = (
    ("unrar", "p", "-inul", "-p-", "--"),
    ("bsdtar", "--extract", "--to-stdout", "--file"),
    ("unar", "-quiet", "-password", "", "-output-directory", "-"),
    ("7z", "e", "-so", "-bd", "-p", "--"),
    ("7zz", "e", "-so", "-bd", "-p", "--"),
)
"""What writes the content of an archive's files to its standard output, the archive's name behind it.

Of Debian's, bsdtar reads RAR 5 and most of RAR 4, unar RAR 4 and some of RAR 5, and 7zz neither; bsdtar starts in a
tenth of the time that unar takes.
"""
FROM_OUTSIDE = {each.value: each.name for each in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
"""What ends a program for no fault of the archive, SIGKILL for want of memory; damage may make it crash by itself."""
FITTING = "unrar, or unar and bsdtar (apt-get install unar libarchive-tools); or unpack the archive"
PROBED = 3
"""Files, the smallest, of which one has to unpack for an archive to be read at all; the others may be damaged."""
MAX_PROBE = 1 << 30
"""Bytes of such a file, unpacked."""


class RarArchive:
    """The files of a .rar, or of the volumes that begin with it.

    Raises:
        UserError: It is damaged, cut off or encrypted, or rarfile is missing, or a program that can unpack it, or, for
            a solid one, the space.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = library(path)
        self._archive = self._opened()
        self.status = [os.stat(volume) for volume in self._archive.volumelist()]
        """Of each volume."""
        self._files = [info for info in self._archive.infolist() if info.is_file()]
        self._programs = [program for program in PROGRAMS if shutil.which(program[0])]
        self._unpacked: ArchiveFile | None = None
        self._offsets: dict[str, int] = {}
        compressed = [info for info in self._files if info.compress_type != self._library.RAR_M0]
        try:
            if compressed and (self._archive.is_solid() or len(self._archive.volumelist()) > 1):
                self._unpack_together()
            elif compressed:
                self._probe(compressed)
        except OSError as error:
            kind = MachineError if is_machine_fault(error) else UserError
            raise kind(f"{path}: cannot be unpacked ({error.strerror or error})") from error

    def names(self) -> Iterator[str]:
        """Of the regular files."""
        return (info.filename for info in self._files)

    def links(self) -> Iterator[str]:
        """Of what is neither a regular file nor a folder."""
        return (info.filename for info in self._archive.infolist() if not info.is_file() and not info.is_dir())

    def read(self, name: str, limit: int) -> bytes:
        """Content of a file, its checksum verified; BadSample above `limit` bytes or where it cannot be unpacked,
        OSError where the archive cannot be read.

        Takes no more memory than the archive says and `limit` allows, whatever the compressed bytes unpack to.
        """
        try:
            info = self._archive.getinfo_orig(name)  # of a file that the archive holds twice, the one with content
        except self._library.Error as error:
            raise_cause(self.path, error)
            raise BadSample(f"{self.path}, {name}: damaged ({one_line(error)})") from error
        check_size(max(info.file_size, info.compress_size), limit)
        if self._unpacked is not None:
            return self._unpacked.read(self._offsets[info.filename], info.file_size)
        if info.needs_password():
            raise BadSample(f"{self._where(info)}: encrypted")
        if info.compress_type != self._library.RAR_M0 and info.file_size:
            return self._unpack_alone(info)
        try:
            with self._archive.open(info) as stream:
                content: bytes = stream.read()
        except self._library.Error as error:
            raise_cause(self.path, error)
            raise BadSample(f"{self._where(info)}: damaged ({one_line(error)})") from error
        return content

    def _where(self, info: Any) -> str:
        return f"{self.path}, offset {info.header_offset}, {info.filename}"

    def _opened(self) -> Any:
        """The `rarfile.RarFile`, seen to be whole."""
        check_no_special(self.path)
        ends: dict[str, int] = {}
        closed = set()

        def note(block: Any) -> None:
            volume = block.volume_file
            ends[volume] = max(ends.get(volume, 0), block.data_offset + block.add_size)
            if block.type == self._library.RAR_BLOCK_ENDARC:
                closed.add(volume)

        try:
            archive = self._library.RarFile(os.path.abspath(self.path), errors="strict", info_callback=note)
            if archive.needs_password() and not archive.infolist():
                raise UserError(f"{self.path}: the rar is encrypted; unpack it")
            for volume in archive.volumelist():
                missing = ends.get(volume, 0) - os.stat(volume).st_size
                if missing > 0:
                    raise ValueError(f"{os.path.basename(volume)} lacks {missing:,} bytes")
                if missing < 0 and volume not in closed:  # RAR 4 may do without an end
                    raise ValueError(f"{os.path.basename(volume)}, offset {ends.get(volume, 0)}: no header")
        except self._library.RarCannotExec as error:  # for the comment
            raise self._lacks_program() from error
        except (self._library.Error, OSError, ValueError, LookupError, struct.error) as error:
            raise_cause(self.path, error)
            raise UserError(
                f"{self.path}: the rar is damaged or cut off ({one_line(error)}); download it again"
            ) from error
        return archive

    def _lacks_program(self, reason: BadSample | None = None) -> UserError:
        if reason is None:
            return UserError(f"{self.path}: its files are compressed, which takes a program: {FITTING}")
        return UserError(f"{reason}: it is damaged, or takes another program: {FITTING}")

    def _probe(self, compressed: Iterable[Any]) -> None:
        """UserError unless there is a program that unpacks this kind of archive."""
        readable = [info for info in compressed if 0 < info.file_size <= MAX_PROBE and not info.needs_password()]
        reason = None
        for info in nsmallest(PROBED, readable, key=lambda info: info.file_size):
            try:
                self._unpack_alone(info)
                return
            except BadSample as error:
                reason = reason or error
        if readable:
            raise self._lacks_program(reason if self._programs else None)

    def _unpack_alone(self, info: Any) -> bytes:
        """Content of a compressed file, by the first program that can.

        Raises:
            BadSample: None can.
            OSError: The archive cannot be read.
            MachineError: There is no room for a temporary file, or no program can be run.
        """
        with open(info.volume_file, "rb") as archive:
            archive.seek(info.header_offset)
            packed = archive.read(info.header_size + info.compress_size)
        try:
            return self._unpack_packed(info, packed)
        except OSError as error:
            raise MachineError(f"{self._where(info)}: cannot be unpacked here ({error})") from error

    def _unpack_packed(self, info: Any, packed: bytes) -> bytes:
        before, behind = RAR5_FRAME if info.extract_version >= 50 else RAR4_FRAME
        with NamedTemporaryFile(prefix="headrace-", suffix=".rar") as alone:
            alone.write(before + packed + behind)
            alone.flush()
            reason = None
            for program in self._programs:
                content = io.BytesIO()
                try:
                    self._run(program, alone.name, [info], content)
                except BadSample as error:
                    reason = reason or error
                    continue
                return content.getvalue()
            raise reason or BadSample(f"{self._where(info)}: no program unpacks it")

    def _unpack_together(self) -> None:
        """All files, into a temporary file that is gone with this object."""
        total = sum(info.file_size for info in self._files)
        if total > MAX_RATIO * sum(info.compress_size for info in self._files) + SEEK_SPACING:
            raise UserError(f"{self.path}: unpacks to {total:,} bytes, far more than videos and pictures do")
        if any(info.needs_password() for info in self._files):
            raise UserError(f"{self.path}: the rar is encrypted; unpack it")
        folder = gettempdir()
        why = f"{self.path}: solid or in volumes, so it is unpacked once into a temporary file of {total:,} bytes"
        if total > shutil.disk_usage(folder).free:
            raise UserError(f"{why}, for which {folder} lacks the space; name another folder in TMPDIR")
        say(f"{why} in {folder}")
        reason = None
        for program in self._programs:
            with NamedTemporaryFile(prefix="headrace-") as together:
                try:
                    self._run(program, os.path.abspath(self.path), self._files, together)
                except BadSample as error:
                    self._check_readable()
                    reason = reason or error
                    continue
                together.flush()
                ends = accumulate(info.file_size for info in self._files)
                self._offsets = {
                    info.filename: end - info.file_size for info, end in zip(self._files, ends, strict=True)
                }
                self._unpacked = ArchiveFile(Path(together.name))
                self._unpacked.path = self.path
                return
        raise self._lacks_program(reason)

    def _check_readable(self) -> None:
        """OSError where the archive cannot be read, of which a program tells at most that it failed."""
        for volume in self._archive.volumelist():
            with open(volume, "rb", buffering=0) as file:
                while file.read(CHUNK):
                    pass

    def _run(self, program: Sequence[str], archive: str, files: Iterable[Any], into: Any) -> None:
        """Write the content of an archive's files; BadSample where it differs from a checksum, MachineError where the
        program was killed."""
        with Popen([*program, archive], stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL) as process:
            assert process.stdout is not None
            try:
                for info in files:
                    if not self._copied(process.stdout, into, info):
                        if not process.stdout.read(1) and -process.wait() in FROM_OUTSIDE:
                            ending = FROM_OUTSIDE[-process.returncode]
                            raise MachineError(f"{self._where(info)}: {program[0]} was ended by {ending}")
                        raise BadSample(f"{self._where(info)}: {program[0]} cannot unpack it")
            finally:
                process.kill()  # what it would still write belongs to no file

    def _copied(self, stream: IO[bytes], into: Any, info: Any) -> bool:
        """Whether a file's content was there, with the checksum that the archive gives it."""
        by_crc = info.CRC is not None
        checksum = self._library.CRC32Context() if by_crc else self._library.Blake2SP()
        left = info.file_size
        while left and (part := stream.read(min(CHUNK, left))):
            into.write(part)
            checksum.update(part)
            left -= len(part)
        expected = info.CRC if by_crc else info.blake2sp_hash
        return not left and expected in (None, checksum.digest())


RAR4_FRAME = (b"Rar!\x1a\x07\x00" + bytes.fromhex("cf907300000d00000000000000"), b"")
"""What stands before and behind the only file of an archive: signature and main header; RAR 4 needs no end."""
RAR5_FRAME = (
    b"Rar!\x1a\x07\x01\x00" + struct.pack("<I", zlib.crc32(b"\3\1\0\0")) + b"\3\1\0\0",
    struct.pack("<I", zlib.crc32(b"\3\5\0\0")) + b"\3\5\0\0",
)
"""The same for RAR 5, whose headers of size 3 say type and flags; 5 is the end."""


def library(path: Path) -> Any:
    """rarfile; UserError where it is not installed."""
    try:
        import rarfile
    except ImportError as error:
        raise UserError(f"{path}: unpack it, or pip install headrace[video]") from error
    return rarfile


def one_line(error: Exception) -> str:
    """The text of an error."""
    return " ".join(str(error).split()) or type(error).__name__
