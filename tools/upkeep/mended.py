"""What can be done about damaged shards."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from headrace.shards import Manifest
from headrace.shards.errors import MachineError
from headrace.shards.index import OpenShard
from headrace.shards.manifest import Shard
from headrace.shards.reading import ReadFile, is_of_the_medium
from headrace.tools.upkeep.findings import listing


@dataclass(kw_only=True)
class Removed:
    """A sample that leaves the set."""

    key: str
    offset: int
    """Of its first field in the shard; -1 where it is not known."""
    reasons: list[str]
    parts: dict[str, range]
    """Where its files lie in the shard, by extension; without those that lie outside of it."""
    unread: bool = False
    """Whether a disk cannot read some of it."""


@dataclass(kw_only=True)
class Mended:
    """What can be done about one shard."""

    shard: Shard
    note: str
    """What is wrong and what is done, for a person."""
    part: OpenShard | None = None
    """The shard, read and not mapped, with the index to go by; None where it is lost."""
    keep_file: bool = False
    """True if the shard itself is right and only its index is replaced."""
    good: list[int] = field(default_factory=list)
    """Rows of the index that stay."""
    removed: list[Removed] = field(default_factory=list)
    """The others, and what had no place in the index."""

    @property
    def unread(self) -> int:
        """Samples of which a disk cannot read some."""
        return sum(one.unread for one in self.removed)


@dataclass(kw_only=True)
class RepairPlan:
    """What `repair` is going to do."""

    path: Path
    manifest: Manifest
    mended: dict[int, Mended]
    """By number of the shard; shards that are not among them stay as they are."""

    @property
    def lost(self) -> list[Mended]:
        """Shards of which nothing can be read."""
        return [mended for mended in self.mended.values() if mended.part is None]

    @property
    def unread(self) -> list[Mended]:
        """Shards of which a disk cannot read some samples."""
        return [mended for mended in self.mended.values() if mended.unread]

    @property
    def removed(self) -> int:
        """Samples that are removed one by one; those of lost shards are not counted."""
        return sum(len(mended.removed) for mended in self.mended.values())

    def lines(self) -> list[str]:
        """What is done with each damaged shard, and why each sample is removed."""
        lines = []
        for mended in self.mended.values():
            lines.append(f"{mended.shard.name}: {mended.note}")
            lines += [f"{mended.shard.name}: remove {one.key}: {one.reasons[0]}" for one in mended.removed]
        return lines

    def __str__(self) -> str:
        return listing(f"{self.path}: to repair", self.lines())


def refuse_if_it_may_pass(error: Exception) -> None:
    """Raise a failure of the machine again, unless it is one of some sectors of a disk."""
    if isinstance(error, MachineError) and not is_of_the_medium(error):
        raise error


def file_of(part: OpenShard) -> ReadFile:
    """The file of a shard that `without_map` made."""
    return cast(ReadFile, part.mapped)
