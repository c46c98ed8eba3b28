"""What lies in a folder, where nothing may go unseen: whatever cannot be listed is an error, unlike in `os.walk`,
`os.path.isdir` and the like, which take a folder that fails for one that is not there."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from headrace.shards.errors import MachineError, is_machine_fault
from headrace.shards.manifest import MANIFEST_NAME
from headrace.shards.special import special, special_mode
from headrace.tools.errors import UserError

NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""What a system says of a name that leads to nothing."""

StrPath = str | os.PathLike[str]

OF_WINDOWS = ("Thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini", "$RECYCLE.BIN", "System Volume Information")
CLUTTER = frozenset((*OF_WINDOWS, "__MACOSX", "Icon\r", "@eaDir", "lost+found"))
"""What systems leave in folders and archives for themselves, beside hidden names: it is no data."""
SET_MARK = b'"headrace_shards"'
"""What the manifest of a shard set begins with."""


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is hidden, such as a Mac's `._` doubles, or what a system leaves behind."""
    return name.startswith(".") or name in CLUTTER


def is_shard_set(folder: StrPath) -> bool:
    """Whether a folder is a shard set that Headrace wrote."""
    try:
        with open_file(os.path.join(folder, MANIFEST_NAME)) as file:
            return SET_MARK in file.read(256)
    except (OSError, SpecialFile):
        return False


class SpecialFile(Exception):
    """A path leads to neither a file nor a folder, and was not opened; the text is the reason."""


def open_file(path: StrPath) -> io.FileIO:
    """A regular file, opened to be read without a buffer.

    Raises:
        SpecialFile: The path leads to a named pipe, a socket, a device, or a folder.
        OSError: The file cannot be opened.
    """
    check_mode(os.stat(path).st_mode)
    file = io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    try:
        check_mode(os.fstat(file.fileno()).st_mode)  # it may have been exchanged
    except BaseException:
        file.close()
        raise
    return file


def check_mode(mode: int) -> None:
    """SpecialFile for the mode of anything but a regular file."""
    if not stat.S_ISREG(mode):
        raise SpecialFile(f"not a regular file but {special_mode(mode) or 'a folder'}")


def check_no_special(path: StrPath) -> None:
    """UserError where a path that a user named leads to a named pipe, a socket or a device."""
    if what := special(path):
        raise UserError(f"{findable(path)}: {what}, which is not opened; name a file or a folder")


def unreadable(path: StrPath, error: OSError) -> UserError | MachineError:
    """The error for a file or folder that a listing needs and cannot read: a machine's fault stays one."""
    text = f"{findable(path)}: {error.strerror or error}"
    return MachineError(text) if is_machine_fault(error) else UserError(text)


def findable(path: StrPath) -> str:
    """A path as text by which the file can be found: bytes that are no UTF-8 as `\\xe9`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def printable(name: str) -> str:
    """A name without what is no Unicode text, as file names may hold."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def raise_cause(path: StrPath, error: BaseException) -> None:
    """`unreadable` where an exception is an error of the system, or that of a library to which a fault of the machine
    has led; else nothing happens."""
    if isinstance(error, OSError) and error.errno is not None:
        raise unreadable(path, error) from error
    cause: BaseException | None = error
    while cause is not None:
        if is_machine_fault(cause):
            reason = cause.strerror if isinstance(cause, OSError) else cause
            raise MachineError(f"{findable(path)}: {reason or type(cause).__name__}") from error
        cause = cause.__cause__ or cause.__context__


def status(path: StrPath) -> os.stat_result | None:
    """Of what a path leads to; None where it leads to nothing. UserError or MachineError where that cannot be told."""
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno in NOT_THERE:
            return None
        raise unreadable(path, error) from error


def exists(path: StrPath) -> bool:
    """Whether it leads to anything."""
    return status(path) is not None


def is_folder(path: StrPath) -> bool:
    """Whether it leads to a folder."""
    found = status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def is_file(path: StrPath) -> bool:
    """Whether it leads to a regular file."""
    found = status(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def names_in(folder: StrPath) -> tuple[list[str], list[str]]:
    """(names of the folders in a folder, names of everything else), both sorted, without clutter (`is_clutter`).

    A link counts as what it leads to, one that leads to nothing as a file. UserError or MachineError where a name
    cannot be told.
    """
    folders: list[str] = []
    files: list[str] = []
    path = folder
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = entry.path
                if not is_clutter(entry.name):
                    (folders if leads_to_folder(entry) else files).append(entry.name)
    except OSError as error:
        raise unreadable(error.filename or path, error) from error
    return sorted(folders), sorted(files)


def leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """`DirEntry.is_dir`, for links in circles as well."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno in NOT_THERE:
            return False
        raise


def is_dangling(path: StrPath) -> bool:
    """Whether it is a link that leads to nothing."""
    return os.path.islink(path) and not exists(path)


def walk(folder: StrPath, again: Callable[[str], object] = lambda path: None) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its files) of a folder and all below, both sorted.

    Clutter is left out. Links are followed, but to no folder twice, since they may lead in circles: `again` is called
    with the others. UserError or MachineError where a folder cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [os.fspath(folder)]
    while waiting:
        parent = waiting.pop()
        found = status(parent)
        if found is None:
            gone(parent)
        if (found.st_dev, found.st_ino) in seen:
            again(parent)
            continue
        seen.add((found.st_dev, found.st_ino))
        folders, files = names_in(parent)
        yield parent, files
        waiting += [os.path.join(parent, name) for name in reversed(folders)]


def gone(folder: StrPath) -> NoReturn:
    """A folder that was there a moment ago."""
    raise UserError(f"{findable(folder)}: there is no such folder any more")


def below(path: StrPath, folder: StrPath) -> bool:
    """Whether a path lies in a folder, or is it, wherever links lead; neither has to exist."""
    inner, outer = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return inner == outer or outer in inner.parents
