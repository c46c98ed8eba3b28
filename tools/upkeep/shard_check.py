"""The check of one shard: its files, what its index says, and its samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from headrace.shards import Manifest, ShardError, ShardSet
from headrace.shards.checksums import Checksums
from headrace.shards.errors import MachineError
from headrace.shards.index import OpenShard
from headrace.shards.manifest import Shard
from headrace.shards.reading import ReadFile, cause_of, chunks, is_of_the_medium, is_unread, joined
from headrace.shards.remote.remote import RemoteFolder
from headrace.tools.upkeep.findings import Finding
from headrace.tools.upkeep.place_check import check_places
from headrace.tools.upkeep.sample_check import CHUNK, check_samples
from headrace.tools.upkeep.unmapped import ReadShards, open_to_read

COPIED = 8 << 20
"""Bytes of a remote shard that are asked for at a time."""
MOST_RANGES = 8
"""Ranges of a file that cannot be read which a line names."""


def copy_here(remote: RemoteFolder, name: str, folder: Path) -> None:
    """Copy an object, where there is one, into a folder."""
    if not remote.exists(name):
        return
    size = remote.size(name)
    with open(folder / name, "wb") as file:
        for at in range(0, size, COPIED):
            file.write(remote.read(name, at, min(at + COPIED, size)))


class ShardCheck:
    """The check of one shard: everything that can run beside other work is given to the threads at once."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        folder: Path,
        manifest: Manifest,
        shard: Shard,
        part: OpenShard | None,
        remote: RemoteFolder | None,
        fast: bool,
    ) -> None:
        """`part` is None for a shard of a manifest, which is opened here. What `remote` has is copied to `folder`
        before, and deleted after the check."""
        self.copies = [folder / name for name in (shard.name, shard.index)] if remote is not None else []
        if remote is not None:
            for copy in self.copies:
                copy_here(remote, copy.name, folder)
        self.shard = shard
        self.manifest = manifest
        self.part = part
        self.set: ShardSet | None = None
        self.findings: list[Finding] = []
        self.of_manifest = part is None
        self.digests: list[Future[FileCheck]] = []
        self.chunks: deque[tuple[int, Future[list[Finding]]]] = deque()
        if part is None:
            files = ((shard.name, shard.checksum), (shard.index, shard.index_checksum))
            self.digests = [
                pool.submit(check_file, folder / name, checksum, manifest.checksums) for name, checksum in files
            ]
            try:
                self.part = open_to_read(folder, manifest, shard)
            except ShardError as error:
                self.findings.append(Finding(shard.name, None, str(error), is_unread(error)))
                return
        assert self.part is not None
        one = replace(manifest, shards=(shard,))
        self.set = ShardSet(folder, one, ReadShards([self.part]), check=self.of_manifest)
        for first in range(0, 0 if fast else len(self.set), CHUNK):
            chunk = range(first, min(first + CHUNK, len(self.set)))
            self.chunks.append((len(chunk), pool.submit(check_samples, self.set, self.part, chunk)))

    def results(self) -> Iterator[tuple[int, list[Finding]]]:
        """(samples, what is wrong with them), part after part."""
        files = [digest.result() for digest in self.digests]
        found = [Finding(self.shard.name, None, file.line, file.unread) for file in files if not file.right]
        found += self.findings
        if self.part is not None and self.of_manifest:
            try:
                found += check_places(self.manifest, self.shard, self.part)
            except ShardError as error:
                found.append(Finding(self.shard.name, None, str(error), is_unread(error)))
        yield 0, list(dict.fromkeys(found))  # what cannot be opened was found twice
        checked = 0
        while self.chunks:
            samples, chunk = self.chunks.popleft()
            checked += samples
            yield samples, chunk.result()
        yield self.shard.samples - checked, []

    def close(self) -> None:
        """Let go of the shard."""
        for _, chunk in self.chunks:
            chunk.cancel()
        wait(future for _, future in self.chunks)
        wait(self.digests)
        if self.set is not None:
            self.set.close()
        if self.part is not None:
            self.part.mapped.close()
        for copy in self.copies:
            copy.unlink(missing_ok=True)


class FileCheck(NamedTuple):
    """What a file is, held against its checksum."""

    line: str
    """What is wrong; empty where the file is right."""
    unread: bool = False
    """Whether it is that the file, or a part of it, cannot be read."""
    may_pass: bool = False
    """Whether that is no matter of some sectors of a disk."""

    @property
    def right(self) -> bool:
        """True where all of the file was read and is what it should be."""
        return not self.line


def check_file(path: Path, checksum: str, checksums: Checksums) -> FileCheck:
    """Read a file from end to end."""
    digest = checksums.start()
    lost: list[range] = []
    reason = ""
    try:
        file = ReadFile(path)
        try:
            for place, content in chunks(file):
                if isinstance(content, MachineError):
                    lost.append(place)
                    cause = cause_of(content)
                    reason = f" ({cause.strerror})" if cause is not None else ""
                else:
                    digest.update(content.data)
        finally:
            file.close()
    except ShardError as error:
        return FileCheck(str(error), is_unread(error), is_unread(error) and not is_of_the_medium(error))
    if lost:
        ranges = joined(lost)
        named = ", ".join(f"{part.start} to {part.stop - 1}" for part in ranges[:MOST_RANGES])
        more = f" and {len(ranges) - MOST_RANGES} ranges more" if len(ranges) > MOST_RANGES else ""
        return FileCheck(f"{path}: bytes {named}{more} cannot be read{reason}", unread=True)
    if digest.hexdigest() != checksum:
        return FileCheck(f"{path}: its {checksums.title} is not the manifest's; copy the file again")
    return FileCheck("")
