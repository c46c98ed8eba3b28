"""Indexes that are made anew from the shards."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headrace.shards import IMAGE_ENCODINGS, JPG, RAW, Manifest, ShardError
from headrace.shards.errors import MachineError
from headrace.shards.fields import ENCODINGS
from headrace.shards.formats import ffcv, webdataset
from headrace.shards.formats.images import image_header, orientation_of
from headrace.shards.formats.npy import parse_npy_header
from headrace.shards.formats.orientation import UPRIGHT
from headrace.shards.formats.tar import scan_tar
from headrace.shards.formats.tar_links import TarMember
from headrace.shards.formats.tar_samples import group_members
from headrace.shards.index import Entry, IndexBuilder, misplaced
from headrace.shards.reading import FileBytes, ReadFile, readable
from headrace.tools.upkeep.mended import Removed, refuse_if_it_may_pass
from headrace.tools.upkeep.place_check import same_kinds


def index_of_tar(manifest: Manifest, file: ReadFile) -> tuple[npt.NDArray[np.void], list[Removed]]:
    """The index of a tar, and the samples of which it holds not all fields; ShardError where it is not whole."""
    builder = IndexBuilder(manifest.fields, manifest.checksums)
    removed = []
    for key, members in group_members(file.path, scan_tar(file)):
        try:
            entries = [tar_entry(manifest, file, name, members) for name in manifest.fields]
        except (ValueError, MachineError) as error:
            refuse_if_it_may_pass(error)
            parts = {ending: range(member.offset, member.offset + member.size) for ending, member in members.items()}
            offset = min(member.offset for member in members.values())
            unread = isinstance(error, MachineError)
            removed.append(Removed(key=key, offset=offset, reasons=[str(error)], parts=parts, unread=unread))
            continue
        builder.add(key.encode(errors="surrogateescape"), entries)
    return builder.build(), removed


def tar_entry(manifest: Manifest, file: FileBytes, name: str, members: dict[str, TarMember]) -> Entry:
    """Where a field of a sample lies; ValueError where it is missing or not what its extension says."""
    declared = manifest.fields[name]
    encodings = ENCODINGS.get(declared.kind, ("",))
    endings = [webdataset.extension(name, declared.kind, encoding) for encoding in encodings]
    found = [(code, members[ending]) for code, ending in enumerate(endings) if ending in members]
    if len(found) != 1:
        raise ValueError(f"{len(found)} files of the field {name}")
    code, (_, offset, size) = found[0]
    payload = file.array[offset : offset + size]
    height = width = 0
    orientation = UPRIGHT
    value: int | float = 0
    if declared.kind == "image" and code == RAW:
        dtype, shape, start = parse_npy_header(payload.data)
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
            raise ValueError(f"{name} holds no pixels")
        height, width = shape[:2]
        payload, offset, size = payload[start:], offset + start, size - start
    elif declared.kind == "image":
        header = image_header(payload.data)
        encoding, height, width = header.encoding, header.height, header.width
        orientation = header.orientation
        if encoding != code:
            raise ValueError(f"{name} is {IMAGE_ENCODINGS[encoding]}, its name says {IMAGE_ENCODINGS[code]}")
    elif declared.kind in ("int", "float"):
        value = webdataset.decode(declared, payload)
    code = code if declared.kind == "image" else 0
    checksum = manifest.checksums.of_payload(payload.data)
    return Entry(offset, size, checksum, value, height, width, code, orientation)


def index_of_beton(
    manifest: Manifest, file: ReadFile, number: int, old: npt.NDArray[np.void] | None, old_right: bool
) -> tuple[npt.NDArray[np.void], str]:
    """(index of a .beton, a word on its keys, which the .beton does not hold); ShardError where it is not whole."""
    beton = ffcv.read_beton(file)
    if not same_kinds(manifest.fields, beton.fields):
        raise ShardError(f"{file.path}: its fields are not those of the manifest")
    tables = ffcv.index_beton(file, beton, manifest.checksums, 0)
    keys, note = [b"lost-%06d-%09d" % (number, row) for row in range(len(tables))], "; the keys are lost, and numbered"
    if old is not None and len(old) == len(tables):
        keys, note = old["key"].tolist(), "" if old_right else "; the keys are those of the damaged index"
    builder = IndexBuilder(manifest.fields, manifest.checksums)
    for key, record in zip(keys, tables, strict=True):
        entries = []
        for name, declared in manifest.fields.items():
            offset, size = int(record[f"{name}.offset"]), int(record[f"{name}.size"])
            inside = not misplaced(file.size, offset, size)
            payload = readable(file, range(offset, offset + size)) if inside else None
            # Without one the sample is going to be removed.
            checksum = manifest.checksums.of_payload(payload.data) if isinstance(payload, np.ndarray) else 0
            columns = ("value",) if declared.kind in ("int", "float") else ("height", "width", "encoding")
            numbers = {c: record[f"{name}.{c}"].item() for c in columns if f"{name}.{c}" in (tables.dtype.names or ())}
            orientation = UPRIGHT
            if declared.oriented and numbers["encoding"] == JPG and isinstance(payload, np.ndarray):
                orientation = orientation_of(payload.data)
            entries.append(Entry(offset, size, checksum, **numbers, orientation=orientation))
        builder.add(key, entries)
    return builder.build(), note
