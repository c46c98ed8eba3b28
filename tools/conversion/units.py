"""A conversion cut into units that can be done in any order, anywhere, and again.

A unit is a run of the stored order that becomes one shard. What it becomes depends on the `Job` and its number alone,
so the set is the same whoever converts which unit, and a conversion that was killed keeps its finished units.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.shards import Field, ShardError
from headrace.shards.checksums import VERSION
from headrace.shards.errors import MachineError, may_pass
from headrace.shards.fields import check_key
from headrace.shards.formats import ffcv
from headrace.shards.formats.values import settled
from headrace.shards.manifest import Format, Shard
from headrace.shards.remote.remote import is_remote, redact
from headrace.shards.writing.writer import ShardStream, stored_size
from headrace.tools.conversion.encode import EncodeSettings
from headrace.tools.conversion.faults import is_source_fault
from headrace.tools.errors import UserError
from headrace.tools.keys import first_repeated
from headrace.tools.sources import SOURCES, BadSample, SourceData, shards
from headrace.tools.sources.listing import check_no_special, findable

ESTIMATED = 64
"""Samples, spread over the set, whose mean size says how many of them fill a shard."""
FILLED = 0.9
"""Share of `shard_size` that a unit is meant to fill, so that hardly any unit needs a second shard."""
CHUNK = 16
"""Samples, at most, that a thread reads and encodes at a time."""
AHEAD_BYTES = 256 << 20
"""Of samples that threads have read and encoded, or are at, ahead of the one that is written."""
RECENT = 64
"""Samples, the last ones, of which the largest says how many others may be under way."""
KEYS_AT_ONCE = 1 << 14
"""Keys that are looked at together."""

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
    fingerprint: str
    """Of the source's files and lists, see `SourceData`: other content is another job."""
    units: int
    arrays: dict[str, Field]
    """Of .beton files, what array fields whose samples differ in the source are to hold: what most of the samples do
    that were looked at. Others are left out."""
    versions: dict[str, str]
    """Of what makes the bytes, see `versions_here`."""

    def to_json(self) -> dict[str, Any]:
        """For comparison with the job of an earlier run. It is written: a URL is there without user and password."""
        return {**asdict(self), "src": redact(findable(self.src))}

    def numbers(self, unit: int) -> slice:
        """The unit's part of the stored order."""
        return slice(unit * self.total // self.units, (unit + 1) * self.total // self.units)


class Reject(NamedTuple):
    """A sample that is left out."""

    key: str
    source: str
    reason: str
    passing: bool = False
    """Whether it may be readable later with nothing done to its bytes: its unit is done anew by a run that goes on."""

    def to_json(self) -> dict[str, Any]:
        """As rejects.jsonl and the record of a unit have it."""
        parts = self._asdict()
        return parts if self.passing else {name: parts[name] for name in ("key", "source", "reason")}


class SourceFault(MachineError):
    """A sample cannot be read, and that is not the sample's fault."""


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
    oriented: list[str]
    """Image fields of which a sample is to be turned."""

    def to_json(self) -> str:
        parts = asdict(self)
        return json.dumps({**parts, "rejects": [reject.to_json() for reject in self.rejects]})

    @staticmethod
    def from_json(text: str | bytes) -> UnitRecord:
        """Inverse of `to_json`; KeyError, TypeError or ValueError on anything else."""
        parts = json.loads(text)
        return UnitRecord(
            shards=[Shard(**shard) for shard in parts["shards"]],
            rejects=[Reject(**reject) for reject in parts["rejects"]],
            encodings=parts["encodings"],
            arrays={name: [(dtype, tuple(shape)) for dtype, shape in seen] for name, seen in parts["arrays"].items()},
            oriented=list(parts["oriented"]),
        )


class Estimate(NamedTuple):
    """What some samples say of all."""

    sizes: list[int]
    """Bytes that each takes of a shard."""
    arrays: dict[str, Counter[Field]]
    """Types and shapes of the arrays of fields that leave them open."""


def plan_job(
    source: str,
    src: str,
    split: str | None,
    settings: EncodeSettings,
    seed: int | None,
    shard_size: int,
    workers: int,
    estimating: Callable[..., Estimate] | None = None,
) -> Job:
    """Opens the source, lists its keys, and sees from some samples how many fill a shard.

    Args:
        estimating: What stands in for `estimate`.

    Raises:
        UserError: There is no such data, the settings do not fit it, or a key appears twice.
        MachineError: The data cannot be read for now.
    """
    data, order = opened(source, src, split, seed)
    keys = digest_of_keys(data)
    settings.fields(data.fields)  # which refuses what does not fit
    places = np.linspace(0, data.total - 1, min(ESTIMATED, data.total)).astype(np.int64)
    sizes, arrays = (estimating or estimate)(source, src, split, settings, seed, order[places].tolist(), workers)
    fill = max(1, int(FILLED * shard_size / np.mean(sizes))) if sizes else data.total
    return Job(
        source=source,
        src=src,
        split=split,
        settings=settings,
        seed=seed,
        shard_size=shard_size,
        total=data.total,
        keys=keys,
        fingerprint=data.fingerprint,
        units=max(1, -(-data.total // fill)),
        arrays={name: seen.most_common(1)[0][0] for name, seen in arrays.items() if seen},
        versions=versions_here(data.fields),
    )


def estimate(
    source: str,
    src: str,
    split: str | None,
    settings: EncodeSettings,
    seed: int | None,
    numbers: Sequence[int],
    threads: int,
    begin: Callable[[int], object] | None = None,
) -> Estimate:
    """Look at some samples; `numbers` are those in the order of the source, `begin` is as in `convert_unit`."""
    data, _ = opened(source, src, split, seed)
    fields = settings.fields(data.fields)

    def one(i: int) -> Sample | Reject:
        if begin is not None:
            begin(i)
        return attempt(data, settings, src, i)

    sizes = []
    arrays: dict[str, Counter[Field]] = {name: Counter() for name in undecided_arrays(settings.format, fields)}
    for outcome in converted(one, np.array(numbers, np.int64), threads):
        if not isinstance(outcome, Reject):
            try:
                sizes.append(stored_size(settings.format, fields, b"", outcome))
            except ShardError:
                continue  # the unit that holds it will say so
            for name, seen in arrays.items():
                seen[ffcv.array_field(outcome[name])] += 1
    return Estimate(sizes, arrays)


def undecided_arrays(format: Format, fields: Mapping[str, Field]) -> list[str]:
    """Fields whose samples have arrays of several types or shapes, where a shard holds but one."""
    return [name for name, field in fields.items() if format == "ffcv" and field.kind == "array" and not field.dtype]


def digest_of_keys(data: SourceData) -> str:
    """SHA-256 of the keys, in the order of the source; UserError where one appears twice."""
    digest = hashlib.sha256()

    def part(number: int) -> npt.NDArray[np.bytes_]:
        some = range(number * KEYS_AT_ONCE, min((number + 1) * KEYS_AT_ONCE, data.total))
        return np.array([key_bytes(data, i) for i in some], np.bytes_)

    def parts() -> Iterator[npt.NDArray[np.bytes_]]:
        for number in range(-(-data.total // KEYS_AT_ONCE)):
            keys = part(number)
            digest.update(b"".join(key + b"\0" for key in keys.tolist()))
            yield keys

    twice = first_repeated(parts(), part)
    if twice is not None:
        one, other = islice((data.origin(i) for i in range(data.total) if key_bytes(data, i) == twice), 2)
        raise UserError(f"key {twice.decode(errors='replace')}: appears twice, for {one} and for {other}")
    return digest.hexdigest()


def key_bytes(data: SourceData, i: int) -> bytes:
    """A key, whatever it may hold: that it fits into a shard is seen when the sample is written."""
    return data.key(i).encode(errors="surrogateescape")


CODECS = {"image": ("simplejpeg", "pillow"), "video": ("av",), "audio": ("av",)}
"""Packages that decode and encode a kind of field, or judge its files: what they do decides bytes and rejects."""


def versions_here(fields: Mapping[str, Field]) -> dict[str, str]:
    """Version of Headrace, of the manifest and of each package that has a hand in the bytes of such fields."""
    packages = {"headrace", *(package for field in fields.values() for package in CODECS.get(field.kind, ()))}
    if any(field.kind == "image" for field in fields.values()) and find_spec("pillow_heif") is not None:
        packages.add("pillow-heif")
    if any(field.kind == "audio" for field in fields.values()) and find_spec("soundfile") is not None:
        packages.add("soundfile")
    return {"manifest": str(VERSION), **{package: version(package) for package in sorted(packages)}}


@lru_cache(maxsize=1)
def opened(source: str, src: str, split: str | None, seed: int | None) -> tuple[SourceData, Order]:
    """The source and its stored order, opened once a process; forked processes inherit it."""
    if is_remote(src) and source != "shards":
        hint = "of what lies on a server, only shard sets can be read; copy the raw data here"
        raise UserError(f"{redact(src)}: {hint}")
    if not is_remote(src):
        check_no_special(src)
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


def convert_unit(
    job: Job,
    unit: int,
    folder: Path,
    threads: int,
    count: Callable[[int], object],
    begin: Callable[[int], object] | None = None,
    skip: Mapping[int, Reject] | None = None,
) -> UnitRecord:
    """Convert one unit into the shards of `folder`.

    Args:
        threads: That read and encode.
        count: Called with the number of samples done since the last call.
        begin: Called with the number of a sample, in the order of the source, before it is read; one thread only.
        skip: Samples that are not to be read.

    Raises:
        OSError: The shards cannot be written.
        SourceFault: A sample cannot be read, for a reason that says nothing about it.
        UserError: This machine has other versions of what makes the bytes than the one where the job was planned.
    """
    data, order = opened(job.source, job.src, job.split, job.seed)
    here = versions_here(data.fields)
    if here != job.versions:
        raise UserError(f"{socket.gethostname()} has {differing(here, job.versions)}: install the same on all nodes")
    numbers = order[job.numbers(unit)]
    fields = {**job.settings.fields(data.fields), **job.arrays}
    stream = ShardStream(folder, fields, format=job.settings.format, shard_size=job.shard_size, capacity=len(numbers))
    rejects: list[Reject] = []
    skip = skip or {}

    def one(i: int) -> Sample | Reject:
        if i in skip:
            return skip[i]
        if begin is not None:
            begin(i)
        return attempt(data, job.settings, job.src, i)

    try:
        for number, outcome in zip(numbers.tolist(), converted(one, numbers, threads), strict=True):
            if isinstance(outcome, Reject):
                rejects.append(outcome)
            else:
                try:
                    stream.add(check_key(outcome.pop("__key__")), outcome)
                except MachineError:
                    raise
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
        oriented=sorted(stream.oriented),
    )


def converted(attempt: Callable[[int], Sample | Reject], numbers: Order, threads: int) -> Iterator[Sample | Reject]:
    """Samples in the given order, read and encoded in threads, some ahead of the one that is asked for: no more than
    `AHEAD_BYTES`, if those to come are no larger than the `RECENT` ones, or the next one alone.

    One thread is the caller's own: handing samples over would cost it a fifth of its time.
    """
    if threads == 1:
        yield from map(attempt, numbers.tolist())
        return

    def work(chunk: Sequence[int]) -> list[Sample | Reject]:
        return [attempt(i) for i in chunk]

    recent: deque[int] = deque([AHEAD_BYTES], RECENT)  # before one is there, the next one alone
    waiting: deque[Future[list[Sample | Reject]]] = deque()
    at = done = 0
    with ThreadPoolExecutor(threads) as pool:
        try:
            while done < len(numbers):
                affordable = AHEAD_BYTES // max(1, *recent)
                size = min(CHUNK, max(1, affordable // (threads + 1)))
                while at < len(numbers) and len(waiting) <= threads and (not waiting or at - done + size <= affordable):
                    chunk = numbers[at : at + size].tolist()
                    waiting.append(pool.submit(work, chunk))
                    at += len(chunk)
                outcomes = waiting.popleft().result()
                done += len(outcomes)
                if done == len(outcomes):
                    recent.clear()
                recent.extend(map(weight, outcomes))
                outcomes.reverse()
                while outcomes:
                    yield outcomes.pop()
        finally:
            for future in waiting:
                future.cancel()


def weight(outcome: Sample | Reject) -> int:
    """About the bytes that a sample takes in memory."""
    if isinstance(outcome, Reject):
        return 0
    arrays = (value.nbytes for value in outcome.values() if isinstance(value, np.ndarray))
    return sum(arrays) + sum(len(value) for value in outcome.values() if isinstance(value, (bytes, str)))


def attempt(data: SourceData, settings: EncodeSettings, src: str, i: int) -> Sample | Reject:
    """One sample of the source as it is to be stored, or why it cannot be.

    Raises:
        SourceFault: It cannot be read, and that is the fault of the machine, of the store or of the open source.
    """
    try:
        return load(data, i, settings)
    except (BadSample, ShardError, OSError, ValueError, MemoryError) as error:
        if is_source_fault(error, src):
            raise SourceFault(f"{where(data, i)}: {reason(error)}") from error
        return reject(data, i, error)


def load(data: SourceData, i: int, settings: EncodeSettings) -> Sample:
    """One sample of the source as it is to be stored; BadSample, ShardError, OSError or ValueError where it cannot
    be."""
    key = data.key(i)
    values: Mapping[str, Any] = data.load(i)
    if data.turn is not None and any(settings.turns(f) for f in data.fields.values() if f.kind == "image"):
        values = data.turn(values)
    return {
        "__key__": key,
        **{name: settings.stored(field, key, values[name]) for name, field in data.fields.items()},
    }


def where(data: SourceData, i: int) -> str:
    """Where a sample comes from, also of a source that does not work any more."""
    try:
        return data.origin(i)
    except (ShardError, OSError, ValueError):
        return f"sample {i}"


def reason(error: BaseException) -> str:
    """What an error says, on one line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(str(said).split()) or type(error).__name__


def reject(data: SourceData, i: int, error: Exception) -> Reject:
    """A sample that is left out, with the error as its reason."""
    return Reject(data.key(i), data.origin(i), " ".join(str(error).split()), may_pass(error))


def merged_fields(fields: Mapping[str, Field], records: Sequence[UnitRecord]) -> dict[str, Field]:
    """The fields as the samples of all units turned out."""
    return {
        name: settled(
            field,
            {code for record in records for code in record.encodings.get(name, [])},
            {seen for record in records for seen in record.arrays.get(name, [])},
            any(name in record.oriented for record in records),
        )
        for name, field in fields.items()
    }
