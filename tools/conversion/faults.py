"""Whose fault it is that a sample cannot be read: its own, or that of the machine, the disk or the store."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from headrace.shards.errors import causes, is_machine_fault
from headrace.shards.remote.remote import is_remote

PAUSES_S = (2.0, 10.0, 30.0)
"""Before what the machine's fault ended is begun again: a server that is started anew is back by then."""
POLL_S = 0.1
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""What does not pass by itself."""


def is_source_fault(error: BaseException, src: str) -> bool:
    """Whether an error in reading a sample says nothing about it, so that it must not be left out for that.

    So it is with every fault of the machine, and where a file is not there, or may not be opened, and its folder, the
    folder that a link leads to, or the whole source is not there either.

    Args:
        error: What reading the sample raised.
        src: The raw data.
    """
    return is_machine_fault(error) or any(not is_there(folder) for folder in _folders(error, src))


def _folders(error: BaseException, src: str) -> Iterator[str]:
    """Folders that must be there where the system speaks of one file only."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno is not None:
            if not is_remote(src) and os.path.isabs(src):
                yield src
            if isinstance(cause.filename, (str, bytes)):
                path = os.fsdecode(cause.filename)
                yield os.path.dirname(path) or "."
                yield os.path.dirname(os.path.realpath(path))


def is_there(path: str) -> bool:
    """Whether a file, or a folder that holds something, can be read; an empty folder is what is left of a mount that
    went away."""
    try:
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                return next(entries, None) is not None
        return os.path.exists(path)
    except OSError:
        return False


Result = TypeVar("Result")


def patiently(act: Callable[[], Result], meanwhile: Callable[[], object]) -> Result:
    """What `act` returns, which is called again, some times, after a fault of the machine.

    Args:
        meanwhile: Called at once after such a fault, and several times a second until the next try.
    """
    for pause_s in PAUSES_S:
        try:
            return act()
        except Exception as error:
            if not may_help(error):
                raise
        again = time.monotonic() + pause_s
        meanwhile()
        while (left_s := again - time.monotonic()) > 0:
            time.sleep(min(POLL_S, left_s))
            meanwhile()
    return act()


def may_help(error: BaseException) -> bool:
    """Whether it makes sense to do a unit of work again a little later."""
    full = any(isinstance(cause, OSError) and cause.errno in NO_ROOM for cause in causes(error))
    return is_machine_fault(error) and not full
