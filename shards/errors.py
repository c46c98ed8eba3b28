"""The exceptions of this package, and whose fault an exception is."""

from __future__ import annotations

import errno
from collections.abc import Iterator


class ShardError(Exception):
    """A shard set cannot be read or written. The text is one line: what, file, offset or key, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class MachineError(ShardError):
    """The machine, a disk, a store or the open set fails: nothing is known about the samples, and another try, or
    another machine, may do better. Never a reason to leave a sample out."""


class ClosedError(MachineError, ValueError):
    """The set was closed."""


class RemoteError(MachineError):
    """A store does not answer, or not as it should, after all tries."""


OF_THE_FILE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ELOOP}
"""What a system says of one file, while it could well read others. That it stays so is not known either: a file that
is not there or may not be read today may be so tomorrow (`may_pass`)."""


def is_machine_fault(error: BaseException) -> bool:
    """Whether an exception, or one that it was raised from, says nothing about the bytes that were to be read: the
    disk, the mount, the store, memory or descriptors failed, not the sample.

    An OSError without a number, such as Pillow's for a truncated picture, is about bytes; one with a number is the
    system's, and about one file only if it is in `OF_THE_FILE`.
    """
    return any(_fails(cause) for cause in causes(error))


def may_pass(error: BaseException) -> bool:
    """Whether the same read may succeed later with nothing done to the sample's bytes."""
    return any(_fails(cause) or (isinstance(cause, OSError) and cause.errno is not None) for cause in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it was raised from. PyAV's end the chain: they may be OSErrors with a number, and
    speak of bytes in memory all the same."""
    cause: BaseException | None = error
    while cause is not None and not type(cause).__module__.startswith("av."):
        yield cause
        cause = cause.__cause__


def _fails(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in OF_THE_FILE
    return isinstance(error, (MachineError, MemoryError))
