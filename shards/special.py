"""What a path leads to, asked before it is opened: to open a named pipe waits for whoever writes into it, and to open a
device may do anything."""

from __future__ import annotations

import os
import stat

SPECIAL = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def special(path: str | os.PathLike[str]) -> str:
    """ "a named pipe", "a socket" or "a device"; empty for a file or a folder, and where it cannot be told, of which
    opening it says why."""
    try:
        return special_mode(os.stat(path).st_mode)
    except (OSError, ValueError):  # ValueError for a name with a zero in it
        return ""


def special_mode(mode: int) -> str:
    """The same of the mode that `os.stat` gives."""
    return next((what for is_so, what in SPECIAL if is_so(mode)), "")
