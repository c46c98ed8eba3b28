"""Raw data to shard sets."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

from headrace.pipeline.images.limits import pixel_limit
from headrace.shards import Manifest, ShardError
from headrace.shards.errors import MachineError
from headrace.shards.formats.ffcv import MIN_SHARD_SIZE
from headrace.shards.formats.orientation import Orientation
from headrace.shards.manifest import EXTENSIONS, Format
from headrace.shards.remote.remote import is_remote, redact
from headrace.shards.writing.staging import REJECTS_NAME
from headrace.tools.conversion.depot import Depot, LocalDepot, RemoteDepot, set_shards
from headrace.tools.conversion.encode import Encode, EncodeSettings
from headrace.tools.conversion.faults import patiently
from headrace.tools.conversion.pool import FORKS
from headrace.tools.conversion.units import Job, Reject, UnitRecord, merged_fields, opened, plan_job
from headrace.tools.conversion.workers import estimate_in_process, in_processes, in_this_process, on_ray
from headrace.tools.errors import UserError
from headrace.tools.hardware import cores
from headrace.tools.sources import SOURCES, check_apart
from headrace.tools.sources.left_out import Stray
from headrace.tools.sources.listing import findable

Engine = Literal["local", "ray"]


class Status(NamedTuple):
    """How far a conversion is."""

    phase: Literal["planning", "converting", "moving"]
    """planning: the source is listed and some samples are read; moving: the finished shards get their names."""
    total: int
    """Samples in the source; 0 where that is not known yet."""
    samples: int
    """Those done, good and bad."""
    rejects: int
    """Those that are left out, in the shards that are finished."""
    bytes: int
    """Of the shards that are finished."""


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
    left_out: Mapping[str, int]
    """Files of the source that belong to no sample, by their ending or another reason; rejects.jsonl lists them."""
    notes: Sequence[str] = ()
    """What else the source has to say, a line each."""


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
    max_pixels: int | None = None,
    quality: int = 90,
    smart_threshold: int = EncodeSettings.smart_threshold,
    compress_probability: float = EncodeSettings.compress_probability,
    frames: int = EncodeSettings.frames,
    frame_stride: int = EncodeSettings.frame_stride,
    strict: bool = False,
    quick: bool = False,
    orientation: Orientation | None = None,
    shard_size: int = 256 << 20,
    seed: int | None = 0,
    max_rejects: float = 0.05,
    engine: Engine = "local",
    workers: int | None = None,
    restart: bool = False,
    progress: Callable[[int], None] | None = None,
    started: Callable[[int], None] | None = None,
    status: Callable[[Status], None] | None = None,
) -> ConvertResult:
    """Read raw data and write it as a shard set; the same input and settings give the same bytes.

    A sample whose bytes are bad is noted in rejects.jsonl (key, source, reason), in the set's folder, and the
    conversion goes on. What is the fault of the machine (a disk that does not answer, a mount that went away, no
    memory) is tried again some times and then ends it. A conversion that ends early, so or by a signal, a full disk or
    too many bad samples, keeps its whole shards in a hidden folder beside `out`, and the same call goes on from there;
    it reads anew what could not be opened.

    Memory: in each worker the sample under way and the index of the shard under way; with one shard and several threads
    256 MB of samples, or one that is larger. In this process the source's list of samples, some 300 bytes each, of
    which each worker comes to have a copy of its own.

    Args:
        source: A name in `headrace.tools.sources.SOURCES`.
        src: The raw data; what it may be depends on the source.
        out: Folder of the set; a set that is already there is replaced when the new one is complete. Or the URL of a
            folder in an object store, where a set that is already there is refused.
        format: webdataset or ffcv.
        split: Part of the data; None is that for training, where there are parts.
        encode, max_side, short_side, quality, smart_threshold, compress_probability, frames, frame_stride, strict,
            quick, orientation: How images and videos are stored, see `EncodeSettings`.
        max_pixels: Larger images are left out, see `EncodeSettings`; None takes `headrace.pipeline.images.limits`'.
        shard_size: Bytes that a shard does not exceed. Shards hold about the same number of samples, so that they
            are a little smaller.
        seed: Seed of the order in which samples are stored, so that reading in order does not mean class by class;
            None keeps the order of the source.
        max_rejects: Largest share of samples, 0 to 1, that may be left out.
        engine: local: processes of this machine; ray: workers of a Ray cluster, see
            `headrace.tools.conversion.workers.on_ray`.
        workers: Shards that are made at a time; None takes one per core. A set of one shard is made by one process
            with as many threads.
        restart: Throw away the finished shards that an interrupted conversion to `out` has left. Without it those of
            the same conversion are kept, and those of another one are an error.
        progress: Called with the number of samples done so far, good and bad.
        started: Called with the number of samples in the source.
        status: Called as progress is made, and several times a second while there is none.

    Raises:
        UserError: The source cannot be read, settings contradict, another conversion to `out` was interrupted and has
            finished shards, or too many samples are bad: then the reasons are in `out`.rejects.jsonl, and `out` is as
            before.
        ShardError: The set cannot be written, or, as MachineError, the source cannot be read for now; `out` is as
            before.
        KeyboardInterrupt: Ctrl-C, or what a handler of a signal raises; the text says what is kept.
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
    if format == "ffcv" and shard_size < MIN_SHARD_SIZE:
        least = f"{MIN_SHARD_SIZE >> 20} MB, for a .beton has whole pages"
        raise UserError(f"shard size of .beton files must be at least {least}, got {shard_size:,} bytes")
    if workers is not None and workers < 1:
        raise UserError(f"workers must be at least 1, got {workers}")
    settings = EncodeSettings(
        encode=encode,
        max_side=max_side,
        short_side=short_side,
        max_pixels=_most_pixels(max_pixels),
        quality=quality,
        smart_threshold=smart_threshold,
        compress_probability=compress_probability,
        frames=frames,
        frame_stride=frame_stride,
        strict=strict,
        quick=quick,
        orientation=orientation,
        format=format,
    )
    workers = workers or cores()
    opened.cache_clear()  # the files may have changed since another conversion

    def planning() -> None:
        if status is not None:
            status(Status("planning", 0, 0, 0, 0))

    planning()
    place = os.path.abspath(src) if os.path.exists(src) else os.fspath(src)
    check_apart(source, place, out)

    def plan() -> Job:
        return plan_job(source, place, split, settings, seed, shard_size, workers, estimate_in_process)

    job = patiently(plan, planning)
    settings.load(opened(job.source, job.src, job.split, job.seed)[0].fields)
    if started is not None:
        started(job.total)
    depot: Depot = RemoteDepot(os.fspath(out)) if is_remote(out) else LocalDepot(Path(out))
    beside = Path(redact(os.fspath(out)).rstrip("/").rpartition("/")[2]) if is_remote(out) else Path(out)
    so_far = _SoFar(job, progress, status)
    with depot:
        try:
            done = depot.start(job.to_json(), restart)
            if done is not None:  # killed when all but the last step was done
                remove_report(out, beside)
                return result_of(done, job, time.perf_counter() - start, job.total)
            so_far.go_on(depot)
            resumed = so_far.done
            check_rejects(so_far, max_rejects, beside)
            missing = [unit for unit in range(job.units) if unit not in so_far.records]
            alone = min(workers, len(missing)) < 2 and not FORKS
            by = on_ray if engine == "ray" else in_this_process if alone else in_processes
            with contextlib.closing(by(job, depot, missing, workers, so_far.count)) as finished:
                for unit, record in finished:
                    so_far.add(unit, record)
                    check_rejects(so_far, max_rejects, beside)
            so_far.tell("moving")
            units = sorted(so_far.records.items())
            manifest = finished_manifest(job, units)
            data, _ = opened(job.source, job.src, job.split, job.seed)
            lines = [*(reject.to_json() for reject in so_far.rejects()), *map(stray_line, data.strays)]
            depot.commit(units, json_lines(lines), manifest)
        except OSError as error:
            raise ShardError(
                f"{redact(os.fspath(out))}: cannot write the set: {error.strerror or error}; {so_far.kept(depot)}"
            ) from error
        except MachineError as error:
            raise MachineError(f"{error}; {so_far.kept(depot)}") from error
        except KeyboardInterrupt as stop:
            stop.args = (f"interrupted; {so_far.kept(depot)}",)
            raise
    remove_report(out, beside)
    return result_of(manifest, job, time.perf_counter() - start, resumed)


def _most_pixels(given: int | None) -> int:
    """What is given, else the limit of this process."""
    try:
        return pixel_limit() if given is None else given
    except MachineError as error:
        raise UserError(str(error)) from error


def result_of(manifest: Manifest, job: Job, seconds: float, resumed: int) -> ConvertResult:
    """What a conversion did, by what it says of itself in the set."""
    said = manifest.provenance
    data, _ = opened(job.source, job.src, job.split, job.seed)
    counts = manifest.samples, int(said["rejects"]), manifest.bytes
    return ConvertResult(*counts, seconds, resumed, said.get("left_out", {}), tuple(data.notes))


def stray_line(stray: Stray) -> dict[str, Any]:
    """The entry of rejects.jsonl for a file that belongs to no sample, and so has no key."""
    return {"key": None, **stray._asdict()}


class _SoFar:
    """The finished units, and what they add up to."""

    def __init__(
        self, job: Job, progress: Callable[[int], None] | None, status: Callable[[Status], None] | None
    ) -> None:
        self.job = job
        self.records: dict[int, UnitRecord] = {}
        self.done = 0
        """Samples, also of units under way."""
        self.listed = False
        """Whether it is known what an earlier run has finished."""
        self.rejected = 0
        self.bytes = 0
        self._progress = progress
        self._status = status

    def go_on(self, depot: Depot) -> None:
        """Take over what an earlier run has finished; a unit that lacks samples which may be readable now is forgotten,
        so that it is done anew."""
        for unit, record in depot.finished().items():
            if any(reject.passing for reject in record.rejects):
                depot.forget(unit)
            else:
                self.add(unit, record)
        self.done = samples_of(self.job, self.records)
        self.listed = True

    def add(self, unit: int, record: UnitRecord) -> None:
        """A unit is finished."""
        self.records[unit] = record
        self.rejected += len(record.rejects)
        self.bytes += sum(shard.bytes for shard in record.shards)

    def count(self, samples: int) -> None:
        """So many more samples are done; less than 0 where a unit begins again."""
        self.done += samples
        if self._progress is not None and samples:
            self._progress(self.done)
        self.tell("converting")

    def tell(self, phase: Literal["converting", "moving"]) -> None:
        """How far it is."""
        if self._status is not None:
            self._status(Status(phase, self.job.total, self.done, self.rejected, self.bytes))

    def rejects(self) -> list[Reject]:
        """In the order of the set."""
        return [reject for _, record in sorted(self.records.items()) for reject in record.rejects]

    def kept(self, depot: Depot) -> str:
        """What an early end does not lose."""
        whole = sum(len(record.shards) for record in self.records.values())
        if not self.listed:
            return f"what was whole is kept in {depot.place}, and the same command goes on from there"
        if not whole:
            return "no shard was whole yet; the same command begins again"
        shards = "1 whole shard is" if whole == 1 else f"{whole:,} whole shards are"
        return f"{shards} kept in {depot.place}, and the same command goes on from there"


def samples_of(job: Job, units: Iterable[int]) -> int:
    """Samples, good and bad, of some units."""
    slices = [job.numbers(unit) for unit in units]
    return sum(part.stop - part.start for part in slices)


def finished_manifest(job: Job, units: list[tuple[int, UnitRecord]]) -> Manifest:
    """The manifest of all units; UserError where they do not make a set."""
    records = [record for _, record in units]
    data, _ = opened(job.source, job.src, job.split, job.seed)
    fields = merged_fields(job.settings.fields(data.fields), records)
    rejects = sum(len(record.rejects) for record in records)
    shards = set_shards(units)
    if not shards:
        raise UserError(f"{redact(job.src)}: there are no samples to write")
    for name, field in fields.items():
        if field.kind == "array" and not field.dtype and job.settings.format == "ffcv":
            raise UserError(f"{name}: arrays of a .beton have one type and shape, and these differ")
    settings = asdict(job.settings)
    del settings["format"]
    provenance = {
        "source": job.source,
        "src": Path(redact(findable(job.src))).name,
        "split": job.split or "train",
        **{name: value for name, value in settings.items() if value != DEFAULTS[name] or name in ALWAYS_SAID},
        "seed": job.seed,
        "rejects": rejects,
        **({"left_out": dict(data.left_out)} if data.left_out else {}),
    }
    return Manifest(format=job.settings.format, fields=fields, shards=shards, provenance=provenance)


DEFAULTS = asdict(EncodeSettings())
ALWAYS_SAID = ("encode", "max_side", "quality")


def check_rejects(so_far: _SoFar, max_rejects: float, out: Path) -> None:
    """UserError above the limit, after the reasons have been written beside the set that there is not."""
    total = so_far.job.total
    if so_far.rejected <= max_rejects * total:
        return
    rejects = so_far.rejects()
    report = report_path(out)
    try:
        report.write_bytes(json_lines(reject.to_json() for reject in rejects))
        reasons = f"all reasons so far are in {report}"
    except OSError as error:
        reasons = f"the reasons could not be written to {report} ({error.strerror})"
    passing = sum(reject.passing for reject in rejects)
    way_out = "--max-rejects puts up with more, and --restart reads a source anew in which they are mended"
    if passing:
        way_out = f"{passing:,} of them may be readable later, and the same command tries them again; {way_out}"
    share = f"{len(rejects):,} of {total:,} samples cannot be used, more than {max_rejects:.0%}"
    first = f"the first: {rejects[0].source}: {rejects[0].reason}"
    raise UserError(f"{share}; {first}; {reasons}; {way_out}")


def report_path(out: Path) -> Path:
    """Where the reasons are while there is no set to put them in."""
    return out.with_name(f"{out.name}.{REJECTS_NAME}")


def remove_report(out: str | os.PathLike[str], beside: Path) -> None:
    """The reasons of an earlier try are not true of the set that there is now."""
    if not is_remote(out):
        with contextlib.suppress(OSError):
            report_path(beside).unlink()


def json_lines(objects: Iterable[Mapping[str, Any]]) -> bytes:
    """One JSON object a line."""
    lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in objects)
    return "".join(lines).encode(errors="backslashreplace")  # half a surrogate pair, as JSON escapes it
