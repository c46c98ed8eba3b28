"""Do two sets hold the same?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from headrace.shards import Field, ShardError, ShardSet
from headrace.shards.errors import MachineError
from headrace.shards.formats.orientation import orientation_in
from headrace.shards.machine import cores
from headrace.tools.upkeep.findings import listing
from headrace.tools.upkeep.sample_check import CHUNK, same

MOST_NAMED = 10
"""Classes that a message names."""
Work = TypeVar("Work")
Done = TypeVar("Done")


@dataclass(frozen=True, kw_only=True)
class CompareReport:
    """What `compare` found."""

    samples: int
    """Samples that both sets have."""
    differences: list[str]
    """One line each: key and what differs."""
    unread: list[str]
    """One line for each sample of which nothing is known, because one of the two cannot be read."""

    @property
    def ok(self) -> bool:
        """True if the sets hold the same samples."""
        return not self.differences and not self.unread

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "ok": self.ok}

    def __str__(self) -> str:
        if self.ok:
            return f"the same {self.samples:,} samples"
        said = [listing(f"{len(self.differences)} differences", self.differences)]
        if self.unread:
            said.append(listing(f"{len(self.unread)} samples cannot be read", self.unread))
        return "\n".join(said)


def compare(
    a: ShardSet,
    b: ShardSet,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    started: Callable[[int], None] | None = None,
) -> CompareReport:
    """Hold two sets against each other, sample by sample, matched by key.

    Images are the same if their bytes are or if they are shown as the same pixels, so that a JPEG set may be compared
    with its raw copy. The order of the samples does not matter, nor does the format. Takes some 60 bytes a sample.

    Args:
        a: One set.
        b: The other.
        workers: Threads; None takes one per core.
        progress: Called with the number of samples compared so far.
        started: Called once with the number of samples that both have.
    """
    differences = [
        f"field {name}: {describe(a, name)} against {describe(b, name)}"
        for name in {**a.fields, **b.fields}
        if what(a, name) != what(b, name)
    ]
    shared = [name for name in a.fields if what(a, name) == what(b, name)]
    partner = partners(a, b)
    alone = np.ones(len(b), np.bool_)
    alone[partner[partner >= 0]] = False
    differences += [f"key {a.key(i)}: only in {a.path}" for i in np.flatnonzero(partner < 0).tolist()]
    differences += [f"key {b.key(i)}: only in {b.path}" for i in np.flatnonzero(alone).tolist()]
    in_both = np.flatnonzero(partner >= 0)
    if started is not None:
        started(len(in_both))

    def differing(numbers: npt.NDArray[np.int64]) -> tuple[list[str], list[str]]:
        differ: list[str] = []
        unread: list[str] = []
        for i in numbers.tolist():
            try:
                differ += differing_fields(a, b, (i, int(partner[i])), shared)
            except MachineError as error:
                unread.append(f"key {a.key(i)}: {error}")
        return differ, unread

    unread: list[str] = []
    done = 0
    threads = workers or cores()
    chunks = (in_both[first : first + CHUNK] for first in range(0, len(in_both), CHUNK))
    with ThreadPoolExecutor(threads) as pool:
        for chunk, (differ, lost) in in_order(pool, differing, chunks, 4 * threads):
            differences += differ
            unread += lost
            done += len(chunk)
            if progress is not None:
                progress(done)
    return CompareReport(samples=len(in_both), differences=differences, unread=unread)


def partners(a: ShardSet, b: ShardSet) -> npt.NDArray[np.int64]:
    """For each sample of a set the number of that of the other which has its key, or -1: (samples of a,)."""
    of_a, of_b = hashed_keys(a), hashed_keys(b)
    order = np.argsort(of_b, kind="stable")
    of_b = of_b[order]
    first, last = (np.searchsorted(of_b, of_a, side=side) for side in ("left", "right"))
    found = np.full(len(a), -1, np.int64)
    taken = np.zeros(len(b), np.bool_)
    for i in np.flatnonzero(first < last).tolist():
        for other in order[first[i] : last[i]].tolist():
            if not taken[other] and a.key(i) == b.key(other):
                found[i] = other
                taken[other] = True
                break
    return found


def hashed_keys(shards: ShardSet) -> npt.NDArray[np.uint64]:
    """XXH3-64 of each key, (samples,)."""
    encoded = (shards.key(i).encode(errors="surrogateescape") for i in range(len(shards)))
    return np.fromiter(map(xxhash.xxh3_64_intdigest, encoded), np.uint64, len(shards))


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Work], Done], items: Iterable[Work], ahead: int
) -> Iterator[tuple[Work, Done]]:
    """(item, what `work` makes of it) in the order of the items, with so many under way at a time."""
    under_way: deque[tuple[Work, Future[Done]]] = deque()
    for item in items:
        under_way.append((item, pool.submit(work, item)))
        if len(under_way) > ahead:
            first, future = under_way.popleft()
            yield first, future.result()
    for item, future in under_way:
        yield item, future.result()


def differing_fields(a: ShardSet, b: ShardSet, pair: tuple[int, int], shared: list[str]) -> list[str]:
    """A line for each field in which two samples differ, or one where a sample is damaged; MachineError where one
    cannot be read."""
    try:
        one, other = a.read(pair[0]), b.read(pair[1])
        differ = [
            name
            for name in shared
            if not same(
                a.fields[name].kind,
                one[name],
                other[name],
                (orientation_in(one, name), orientation_in(other, name)),
            )
        ]
        return [f"key {one['__key__']}: {name} differs" for name in differ]
    except MachineError:
        raise
    except (ShardError, ValueError) as error:
        return [f"key {a.key(pair[0])}: {error}"]


def what(shards: ShardSet, name: str) -> tuple[str, tuple[str, ...]]:
    """Kind of a field and names of its classes, without which labels are but numbers: not how it is stored."""
    field: Field | None = shards.fields.get(name)
    return ("none", ()) if field is None else (field.kind, field.classes)


def describe(shards: ShardSet, name: str) -> str:
    """The same for a person."""
    kind, classes = what(shards, name)
    named = ", ".join(classes[:MOST_NAMED]) + (", ..." if len(classes) > MOST_NAMED else "")
    return f"{kind} of {len(classes):,} classes ({named})" if classes else kind
