"""Raw data to shard sets."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.shards import Manifest, ShardError
from headrace.shards.manifest import EXTENSIONS, Format
from headrace.shards.remote import is_remote
from headrace.shards.staging import REJECTS_NAME
from headrace.tools.depot import Depot, LocalDepot, RemoteDepot, numbered, set_shards
from headrace.tools.encode import Encode, EncodeSettings
from headrace.tools.errors import UserError
from headrace.tools.hardware import cores
from headrace.tools.sources import SOURCES, check_apart
from headrace.tools.units import Job, Reject, UnitRecord, merged_fields, opened, plan_job
from headrace.tools.workers import ProgressCounter, in_processes, in_this_process, on_ray

Engine = Literal["local", "ray"]


class ConvertResult(NamedTuple):
    """What a conversion did."""

    samples: int
    """Samples written."""
    rejects: int
    """Samples left out, with the reasons in rejects.jsonl beside the manifest."""
    bytes: int
    """Size of the shards."""
    seconds: float
    """Wall time."""
    resumed: int
    """Samples that an earlier, interrupted conversion had done."""
    left_out: Mapping[str, int] = {}
    """Files of the source that belong to no sample, by their ending or another reason."""


def convert(
    source: str,
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: Format = "webdataset",
    split: str | None = None,
    encode: Encode = "keep",
    max_side: int | None = None,
    short_side: int | None = None,
    quality: int = 90,
    smart_threshold: int = EncodeSettings.smart_threshold,
    compress_probability: float = EncodeSettings.compress_probability,
    frames: int = EncodeSettings.frames,
    frame_stride: int = EncodeSettings.frame_stride,
    strict: bool = False,
    shard_size: int = 256 << 20,
    seed: int | None = 0,
    max_rejects: float = 0.05,
    engine: Engine = "local",
    workers: int | None = None,
    restart: bool = False,
    progress: Callable[[int], None] | None = None,
    started: Callable[[int], None] | None = None,
) -> ConvertResult:
    """Read raw data and write it as a shard set; the same input and settings give the same bytes.

    A sample that cannot be read or decoded is noted in rejects.jsonl (key, source, reason), in the set's folder, and
    the conversion goes on. One that was interrupted, by a signal, a full disk or too many bad samples, keeps its whole
    shards in a hidden folder beside `out`, and the same call goes on from there. Memory: in each worker some dozens of
    samples and the index of the shard under way; in this process the source's list of samples and all keys.

    Args:
        source: A name in `headrace.tools.sources.SOURCES`.
        src: The raw data; what it may be depends on the source.
        out: Folder of the set; a set that is already there is replaced when the new one is complete. Or the URL of a
            folder in an object store, where a set that is already there is refused.
        format: webdataset or ffcv.
        split: Part of the data; None is that for training, where there are parts.
        encode, max_side, short_side, quality, smart_threshold, compress_probability, frames, frame_stride, strict:
            How images and videos are stored, see `EncodeSettings`.
        shard_size: Bytes that a shard does not exceed. Shards hold about the same number of samples, so that they
            are a little smaller.
        seed: Seed of the order in which samples are stored, so that reading in order does not mean class by class;
            None keeps the order of the source.
        max_rejects: Largest share of samples, 0 to 1, that may be left out.
        engine: local: processes of this machine; ray: workers of a Ray cluster, see `headrace.tools.workers.on_ray`.
        workers: Shards that are made at a time; None takes one per core. A set of one shard is made by one process
            with as many threads.
        restart: Throw away the finished shards that an interrupted conversion to `out` has left. Without it those of
            the same conversion are kept, and those of another one are an error.
        progress: Called with the number of samples done so far, good and bad.
        started: Called with the number of samples in the source.

    Raises:
        UserError: The source cannot be read, settings contradict, another conversion to `out` was interrupted and has
            finished shards, or too many samples are bad: then the reasons are in `out`.rejects.jsonl, and `out` is as
            before.
        ShardError: The set cannot be written; `out` is as before.
    """
    start = time.perf_counter()
    if source not in SOURCES:
        raise UserError(f"unknown source {source!r}, use one of {', '.join(SOURCES)}")
    if engine not in ("local", "ray"):
        raise UserError(f"unknown engine {engine!r}, use local or ray")
    if not 0 <= max_rejects <= 1:
        raise UserError(f"max rejects is a share between 0 and 1, got {max_rejects}")
    if format not in EXTENSIONS:
        raise UserError(f"unknown format {format!r}, use one of {', '.join(EXTENSIONS)}")
    if shard_size < 1:
        raise UserError(f"shard size must be positive, got {shard_size}")
    settings = EncodeSettings(
        encode=encode,
        max_side=max_side,
        short_side=short_side,
        quality=quality,
        smart_threshold=smart_threshold,
        compress_probability=compress_probability,
        frames=frames,
        frame_stride=frame_stride,
        strict=strict,
        format=format,
    )
    workers = workers or cores()
    opened.cache_clear()  # the files may have changed since another conversion
    place = os.path.abspath(src) if os.path.exists(src) else os.fspath(src)
    check_apart(source, place, out)
    job = plan_job(source, place, split, settings, seed, shard_size, workers)
    if started is not None:
        started(job.total)
    depot: Depot = RemoteDepot(os.fspath(out)) if is_remote(out) else LocalDepot(Path(out))
    beside = Path(os.fspath(out).rstrip("/").rpartition("/")[2]) if is_remote(out) else Path(out)
    with depot:
        try:
            done = depot.start(job.to_json(), restart)
            if done is not None:  # killed when all but the last step was done
                remove_report(out)
                rejected = int(done.provenance.get("rejects", 0))
                seconds, left_out = time.perf_counter() - start, done.provenance.get("left_out", {})
                return ConvertResult(done.samples, rejected, done.bytes, seconds, job.total, left_out)
            records = depot.finished()
            resumed = samples_of(job, records)
            count = ProgressCounter(progress, resumed)
            missing = [unit for unit in range(job.units) if unit not in records]
            check_rejects(records, job, max_rejects, beside)
            by = on_ray if engine == "ray" else in_this_process if min(workers, len(missing)) < 2 else in_processes
            for unit, record in by(job, depot, missing, workers, count):
                records[unit] = record
                check_rejects(records, job, max_rejects, beside)
            units = sorted(records.items())
            manifest = finished_manifest(job, units, depot)
            rejects = [reject for _, record in units for reject in record.rejects]
            depot.commit(units, json_lines(rejects), manifest)
            remove_report(out)
        except OSError as error:
            reason = error.strerror or error
            raise ShardError(
                f"{out}: cannot write the set: {reason}; whole shards are kept in {depot.place}, and the same "
                "command goes on from there"
            ) from error
    seconds = time.perf_counter() - start
    left_out = manifest.provenance.get("left_out", {})
    return ConvertResult(manifest.samples, len(rejects), manifest.bytes, seconds, resumed, left_out)


def report_of(out: Path) -> Path:
    """Where the reasons of a conversion with too many bad samples are."""
    return out.with_name(f"{out.name}.{REJECTS_NAME}")


def remove_report(out: str | os.PathLike[str]) -> None:
    """Those of an earlier try are not true of the set that there is now."""
    if not is_remote(out):
        with contextlib.suppress(OSError):
            report_of(Path(out)).unlink()


def samples_of(job: Job, units: Iterable[int]) -> int:
    """Samples, good and bad, of some units."""
    slices = [job.numbers(unit) for unit in units]
    return sum(part.stop - part.start for part in slices)


def finished_manifest(job: Job, units: list[tuple[int, UnitRecord]], depot: Depot) -> Manifest:
    """The manifest of all units; UserError where they do not make a set."""
    records = [record for _, record in units]
    data, _ = opened(job.source, job.src, job.split, job.seed)
    fields = merged_fields(job.settings.fields(data.fields), records)
    rejects = sum(len(record.rejects) for record in records)
    shards = set_shards(units, job.settings.format)
    if not shards:
        raise UserError(f"{job.src}: there are no samples to write")
    for name, field in fields.items():
        if field.kind == "array" and not field.dtype and job.settings.format == "ffcv":
            raise UserError(f"{name}: arrays of a .beton have one type and shape, and these differ")
    check_keys(
        depot.keys(unit, shard.name, final.name)
        for (unit, _, shard), final in zip(numbered(units), shards, strict=True)
    )
    settings = asdict(job.settings)
    del settings["format"]
    provenance = {
        "source": job.source,
        "src": Path(job.src).name,
        "split": job.split or "train",
        **{name: value for name, value in settings.items() if value != DEFAULTS[name] or name in ALWAYS_SAID},
        "seed": job.seed,
        "rejects": rejects,
        **({"left_out": dict(data.left_out)} if data.left_out else {}),
    }
    return Manifest(format=job.settings.format, fields=fields, shards=shards, provenance=provenance)


DEFAULTS = asdict(EncodeSettings())
ALWAYS_SAID = ("encode", "max_side", "quality")


def check_keys(keys: Iterable[npt.NDArray[np.bytes_]]) -> None:
    """UserError where a key appears twice."""
    ordered = np.sort(np.concatenate(list(keys)))
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if twice.size:
        raise UserError(f"key {twice[0].decode()}: appears twice")


def check_rejects(units: Mapping[int, UnitRecord], job: Job, max_rejects: float, out: Path) -> None:
    """UserError above the limit, after the reasons have been written beside the set that there is not."""
    rejects = [reject for _, record in sorted(units.items()) for reject in record.rejects]
    if len(rejects) <= max_rejects * job.total:
        return
    report = report_of(out)
    first = f"the first: {rejects[0].source}: {rejects[0].reason}"
    try:
        report.write_bytes(json_lines(rejects))
        where = f"all reasons so far are in {report}"
    except OSError as error:
        where = f"the reasons could not be written to {report} ({error.strerror})"
    share = f"{len(rejects)} of {job.total} samples cannot be used, more than {max_rejects:.0%}"
    raise UserError(f"{share}; {first}; {where}")


def json_lines(rejects: Iterable[Reject]) -> bytes:
    """One JSON object a line."""
    lines = (json.dumps(reject._asdict(), ensure_ascii=False) + "\n" for reject in rejects)
    return "".join(lines).encode(errors="backslashreplace")  # half a surrogate pair, as JSON escapes it
