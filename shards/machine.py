"""How many cores this process may use, as its system and its container say."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath


def cores(root: Path = Path("/")) -> int:
    """Cores that this process may keep busy: those it may run on, and no more than its container's CPU quota pays for
    (a part of one counts as one). `root` is where the system's files lie."""
    return len(core_numbers(root))


def core_numbers(root: Path = Path("/")) -> tuple[int, ...]:
    """The numbers of so many cores, the lowest that this process may run on."""
    present = sorted(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
    return tuple(present[: max(1, math.ceil(min(len(present), cpu_quota(root))))])


def cpu_quota(root: Path = Path("/")) -> float:
    """Seconds of CPU a second that the control groups of this process grant, the least of them; infinity where none of
    them says, and on systems without them."""
    return min((_granted(folder) for folder in _groups(root)), default=math.inf)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups that this process is in and that may limit its CPU, each with those above it, as
    far as they are to be seen from here."""
    try:
        own = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    # "4:cpu,cpuacct:/a/b" in version 1, where each controller has a tree of its own; "0::/a/b" in version 2.
    paths = {name: path for _, names, path in (line.split(":", 2) for line in own) for name in names.split(",")}
    for line in mounts:
        before, _, behind = line.partition(" - ")
        _, _, _, top, place, *_ = before.split(" ")
        kind, _, options = behind.split(" ", 2)
        if kind == "cgroup2":
            controller = ""
        elif kind == "cgroup" and "cpu" in options.split(","):
            controller = "cpu"
        else:
            continue
        if controller not in paths:
            continue
        below = PurePosixPath(paths[controller])
        # What a container sees of the tree may begin at its own group, whose path it is told from the host's top.
        below = below.relative_to(top) if below.is_relative_to(top) else PurePosixPath()
        mount = root / place.lstrip("/")
        yield from (mount / part for part in (below, *below.parents))


def _granted(folder: Path) -> float:
    """Seconds a second that one control group grants."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        granted = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        return granted / int((folder / "cpu.cfs_period_us").read_text(encoding="utf-8")) if granted > 0 else math.inf
    return math.inf
