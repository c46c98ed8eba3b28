"""A conversion cut into units that can be done in any order, anywhere, and again.

A unit is a run of the stored order that becomes one shard. What it becomes depends on the `Job` and its number alone,
so the set is the same whoever converts which unit, and a conversion that was killed keeps its finished units.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.shards import Field, ShardError
from headrace.shards.checksums import VERSION
from headrace.shards.fields import check_key
from headrace.shards.manifest import Shard
from headrace.shards.remote import is_remote
from headrace.shards.values import settled
from headrace.shards.writer import ShardStream, stored_size
from headrace.tools.encode import EncodeSettings
from headrace.tools.errors import UserError
from headrace.tools.sources import SOURCES, BadSample, SourceData, shards

ESTIMATED = 64
"""Samples, spread over the set, whose mean size says how many of them fill a shard."""
FILLED = 0.9
"""Share of `shard_size` that a unit is meant to fill, so that hardly any unit needs a second shard."""
CHUNK = 16
"""Samples that a thread reads and encodes at a time."""

Order = npt.NDArray[np.int64]
Sample = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that the bytes of a set depend on."""

    source: str
    """A name in `headrace.tools.sources.SOURCES`."""
    src: str
    """The raw data."""
    split: str | None
    settings: EncodeSettings
    seed: int | None
    """Of the stored order; None keeps the order of the source."""
    shard_size: int
    """Bytes that no shard of more than one sample exceeds."""
    total: int
    """Samples of the source, good and bad."""
    keys: str
    """SHA-256 of the keys, in the order of the source: another source is another job."""
    units: int
    versions: dict[str, str]
    """Of what makes the bytes, see `versions_here`."""

    def to_json(self) -> dict[str, Any]:
        """For comparison with the job of an earlier run."""
        return asdict(self)

    def numbers(self, unit: int) -> slice:
        """The unit's part of the stored order."""
        return slice(unit * self.total // self.units, (unit + 1) * self.total // self.units)


class Reject(NamedTuple):
    """A sample that is left out."""

    key: str
    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class UnitRecord:
    """What a unit became."""

    shards: list[Shard]
    """One, or more where the samples are larger than those that the size was estimated from; none without samples."""
    rejects: list[Reject]
    encodings: dict[str, list[int]]
    """Of an image field, the codes of the encodings that occur."""
    arrays: dict[str, list[tuple[str, tuple[int, ...]]]]
    """Of an array field, the types and shapes that occur."""

    def to_json(self) -> str:
        parts = asdict(self)
        return json.dumps({**parts, "rejects": [reject._asdict() for reject in self.rejects]})

    @staticmethod
    def from_json(text: str | bytes) -> UnitRecord:
        """Inverse of `to_json`; KeyError, TypeError or ValueError on anything else."""
        parts = json.loads(text)
        return UnitRecord(
            shards=[Shard(**shard) for shard in parts["shards"]],
            rejects=[Reject(**reject) for reject in parts["rejects"]],
            encodings=parts["encodings"],
            arrays={name: [(dtype, tuple(shape)) for dtype, shape in seen] for name, seen in parts["arrays"].items()},
        )


def plan_job(
    source: str, src: str, split: str | None, settings: EncodeSettings, seed: int | None, shard_size: int, workers: int
) -> Job:
    """Opens the source, lists its keys, and sees from some samples how many fill a shard."""
    data, order = opened(source, src, split, seed)
    digest = hashlib.sha256()
    for i in range(data.total):
        digest.update(data.key(i).encode(errors="surrogateescape") + b"\0")
    fields = settings.fields(data.fields)
    places = np.linspace(0, data.total - 1, min(ESTIMATED, data.total)).astype(np.int64)
    sizes = []
    for outcome in converted(data, order[places], settings, workers):
        if not isinstance(outcome, Reject):
            try:
                sizes.append(stored_size(settings.format, fields, b"", outcome))
            except ShardError:
                continue  # the unit that holds it will say so
    fill = max(1, int(FILLED * shard_size / np.mean(sizes))) if sizes else data.total
    return Job(
        source=source,
        src=src,
        split=split,
        settings=settings,
        seed=seed,
        shard_size=shard_size,
        total=data.total,
        keys=digest.hexdigest(),
        units=max(1, -(-data.total // fill)),
        versions=versions_here(data.fields),
    )


CODECS = {"image": ("simplejpeg", "pillow"), "video": ("av",), "audio": ("av",)}
"""Packages that decode and encode a kind of field, or judge its files: what they do decides bytes and rejects."""


def versions_here(fields: Mapping[str, Field]) -> dict[str, str]:
    """Version of Headrace, of the manifest and of each package that has a hand in the bytes of such fields."""
    packages = {"headrace", *(package for field in fields.values() for package in CODECS.get(field.kind, ()))}
    return {"manifest": str(VERSION), **{package: version(package) for package in sorted(packages)}}


@lru_cache(maxsize=1)
def opened(source: str, src: str, split: str | None, seed: int | None) -> tuple[SourceData, Order]:
    """The source and its stored order, opened once a process; forked processes inherit it."""
    if is_remote(src) and source != "shards":
        raise UserError(f"{src}: of what lies on a server, only shard sets can be read; copy the raw data here")
    data = shards.read(src, split) if is_remote(src) else SOURCES[source](Path(src), split)
    return data, np.arange(data.total) if seed is None else stored_order(seed, data.total)


def stored_order(seed: int, total: int) -> Order:
    """A permutation that depends on nothing but its arguments: Philox's raw numbers are the same in every numpy."""
    return np.argsort(np.random.Philox(key=seed).random_raw(total), kind="stable")


def differing(versions: Mapping[str, str], others: Mapping[str, str]) -> str:
    """The versions that are not as others have them, for a person."""
    named = (
        f"{package} {versions.get(package, '(unknown)')} instead of {others.get(package, '(unknown)')}"
        for package in sorted({*versions, *others})
        if versions.get(package) != others.get(package)
    )
    return ", ".join(named)


def convert_unit(job: Job, unit: int, folder: Path, threads: int, count: Callable[[int], object]) -> UnitRecord:
    """Convert one unit into the shards of `folder`.

    Args:
        threads: That read and encode.
        count: Called with the number of samples done since the last call.

    Raises:
        OSError: The shards cannot be written.
        UserError: This machine has other versions of what makes the bytes than the one where the job was planned.
    """
    data, order = opened(job.source, job.src, job.split, job.seed)
    here = versions_here(data.fields)
    if here != job.versions:
        raise UserError(f"{socket.gethostname()} has {differing(here, job.versions)}: install the same on all nodes")
    numbers = order[job.numbers(unit)]
    fields = job.settings.fields(data.fields)
    stream = ShardStream(folder, fields, format=job.settings.format, shard_size=job.shard_size, capacity=len(numbers))
    rejects: list[Reject] = []
    try:
        for number, outcome in zip(numbers.tolist(), converted(data, numbers, job.settings, threads), strict=True):
            if isinstance(outcome, Reject):
                rejects.append(outcome)
            else:
                try:
                    stream.add(check_key(outcome.pop("__key__")), outcome)
                except ShardError as error:
                    rejects.append(reject(data, number, error))
            count(1)
        stream.finish()
    finally:
        stream.close()
    return UnitRecord(
        shards=stream.shards,
        rejects=rejects,
        encodings={name: sorted(seen) for name, seen in stream.encodings.items()},
        arrays={name: sorted(seen) for name, seen in stream.arrays.items()},
    )


def converted(data: SourceData, numbers: Order, settings: EncodeSettings, threads: int) -> Iterator[Sample | Reject]:
    """Samples in the given order, read and encoded in threads, a few chunks ahead of the one that is asked for.

    One thread is the caller's own: handing samples over would cost it a fifth of its time.
    """
    if threads == 1:
        yield from (load(data, i, settings) for i in numbers.tolist())
        return

    def work(chunk: Sequence[int]) -> list[Sample | Reject]:
        return [load(data, i, settings) for i in chunk]

    chunks = iter([numbers[at : at + CHUNK].tolist() for at in range(0, len(numbers), CHUNK)])
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[list[Sample | Reject]]] = deque()
        try:
            waiting.extend(pool.submit(work, chunk) for chunk in islice(chunks, threads + 1))
            while waiting:
                outcomes = waiting.popleft().result()
                waiting.extend(pool.submit(work, chunk) for chunk in islice(chunks, 1))
                yield from outcomes
        finally:
            for future in waiting:
                future.cancel()


def load(data: SourceData, i: int, settings: EncodeSettings) -> Sample | Reject:
    """One sample of the source as it is to be stored, or why it cannot be."""
    try:
        key = data.key(i)
        values: Mapping[str, Any] = data.load(i)
        return {
            "__key__": key,
            **{name: settings.stored(field, key, values[name]) for name, field in data.fields.items()},
        }
    except (BadSample, ShardError, OSError, ValueError) as error:
        return reject(data, i, error)


def reject(data: SourceData, i: int, error: Exception) -> Reject:
    """A sample that is left out, with the error as its reason."""
    return Reject(data.key(i), data.origin(i), " ".join(str(error).split()))


def merged_fields(fields: Mapping[str, Field], records: Sequence[UnitRecord]) -> dict[str, Field]:
    """The fields as the samples of all units turned out."""
    return {
        name: settled(
            field,
            {code for record in records for code in record.encodings.get(name, [])},
            {seen for record in records for seen in record.arrays.get(name, [])},
        )
        for name, field in fields.items()
    }
