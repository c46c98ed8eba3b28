"""A disk that fails for a while, or a process that is killed at a chosen change of the file system.

A small library is loaded before the C library (LD_PRELOAD, Linux) into the processes that a test starts, and into
all that they start; rules in a file that all of them map say which calls fail. Page faults of maps are no calls: a disk
that fails under a map cannot be had this way.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

SOURCE = Path(__file__).with_name("failing_disk.c")
RULE = struct.Struct("=16s488sqqqq")  # operation, pattern, error, skip, left, hits
RULES = 16
KILL = -1
ALWAYS = 1 << 60

Operation = Literal[
    "open", "read", "write", "sync", "stat", "list", "readdir", "mkdir", "remove", "rename", "link", "map", "change"
]
"""Calls by what they do; "change" is every one that changes names: files opened to be made or emptied, "mkdir",
"remove", "rename", "link"."""


def build_library(folder: Path) -> Path:
    """Compile the library; FileNotFoundError where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise FileNotFoundError("there is no C compiler")
    library = folder / "failing_disk.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-w", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
    return library


class FailingDisk:
    """Rules, and processes for which they hold. Rules may be added and taken back while processes run.

    Args:
        library: Of `build_library`.
        folder: Where the file with the rules lies.
    """

    def __init__(self, library: Path, folder: Path) -> None:
        self.library = library
        self.path = folder / "failing_disk.rules"
        self.path.write_bytes(bytes(RULES * RULE.size))
        with open(self.path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)
        self.used = 0

    def fail(self, operation: Operation, pattern: str, error: int, *, times: int | None = None, after: int = 0) -> int:
        """Let calls fail.

        Args:
            operation: What kind of calls.
            pattern: Of the absolute path (of the old name, where there are two), as in fnmatch; * matches slashes.
            error: errno.
            times: How many calls, over all processes; None is all.
            after: Calls that are let through first.

        Returns:
            A number for `hits`.
        """
        number, self.used = self.used, self.used + 1
        assert number < RULES, "too many rules"
        left = ALWAYS if times is None else times
        rule = RULE.pack(operation.encode(), os.fsencode(pattern), error, after, left, 0)
        # The operation, by which a rule is found, comes last.
        at = number * RULE.size
        self.memory[at + 16 : at + RULE.size] = rule[16:]
        self.memory[at : at + 16] = rule[:16]
        return number

    def kill(self, operation: Operation, pattern: str, *, after: int = 0) -> int:
        """Kill the process, as by kill -9, before one such call; see `fail`."""
        return self.fail(operation, pattern, KILL, times=1, after=after)

    def hits(self, number: int) -> int:
        """Calls that a rule let fail so far."""
        return RULE.unpack_from(self.memory, number * RULE.size)[-1]

    def mend(self) -> None:
        """Take all rules back."""
        self.memory[:] = bytes(len(self.memory))
        self.used = 0

    @property
    def environment(self) -> dict[str, str]:
        """Of processes for which the rules hold."""
        return {**os.environ, "LD_PRELOAD": str(self.library), "HEADRACE_FAILING_DISK": str(self.path)}

    def run(self, command: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.CompletedProcess[str]:
        """`subprocess.run` with the rules; output is captured as text."""
        return subprocess.run(
            [os.fspath(part) for part in command],
            env=self.environment,
            capture_output=True,
            encoding="utf-8",
            **options,
        )
