"""What lies in a folder, where nothing may go unseen: whatever cannot be listed is an error, unlike in `os.walk`,
`os.path.isdir` and the like, which take a folder that fails for one that is not there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from headrace.shards.errors import MachineError, is_machine_fault
from headrace.tools.errors import UserError

NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""What a system says of a name that leads to nothing."""

StrPath = str | os.PathLike[str]


def unreadable(path: StrPath, error: OSError) -> UserError | MachineError:
    """The error for a file or folder that a listing needs and cannot read: a machine's fault stays one."""
    text = f"{findable(path)}: {error.strerror or error}"
    return MachineError(text) if is_machine_fault(error) else UserError(text)


def findable(path: StrPath) -> str:
    """A path as text by which the file can be found: bytes that are no UTF-8 as `\\xe9`."""
    return os.fsencode(path).decode(errors="backslashreplace")


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
    """(names of the folders in a folder, names of everything else), both sorted, without hidden ones.

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
                if not entry.name.startswith("."):
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


def walk(folder: StrPath) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its files) of a folder and all below, both sorted.

    Hidden names are left out. Links are followed, but to no folder twice, since they may lead in circles. UserError
    or MachineError where a folder cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [os.fspath(folder)]
    while waiting:
        parent = waiting.pop()
        found = status(parent)
        if found is None:
            gone(parent)
        if (found.st_dev, found.st_ino) in seen:
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
