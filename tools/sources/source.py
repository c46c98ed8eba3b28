"""What every source of raw data hands to `headrace.tools.conversion.convert`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from headrace.shards import Field
from headrace.tools.sources.left_out import Stray


class BadSample(Exception):
    """One sample cannot be read; the text is the reason. The conversion notes it and goes on."""


@dataclass(frozen=True, kw_only=True)
class SourceData:
    """The samples of one split, at random access: the converter chooses the order and reads in threads."""

    fields: Mapping[str, Field]
    """Fields of every sample."""
    total: int
    """Number of samples, good and bad."""
    key: Callable[[int], str]
    """Key of a sample, unique, without reading it."""
    origin: Callable[[int], str]
    """Where a sample comes from, for a person: a file, a place in an archive."""
    fingerprint: str
    """Changes where the raw data do: of every file that can be part of a sample its size and time (of a member of an
    archive, the archive's), of lists and annotations a checksum, and the fields. Where SRC lies is no part of it."""
    load: Callable[[int], Mapping[str, Any]]
    """Values of the fields, images as the bytes of a file of any format or as uint8 (H, W, 3). Called from several
    threads at once. BadSample, OSError or ShardError where a sample cannot be read."""
    fork_safe: bool = True
    """Whether a forked process may read through what was opened here; else it opens the source itself."""
    turn: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    """Of values that `load` gave, those to store where pictures are shown as their files say, for a source that says
    more in pixels of them: boxes on a picture that is turned. BadSample where that cannot be done."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of files that are no part of any sample, by their ending in lower case or another reason."""
    strays: Sequence[Stray] = ()
    """The first of those files."""
    notes: Sequence[str] = ()
    """What else a person should know, a line each."""


class Source(Protocol):
    """A source: opens raw data and lists its samples without reading them.

    `src` is what the user wrote, `split` the part of the data, None where the user named none: that for training.
    UserError if there is no such data or part, MachineError where it cannot be told.
    """

    def __call__(self, src: Path, split: str | None) -> SourceData: ...
