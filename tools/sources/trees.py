"""A folder and the tars, zips and rars that lie in it, as one tree of files at random access. Nothing is unpacked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import xxhash

from headrace.shards.errors import is_machine_fault
from headrace.shards.formats.tar_links import TarMember
from headrace.tools.errors import UserError
from headrace.tools.progress import say
from headrace.tools.sources.archives import (
    MAX_UNPACKED,
    SEEK_SPACING,
    ArchiveFile,
    GzipArchive,
    ZipEntry,
    check_size,
    problem,
    read_file,
    read_zip,
    scan_tar,
    zip_entries,
)
from headrace.tools.sources.fingerprint import Fingerprint
from headrace.tools.sources.left_out import LeftOut
from headrace.tools.sources.listing import (
    SpecialFile,
    check_no_special,
    findable,
    is_clutter,
    is_file,
    is_folder,
    names_in,
    open_file,
    unreadable,
    walk,
)
from headrace.tools.sources.rar import RarArchive
from headrace.tools.sources.source import BadSample

ARCHIVES = (".tar", ".zip")
GZIPPED = (".tar.gz", ".tgz")
RAR = ".rar"
LATER_VOLUME = re.compile(r"\.part(?!0*1\.)\d+\.rar$")
"""A part of a rar, which is read through the first."""
PACKED = (*GZIPPED, RAR, ".tar.bz2", ".tar.xz", ".gz", ".7z")
PART = re.compile(r"(20bn-something-something-v2)-\d\d")
"""A part of the one data set whose .tar.gz comes in parts."""


class Member(NamedTuple):
    """A file in an archive."""

    archive: ArchiveFile | RarArchive
    entry: TarMember | ZipEntry | str
    """Of a rar, its name there."""


def small_spacing(size: int) -> int:
    """Bytes between the places at which reading from a .gz of some bytes may begin, where half of that is unpacked for
    each small file that is read: the places take some 64 MB of memory, or less."""
    return min(SEEK_SPACING, max(1 << 20, size // 2048))


class Tree:
    """Files by their paths below `src`, with slashes; those in an archive by their names there.

    Where an archive and the folder hold the same path, the archive's file is taken, since a tree may be half unpacked.
    UserError where `src` is neither a folder nor a tar, zip or rar, or where an archive is damaged.

    Args:
        src: the folder, or one archive.
        gzipped: whether `src` may be a .tar.gz as well, and whether reading from those begins at more places: for files
            of some hundred kilobytes and less, see `small_spacing`.
    """

    def __init__(self, src: Path, *, gzipped: bool = False) -> None:
        self.src = src
        self._small = gzipped
        self.packed: list[str] = []
        """Compressed files that are not read from, unless by `look_into_packed`."""
        self.left_out = LeftOut()
        """What is no file."""
        self._members: dict[str, Member] = {}
        names: set[str] = set()
        if is_folder(src):
            for parent, files in walk(
                src, lambda path: self.left_out.add("links to folders that were read before", path)
            ):
                below = os.path.relpath(parent, src).replace(os.sep, "/")
                names.update(files if below == "." else (f"{below}/{name}" for name in files))
            self.packed = sorted(name for name in names if name.endswith(PACKED))
            for name in names_in(src)[1]:
                if name.endswith(ARCHIVES) and is_file(src / name):
                    self._add_archive(src / name)
        elif is_file(src) and src.name.endswith(ARCHIVES):
            self._add_archive(src)
        elif is_file(src) and src.name.endswith(RAR):
            self._add_rar(src)
        elif gzipped and is_file(src) and src.name.endswith(GZIPPED):
            self._add_gzipped([src])
        elif is_file(src):
            hint = unpack_hint([src.name]) if src.name.endswith(PACKED) else "expected a folder, a .tar, .zip or .rar"
            raise UserError(f"{src}: {hint}")
        else:
            check_no_special(src)
            raise UserError(f"{src}: there is no such file or folder")
        self._lists: dict[str, str] = {}
        """Checksums of the lists that were read."""
        self.names = sorted(names.union(self._members))
        """Paths of all files."""

    def look_into_packed(self, wanted: Callable[[str], bool] = lambda name: True) -> bool:
        """Add the files of every .rar and .tar.gz that lies in the folder and whose name is wanted, and of a .tar.gz in
        parts; False where there is none.

        A .tar.gz has to be gone through once, and files of a .rar are unpacked one by one, so this is for a tree that
        lacks what it should hold.
        """
        here = [name for name in names_in(self.src)[1] if is_file(self.src / name)] if is_folder(self.src) else []
        rars = [name for name in here if name.endswith(RAR) and not LATER_VOLUME.search(name)]
        for name in rars:
            self._add_rar(self.src / name)
        groups = [[name] for name in here if name.endswith(GZIPPED) and wanted(name)]
        parts = [name for name in here if PART.fullmatch(name)]
        for group in [*groups, *([parts] if parts else [])]:
            self._add_gzipped([self.src / name for name in group])
        self.names = sorted({*self.names, *self._members})
        self.packed = [name for name in self.packed if name not in rars and [name] not in groups]
        return bool(rars or groups or parts)

    def _add_archive(self, path: Path, archive: ArchiveFile | None = None) -> None:
        archive = archive or ArchiveFile(path)
        entries: Iterable[tuple[str, TarMember | ZipEntry]] = (
            zip_entries(archive).items()
            if path.name.endswith(".zip")
            else ((entry.name, entry) for entry in scan_tar(archive, passed=partial(self._pass, path)))
        )
        for name, entry in entries:
            self._add(name, Member(archive, entry))

    def _add_gzipped(self, parts: list[Path]) -> None:
        say(f"{parts[0]}: going through it once; unpacked files would be read at once")
        spacing = small_spacing(sum(part.stat().st_size for part in parts)) if self._small else SEEK_SPACING
        self._add_archive(parts[0], GzipArchive(parts, spacing))

    def _add_rar(self, path: Path) -> None:
        archive = RarArchive(path)
        for name in archive.names():
            self._add(name, Member(archive, name))
        for name in archive.links():
            self._pass(path, "links in a rar", name)

    def _pass(self, path: Path, what: str, name: str) -> None:
        """Count what an archive holds that is no file."""
        self.left_out.add(what, f"{path}, {name}")

    def _add(self, name: str, member: Member) -> None:
        parts = PurePosixPath(name).parts
        if not any(is_clutter(part) for part in parts):
            self._members["/".join(parts)] = member

    def read(self, name: str, limit: int) -> bytes:
        """Content of a file; BadSample above `limit` bytes or where it is damaged, OSError where it cannot be read."""
        match self._members.get(name):
            case None:
                return read_file(self.src / name, limit)
            case RarArchive() as rar, str() as inside:
                return rar.read(inside, limit)
            case ArchiveFile() as zipped, ZipEntry() as entry:
                return read_zip(zipped, name, entry, limit)
            case ArchiveFile() as tar, TarMember() as entry:
                if reason := problem(entry):
                    raise BadSample(reason)
                check_size(entry.size, limit)
                return tar.read(entry.offset, entry.size)
            case member:
                raise AssertionError(member)

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of a file; empty where it cannot be read, MachineError where that cannot be told."""
        try:
            member = self._members.get(name)
            if member is None:
                with open_file(self.src / name) as file:
                    return file.read(size)
            if isinstance(member.archive, ArchiveFile) and isinstance(member.entry, TarMember):
                return member.archive.read(member.entry.offset, min(size, member.entry.size))
            return self.read(name, MAX_UNPACKED)[:size]
        except OSError as error:
            if is_machine_fault(error):
                raise unreadable(self.origin(name), error) from error
            return b""
        except (BadSample, SpecialFile):
            return b""

    def origin(self, name: str) -> str:
        """Where a file is, for a person."""
        place = f"{self._members[name].archive.path}, {name}" if name in self._members else str(self.src / name)
        return findable(place)

    def note(self, fingerprint: Fingerprint, files: Iterable[str]) -> None:
        """Put the lists that were read, and files of samples, into the fingerprint; "" is one that is missing."""
        for name, checksum in sorted(self._lists.items()):
            fingerprint.name(name)
            fingerprint.content(checksum)
        archives: dict[int, ArchiveFile | RarArchive] = {}
        for name in files:
            fingerprint.name(name)
            if name in self._members:
                archive = self._members[name].archive
                archives[id(archive)] = archive
            elif name:
                fingerprint.file(self.src / name)
        for archive in archives.values():
            fingerprint.archive(archive.status)

    def read_list(self, name: str, limit: int) -> str:
        """Text of a list of the data set; UserError where it cannot be read or is not UTF-8."""
        try:
            text = self.read(name, limit)
            self._lists[name] = xxhash.xxh3_128_hexdigest(text)
            return text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.origin(name)}, offset {error.start}: not UTF-8") from error
        except OSError as error:
            raise unreadable(self.origin(name), error) from error
        except BadSample as error:
            raise UserError(f"{self.origin(name)}: {error}") from error


def unpack_hint(packed: list[str]) -> str:
    """Why compressed files are not read, naming the first."""
    return f"{packed[0]} can only be read from its beginning: unpack it" if packed else ""


def relative(path: str, root: str | os.PathLike[str]) -> str:
    """The path below a folder, as `os.path.relpath` gives it but in a tenth of its time where that is plain to see."""
    prefix = os.path.join(root, "")
    return path[len(prefix) :] if path.startswith(prefix) else os.path.relpath(path, root)
