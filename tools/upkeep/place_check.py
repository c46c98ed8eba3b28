"""Does an index name the places that its shard names?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from headrace.shards import IMAGE_ENCODINGS, PNG, Field, Manifest
from headrace.shards.fields import ENCODINGS
from headrace.shards.formats.ffcv import index_beton, own_kind, read_beton
from headrace.shards.formats.npy import npy_header
from headrace.shards.formats.tar import scan_tar
from headrace.shards.formats.webdataset import extension, stored_encoding
from headrace.shards.index import OpenShard, misplaced
from headrace.shards.manifest import Shard
from headrace.tools.upkeep.findings import Finding


def check_places(manifest: Manifest, shard: Shard, opened: OpenShard) -> list[Finding]:
    """Does the index name the places that the shard's own headers or tables name?"""
    if manifest.format == "webdataset":
        return check_tar(manifest.fields, shard, opened)
    beton = read_beton(opened.mapped)
    if len(beton.metadata) != shard.samples:
        line = f"{opened.mapped.path}: {len(beton.metadata)} samples, the manifest says {shard.samples}"
        return [Finding(shard.name, None, line)]
    if not same_kinds(manifest.fields, beton.fields):
        return [Finding(shard.name, None, f"{opened.mapped.path}: its fields are not those of the manifest")]
    tables = index_beton(opened.mapped, beton, manifest.checksums, 0)
    findings = []
    for column in tables.dtype.names or ():
        if column == "key" or column.endswith(f".{manifest.checksums.payload}"):
            continue
        differs = tables[column] != opened.index[column]
        if column.endswith(".value"):  # a NaN is the same as a NaN
            differs &= ~((tables[column] != tables[column]) & (opened.index[column] != opened.index[column]))
        for row in np.flatnonzero(differs).tolist():
            says = f"the index says {column} {opened.index[column][row]}, the .beton {tables[column][row]}"
            findings.append(Finding(shard.name, row, f"{where(opened, row, column.partition('.')[0])}: {says}"))
    return findings


def same_kinds(fields: Mapping[str, Field], of_beton: Mapping[str, Field]) -> bool:
    """Are these the fields that a .beton describes, as far as it can?"""
    return {name: own_kind(field.kind) for name, field in fields.items()} == {
        name: field.kind for name, field in of_beton.items()
    }


def check_tar(fields: Mapping[str, Field], shard: Shard, opened: OpenShard) -> list[Finding]:
    """Every field of every sample must be a member of the tar, and nothing else."""
    members = {member.name: member for member in scan_tar(opened.mapped)}
    findings = []
    expected = 0
    for row, record in enumerate(opened.index):
        key = record["key"].decode(errors="surrogateescape")
        for name, field in fields.items():
            expected += 1
            offset, size = int(record[f"{name}.offset"]), int(record[f"{name}.size"])
            lead = b""
            encoding = ""
            if field.kind == "image":
                encoding = IMAGE_ENCODINGS[min(int(record[f"{name}.encoding"]), PNG)]
                if encoding == "raw":  # the payload is the pixels behind the header
                    height, width = int(record[f"{name}.height"]), int(record[f"{name}.width"])
                    lead = npy_header(np.dtype(np.uint8), (height, width, 3))
            elif field.kind in ENCODINGS and not misplaced(opened.mapped.size, offset, size):
                try:
                    encoding = stored_encoding(field, opened.mapped.array[offset : offset + size], 0)
                except ValueError as error:
                    findings.append(Finding(shard.name, row, f"{where(opened, row, name)}: {name}: {error}"))
                    continue
            member = members.get(f"{key}.{extension(name, field.kind, encoding)}")
            if member is None or (member.offset + len(lead), member.size - len(lead)) != (offset, size):
                line = f"{where(opened, row, name)}: the tar has no such file there"
                findings.append(Finding(shard.name, row, line))
            elif opened.mapped.array[member.offset : offset].tobytes() != lead:
                line = f"{where(opened, row, name)}: its .npy header does not say the size in the index"
                findings.append(Finding(shard.name, row, line))
    if len(members) != expected:
        line = f"{opened.mapped.path}: {len(members)} files in the tar, the index knows {expected}"
        findings.append(Finding(shard.name, None, line))
    return findings


def where(opened: OpenShard, row: int, name: str) -> str:
    """File, offset and key of a field."""
    record = opened.index[row]
    key = record["key"].decode(errors="surrogateescape")
    return f"{opened.mapped.path}, offset {record[f'{name}.offset']}, key {key}"
