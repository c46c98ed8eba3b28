"""Folders of what is computed from sets and kept beside the caches of remote ones: whole entries, each a folder."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

ASIDE = ".tmp"
"""Ending of an entry that is being made."""
ABANDONED_S = 7 * 24 * 3600.0
"""After which what a killed process left is removed."""


def trim(root: Path, capacity: int, *, keep: str) -> None:
    """Remove whole entries, those of least recent use first, until the rest fits into `capacity` bytes.

    Args:
        root: the folder; the time of an entry in it is that of its last use.
        keep: an entry that stays.
    """
    entries = []
    for entry in root.iterdir():
        if not entry.is_dir():  # a lock
            continue
        if entry.name.endswith(ASIDE):
            if time.time() - entry.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(entry, ignore_errors=True)
            continue
        sizes = [file.stat().st_size for file in entry.iterdir()]
        entries.append((entry.stat().st_mtime, sum(sizes), entry))
    held = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries):
        if held <= capacity:
            break
        if entry.name != keep:
            shutil.rmtree(entry, ignore_errors=True)
            held -= size
