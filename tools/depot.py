"""Where the finished units of a conversion wait until all of them are there, and how they become a set."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.shards import Manifest
from headrace.shards.manifest import MANIFEST_NAME, Shard, index_name, shard_name
from headrace.shards.staging import REJECTS_NAME, Staging, remove, sync_folder, write_file
from headrace.tools.units import UnitRecord

JOB_NAME = "job.json"
UNITS_NAME = "units"
UNIT_NAME = "unit.json"


class LocalDepot:
    """Finished units in a hidden folder beside the destination, which becomes the destination.

    The folder holds `job.json`, which says what is being made, and a folder for each unit, which takes its name when
    the unit is complete. Units may be added by other processes and, on a shared file system, by other machines.
    """

    def __init__(self, destination: Path) -> None:
        self.staging = Staging(destination, keep=True)
        self.folder = self.staging.folder

    def __enter__(self) -> LocalDepot:
        self.staging.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.staging.__exit__()

    def start(self, job: dict[str, Any]) -> None:
        """Keep the units of an earlier run if it was the same job, else begin anew."""
        path = self.folder / JOB_NAME
        try:
            same = json.loads(path.read_bytes()) == json.loads(json.dumps(job))
        except (OSError, ValueError):
            same = False
        if not same:
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

    @contextmanager
    def adding(self, unit: int) -> Iterator[Path]:
        """A folder for the unit's files, which goes away again unless `add` takes it."""
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
