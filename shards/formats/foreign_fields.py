"""What the files of a tar that another program wrote are called and hold: fields by extension."""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Set
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.shards.errors import ShardError
from headrace.shards.fields import AUDIO_ENCODINGS, ENCODINGS, VIDEO_ENCODINGS
from headrace.shards.formats.npy import parse_npy_header
from headrace.shards.formats.tar_links import TarMember
from headrace.shards.formats.tar_samples import TarSample
from headrace.shards.formats.values import decimal
from headrace.shards.index import OpenShard
from headrace.shards.mapping import MappedFile

IMAGE_ENDINGS = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "tif", "tiff", "bmp", "avif", "jp2")
NETPBM_ENDINGS = ("ppm", "pgm", "pbm", "pnm")
EXTENSION_KINDS = {
    **dict.fromkeys((*IMAGE_ENDINGS, *NETPBM_ENDINGS), "image"),
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
USUAL_NAMES = {"cls": "label", "txt": "text", "bin": "bytes"}

Names = Mapping[str, tuple[str, str]]
"""(field name, kind) by extension."""


class ScannedTar(NamedTuple):
    """A tar and what it holds."""

    shard: OpenShard
    samples: list[TarSample]


def name_extensions(
    seen: Set[frozenset[str]], faulty: Set[str], scanned: list[ScannedTar]
) -> dict[str, tuple[str, str]]:
    """(field name, kind) of every extension: of those in `seen`, the combinations that samples have, and of `faulty`.

    Types of pictures, and npy if it holds pixels, are all called "image" unless a sample has two of them; likewise the
    types of "video" and of "audio". No two extensions that a sample has get the same name.
    """
    kinds = {extension: kind_of(extension, scanned) for extension in sorted({*faulty}.union(*seen))}
    plain: dict[str, str] = {}
    for extension, kind in kinds.items():
        stem, _, ending = extension.rpartition(".")
        usual = kind if kind in ENCODINGS else USUAL_NAMES.get(ending, ending)
        plain[extension] = stem or usual
    rivals = defaultdict(list)
    for extension, stem in plain.items():
        rivals[legal(stem)].append(extension)
    own: dict[str, str] = {}
    for stem, extensions in rivals.items():
        alone = len(extensions) == 1
        together = not alone and any(len(found.intersection(extensions)) > 1 for found in seen)
        mixed_kinds = len({kinds[extension] for extension in extensions}) > 1
        own |= {extension: extension if together or mixed_kinds else stem for extension in extensions}
    alike = Counter(map(field_name, set(own.values())))
    names = {
        extension: (field_name(whole) if alike[field_name(whole)] == 1 else distinct_name(whole), kinds[extension])
        for extension, whole in sorted(own.items())
    }
    fields = set(names.values())
    apart = all(len({names[extension] for extension in extensions}) == len(extensions) for extensions in seen)
    if not apart or len({name for name, _ in fields}) < len(fields):
        raise ShardError(
            f"{scanned[0].shard.mapped.path}: no field names tell apart {', '.join(sorted(names))}; rename them"
        )
    return names


def kind_of(extension: str, scanned: list[ScannedTar]) -> str:
    """Kind of the files of an extension, some of which say it themselves."""
    ending = extension.rpartition(".")[2]
    kind = EXTENSION_KINDS.get(ending, "bytes")
    if extension == "npy":
        first = next(files_of(extension, scanned), None)
        return "image" if first is not None and holds_pixels(*first) else kind
    if kind == "int" and ending not in CLASS_ENDINGS:
        numbers = Counter(is_decimal(content(*file).tobytes()) for file in files_of(extension, scanned))
        return "int" if numbers[True] > numbers[False] else "text"  # identifiers, of which some may look like numbers
    return kind


def files_of(extension: str, scanned: list[ScannedTar]) -> Iterator[tuple[MappedFile, TarMember]]:
    """The files with an extension."""
    for shard, samples in scanned:
        for sample in samples:
            if extension in sample.members:
                yield shard.mapped, sample.members[extension]


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


def is_decimal(text: bytes) -> bool:
    """Whether it is a number of an int field."""
    return not why_no_int(text)


class Ints(NamedTuple):
    """An int field of all tars."""

    classes: tuple[str, ...]
    """The names that its values count, sorted; empty where the files hold numbers."""
    values: list[list[int | None]]
    """Of each tar's samples; None where a file holds no number, or where others hold names no name."""


def read_ints(name: str, scanned: list[ScannedTar], names: Names) -> Ints:
    """Numbers or, where more files of classes hold names than numbers, those, sorted, as classes; -1 stands for none.

    ShardError where there are as many names as numbers, or neither.
    """
    found: list[list[int | str | None]] = []
    counts = Counter[type]()
    first: dict[type, tuple[int, int, str]] = {}
    for number, (shard, samples) in enumerate(scanned):
        values: list[int | str | None] = []
        for sample in samples:
            extension = next(each for each in sample.members if names[each] == (name, "int"))
            text = content(shard.mapped, sample.members[extension]).tobytes()
            value = number_or_class(text, extension)
            values.append(value)
            if value == -1:  # none, among numbers as among names
                continue
            kind = type(value)
            counts[kind] += 1
            if kind not in first:
                offset = sample.members[extension].offset
                at = f"{shard.mapped.path}, offset {offset}, key {printable(sample.key)}"
                what = repr(text[:40]) if value is not None else f"not an integer ({why_no_int(text)})"
                first[kind] = number, offset, f"{at}: {extension} is {what}"
        found.append(values)
    numbers, classes, neither = counts[int], counts[str], counts[type(None)]
    if numbers == classes and classes:
        (*_, one), (*_, other) = sorted(first[kind] for kind in (int, str))
        raise ShardError(f"{other}, but {one}, and there are as many names as numbers: write either numbers or names")
    if neither and neither == sum(map(len, found)):
        raise ShardError(f"{first[type(None)][2]}, and no name of a class; nor is any other")
    if numbers >= classes:
        return Ints((), [[value if isinstance(value, int) else None for value in values] for values in found])
    ordered = sorted({value for values in found for value in values if isinstance(value, str)})
    places: dict[int | str | None, int] = {value: place for place, value in enumerate(ordered)} | {-1: -1}
    return Ints(tuple(ordered), [[places.get(value) for value in values] for values in found])


def why_no_int(text: bytes) -> str:
    """Why an int file holds none."""
    try:
        decimal(text)
    except ValueError as error:
        return str(error)
    return ""


def number_or_class(text: bytes, extension: str) -> int | str | None:
    """What an int file holds."""
    try:
        return decimal(text)
    except ValueError:
        return (extension.rpartition(".")[2] in CLASS_ENDINGS and class_name(text)) or None


def class_name(text: bytes) -> str:
    """A name of a class in a .cls, empty where it is none: a short line with a letter in it that is no number."""
    try:
        name = text.decode().strip()
        float(name)
    except UnicodeDecodeError:
        return ""
    except ValueError:
        is_name = len(text) <= MAX_CLASS_NAME and name.isprintable() and any(map(str.isalpha, name))
        return sys.intern(name) if is_name else ""
    return ""


def printable(text: str) -> str:
    """Text with what is no Unicode, as names in a tar may hold, as its bytes."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def some(parts: list[str]) -> str:
    """The first few, for a person."""
    return ", ".join(parts[:3]) + (f" and {len(parts) - 3:,} more" if len(parts) > 3 else "")
