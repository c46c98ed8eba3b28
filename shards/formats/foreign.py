"""Shards that another program wrote: no manifest, so fields and index come from a scan of the files."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headrace.shards.checksums import CURRENT
from headrace.shards.errors import MachineError, ShardError, is_machine_fault
from headrace.shards.fields import AUDIO_ENCODINGS, ENCODINGS, IMAGE_ENCODINGS, JPG, RAW, VIDEO_ENCODINGS, Field
from headrace.shards.formats.ffcv import index_beton, read_beton
from headrace.shards.formats.images import image_header, orientation_of
from headrace.shards.formats.media import HEAD, media_type
from headrace.shards.formats.npy import parse_npy_header
from headrace.shards.formats.orientation import UPRIGHT
from headrace.shards.formats.values import decimal, settled
from headrace.shards.formats.webdataset import TarMember, decode, group_members, scan_tar
from headrace.shards.index import Entry, IndexBuilder, OpenShard, close_shards, index_dtype
from headrace.shards.manifest import EXTENSIONS, Format, Manifest, Shard
from headrace.shards.mapping import MappedFile

EXTENSION_KINDS = {
    **dict.fromkeys(("jpg", "jpeg", "png"), "image"),
    **dict.fromkeys((*VIDEO_ENCODINGS, "m4v", "qt", "mpeg", "asf"), "video"),
    **dict.fromkeys((*AUDIO_ENCODINGS, "oga", "aif"), "audio"),
    **dict.fromkeys(("cls", "cls2", "class", "count", "index", "inx", "id"), "int"),
    **dict.fromkeys(("txt", "text", "transcript"), "text"),
    **dict.fromkeys(("json", "jsn"), "json"),
    "npy": "array",
}
CLASS_ENDINGS = ("cls", "cls2", "class")
"""Those of the int extensions that may hold a name, which is a class."""
MAX_CLASS_NAME = 200
"""Bytes."""
PACKED_TAR = re.compile(r"\.(tar\.(gz|bz2|xz|zst|zstd|lz4|Z)|tgz|tbz2?|txz|tzst)$")
USUAL_NAMES = {"cls": "label", "txt": "text", "bin": "bytes"}


def scan_shards(path: Path, opened: Callable[[Path], MappedFile] = MappedFile) -> tuple[Manifest, list[OpenShard]]:
    """A manifest as if for `path`, a folder or one file, and its shards, `opened`, with indexes built in memory.

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
    if packed:
        warnings.warn(f"{path}: left out, because they are compressed: {some(packed)}; unpack them", stacklevel=3)
    shards: list[OpenShard] = []
    try:
        for file in files:
            shards.append(OpenShard(opened(file), np.empty(0, np.void), None))
        if format == "webdataset":
            shards, fields, indexes = scan_tars(path, shards)
        else:
            fields, indexes = scan_betons([shard.mapped for shard in shards])
        maps = [shard.mapped for shard in shards]
    except BaseException:
        close_shards(shards)
        raise
    shards = [OpenShard(mapped, index, None) for mapped, index in zip(maps, indexes, strict=True)]
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
        for shard in shards
    )
    return Manifest(format=format, fields=fields, shards=entries), shards


def how_to_name(path: str) -> str:
    """What to do about a path to shards as other programs take them, which leads to nothing; empty for others."""
    if path.startswith("pipe:"):
        return "; shards are read at any place, which no pipe allows: copy the tars here and name their folder"
    if re.search(r"[{*]", path):
        return "; patterns are not expanded: name the folder that holds the tars"
    return ""


def scan_betons(maps: Iterable[MappedFile]) -> tuple[dict[str, Field], list[npt.NDArray[np.void]]]:
    """Fields and indexes of .beton files, which must agree in their fields."""
    fields: dict[str, Field] = {}
    indexes: list[npt.NDArray[np.void]] = []
    samples = 0
    for mapped in maps:
        beton = read_beton(mapped)
        if fields and fields != beton.fields:
            raise ShardError(f"{mapped.path}: has the fields {describe(beton.fields)}, others have {describe(fields)}")
        fields = beton.fields
        indexes.append(with_orientations(mapped, beton.fields, index_beton(mapped, beton, CURRENT, samples)))
        samples += len(beton.metadata)
    return {name: settle_image(name, field, indexes) for name, field in fields.items()}, indexes


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
    return settled(field, seen & set(range(len(IMAGE_ENCODINGS))), set(), oriented)


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


Samples = list[tuple[str, dict[str, TarMember]]]


Scanned = list[tuple[OpenShard, Samples]]


def scan_tars(
    path: Path, shards: list[OpenShard]
) -> tuple[list[OpenShard], dict[str, Field], list[npt.NDArray[np.void]]]:
    """(tars with samples, fields, indexes) of tars; the others are closed, with a warning. Fields that some samples
    lack are left out, likewise."""
    scanned: Scanned = [(shard, list(group_members(shard.mapped.path, scan_tar(shard.mapped)))) for shard in shards]
    empty = [shard for shard, samples in scanned if not samples]
    scanned = [(shard, samples) for shard, samples in scanned if samples]
    if not scanned:
        raise ShardError(f"{shards[0].mapped.path}: the tar holds no samples (files named KEY.EXTENSION)")
    if empty:
        names_of_empty = some([shard.mapped.path.name for shard in empty])
        warnings.warn(f"{path}: left out, because there are no samples in it: {names_of_empty}", stacklevel=4)
        close_shards(empty)
    seen = Counter(frozenset(members) for _, samples in scanned for _, members in samples)
    names = name_extensions(set(seen), scanned)
    fields: dict[str, Field] = {}
    lacking: list[str] = []
    for name, kind in sorted(set(names.values())):
        without = {found for found in seen if all(names[extension] != (name, kind) for extension in found)}
        if without:
            endings = " or ".join(f".{extension}" for extension in sorted(names) if names[extension] == (name, kind))
            count = sum(seen[found] for found in without)
            lacking.append(f"{endings} ({lack(scanned, without, count, seen.total())})")
        else:
            encoding = "mixed" if kind in ENCODINGS else ""
            fields[name] = Field(kind=kind, encoding=encoding, oriented=kind == "image")  # type: ignore[arg-type]
    if lacking:
        text = f"{path}: left out for all samples, because some have no such file: {some(lacking)}"
        way_out = repeated(scanned) or "to keep it, leave those samples out of the tars"
        warnings.warn(f"{text}; {way_out}", stacklevel=4)
    if not fields:
        reason = f"there is no extension that all samples have; {repeated(scanned)}".rstrip("; ")
        raise ShardError(f"{scanned[0][0].mapped.path}: {reason}")
    dotted = [extension for extension in names if extension.count(".") > 1]
    if dotted and len(names) > seen.total():
        text = f"the first dot of a name ends the key, so that .{dotted[0]} is a field; is that meant?"
        warnings.warn(f"{path}: {text}", stacklevel=4)
    for name, field in fields.items():
        if field.kind == "int":
            fields[name] = number_classes(name, field, scanned, names)
    indexes = [index_tar(shard.mapped, samples, fields, names) for shard, samples in scanned]
    maps = [shard.mapped for shard, _ in scanned]
    for name, field in fields.items():
        if field.kind == "image":
            fields[name] = settle_image(name, field, indexes)
        elif field.kind in ENCODINGS:
            fields[name] = settle_media(name, field, maps, indexes)
    return [shard for shard, _ in scanned], fields, indexes


def some(parts: list[str]) -> str:
    """The first few, for a person."""
    return ", ".join(parts[:3]) + (f" and {len(parts) - 3:,} more" if len(parts) > 3 else "")


def lack(scanned: Scanned, without: set[frozenset[str]], count: int, total: int) -> str:
    """How many samples have only such combinations of extensions, and which is the first."""
    first = next(
        f"{shard.mapped.path.name}, key {key}"
        for shard, samples in scanned
        for key, members in samples
        if frozenset(members) in without
    )
    return f"{count:,} of {total:,} samples {'lacks' if count == 1 else 'lack'} it, the first: {printable(first)}"


def repeated(scanned: Scanned) -> str:
    """What to do where a key comes again in a tar, after other keys; empty where none does."""
    for shard, samples in scanned:
        seen: set[str] = set()
        for key, _ in samples:
            if key in seen:
                where = f"{shard.mapped.path.name}, key {printable(key)}"
                return f"{where} comes twice: the files of a sample must follow each other (pack with tar --sort=name)"
            seen.add(key)
    return ""


def printable(text: str) -> str:
    """Text with what is no Unicode, as names in a tar may hold, as its bytes."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def name_extensions(seen: set[frozenset[str]], scanned: Scanned) -> dict[str, tuple[str, str]]:
    """(field name, kind) of every extension. `seen` are the combinations that samples have.

    jpg, jpeg, png, and npy if it holds pixels, are all called "image" unless a sample has two of them; likewise the
    types of "video" and of "audio". No two extensions that a sample has get the same name.
    """
    kinds: dict[str, str] = {}
    for extension in sorted(set().union(*seen)):
        kinds[extension] = EXTENSION_KINDS.get(extension.rpartition(".")[2], "bytes")
        if extension == "npy" and holds_pixels(*first_with(extension, scanned)):
            kinds[extension] = "image"
        if kinds[extension] == "int" and extension.rpartition(".")[2] not in CLASS_ENDINGS:
            text = content(*first_with(extension, scanned)).tobytes()
            kinds[extension] = "int" if is_decimal(text) else "text"
    plain: dict[str, str] = {}
    for extension, kind in kinds.items():
        stem, _, ending = extension.rpartition(".")
        usual = kind if kind in ENCODINGS else USUAL_NAMES.get(ending, ending)
        plain[extension] = stem or usual
    own: dict[str, str] = {}
    for extension, stem in plain.items():
        rivals = [other for other in plain if legal(plain[other]) == legal(stem)]
        together = any(len(extensions.intersection(rivals)) > 1 for extensions in seen)
        mixed_kinds = len({kinds[other] for other in rivals}) > 1
        own[extension] = extension if together or mixed_kinds else legal(stem)
    names: dict[str, tuple[str, str]] = {}
    for extension, whole in own.items():
        alike = {other for other in own.values() if field_name(other) == field_name(whole)}
        names[extension] = (field_name(whole) if len(alike) == 1 else distinct_name(whole), kinds[extension])
    fields = set(names.values())
    apart = all(len({names[extension] for extension in extensions}) == len(extensions) for extensions in seen)
    if not apart or len({name for name, _ in fields}) < len(fields):
        raise ShardError(
            f"{scanned[0][0].mapped.path}: no field names tell apart {', '.join(sorted(names))}; rename them"
        )
    return names


def first_with(extension: str, scanned: Scanned) -> tuple[MappedFile, TarMember]:
    """The first file with an extension that is there."""
    return next(
        (shard.mapped, members[extension])
        for shard, samples in scanned
        for _, members in samples
        if extension in members
    )


def legal(text: str) -> str:
    """The nearest legal field name, but for its length."""
    name = re.sub(r"[^a-z0-9_]", "_", text)
    return name if name[:1].isalpha() else f"x{name}"


def field_name(text: str) -> str:
    """The nearest legal field name."""
    return legal(text)[:16]


def distinct_name(text: str) -> str:
    """A legal field name that others, which begin like it, do not have."""
    return f"{legal(text)[:11]}_{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:4]}"


def is_decimal(text: bytes) -> bool:
    """Whether it is a number of an int field."""
    try:
        decimal(text)
    except ValueError:
        return False
    return True


def number_classes(name: str, field: Field, scanned: Scanned, names: Mapping[str, tuple[str, str]]) -> Field:
    """An int field as it is, or, where the files hold names, with those, sorted, as classes; -1 stands for none.
    ShardError where one holds neither, or some hold numbers and some names."""
    classes: set[str] = set()
    number = ""
    for shard, samples in scanned:
        for key, members in samples:
            extension, member = next((e, m) for e, m in members.items() if names[e] == (name, field.kind))
            text = content(shard.mapped, member).tobytes()
            where = f"{shard.mapped.path}, offset {member.offset}, key {printable(key)}: {extension}"
            if text.strip() == b"-1":  # none, among numbers as among names
                continue
            if not classes and is_decimal(text):
                if not number:
                    number = where
                continue
            found = class_name(text)
            if not found:
                try:
                    decimal(text)
                except ValueError as error:
                    raise ShardError(f"{where} is not an integer ({error}), and no name of a class") from error
            if number or not found:
                there = f"{number} is a number" if number else f"others are names, such as {min(classes)!r}"
                raise ShardError(f"{where} is {text[:40]!r}, but {there}: write either numbers or names")
            classes.add(found)
    return replace(field, classes=tuple(sorted(classes)))


def class_name(text: bytes) -> str:
    """A name of a class in a .cls, empty where it is none: a short line with a letter in it that is no number."""
    try:
        name = text.decode().strip()
        float(name)
    except UnicodeDecodeError:
        return ""
    except ValueError:
        return name if len(text) <= MAX_CLASS_NAME and name.isprintable() and any(map(str.isalpha, name)) else ""
    return ""


def holds_pixels(mapped: MappedFile, member: TarMember) -> bool:
    """True for a .npy file with uint8 (H, W, 3)."""
    try:
        dtype, shape, _ = parse_npy_header(content(mapped, member).data)
    except (ValueError, IndexError, SyntaxError):
        return False
    return dtype == np.uint8 and len(shape) == 3 and shape[2] == 3


def content(mapped: MappedFile, member: TarMember) -> npt.NDArray[np.uint8]:
    """The bytes of a file in a tar."""
    return mapped.array[member.offset : member.offset + member.size]


def index_tar(
    mapped: MappedFile, samples: Samples, fields: dict[str, Field], names: dict[str, tuple[str, str]]
) -> npt.NDArray[np.void]:
    """The index of one tar. A broken image gets no size: reading it, and nothing else, is an error."""
    builder = IndexBuilder(fields, CURRENT)
    for key, members in samples:
        entries = []
        for name, field in fields.items():
            extension, member = next((e, m) for e, m in members.items() if names[e] == (name, field.kind))
            data = content(mapped, member)
            if field.kind == "image":
                entries.append(image_entry(member, extension, data))
                continue
            value = decode(field, data) if field.kind == "int" else 0
            entries.append(Entry(member.offset, member.size, 0, value))
        builder.add(key.encode(errors="surrogateescape"), entries)
    return builder.build()


def image_entry(member: TarMember, extension: str, data: npt.NDArray[np.uint8]) -> Entry:
    """Size and encoding from the image's own header."""
    try:
        if extension.endswith("npy"):
            dtype, shape, start = parse_npy_header(data.data)
            if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
                raise ValueError("not pixels")
            return Entry(member.offset + start, member.size - start, 0, 0, shape[0], shape[1], RAW)
        header = image_header(data.data)
        shape = (header.height, header.width, header.encoding, header.orientation)
        return Entry(member.offset, member.size, 0, 0, *shape)
    except (ValueError, IndexError, SyntaxError):
        return Entry(member.offset, member.size, 0)
