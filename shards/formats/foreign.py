"""Shards that another program wrote: no manifest, so fields and index come from a scan of the files."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.shards.checksums import CURRENT
from headrace.shards.errors import MachineError, ShardError, is_machine_fault
from headrace.shards.fields import ENCODINGS, IMAGE_ENCODINGS, JPG, OTHER, RAW, UNREADABLE, Field
from headrace.shards.formats.ffcv import index_beton, read_beton
from headrace.shards.formats.foreign_choice import Omitted, choose
from headrace.shards.formats.foreign_fields import Names, ScannedTar, printable, read_ints, some
from headrace.shards.formats.images import orientation_of, picture_header
from headrace.shards.formats.media import HEAD, media_type
from headrace.shards.formats.npy import parse_npy_header
from headrace.shards.formats.orientation import UPRIGHT
from headrace.shards.formats.tar import BLOCK, packed_by, scan_tar
from headrace.shards.formats.tar_links import TarMember
from headrace.shards.formats.tar_samples import joined, neighbours
from headrace.shards.formats.values import settled
from headrace.shards.index import Entry, IndexBuilder, OpenShard, close_shards, index_dtype
from headrace.shards.manifest import EXTENSIONS, Format, Manifest, Shard
from headrace.shards.mapping import MappedFile

COMPRESSED = "compressed tars"
NO_LABEL = -1
"""Value of an int that cannot be read, as of none."""
PACKED_TAR = re.compile(r"\.(tar\.(gz|bz2|xz|zst|zstd|lz4|Z)|tgz|tbz2?|txz|tzst)$")


class Foreign(NamedTuple):
    """A set that another program wrote."""

    manifest: Manifest
    """As if for it."""
    shards: list[OpenShard]
    """With indexes built in memory."""
    omitted: Omitted


class Scanned(NamedTuple):
    """What some files hold."""

    fields: dict[str, Field]
    shards: list[OpenShard]
    omitted: Omitted
    notes: list[str]
    """What a person is to know, without the set's path."""


def scan_shards(path: Path, opened: Callable[[Path], MappedFile] = MappedFile) -> Foreign:
    """The set at `path`, a folder or one file; shards are `opened`. What is left out is said in warnings.

    Samples have no checksums. The keys of .beton samples are their numbers, nine digits.
    """
    try:
        found = [path] if path.is_file() else sorted(path.iterdir())
    except OSError as error:
        raise (MachineError if is_machine_fault(error) else ShardError)(f"{path}: {error.strerror}") from error
    if path.is_dir() and any(file.name.endswith(".index.npy") for file in found):
        raise ShardError(f"{path}: has indexes but no manifest.json, so the set is not complete; copy it again")
    by_format = {
        format: [file for file in found if file.suffix == f".{extension}"] for format, extension in EXTENSIONS.items()
    }
    if all(by_format.values()):
        raise ShardError(f"{path}: has .tar and .beton files but no manifest.json; name one of the files")
    format: Format = "webdataset" if by_format["webdataset"] else "ffcv"
    files = by_format[format]
    packed = [file.name for file in found if PACKED_TAR.search(file.name)]
    if not files and packed:
        raise ShardError(f"{path}: {packed[0]} is compressed, so that nothing in it can be read by itself: unpack it")
    if not files:
        raise ShardError(f"{path}: no manifest.json, no .tar and no .beton files")
    opening: list[OpenShard] = []
    try:
        for file in files:
            opening.append(OpenShard(opened(file), np.empty(0, np.void), None))
        scanned = scan_tars(opening) if format == "webdataset" else scan_betons(opening)
    except BaseException:
        close_shards(opening)
        raise
    omitted, notes = scanned.omitted, scanned.notes
    if packed:
        notes = [*notes, f"left out, because they are compressed: {some(packed)}; unpack them"]
        omitted = replace(omitted, files=dict(Counter(omitted.files) + Counter({COMPRESSED: len(packed)})))
    for note in notes:
        warnings.warn(f"{path}: {note}", stacklevel=3)
    entries = tuple(
        Shard(
            name=shard.mapped.path.name,
            samples=len(shard.index),
            bytes=shard.mapped.size,
            checksum="",
            index="",
            index_bytes=0,
            index_checksum="",
        )
        for shard in scanned.shards
    )
    return Foreign(Manifest(format=format, fields=scanned.fields, shards=entries), scanned.shards, omitted)


def how_to_name(path: str) -> str:
    """What to do about a path to shards as other programs take them, which leads to nothing; empty for others."""
    if path.startswith("pipe:"):
        return "; shards are read at any place, which no pipe allows: copy the tars here and name their folder"
    if re.search(r"[{*]", path):
        return "; patterns are not expanded: name the folder that holds the tars"
    return ""


def scan_betons(shards: list[OpenShard]) -> Scanned:
    """The set of some .beton files, which must agree in their fields."""
    fields: dict[str, Field] = {}
    indexes: list[npt.NDArray[np.void]] = []
    samples = 0
    maps = [shard.mapped for shard in shards]
    for mapped in maps:
        beton = read_beton(mapped)
        if fields and fields != beton.fields:
            raise ShardError(f"{mapped.path}: has the fields {describe(beton.fields)}, others have {describe(fields)}")
        fields = beton.fields
        indexes.append(with_orientations(mapped, beton.fields, index_beton(mapped, beton, CURRENT, samples)))
        samples += len(beton.metadata)
    opened = [OpenShard(mapped, index, None) for mapped, index in zip(maps, indexes, strict=True)]
    return Scanned({name: settle_image(name, field, indexes) for name, field in fields.items()}, opened, Omitted(), [])


def with_orientations(
    mapped: MappedFile, fields: Mapping[str, Field], index: npt.NDArray[np.void]
) -> npt.NDArray[np.void]:
    """The index of a .beton, which says nothing of them itself, with what its JPEGs say of how they are to be shown."""
    found: dict[str, npt.NDArray[np.uint8]] = {}
    for name, field in fields.items():
        if field.kind != "image":
            continue
        numbers = np.full(len(index), UPRIGHT, np.uint8)
        for row in np.flatnonzero(index[f"{name}.encoding"] == JPG).tolist():
            offset, size = int(index[f"{name}.offset"][row]), int(index[f"{name}.size"][row])
            numbers[row] = orientation_of(mapped.array[offset : offset + size].data)
        if (numbers != UPRIGHT).any():
            found[name] = numbers
    if not found:
        return index
    wider = np.zeros(len(index), index_dtype(fields, CURRENT, index.dtype["key"].itemsize, found))
    for column in index.dtype.names or ():
        wider[column] = index[column]
    for name, numbers in found.items():
        wider[f"{name}.orientation"] = numbers
    return wider


def settle_image(name: str, field: Field, indexes: Iterable[npt.NDArray[np.void]]) -> Field:
    """Replaces mixed by the one encoding that all samples have, where they do; oriented where one is to be turned."""
    if field.kind != "image":
        return field
    indexes = list(indexes)
    seen = {int(code) for index in indexes for code in np.unique(index[f"{name}.encoding"])}
    oriented = any(f"{name}.orientation" in (index.dtype.names or ()) for index in indexes)
    known = seen & set(range(len(IMAGE_ENCODINGS)))
    return settled(field, set() if OTHER in seen else known, set(), oriented)


def settle_media(name: str, field: Field, maps: Iterable[MappedFile], indexes: Iterable[npt.NDArray[np.void]]) -> Field:
    """Likewise for video and audio, by their first bytes: an extension may be wrong. Mixed where one is unknown."""
    seen: set[int] = set()
    for mapped, index in zip(maps, indexes, strict=True):
        for offset, size in zip(index[f"{name}.offset"].tolist(), index[f"{name}.size"].tolist(), strict=True):
            try:
                found = media_type(field.kind, mapped.array[offset : offset + min(size, HEAD)].data)
            except ValueError:
                return field
            seen.add(ENCODINGS[field.kind].index(found))
    return settled(field, seen, set())


def describe(fields: dict[str, Field]) -> str:
    """The fields in a line."""
    return ", ".join(f"{name} ({field.kind})" for name, field in fields.items())


def scan_tars(shards: list[OpenShard]) -> Scanned:
    """The set of some tars. Those without samples and those that are compressed are closed."""
    tars: list[ScannedTar] = []
    empty: list[OpenShard] = []
    packed: dict[str, OpenShard] = {}
    apart: list[str] = []
    passed_over: Counter[str] = Counter()
    for shard in shards:
        path = shard.mapped.path
        if packer := packed_by(shard.mapped.array[:BLOCK].tobytes()):
            packed[f"{path}: {packer}"] = shard
            continue
        samples, keys = joined(list(neighbours(scan_tar(shard.mapped), passed_over)))
        apart += [f"{path.name}, key {printable(key)}" for key in keys]
        if samples:
            tars.append(ScannedTar(shard, samples))
        else:
            empty.append(shard)
    if not tars:
        reasons = [
            *packed,
            *(f"{shard.mapped.path}: the tar holds no samples (files named KEY.EXTENSION)" for shard in empty),
        ]
        raise ShardError(reasons[0])
    names, kinds, tars, omitted, notes = choose(tars)
    if empty:
        notes.append(f"left out, because there are no samples in it: {some(file_names(empty))}")
    if packed:
        what = "left out, because they are compressed, whatever their names say"
        notes.append(f"{what}: {some(file_names(packed.values()))}; unpack them")
    close_shards([*empty, *packed.values()])
    if apart:
        notes.append(
            f"the files of {len(apart):,} samples do not lie side by side, such as those of {apart[0]}: they are "
            "joined here, and other programs may take them for several samples (pack with tar --sort=name)"
        )
    close_shards(tar.shard for tar in tars if not tar.samples)
    tars = [tar for tar in tars if tar.samples]
    fields = {name: of_files(kind) for name, kind in kinds.items()}
    ints = {name: read_ints(name, tars, names) for name, field in fields.items() if field.kind == "int"}
    for name, found in ints.items():
        fields[name] = replace(fields[name], classes=found.classes)
    opened = [
        index_tar(tar, fields, names, {name: found.values[n] for name, found in ints.items()})
        for n, tar in enumerate(tars)
    ]
    indexes, maps = [shard.index for shard in opened], [shard.mapped for shard in opened]
    for name, field in fields.items():
        if field.kind == "image":
            fields[name] = settle_image(name, field, indexes)
        elif field.kind in ENCODINGS:
            fields[name] = settle_media(name, field, maps, indexes)
    files = Counter(omitted.files) + passed_over + Counter({COMPRESSED: len(packed)})
    return Scanned(fields, opened, replace(omitted, files=dict(files)), notes)


def file_names(shards: Iterable[OpenShard]) -> list[str]:
    """Of some shards."""
    return [shard.mapped.path.name for shard in shards]


def of_files(kind: str) -> Field:
    """A field of files of one kind, as far as their names tell."""
    encoding = "mixed" if kind in ENCODINGS else ""
    return Field(kind=kind, encoding=encoding, oriented=kind == "image")  # type: ignore[arg-type]


def index_tar(
    tar: ScannedTar, fields: Mapping[str, Field], names: Names, ints: Mapping[str, list[int | None]]
) -> OpenShard:
    """A tar with its index. A broken image, and an int that holds none, is marked as unreadable: reading it, and
    nothing else, is an error.

    Args:
        tar: What it holds.
        fields: Those that its samples have.
        names: Of the extensions.
        ints: Values of the int fields, None for none.
    """
    shard, samples = tar
    builder = IndexBuilder(fields, CURRENT)
    array = shard.mapped.array
    extensions: dict[tuple[str, ...], list[str]] = {}
    """Of each field, by what a sample has."""
    for row, (key, members, _) in enumerate(samples):
        found = tuple(members)
        if found not in extensions:
            by_name = {names[extension][0]: extension for extension in found}
            extensions[found] = [by_name[name] for name in fields]
        entries = []
        for (name, field), extension in zip(fields.items(), extensions[found], strict=True):
            member = members[extension]
            if field.kind == "image":
                entries.append(image_entry(member, extension, array[member.offset : member.offset + member.size]))
                continue
            value = ints[name][row] if field.kind == "int" else 0
            entries.append(Entry(member.offset, member.size, 0, NO_LABEL if value is None else value))
        builder.add(key.encode(errors="surrogateescape"), entries)
    unreadable = {
        name: frozenset(row for row, value in enumerate(values) if value is None) for name, values in ints.items()
    }
    return OpenShard(shard.mapped, builder.build(), None, {name: rows for name, rows in unreadable.items() if rows})


def image_entry(member: TarMember, extension: str, data: npt.NDArray[np.uint8]) -> Entry:
    """Size and encoding from the image's own header, whatever its extension says."""
    try:
        if extension.endswith("npy"):
            dtype, shape, start = parse_npy_header(data.data)
            if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
                raise ValueError("not pixels")
            return Entry(member.offset + start, member.size - start, 0, 0, shape[0], shape[1], RAW)
        header = picture_header(data.data)
        shape = (header.height, header.width, header.encoding, header.orientation)
        return Entry(member.offset, member.size, 0, 0, *shape)
    except (ValueError, IndexError, SyntaxError):
        return Entry(member.offset, member.size, 0, encoding=UNREADABLE)
