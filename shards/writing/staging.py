"""A folder that appears whole or not at all.

A set is written into a hidden folder beside its destination and takes the destination's name when it is
complete. Where the destination holds an older set, the two folders change places in one system call, so that
a reader, or a machine that loses power, finds either the old set or the new one.

Beside a destination X there may be:

    .X.writing     what `write_shards` writes; a killed one's is removed by the next writer
    .X.repair      likewise, of `headrace verify --repair`
    .X.partial     the finished parts of a conversion, which stay until the set is complete
    .X.displaced   without such a system call: the old set, for the moment in which there is no X
    .X.lock        the lock of whoever is writing any of these
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Literal

from headrace.shards.errors import ShardError
from headrace.shards.lock import FileLock
from headrace.shards.manifest import EXTENSIONS, MANIFEST_NAME, Manifest, read_manifest

REJECTS_NAME = "rejects.jsonl"
"""What a converter had to leave out; it belongs to the set."""

Use = Literal["writing", "repair", "partial"]

SET_NAME = "set"
"""Folder in which a conversion puts its set together."""
FILE_OF_A_SET = re.compile(
    rf"\.?(?:shard-[0-9]{{6,}}\.(?:{'|'.join(EXTENSIONS.values())}|index\.npy)|manifest\.json|rejects\.jsonl)(?:\.partial)?"
)
"""The names that a writer gives, those of files under way among them."""

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
RENAME_EXCHANGE = 2  # Linux, renameat2
RENAME_SWAP = 2  # macOS, renamex_np


def sync_path(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file under a temporary name, sync it and give it its name."""
    temporary = path.with_name(f".{path.name}.partial")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)


NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
"""What systems say that cannot exchange; all else is said of these two folders."""


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change places atomically; False where the system cannot, OSError where it fails."""
    a, b = os.fsencode(one), os.fsencode(other)
    swap = getattr(libc, "renamex_np" if sys.platform == "darwin" else "renameat2", None)
    if swap is None:
        return False
    arguments = (a, b, RENAME_SWAP) if sys.platform == "darwin" else (AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE)
    if swap(*arguments) == 0:
        return True
    number = ctypes.get_errno()
    if number in NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), os.fspath(other))


class Staging:
    """Context manager: `set` is where to write; `commit` gives it the destination's name.

    Leaving without `commit` removes what was written and leaves the destination as it was. A process that is killed
    leaves the folder behind, and the next one that writes to the same destination removes it.

    Args:
        destination: The folder that appears at the end.
        use: Whose the hidden folder is. With "partial" it stays without `commit`, and the next one finds in it what the
            one before has written; removing it after `commit` is the caller's, and the set is put together in a folder
            inside it, so that nothing else comes to stand in the destination.
    """

    def __init__(self, destination: Path, use: Use = "writing") -> None:
        # The hidden folder has to lie on the same file system, beside what the name really points to.
        self.destination = Path(os.path.realpath(destination))
        if not self.destination.name:
            raise ShardError(f"{destination}: cannot be written; name a folder inside it")
        self.keep = use == "partial"
        self.folder = hidden(self.destination, use)
        self.set = self.folder / SET_NAME if self.keep else self.folder
        self.displaced = displaced_name(self.destination)
        self.lock = FileLock(hidden(self.destination, "lock"))
        self.entered = self.committed = False

    def __enter__(self) -> Staging:
        try:
            self.destination.parent.mkdir(parents=True, exist_ok=True)
            if not self.lock.take():
                raise ShardError(f"{self.destination}: another process is writing this set")
            self._recover()
            check_replaceable(self.destination)
            for leftover in (hidden(self.destination, use) for use in ("writing", "repair")):
                with contextlib.suppress(*(() if leftover == self.folder else (ShardError,))):
                    remove_set(leftover)
            self.folder.mkdir(exist_ok=True)
            self.entered = True
        except OSError as error:
            self.__exit__()
            raise ShardError(f"{self.destination}: cannot write: {error.strerror}") from error
        except BaseException:
            self.__exit__()
            raise
        return self

    def _recover(self) -> None:
        """Finish what `commit` was doing when it was killed between two renames."""
        if not self.displaced.exists():
            return
        if not self.destination.exists() or is_empty_folder(self.destination):
            os.rename(self.displaced, self.destination)
            return
        try:
            read_manifest(self.destination)
        except ShardError as error:
            raise ShardError(
                f"{self.destination}: the set that was there is {self.displaced} now, and what is here is none "
                f"({error}); move one of them away"
            ) from error
        retire(self.displaced, self.destination)

    def commit(self) -> Manifest:
        """Make the set durable and put it in the destination's place.

        Raises:
            ShardError: The set is not what its manifest says, or the destination has come to hold something else than a
                set; then both are as before.
            OSError: The file system fails; the destination is as before.
        """
        manifest = check_complete(self.set)
        sync_path(self.set)
        check_replaceable(self.destination)
        if not self.destination.exists() or is_empty_folder(self.destination):
            os.rename(self.set, self.destination)
        elif not exchange(self.set, self.destination):
            # Without an atomic exchange there is a moment with no folder at the destination. Killed in it,
            # the old set waits under its other name, which readers mention and the next writer puts back.
            os.rename(self.destination, self.displaced)
            try:
                os.rename(self.set, self.destination)
            except OSError:
                os.rename(self.displaced, self.destination)
                raise
        self.committed = True
        sync_path(self.destination.parent)
        return manifest

    def retire_old(self) -> None:
        """After `commit`: remove the set that was there before."""
        for old in (self.set, self.displaced):
            retire(old, self.destination)

    def __exit__(self, *_: object) -> None:
        """Remove what has not become the destination: an unfinished set, or after `commit` the old one."""
        if self.lock.descriptor < 0:
            return
        with contextlib.suppress(OSError):
            if self.keep:
                self.folder.rmdir()  # only if there is nothing in it
            elif self.committed:
                self.retire_old()
            elif self.entered:
                remove(self.folder)
        self.lock.release()


def hidden(destination: Path, use: str) -> Path:
    """The name beside a destination for one of the uses that the top of this file lists."""
    return destination.with_name(f".{destination.name}.{use}")


def displaced_name(destination: Path) -> Path:
    """Where an old set waits while a new one takes its name on systems without an atomic exchange."""
    return hidden(destination, "displaced")


def remove(path: Path) -> None:
    """A file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_set(folder: Path) -> None:
    """Remove a folder in which a set was written, if it exists; ShardError where it holds anything else."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in sorted(names):
        if not FILE_OF_A_SET.fullmatch(name) or (folder / name).is_dir():
            raise ShardError(f"{folder}: not removed, because it holds {name}, which is not of a set; move it away")
    for name in names:
        (folder / name).unlink()
    folder.rmdir()


def retire(old: Path, destination: Path) -> None:
    """Remove a set that was replaced: what its manifest lists, and at last the manifest.

    What somebody has put there in the last moment moves to the destination, where it was meant to be.
    """
    try:
        names = os.listdir(old)
    except FileNotFoundError:
        return
    if names:
        try:
            listed = files_of(read_manifest(old))
        except ShardError:
            return  # nothing says what may go
        for name in set(names) - listed:
            if not os.path.lexists(destination / name):
                os.rename(old / name, destination / name)
        for name in sorted(listed & set(names), key=lambda name: name == MANIFEST_NAME):
            (old / name).unlink()
    with contextlib.suppress(OSError):
        old.rmdir()


def is_empty_folder(path: Path) -> bool:
    """True for a folder without entries."""
    return path.is_dir() and not os.listdir(path)


def files_of(manifest: Manifest) -> set[str]:
    """Names of the files of a set."""
    names = {MANIFEST_NAME, REJECTS_NAME}
    names.update(name for shard in manifest.shards for name in (shard.name, shard.index))
    return names


def check_complete(folder: Path) -> Manifest:
    """The manifest of a set that was just written, read back; ShardError where a file is not there, or not as long, as
    it says."""
    try:
        manifest = read_manifest(folder)
    except ShardError as error:
        raise ShardError(f"the new set cannot be read back ({error}); nothing was changed") from error
    for shard in manifest.shards:
        for name, size in ((shard.name, shard.bytes), (shard.index, shard.index_bytes)):
            found = size_of(folder / name)
            if found != size:
                what = "is gone" if found is None else f"has {found:,} bytes instead of {size:,}"
                raise ShardError(f"{folder / name}: {what}; nothing was changed")
    return manifest


def size_of(path: Path) -> int | None:
    """Bytes of a file; None where there is none. OSError where that cannot be told."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def check_replaceable(destination: Path) -> None:
    """ShardError unless a new set may take this name: nothing is there, an empty folder, or a set alone."""
    if not destination.exists():
        return
    if not destination.is_dir():
        raise ShardError(f"{destination}: exists and is not a folder")
    if os.path.ismount(destination):
        raise ShardError(f"{destination}: is a mount point and cannot be renamed; name a folder inside it")
    if is_empty_folder(destination):
        return
    try:
        manifest = read_manifest(destination)
    except ShardError as error:
        raise ShardError(f"{destination}: not empty, and not a shard set to replace ({error})") from error
    foreign = sorted(set(os.listdir(destination)) - files_of(manifest))
    if foreign:
        raise ShardError(f"{destination}: not replaced, because it also holds {foreign[0]}, which is not of the set")
