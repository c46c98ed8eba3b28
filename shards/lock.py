"""A lock that is a file: it goes with the process that holds it, however that ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Any
from weakref import WeakSet

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_HELD_BY_ANOTHER = {errno.EWOULDBLOCK, errno.EACCES}


class FileLock:
    """An exclusive lock by the system's own (flock), on a file that the holder removes again.

    It works between machines where the file system's locks do. A forked child does not have it, and what was pickled
    has to take it anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = -1
        """Open while it is held, else -1."""
        self.enforced = True
        """False where the file system has no locks: then it is held, but others may be, too."""

    def __reduce__(self) -> tuple[Any, ...]:
        return FileLock, (self.path,)

    def take(self) -> bool:
        """False where another process has it.

        Raises:
            OSError: if there can be no such file, or the file system fails.
        """
        while True:
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except PermissionError:
                if not self.path.exists():
                    raise
                # Another user's, left by a process that was killed.
                descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self.enforced = _locked(descriptor)
            except OSError as error:
                os.close(descriptor)
                if error.errno in _HELD_BY_ANOTHER:
                    return False
                raise
            if _is_at(descriptor, self.path):
                self.descriptor = descriptor
                _HELD.add(self)
                return True
            os.close(descriptor)  # whoever had it has removed this file meanwhile

    def release(self) -> None:
        """Let others in."""
        if self.descriptor >= 0 and _is_at(self.descriptor, self.path):
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self.forget()

    def forget(self) -> None:
        """Let go of it and leave the file."""
        _HELD.discard(self)
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _locked(descriptor: int) -> bool:
    """Lock an open file; False where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


_HELD: WeakSet[FileLock] = WeakSet()


def _let_go_in_child() -> None:
    """A forked child that outlives its parent would keep them."""
    for lock in list(_HELD):
        lock.forget()


os.register_at_fork(after_in_child=_let_go_in_child)
