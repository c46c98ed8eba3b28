"""Where the finished units of a conversion wait until all of them are there, and how they become a set."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol

from headrace.shards import Manifest, ShardError
from headrace.shards.checksums import CURRENT
from headrace.shards.manifest import EXTENSIONS, MANIFEST_NAME, Shard, index_name, read_manifest, shard_name
from headrace.shards.remote.remote import RemoteFolder, redact
from headrace.shards.writing.staging import (
    FILE_OF_A_SET,
    REJECTS_NAME,
    SET_NAME,
    Staging,
    check_complete,
    remove,
    remove_set,
    size_of,
    sync_path,
    write_file,
)
from headrace.tools.conversion.units import UnitRecord, differing
from headrace.tools.errors import UserError

JOB_NAME = "job.json"
UNITS_NAME = "units"
UNIT_NAME = "unit.json"
READY_NAME = "set.json"
HIDDEN = ".headrace"
JOB, READY = f"{HIDDEN}/{JOB_NAME}", f"{HIDDEN}/{MANIFEST_NAME}"
REQUESTS = 16
"""That an object store is asked at a time."""


class Depot(Protocol):
    """What the two kinds of depots have in common. Pickles, so that workers elsewhere can add units."""

    place: str
    """Where the finished units are, for a person."""

    def __enter__(self) -> Depot: ...

    def __exit__(self, *_: object) -> None: ...

    def start(self, job: dict[str, Any], restart: bool = False) -> Manifest | None:
        """Go on with the units of an earlier run of this job, or begin.

        Args:
            job: Everything that the bytes of the set depend on, JSON.
            restart: Throw away the units of an earlier run, whatever its job.

        Returns:
            The manifest, where an earlier run was killed when all but giving the set its name was done: it has it now.

        Raises:
            UserError: There are finished units of another job: its bytes and new ones do not belong together.
            ShardError: The destination holds what may not be replaced.
        """

    def finished(self) -> dict[int, UnitRecord]:
        """The units that are complete, by number: every file is there, and as long as its record says."""

    def forget(self, unit: int) -> None:
        """Remove a unit that is complete: it is to be done anew."""

    def adding(self, unit: int) -> AbstractContextManager[Path]:
        """A folder for the unit's files, which goes away again."""

    def add(self, unit: int, folder: Path, record: UnitRecord) -> None:
        """The unit is complete: keep what is in `folder`."""

    def commit(self, units: Iterable[tuple[int, UnitRecord]], rejects: bytes, manifest: Manifest) -> None:
        """All units are there: they become the set. Killed on the way, the next run goes on here."""


class LocalDepot:
    """Finished units in a hidden folder beside the destination, until they become the destination. See `Depot`.

        job.json      what is being made
        units/N       a folder for each unit, which takes its name when the unit is complete
        set           the set, which is put together when all units are there
        set.json      what the set's manifest is, see `signature`. It is written when the set is complete and removed
                      when the old one is gone: with it only the renaming is left, or only the cleaning up

    Units may be added by other processes and, on a shared file system, by other machines.
    """

    def __init__(self, destination: Path) -> None:
        self.staging = Staging(destination, use="partial")
        self.folder = self.staging.folder
        self.set = self.staging.set
        self.place = str(self.folder)
        self.job: dict[str, Any] = {}

    def __enter__(self) -> LocalDepot:
        self.staging.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.staging.__exit__()

    def start(self, job: dict[str, Any], restart: bool = False) -> Manifest | None:
        """See `Depot`."""
        self.job = json.loads(json.dumps(job))
        begun = read_object(self.folder / JOB_NAME)
        is_mine = begun == self.job and not restart
        ready = self._ready()
        if ready == "renamed":
            manifest = read_manifest(self.staging.destination)
            self._clean_up()
            if is_mine:
                return manifest
            self.folder.mkdir(exist_ok=True)
            is_mine = False
        if is_mine:
            (self.folder / UNITS_NAME).mkdir(exist_ok=True)
            for leftover in self.folder.glob(f"{UNITS_NAME}/.*"):
                remove(leftover)
            return self._publish() if ready == "complete" else None
        if not restart:
            refuse_to_clear(begun, self.job, self._finished_shards(), self.place)
        self._clear()
        (self.folder / UNITS_NAME).mkdir()
        write_file(self.folder / JOB_NAME, json.dumps(self.job, indent=1).encode())
        sync_path(self.folder)
        sync_path(self.folder.parent)
        return None

    def _ready(self) -> Literal["", "complete", "renamed"]:
        """Whether the set was complete when an earlier run ended, and whether it had its name."""
        written = read_object(self.folder / READY_NAME)
        if written is None:
            return ""
        here, there = signature(self.set), signature(self.staging.destination)
        if here != written and there is not None and there["manifest"] == written["manifest"]:
            return "renamed"
        if here is not None and here["manifest"] == written["manifest"]:
            with contextlib.suppress(ShardError):
                check_complete(self.set)
                return "complete"
        else:
            # The set got its name and was replaced or removed since: what lies here now is the one before it.
            remove_set(self.set)
        (self.folder / READY_NAME).unlink()
        return ""

    def _finished_shards(self) -> int:
        return sum(
            path.suffix[1:] in EXTENSIONS.values()
            for folder in (*self.folder.glob(f"{UNITS_NAME}/[0-9]*"), self.set)
            for path in folder.glob("shard-*")
        )

    def _clear(self) -> None:
        """Remove what another job has left; ShardError where there is something that no job writes.

        The job last: until then a run of that job may go on with what there still is.
        """
        known = {JOB_NAME, READY_NAME, UNITS_NAME, SET_NAME}
        known |= {f".{name}.partial" for name in (JOB_NAME, READY_NAME)}
        for name in os.listdir(self.folder):
            if name not in known and not FILE_OF_A_SET.fullmatch(name):
                raise ShardError(f"{self.folder}: not cleared, because it also holds {name}; move it away")
        remove(self.folder / READY_NAME)
        remove_set(self.set)
        for name in sorted(os.listdir(self.folder), key=lambda name: name == JOB_NAME):
            remove(self.folder / name)

    def finished(self) -> dict[int, UnitRecord]:
        """See `Depot`."""
        found = {}
        for folder in (self.folder / UNITS_NAME).iterdir():
            record = read_record(folder / UNIT_NAME, self.job)
            if record is None or not folder.name.isdecimal():
                remove(folder)
            else:
                found[int(folder.name)] = record
        self._take_apart(found)
        for unit in [unit for unit, record in found.items() if not self._is_whole(unit, record)]:
            self.forget(unit)
            del found[unit]
        return found

    def _take_apart(self, found: Mapping[int, UnitRecord]) -> None:
        """Give back to the units what a commit that was interrupted has put into the set: if one of them is done anew,
        the numbers of its shards and of those behind them may be others."""
        if not self.set.exists():
            return
        if found.keys() == set(range(self.job["units"])):  # else nothing says which unit's a file is
            for unit, shard, final in named(sorted(found.items())):
                for name, new in ((shard.name, final.name), (shard.index, final.index)):
                    with contextlib.suppress(FileNotFoundError):
                        os.rename(self.set / new, self.folder / UNITS_NAME / f"{unit:06d}" / name)
        remove_set(self.set)

    def _is_whole(self, unit: int, record: UnitRecord) -> bool:
        folder = self.folder / UNITS_NAME / f"{unit:06d}"
        return all(
            size_of(folder / shard.name) == shard.bytes and size_of(folder / shard.index) == shard.index_bytes
            for shard in record.shards
        )

    def forget(self, unit: int) -> None:
        """See `Depot`."""
        folder = self.folder / UNITS_NAME / f"{unit:06d}"
        aside = folder.with_name(f".{folder.name}.forgotten")  # `start` removes such names
        os.rename(folder, aside)
        remove(aside)

    @contextmanager
    def adding(self, unit: int) -> Iterator[Path]:
        """See `Depot`; on the same file system, so that `add` can rename it."""
        mine = f".{unit:06d}.{socket.gethostname()}.{os.getpid()}"
        folder = self.folder / UNITS_NAME / mine
        remove(folder)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, unit: int, folder: Path, record: UnitRecord) -> None:
        """See `Depot`: give the unit's folder its name."""
        write_file(folder / UNIT_NAME, record_bytes(record, self.job))
        sync_path(folder)
        complete = folder.parent / f"{unit:06d}"
        try:
            os.rename(folder, complete)
        except OSError:
            # Another worker, taken for dead, may have been as far: both wrote the same if it was at the same job.
            if read_record(complete / UNIT_NAME, self.job) is None:
                raise
        sync_path(folder.parent)

    def commit(self, units: Iterable[tuple[int, UnitRecord]], rejects: bytes, manifest: Manifest) -> None:
        """See `Depot`."""
        self.set.mkdir(exist_ok=True)
        units = list(units)
        for unit, record in units:
            if not self._is_whole(unit, record):
                folder = self.folder / UNITS_NAME / f"{unit:06d}"
                raise ShardError(f"{folder}: is not complete any more; the same command makes it anew")
        for unit, shard, final in named(units):
            for name, new in ((shard.name, final.name), (shard.index, final.index)):
                os.rename(self.folder / UNITS_NAME / f"{unit:06d}" / name, self.set / new)
        if rejects:
            write_file(self.set / REJECTS_NAME, rejects)
        write_file(self.set / MANIFEST_NAME, manifest.to_json().encode())
        sync_path(self.set)
        write_file(self.folder / READY_NAME, json.dumps(signature(self.set)).encode())
        sync_path(self.folder)
        self._publish()

    def _publish(self) -> Manifest:
        try:
            manifest = self.staging.commit()
        except ShardError as error:
            raise ShardError(
                f"{error}; the finished set waits in {self.place}, and the same command goes on from there"
            ) from error
        with contextlib.suppress(OSError):  # else the next run goes on
            self._clean_up()
        return manifest

    def _clean_up(self) -> None:
        """Remove the old set and what is left of the job: at last the job, so that until then nobody takes it for one
        that was not finished."""
        self.staging.retire_old()
        for name in (UNITS_NAME, JOB_NAME, READY_NAME):
            remove(self.folder / name)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


class RemoteDepot:
    """Finished units under `.headrace/` of an object store's folder. See `Depot`.

        job.json                 what is being made
        000012-shard-000000.tar  a file of a unit
        000012.json              the unit's record, written when its files are there
        manifest.json            a copy of the set's manifest, written before it: if both are there, only the cleaning
                                 up is left

    The folder is a set only when its manifest is there. A set that is already there is not replaced, for that cannot be
    done in one step.
    """

    def __init__(self, url: str) -> None:
        self.remote = RemoteFolder(url)
        self.place = self.remote / HIDDEN
        self.job: dict[str, Any] = {}
        self.moved: dict[str, str] = {}
        """Of an earlier run's commit: names in the set, and those that the objects had before."""

    def __enter__(self) -> RemoteDepot:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, job: dict[str, Any], restart: bool = False) -> Manifest | None:
        """See `Depot`. ShardError also where there is a set already."""
        self.job = json.loads(json.dumps(job))
        held = self.remote.sizes(HIDDEN)
        begun = parse_object(self._whole(JOB)) if JOB in held else None
        is_mine = begun == self.job and not restart
        if self.remote.exists(MANIFEST_NAME):
            if READY not in held or (content := self._whole(READY)) != self._whole(MANIFEST_NAME):
                raise self._taken(MANIFEST_NAME)
            self._clean_up()
            if not is_mine:
                raise self._taken(MANIFEST_NAME)
            return manifest_of(content)
        if is_mine:
            return None
        if not restart:
            shards = sum(name.rpartition(".")[2] in EXTENSIONS.values() for name in held)
            refuse_to_clear(begun, self.job, max(shards, len(records_in(held))), self.place)
        # What an interrupted commit has moved goes too; what is there besides is not ours.
        there = self.remote.sizes() if records_in(held) else {}
        for _, shard, final in named(sorted(self._records(held, None).items())):
            for name, size in ((final.name, shard.bytes), (final.index, shard.index_bytes)):
                if there.get(name) == size:
                    self.remote.delete(name)
        for format in EXTENSIONS:
            if self.remote.exists(shard_name(0, format)):
                raise self._taken(shard_name(0, format))
        # The job last: until then a run of that job may go on with what there still is.
        for name in sorted(held, key=lambda name: name == JOB):
            self.remote.delete(name)
        self.remote.write(JOB, json.dumps(self.job, indent=1).encode())
        return None

    def _taken(self, name: str) -> ShardError:
        what = "a set" if name == MANIFEST_NAME else name
        return ShardError(f"{self.remote}: holds {what} already; delete it or choose another name")

    def _records(self, held: Mapping[str, int], job: Mapping[str, Any] | None) -> dict[int, UnitRecord]:
        """Those that can be read, of this job or of any."""
        names = records_in(held)
        with ThreadPoolExecutor(REQUESTS) as pool:
            records = pool.map(lambda name: parse_record(self.remote.read(name, 0, held[name]), job), names.values())
            return {unit: record for unit, record in zip(names, records, strict=True) if record is not None}

    def finished(self) -> dict[int, UnitRecord]:
        """See `Depot`."""
        held = self.remote.sizes(HIDDEN)
        found = self._records(held, self.job)
        for unit, name in records_in(held).items():
            if unit not in found:
                self.remote.delete(name)
        # Before all units were there, nothing was moved.
        there = self.remote.sizes() if found.keys() == set(range(self.job["units"])) else {}
        damaged = set()
        for unit, shard, final in named(sorted(found.items())):
            for waiting, new, size in remote_places(unit, shard, final):
                if held.get(waiting) == size:
                    continue
                if there.get(new) == size:
                    self.moved[new] = waiting
                else:
                    damaged.add(unit)
        for unit in damaged:
            self.forget(unit)
            del found[unit]
        return found

    def forget(self, unit: int) -> None:
        """See `Depot`."""
        # What a commit that was interrupted has moved goes back: the numbers of shards may come to be others.
        for new, waiting in self.moved.items():
            self.remote.move(new, waiting)
        self.moved = {}
        self.remote.delete(f"{HIDDEN}/{unit:06d}.json")

    @contextmanager
    def adding(self, unit: int) -> Iterator[Path]:
        """See `Depot`."""
        with TemporaryDirectory(prefix="headrace-") as folder:
            yield Path(folder)

    def add(self, unit: int, folder: Path, record: UnitRecord) -> None:
        """See `Depot`."""
        for shard in record.shards:
            for name in (shard.name, shard.index):
                self.remote.put(folder / name, staged(unit, name))
        self.remote.write(f"{HIDDEN}/{unit:06d}.json", record_bytes(record, self.job))

    def commit(self, units: Iterable[tuple[int, UnitRecord]], rejects: bytes, manifest: Manifest) -> None:
        """See `Depot`."""
        content = manifest.to_json().encode()
        manifest_of(content)  # else nobody could read the set
        if self.remote.exists(MANIFEST_NAME):
            raise self._taken(MANIFEST_NAME)
        waiting = self.remote.sizes(HIDDEN)
        expected: dict[str, int] = {}
        for unit, shard, final in named(units):
            for name, new, size in remote_places(unit, shard, final):
                expected[new] = size
                if waiting.get(name) == size:  # else moved before
                    self.remote.move(name, new)
        there = self.remote.sizes()
        for name, size in expected.items():
            if there.get(name) != size:
                found = f"has {there[name]:,} bytes instead of {size:,}" if name in there else "is gone"
                raise ShardError(f"{self.remote / name}: {found}; the same command makes it anew")
        if rejects:
            self.remote.write(REJECTS_NAME, rejects)
        if MANIFEST_NAME in there:
            raise self._taken(MANIFEST_NAME)
        self.remote.write(READY, content)
        self.remote.write(MANIFEST_NAME, content)
        self._clean_up()

    def _clean_up(self) -> None:
        """Remove what is left of the job, and at last what says that it is done."""
        last = (JOB, READY)
        for name in sorted(self.remote.sizes(HIDDEN), key=lambda name: last.index(name) if name in last else -1):
            self.remote.delete(name)

    def _whole(self, name: str) -> bytes:
        return self.remote.read(name, 0, self.remote.size(name))


def refuse_to_clear(begun: dict[str, Any] | None, job: dict[str, Any], shards: int, place: str) -> None:
    """UserError where there are finished shards of another job: days of work may be in them."""
    if not shards:
        return
    made = f"made with {', '.join(differences(begun, job))}" if begun else "of an unknown conversion"
    raise UserError(
        f"{place}: {shards:,} finished shards are there, {made}; go on as it began, name another OUT, or give "
        "--restart, which throws them away"
    )


UNNAMED = {
    "keys": "other samples in the source",
    "fingerprint": "other sizes, times or contents of the source's files",
}
"""Parts of a job that are checksums: what it means for a person that they differ."""


def differences(begun: Mapping[str, Any], job: Mapping[str, Any]) -> list[str]:
    """What differs between two jobs, for a person."""
    lines = []
    for name in {**job, **begun}:
        found, wanted = begun.get(name), job.get(name)
        if found == wanted or name in ("total", "units"):  # these follow from the others
            continue
        if name == "versions":
            lines.append(differing(found or {}, wanted or {}))
        elif isinstance(found, Mapping) and isinstance(wanted, Mapping):
            lines += differences(found, wanted)
        else:
            lines.append(UNNAMED.get(name, redact(f"{name.replace('_', ' ')} {found} instead of {wanted}")))
    return lines or ["another number of samples in a shard"]


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file or it holds something else. OSError where it cannot be read."""
    try:
        return parse_object(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse_object(content: bytes) -> dict[str, Any] | None:
    """Likewise of bytes."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def digest(job: Mapping[str, Any]) -> str:
    """A name for a job."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


def record_bytes(record: UnitRecord, job: Mapping[str, Any]) -> bytes:
    """The file of a record, which says of which job the unit is."""
    return json.dumps({"job": digest(job), **json.loads(record.to_json())}).encode()


def parse_record(content: bytes, job: Mapping[str, Any] | None) -> UnitRecord | None:
    """Inverse of `record_bytes`; None where it is damaged or of another job than this one."""
    try:
        if job is None or json.loads(content)["job"] == digest(job):
            return UnitRecord.from_json(content)
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    return None


def read_record(path: Path, job: Mapping[str, Any]) -> UnitRecord | None:
    """Likewise of a file, None also where there is none. OSError where it cannot be read."""
    try:
        return parse_record(path.read_bytes(), job)
    except (FileNotFoundError, NotADirectoryError):
        return None


def signature(folder: Path) -> dict[str, Any] | None:
    """What tells a set from any other, the same one written twice included: the checksum of its manifest and when that
    was written. None where there is no manifest."""
    path = folder / MANIFEST_NAME
    try:
        return {"manifest": CURRENT.of_file(path.read_bytes()), "written_ns": path.stat().st_mtime_ns}
    except (FileNotFoundError, NotADirectoryError):
        return None


def manifest_of(content: bytes) -> Manifest:
    """The manifest that a set will have, read back; ShardError where it cannot be."""
    with TemporaryDirectory(prefix="headrace-") as folder:
        (Path(folder) / MANIFEST_NAME).write_bytes(content)
        return read_manifest(Path(folder))


def records_in(names: Iterable[str]) -> dict[int, str]:
    """Names of the units' records in an object store, by number."""
    found = (re.fullmatch(rf"{re.escape(HIDDEN)}/(\d+)\.json", name) for name in sorted(names))
    return {int(unit[1]): unit[0] for unit in found if unit}


def remote_places(unit: int, shard: Shard, final: Shard) -> Iterator[tuple[str, str, int]]:
    """For a shard and its index: where it waits in an object store, its name in the set, its size."""
    yield staged(unit, shard.name), final.name, shard.bytes
    yield staged(unit, shard.index), final.index, shard.index_bytes


def staged(unit: int, name: str) -> str:
    """Where a unit's file waits in an object store."""
    return f"{HIDDEN}/{unit:06d}-{name}"


def named(units: Iterable[tuple[int, UnitRecord]]) -> Iterator[tuple[int, Shard, Shard]]:
    """(unit, shard as the unit named it, the same as the set names it), in the order of the set."""
    formats = {extension: format for format, extension in EXTENSIONS.items()}
    shards = ((unit, shard) for unit, record in units for shard in record.shards)
    for number, (unit, shard) in enumerate(shards):
        name = shard_name(number, formats[shard.name.rpartition(".")[2]])
        yield unit, shard, replace(shard, name=name, index=index_name(name))


def set_shards(units: Iterable[tuple[int, UnitRecord]]) -> tuple[Shard, ...]:
    """The shards under the names that they have in the set."""
    return tuple(final for _, _, final in named(units))
