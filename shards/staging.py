"""A folder that appears whole or not at all.

A set is written into a hidden folder beside its destination and takes the destination's name when it is
complete. Where the destination holds an older set, the two folders change places in one system call, so that
a reader, or a machine that loses power, finds either the old set or the new one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import sys
from pathlib import Path

from headrace.shards.errors import ShardError
from headrace.shards.manifest import MANIFEST_NAME, read_manifest

REJECTS_NAME = "rejects.jsonl"
"""What a converter had to leave out; it belongs to the set."""

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
RENAME_EXCHANGE = 2  # Linux, renameat2
RENAME_SWAP = 2  # macOS, renamex_np


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
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


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change places atomically; False where the system cannot."""
    a, b = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        swap = getattr(libc, "renamex_np", None)
        return swap is not None and swap(a, b, RENAME_SWAP) == 0
    swap = getattr(libc, "renameat2", None)
    return swap is not None and swap(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0


class Staging:
    """Context manager: `folder` is where to write; `commit` gives it the destination's name.

    Leaving without `commit` removes the folder and leaves the destination as it was. A process that is killed
    leaves the folder behind, and the next one that writes to the same destination removes it.

    Args:
        destination: The folder that appears at the end.
        keep: The folder stays without `commit`, and the next one finds in it what the one before has written.
    """

    def __init__(self, destination: Path, keep: bool = False) -> None:
        self.keep = keep
        self.committed = False
        # The hidden folder has to lie on the same file system, beside what the name really points to.
        self.destination = Path(os.path.realpath(destination))
        self.folder = self.destination.with_name(f".{self.destination.name}.partial")
        self.displaced = displaced_name(self.destination)
        self.lock = -1

    def __enter__(self) -> Staging:
        try:
            self.destination.parent.mkdir(parents=True, exist_ok=True)
            self._lock()
            self._recover()
            check_replaceable(self.destination)
            if not self.keep:
                self.clear()
        except OSError as error:
            self.__exit__()
            raise ShardError(f"{self.destination}: cannot write: {error.strerror}") from error
        except BaseException:
            self.__exit__()
            raise
        return self

    def _lock(self) -> None:
        """One writer per destination; the lock goes with the process, however it ends."""
        self.folder.mkdir(exist_ok=True)
        self.lock = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(self.lock)
                self.lock = -1
                raise ShardError(f"{self.destination}: another process is writing this set") from error
            # Some network file systems have no locks; there the user sees to it that there is one writer.

    def clear(self) -> None:
        """Remove what is in the folder."""
        for leftover in self.folder.iterdir():
            remove(leftover)

    def unlock_in_child(self) -> None:
        """To be called in a forked process: the lock shall go with the process that took it."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def _recover(self) -> None:
        """Finish what `commit` was doing when it was killed."""
        if self.displaced.exists():
            if self.destination.exists():
                remove(self.displaced)
            else:
                os.rename(self.displaced, self.destination)

    def commit(self) -> None:
        """Make everything in the folder durable and put it in the destination's place."""
        sync_folder(self.folder)
        if not self.destination.exists() or is_empty_folder(self.destination):
            os.rename(self.folder, self.destination)
        elif not exchange(self.folder, self.destination):
            # Without an atomic exchange there is a moment with no folder at the destination. Killed in it,
            # the old set waits under its other name, which readers mention and the next writer puts back.
            os.rename(self.destination, self.displaced)
            try:
                os.rename(self.folder, self.destination)
            except OSError:
                os.rename(self.displaced, self.destination)
                raise
        self.committed = True
        sync_folder(self.destination.parent)

    def __exit__(self, *_: object) -> None:
        """Remove what has not become the destination: an unfinished set, or after `commit` the old one."""
        if self.lock < 0:
            return
        if self.keep and not self.committed:
            with contextlib.suppress(OSError):
                os.rmdir(self.folder)  # only if there is nothing in it
            os.close(self.lock)
            self.lock = -1
            return
        with contextlib.suppress(OSError):
            for leftover in (self.folder, self.displaced):
                if self.destination.exists() or leftover == self.folder:
                    remove(leftover)
        os.close(self.lock)
        self.lock = -1


def displaced_name(destination: Path) -> Path:
    """Where an old set waits while a new one takes its name on systems without an atomic exchange."""
    return destination.with_name(f".{destination.name}.displaced")


def remove(path: Path) -> None:
    """A file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_empty_folder(path: Path) -> bool:
    """True for a folder without entries."""
    return path.is_dir() and not os.listdir(path)


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
    ours = {MANIFEST_NAME, REJECTS_NAME}
    ours.update(name for shard in manifest.shards for name in (shard.name, shard.index))
    foreign = sorted(set(os.listdir(destination)) - ours)
    if foreign:
        raise ShardError(f"{destination}: not replaced, because it also holds {foreign[0]}, which is not of the set")
