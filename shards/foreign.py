"""Shards that another program wrote: no manifest, so fields and index come from a scan of the files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headrace.shards.checksums import CURRENT
from headrace.shards.errors import ShardError
from headrace.shards.ffcv import index_beton, read_beton
from headrace.shards.fields import AUDIO_ENCODINGS, ENCODINGS, IMAGE_ENCODINGS, RAW, VIDEO_ENCODINGS, Field
from headrace.shards.images import image_header
from headrace.shards.index import Entry, IndexBuilder, OpenShard, close_shards
from headrace.shards.manifest import EXTENSIONS, Format, Manifest, Shard
from headrace.shards.mapping import MappedFile
from headrace.shards.media import HEAD, media_type
from headrace.shards.npy import parse_npy_header
from headrace.shards.values import decimal, settled
from headrace.shards.webdataset import TarMember, group_members, scan_tar

EXTENSION_KINDS = {
    **dict.fromkeys(("jpg", "jpeg", "png"), "image"),
    **dict.fromkeys((*VIDEO_ENCODINGS, "m4v", "qt", "mpeg", "asf"), "video"),
    **dict.fromkeys((*AUDIO_ENCODINGS, "oga", "aif"), "audio"),
    **dict.fromkeys(("cls", "cls2", "class", "count", "index", "inx", "id"), "int"),
    **dict.fromkeys(("txt", "text", "transcript"), "text"),
    **dict.fromkeys(("json", "jsn"), "json"),
    "npy": "array",
}
USUAL_NAMES = {"cls": "label", "txt": "text", "bin": "bytes"}


def scan_shards(path: Path, opened: Callable[[Path], MappedFile] = MappedFile) -> tuple[Manifest, list[OpenShard]]:
    """A manifest as if for `path`, a folder or one file, and its shards, `opened`, with indexes built in memory.

    Samples have no checksums. The keys of .beton samples are their numbers, nine digits.
    """
    found = [path] if path.is_file() else sorted(path.iterdir())
    if path.is_dir() and any(file.name.endswith(".index.npy") for file in found):
        raise ShardError(f"{path}: has indexes but no manifest.json, so the set is not complete; copy it again")
    by_format = {
        format: [file for file in found if file.suffix == f".{extension}"] for format, extension in EXTENSIONS.items()
    }
    if all(by_format.values()):
        raise ShardError(f"{path}: has .tar and .beton files but no manifest.json; name one of the files")
    format: Format = "webdataset" if by_format["webdataset"] else "ffcv"
    files = by_format[format]
    if not files:
        raise ShardError(f"{path}: no manifest.json, no .tar and no .beton files")
    shards: list[OpenShard] = []
    try:
        for file in files:
            shards.append(OpenShard(opened(file), np.empty(0, np.void), None))
        maps = [shard.mapped for shard in shards]
        fields, indexes = scan_tars(maps) if format == "webdataset" else scan_betons(maps)
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
        indexes.append(index_beton(mapped, beton, CURRENT, samples))
        samples += len(beton.metadata)
    return {name: settle_image(name, field, indexes) for name, field in fields.items()}, indexes


def settle_image(name: str, field: Field, indexes: Iterable[npt.NDArray[np.void]]) -> Field:
    """Replaces mixed by the one encoding that all samples have, where they do."""
    if field.kind != "image":
        return field
    seen = {int(code) for index in indexes for code in np.unique(index[f"{name}.encoding"])}
    return settled(field, seen & set(range(len(IMAGE_ENCODINGS))), set())


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


def scan_tars(maps: Iterable[MappedFile]) -> tuple[dict[str, Field], list[npt.NDArray[np.void]]]:
    """Fields and indexes of tars. Extensions that some samples lack are left out, with a warning."""
    shards: list[tuple[MappedFile, Samples]] = []
    for mapped in maps:
        shards.append((mapped, list(group_members(mapped.path, scan_tar(mapped)))))
        if not shards[-1][1]:
            raise ShardError(f"{mapped.path}: the tar holds no samples (files named KEY.EXTENSION)")
    seen = {frozenset(members) for _, samples in shards for _, members in samples}
    names = name_extensions(seen, *shards[0])
    fields: dict[str, Field] = {}
    for name, kind in sorted(set(names.values())):
        if all(any(names[extension] == (name, kind) for extension in extensions) for extensions in seen):
            fields[name] = Field(kind=kind, encoding="mixed" if kind in ENCODINGS else "")  # type: ignore[arg-type]
    missing = sorted(extension for extension, (name, _) in names.items() if name not in fields)
    if missing:
        warnings.warn(f"left out, because some samples have no such file: {', '.join(missing)}", stacklevel=4)
    if not fields:
        raise ShardError(f"{shards[0][0].path}: there is no extension that all samples have")
    indexes = [index_tar(mapped, samples, fields, names) for mapped, samples in shards]
    maps = [mapped for mapped, _ in shards]
    for name, field in fields.items():
        if field.kind == "image":
            fields[name] = settle_image(name, field, indexes)
        elif field.kind in ENCODINGS:
            fields[name] = settle_media(name, field, maps, indexes)
    return fields, indexes


def name_extensions(seen: set[frozenset[str]], mapped: MappedFile, samples: Samples) -> dict[str, tuple[str, str]]:
    """(field name, kind) of every extension. `seen` are the combinations that samples have.

    jpg, jpeg, png, and npy if it holds pixels, are all called "image" unless a sample has two of them; likewise the
    types of "video" and of "audio".
    """
    kinds: dict[str, str] = {}
    for extension in sorted(set().union(*seen)):
        kinds[extension] = EXTENSION_KINDS.get(extension.rpartition(".")[2], "bytes")
        member = next((members[extension] for _, members in samples if extension in members), None)
        if extension == "npy" and member is not None and holds_pixels(mapped, member):
            kinds[extension] = "image"
    plain: dict[str, str] = {}
    for extension, kind in kinds.items():
        stem, _, ending = extension.rpartition(".")
        usual = kind if kind in ENCODINGS else USUAL_NAMES.get(ending, ending)
        plain[extension] = field_name(stem or usual)
    names: dict[str, tuple[str, str]] = {}
    for extension, name in plain.items():
        rivals = [other for other in plain if plain[other] == name]
        together = any(len(extensions.intersection(rivals)) > 1 for extensions in seen)
        mixed_kinds = len({kinds[other] for other in rivals}) > 1
        names[extension] = (field_name(extension) if together or mixed_kinds else name, kinds[extension])
    return names


def field_name(text: str) -> str:
    """The nearest legal field name."""
    name = re.sub(r"[^a-z0-9_]", "_", text)
    return (name if name[:1].isalpha() else f"x{name}")[:16]


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
            value = 0
            if field.kind == "int":
                try:
                    value = decimal(data.tobytes())
                except ValueError as error:
                    at = f"{mapped.path}, offset {member.offset}, key {key}"
                    raise ShardError(f"{at}: {extension} is not an integer ({error})") from error
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
        return Entry(member.offset, member.size, 0, 0, header.height, header.width, header.encoding)
    except (ValueError, IndexError, SyntaxError):
        return Entry(member.offset, member.size, 0)
