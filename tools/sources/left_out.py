"""Files of the raw data that are part of no sample: how many of each kind there are, and which."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from headrace.shards.special import special_mode
from headrace.tools.sources.listing import StrPath, findable, is_dangling, printable, status

KINDS = 20
"""Kinds that are counted each by itself."""
LISTED = 1000
"""Files of a kind that are listed, and `KINDS` times as many in all; of more, a last line says how many."""
OTHERS = "with other endings"
LINKED_BEFORE = "links to folders that were read before"


class Stray(NamedTuple):
    """A file that is part of no sample, or how many more there are."""

    source: str
    """Where it is, for a person."""
    reason: str


class LeftOut:
    """Takes what is left out of a source, in the order in which it is found."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._listed: dict[str, list[str]] = {}
        self._room = KINDS * LISTED

    def add(self, what: str, source: StrPath) -> None:
        """A file, by its kind: its ending, or another reason."""
        self._counts[what] += 1
        listed = self._listed.setdefault(what, [])
        if len(listed) < LISTED and self._room:
            listed.append(findable(source))
            self._room -= 1

    def add_file(self, path: StrPath, suffix: str = "") -> None:
        """A file in a folder, by what `ending` says of it, and more."""
        self.add(ending(path) + suffix, path)

    def __len__(self) -> int:
        return self._counts.total()

    def counts(self) -> dict[str, int]:
        """The most frequent kinds, and the rest, as of files that end in numbers, as one."""
        found = dict(sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:KINDS])
        rest = self._counts.total() - sum(found.values())
        return found | ({OTHERS: rest} if rest else {})

    def strays(self, root: StrPath) -> Iterator[Stray]:
        """The files, of a kind `LISTED` at most, and where there are more of it a line that says so of `root`."""
        for what, paths in self._listed.items():
            yield from (Stray(path, f"belongs to no sample: {what}") for path in paths)
            if more := self._counts[what] - len(paths):
                yield Stray(findable(root), f"belong to no sample: {more:,} more {what}")


def ending(path: StrPath) -> str:
    """What a file is counted by: its ending in lower case, or what it is where it is no file."""
    name = os.fspath(path)
    if is_dangling(name):
        return "links to nothing"
    found = status(name)
    if found is not None and (what := special_mode(found.st_mode)):
        return f"{what.partition(' ')[2]}s"
    return ending_of(name)


def ending_of(name: str) -> str:
    """The same by the name alone, as of a file in an archive."""
    return printable(os.path.splitext(name)[1].lower()) or "without an ending"


def counted(left_out: Mapping[str, int]) -> str:
    """Files that belong to no sample, for a person: ".gif 12, .heic 1"."""
    return ", ".join(f"{what} {n:,}" for what, n in left_out.items())


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names, for a person."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
