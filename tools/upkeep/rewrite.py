"""The shards of a repaired set: linked where they are whole, else written anew, byte for byte."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.shards import RAW, Manifest, ShardError
from headrace.shards.formats import ffcv, webdataset
from headrace.shards.formats.npy import npy_header
from headrace.shards.formats.orientation import UPRIGHT
from headrace.shards.index import IndexBuilder, OpenShard, entry_places, index_bytes
from headrace.shards.manifest import Shard, index_name, shard_name
from headrace.shards.writing.staging import write_file
from headrace.tools.upkeep.mended import RepairPlan


def staged_shards(plan: RepairPlan, folder: Path) -> Iterator[Shard]:
    """Put every shard of the repaired set into the folder, numbered anew."""
    format = plan.manifest.format
    written = 0
    for number, shard in enumerate(plan.manifest.shards):
        mended = plan.mended.get(number)
        if mended is not None and not mended.good:
            continue
        path = folder / shard_name(written, format)
        index_path = folder / index_name(path.name)
        written += 1
        if mended is None:
            link(plan.path / shard.name, path)
            link(plan.path / shard.index, index_path)
            yield replace(shard, name=path.name, index=index_path.name)
            continue
        assert mended.part is not None
        if mended.keep_file:
            link(plan.path / shard.name, path)
            checksum, index = shard.checksum, mended.part.index
        else:
            checksum, index = rewrite(plan.manifest, mended.part, mended.good, path)
        content = index_bytes(index)
        write_file(index_path, content)
        yield Shard(
            name=path.name,
            samples=len(mended.good),
            bytes=path.stat().st_size,
            checksum=checksum,
            index=index_path.name,
            index_bytes=len(content),
            index_checksum=plan.manifest.checksums.of_file(content),
        )


def link(source: Path, target: Path) -> None:
    """Give a file a second name; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())


def rewrite(manifest: Manifest, part: OpenShard, rows: list[int], path: Path) -> tuple[str, npt.NDArray[np.void]]:
    """Write these samples of a shard, byte for byte, into a new one; (its checksum, its index)."""
    shard: webdataset.TarShard | ffcv.BetonShard
    if manifest.format == "webdataset":
        shard = webdataset.TarShard(path, manifest.checksums)
    else:
        shard = ffcv.BetonShard(
            path, manifest.fields, manifest.checksums, page_size_for(manifest, part, rows), len(rows)
        )
    builder = IndexBuilder(manifest.fields, manifest.checksums)
    payloads = [
        (place, f"{name}.{manifest.checksums.payload}")
        for place, (name, field) in enumerate(manifest.fields.items())
        if field.kind not in ("int", "float")
    ]
    with shard.file:
        for row in rows:
            key = bytes(part.index[row]["key"])
            entries = shard.add(key, list(stored(manifest, part, row)))
            if any(entries[place].checksum != part.index[column][row] for place, column in payloads):
                at = f"{part.mapped.path}, key {key.decode()}"
                raise ShardError(f"{at}: reads as something else than a moment ago; nothing was changed")
            builder.add(key, entries)
        checksum = shard.finish()
        os.fsync(shard.file.fileno())
    return checksum, builder.build()


def page_size_for(manifest: Manifest, part: OpenShard, rows: list[int]) -> int:
    """That of the damaged .beton, unless its header is damaged too; in any case enough for every sample."""
    sizes = np.sum([part.index[f"{name}.size"][rows] + 1 for name in manifest.fields], axis=0)
    page_size = ffcv.MIN_PAGE_SIZE
    while page_size < sizes.max():
        page_size *= 2
    try:
        found = ffcv.read_beton(part.mapped).page_size
    except ShardError:
        return page_size
    return max(page_size, found) if found <= part.mapped.size else page_size


def stored(manifest: Manifest, part: OpenShard, row: int) -> Iterator[Any]:
    """The fields of a sample as a shard takes them, with the bytes that are there."""
    record = part.index[row]
    values = record.item()
    columns = part.index.dtype.names or ()
    for name, declared in manifest.fields.items():
        offset, size, _, *image = (values[place] for place in entry_places(manifest.fields, manifest.checksums, name))
        payload = part.mapped.array[offset : offset + size]
        height, width, code = image or (0, 0, 0)
        column = f"{name}.orientation"
        orientation = int(record[column]) if column in columns else UPRIGHT
        value = record[f"{name}.value"].item() if declared.kind in ("int", "float") else 0
        if manifest.format == "webdataset":
            encoding = webdataset.stored_encoding(declared, payload, code)
            lead = npy_header(np.dtype(np.uint8), (height, width, 3)) if image and code == RAW else b""
            ending = webdataset.extension(name, declared.kind, encoding)
            yield webdataset.Member(ending, lead, payload.data, height, width, code, value, orientation)
        elif declared.kind in ("int", "float"):
            yield ffcv.Region(None, value=value)
        else:
            ends = declared.kind in ("text", "json") or not size
            trail = ffcv.ZERO if ends else b""
            yield ffcv.Region(payload.data, trail, height, width, code, orientation=orientation)
