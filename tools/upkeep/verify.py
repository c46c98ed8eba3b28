"""Is a shard set what its manifest says?"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from headrace.shards import Manifest, ShardError
from headrace.shards.index import OpenShard
from headrace.shards.machine import cores
from headrace.shards.manifest import MANIFEST_NAME, Shard, read_manifest
from headrace.shards.reading import is_unread
from headrace.shards.remote.remote import RemoteFolder, is_remote
from headrace.tools.keys import KeyCheck, Keys
from headrace.tools.upkeep.findings import Finding, VerifyReport
from headrace.tools.upkeep.sample_check import media_probes
from headrace.tools.upkeep.shard_check import ShardCheck, copy_here
from headrace.tools.upkeep.unmapped import index_to_read, is_there, scan

AHEAD = 2
"""Shards that are under way at a time: while the last samples of one are checked, the next one is begun."""


def verify(
    path: str | os.PathLike[str],
    *,
    fast: bool = False,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    started: Callable[[int], None] | None = None,
) -> VerifyReport:
    """Read every byte of a shard set and decode every sample.

    Checked are the manifest, the size and checksum of every file, that the index and the shard's own headers name the
    same places, that keys are unique, each payload's checksum, and that every value, image, video and sound decodes,
    all of it. One broken shard or sample does not hide the others. Sets that other programs wrote have no checksums,
    the rest is checked.

    Files are read, not mapped: what a disk cannot read is a finding like others, with its place.

    Args:
        path: The set, or the URL of one. Of a remote set two shards at a time are copied to this machine.
        fast: Decode nothing, nor look at the checksums of payloads, which those of the files cover.
        workers: Threads; None takes one per core. Reading, checksums and decoding hold no GIL.
        progress: Called with the number of samples checked so far.
        started: Called once with the number of samples in the set, when it is known.

    Raises:
        ShardError: There is no set, or one of another program cannot be scanned, or a store does not answer.
        UserError: The set holds videos and there is no PyAV.
    """
    if not is_remote(path):
        return verify_folder(Path(path), fast, workers, progress, started)
    remote = RemoteFolder(os.fspath(path))
    with TemporaryDirectory(prefix="headrace-verify-") as folder:
        copy_here(remote, MANIFEST_NAME, Path(folder))
        report = verify_folder(Path(folder), fast, workers, progress, started, remote)
        findings = [found._replace(line=found.line.replace(folder, str(remote))) for found in report.findings]
    return replace(report, path=str(remote), findings=findings)


def verify_folder(
    folder: Path,
    fast: bool,
    workers: int | None,
    progress: Callable[[int], None] | None,
    started: Callable[[int], None] | None,
    remote: RemoteFolder | None = None,
) -> VerifyReport:
    """`verify` of a folder; with `remote`, of a folder that holds its manifest and room for its shards."""
    start = time.perf_counter()
    findings: list[Finding] = []
    shards: Iterable[tuple[Shard, OpenShard | None]]
    try:
        manifest = read_manifest(folder) if is_there(folder / MANIFEST_NAME) else None
    except ShardError as error:
        findings.append(Finding("", None, str(error), is_unread(error)))
        seconds = time.perf_counter() - start
        return VerifyReport(
            path=str(folder), format="", samples=0, bytes=0, findings=findings, seconds=seconds, decoded=not fast
        )
    if manifest is not None:
        shards = ((shard, None) for shard in manifest.shards)
    else:
        if not is_there(folder):
            raise ShardError(f"{folder}: there is no such file or folder")
        if remote is not None:
            raise ShardError(f"{remote}: holds no {MANIFEST_NAME}; only a set with one can be verified from here")
        manifest, scanned, omitted = scan(folder)
        shards = zip(manifest.shards, scanned, strict=True)
        for left in omitted.samples:
            line = f"{folder / left.where if folder.is_dir() else left.where}: {left.reason}, so that it is left out"
            findings.append(Finding(left.shard, None, line))
    if not fast and any(field.kind in ("video", "audio") for field in manifest.fields.values()):
        media_probes()  # fails here, before the work, where there is no decoder
    if started is not None:
        started(manifest.samples)
    done = 0
    keys = KeyCheck()
    with_keys: list[Shard] = []
    with ThreadPoolExecutor(workers or cores()) as pool:
        under_way: deque[ShardCheck] = deque()
        try:
            remaining = iter(shards)
            while True:
                under_way.extend(
                    ShardCheck(pool, folder, manifest, shard, part, remote, fast)
                    for shard, part in islice(remaining, AHEAD - len(under_way))
                )
                if not under_way:
                    break
                check = under_way[0]
                for samples, found in check.results():
                    findings += found
                    done += samples
                    if progress is not None:
                        progress(done)
                if check.of_manifest and check.part is not None:
                    keys.add(check.part.index["key"])
                    with_keys.append(check.shard)
                under_way.popleft().close()
        finally:
            for check in under_way:
                check.close()
    findings += keys_again(folder, manifest, keys, with_keys, remote)
    return VerifyReport(
        path=str(folder),
        format=manifest.format,
        samples=manifest.samples,
        bytes=manifest.bytes,
        findings=findings,
        seconds=time.perf_counter() - start,
        decoded=not fast,
    )


def keys_again(
    folder: Path, manifest: Manifest, keys: KeyCheck, shards: list[Shard], remote: RemoteFolder | None
) -> Iterator[Finding]:
    """Samples whose keys earlier ones have; `shards` are those of which `keys` has taken the keys."""
    number, index = 0, np.empty(0, np.void)

    def again(part: int) -> Keys:
        nonlocal number, index
        number = part
        copy = folder / shards[part].index
        if remote is not None:
            copy_here(remote, copy.name, folder)
        try:
            index = index_to_read(folder, manifest, shards[part])
        finally:
            if remote is not None:
                copy.unlink(missing_ok=True)
        found: Keys = index["key"]
        return found

    first = next(iter(manifest.fields))
    try:
        for _, row, key in keys.repeated(again):
            name, offset = shards[number].name, index[f"{first}.offset"][row]
            at = f"{folder / name}, offset {offset}, key {key.decode(errors='surrogateescape')}"
            yield Finding(name, row, f"{at}: the key appears twice")
    except ShardError as error:
        yield Finding(shards[number].name, None, str(error), is_unread(error))
