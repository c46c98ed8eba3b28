"""Where the finished units of a conversion wait until all of them are there, and how they become a set."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from headrace.shards import Manifest, ShardError
from headrace.shards.manifest import MANIFEST_NAME, Shard, index_name, shard_name
from headrace.shards.remote import RemoteFolder
from headrace.shards.staging import REJECTS_NAME, Staging, remove, sync_folder, write_file
from headrace.tools.errors import UserError
from headrace.tools.units import UnitRecord, differing

JOB_NAME = "job.json"
UNITS_NAME = "units"
UNIT_NAME = "unit.json"
HIDDEN = ".headrace"


class Depot(Protocol):
    """What the two kinds of depots have in common. Pickles, so that workers elsewhere can add units."""

    place: str
    """Where the finished units are, for a person."""

    def __enter__(self) -> Depot: ...

    def __exit__(self, *_: object) -> None: ...

    def start(self, job: dict[str, Any]) -> None:
        """Keep the units of an earlier run if it was the same job, else begin anew. UserError where other versions of
        the software made them: their bytes and new ones may not belong together."""

    def finished(self) -> dict[int, UnitRecord]:
        """The units that are complete, by number."""

    def forget(self, unit: int) -> None:
        """Remove a unit that is complete: it is to be done anew."""

    def forked(self) -> None:
        """To be called in a forked process before it adds units."""

    def adding(self, unit: int) -> AbstractContextManager[Path]:
        """A folder for the unit's files, which goes away again."""

    def add(self, unit: int, folder: Path, record: UnitRecord) -> None:
        """The unit is complete: keep what is in `folder`."""

    def keys(self, unit: int, name: str, final: str) -> npt.NDArray[np.bytes_]:
        """The keys in one of a unit's shards, which is called `final` in the set."""

    def commit(self, units: Iterable[tuple[int, UnitRecord]], rejects: bytes, manifest: Manifest) -> None:
        """All units are there: they become the set. Killed on the way, the next run goes on here."""


class LocalDepot:
    """Finished units in a hidden folder beside the destination, which becomes the destination. See `Depot`.

    The folder holds `job.json`, which says what is being made, and a folder for each unit, which takes its name when
    the unit is complete. Units may be added by other processes and, on a shared file system, by other machines.
    """

    def __init__(self, destination: Path) -> None:
        self.staging = Staging(destination, keep=True)
        self.folder = self.staging.folder
        self.place = str(self.folder)

    def __enter__(self) -> LocalDepot:
        self.staging.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.staging.__exit__()

    def start(self, job: dict[str, Any]) -> None:
        """See `Depot`."""
        path = self.folder / JOB_NAME
        try:
            begun = json.loads(path.read_bytes())
        except (OSError, ValueError):
            begun = None
        if not goes_on(begun, job, self.place):
            self.staging.clear()
            (self.folder / UNITS_NAME).mkdir()
            write_file(path, json.dumps(job, indent=1).encode())
            sync_folder(self.folder)
        for leftover in self.folder.glob(f"{UNITS_NAME}/.*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def finished(self) -> dict[int, UnitRecord]:
        """The units that are complete, by number."""
        found = {}
        for folder in (self.folder / UNITS_NAME).iterdir():
            try:
                found[int(folder.name)] = UnitRecord.from_json((folder / UNIT_NAME).read_bytes())
            except (OSError, KeyError, TypeError, ValueError):
                remove(folder)
        return found

    def forget(self, unit: int) -> None:
        """See `Depot`."""
        folder = self.folder / UNITS_NAME / f"{unit:06d}"
        aside = folder.with_name(f".{folder.name}.forgotten")  # `start` removes such names
        os.rename(folder, aside)
        remove(aside)

    def forked(self) -> None:
        """See `Depot`."""
        self.staging.unlock_in_child()

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
        """The unit is complete: give its folder its name."""
        write_file(folder / UNIT_NAME, record.to_json().encode())
        sync_folder(folder)
        complete = folder.parent / f"{unit:06d}"
        try:
            os.rename(folder, complete)
        except OSError:
            if not complete.exists():  # else another worker, taken for dead, was as far: both wrote the same
                raise

    def keys(self, unit: int, name: str, final: str) -> npt.NDArray[np.bytes_]:
        """The keys in one of a unit's shards, which is called `final` in the set."""
        path = self.folder / UNITS_NAME / f"{unit:06d}" / index_name(name)
        if not path.exists():  # a commit was interrupted
            path = self.folder / index_name(final)
        keys: npt.NDArray[np.bytes_] = np.load(path, mmap_mode="r")["key"]
        return keys

    def commit(self, units: Iterable[tuple[int, UnitRecord]], rejects: bytes, manifest: Manifest) -> None:
        """All units are there: they become the set. Killed on the way, the next run goes on here."""
        for unit, number, shard in numbered(units):
            final = shard_name(number, manifest.format)
            for name, new in ((shard.name, final), (shard.index, index_name(final))):
                with contextlib.suppress(FileNotFoundError):  # renamed before
                    os.rename(self.folder / UNITS_NAME / f"{unit:06d}" / name, self.folder / new)
        if rejects:
            write_file(self.folder / REJECTS_NAME, rejects)
        write_file(self.folder / MANIFEST_NAME, manifest.to_json().encode())
        sync_folder(self.folder)
        remove(self.folder / UNITS_NAME)
        remove(self.folder / JOB_NAME)
        self.staging.commit()


class RemoteDepot:
    """Finished units under `.headrace/` of an object store's folder. See `Depot`.

    The folder is a set only when its manifest is there. A set that is already there is not replaced, for that cannot be
    done in one step.
    """

    def __init__(self, url: str) -> None:
        self.remote = RemoteFolder(url)
        self.place = self.remote / HIDDEN

    def __enter__(self) -> RemoteDepot:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def forked(self) -> None:
        """See `Depot`."""

    def start(self, job: dict[str, Any]) -> None:
        """See `Depot`. ShardError also where there is a set already."""
        if self.remote.exists(MANIFEST_NAME):
            self._clean_up()  # after a conversion that was killed when its set was complete
            raise ShardError(f"{self.remote}: holds a set already; delete it or choose another name")
        names = self.remote.names(HIDDEN)
        path = f"{HIDDEN}/{JOB_NAME}"
        if not goes_on(json.loads(self._whole(path)) if path in names else None, job, self.place):
            for name in names:
                self.remote.delete(name)
            self.remote.write(path, json.dumps(job, indent=1).encode())

    def finished(self) -> dict[int, UnitRecord]:
        """See `Depot`."""
        found = {}
        for name in self.remote.names(HIDDEN):
            unit = re.fullmatch(rf"{re.escape(HIDDEN)}/(\d+)\.json", name)
            if unit:
                found[int(unit[1])] = UnitRecord.from_json(self._whole(name))
        return found

    def forget(self, unit: int) -> None:
        """See `Depot`."""
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
        self.remote.write(f"{HIDDEN}/{unit:06d}.json", record.to_json().encode())

    def keys(self, unit: int, name: str, final: str) -> npt.NDArray[np.bytes_]:
        """See `Depot`."""
        waiting = staged(unit, index_name(name))
        content = self._whole(waiting if self.remote.exists(waiting) else index_name(final))
        keys: npt.NDArray[np.bytes_] = np.load(io.BytesIO(content))["key"]
        return keys

    def commit(self, units: Iterable[tuple[int, UnitRecord]], rejects: bytes, manifest: Manifest) -> None:
        """See `Depot`."""
        waiting = set(self.remote.names(HIDDEN))
        for unit, number, shard in numbered(units):
            final = shard_name(number, manifest.format)
            for name, new in ((shard.name, final), (shard.index, index_name(final))):
                if staged(unit, name) in waiting:  # else moved before
                    self.remote.move(staged(unit, name), new)
        if rejects:
            self.remote.write(REJECTS_NAME, rejects)
        self.remote.write(MANIFEST_NAME, manifest.to_json().encode())
        self._clean_up()

    def _clean_up(self) -> None:
        # The job last: without it, what is left would be taken for another job's.
        for name in sorted(self.remote.names(HIDDEN), key=lambda name: name.endswith(JOB_NAME)):
            self.remote.delete(name)

    def _whole(self, name: str) -> bytes:
        return self.remote.read(name, 0, self.remote.size(name))


def goes_on(begun: Any, job: dict[str, Any], place: str) -> bool:
    """Whether a job is the one that was begun in a place; UserError where only versions of the software differ."""
    if not isinstance(begun, dict):
        return False
    job = json.loads(json.dumps(job))
    if {**begun, "versions": job["versions"]} != job:
        return False
    found = begun.get("versions", {})
    if found != job["versions"]:
        raise UserError(
            f"{place}: made with {differing(found, job['versions'])} here, which may give other bytes; go on "
            "with the version that began, or delete that folder to begin anew"
        )
    return True


def staged(unit: int, name: str) -> str:
    """Where a unit's file waits in an object store."""
    return f"{HIDDEN}/{unit:06d}-{name}"


def numbered(units: Iterable[tuple[int, UnitRecord]]) -> Iterator[tuple[int, int, Shard]]:
    """(unit, number in the set, shard as the unit named it), in the order of the set."""
    number = 0
    for unit, record in units:
        for shard in record.shards:
            yield unit, number, shard
            number += 1


def set_shards(units: Iterable[tuple[int, UnitRecord]], format: str) -> tuple[Shard, ...]:
    """The shards under the names that they have in the set."""
    named = []
    for _, number, shard in numbered(units):
        name = shard_name(number, format)
        named.append(replace(shard, name=name, index=index_name(name)))
    return tuple(named)
