"""manifest.json: what a shard set holds. It is written last: its presence means that the set is complete."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from headrace.shards.checksums import CHECKSUMS, ORIENTED_VERSION, VERSION, Checksums
from headrace.shards.errors import ShardError
from headrace.shards.fields import Field, check_fields
from headrace.shards.mapping import cannot_read, check_plain

MANIFEST_NAME = "manifest.json"

MAX_ELEMENTS = 1 << 40
"""Of an array; a shard holds none that is larger."""

Format = Literal["webdataset", "ffcv"]
EXTENSIONS: dict[str, str] = {"webdataset": "tar", "ffcv": "beton"}


def shard_name(number: int, format: str) -> str:
    """File name of a shard; consecutive numbers, so that `shard-{000000..000123}.tar` names a whole set."""
    return f"shard-{number:06d}.{EXTENSIONS[format]}"


def index_name(name: str) -> str:
    """File name of a shard's index."""
    return f"{name.rpartition('.')[0]}.index.npy"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One shard file and its index, both in the manifest's folder."""

    name: str
    """File name of the shard."""
    samples: int
    """Number of samples in it."""
    bytes: int
    """Size of the file."""
    checksum: str
    """Of the file, hexadecimal; empty for files that another program wrote."""
    index: str
    """File name of the index; empty for files that another program wrote."""
    index_bytes: int
    """Size of the index file."""
    index_checksum: str
    """Of the index file, likewise."""

    def to_json(self, checksums: Checksums) -> dict[str, Any]:
        """The entry in a manifest that has these checksums."""
        return {member: getattr(self, name) for name, member in shard_members(checksums).items()}

    @staticmethod
    def from_json(parts: Mapping[str, Any], checksums: Checksums) -> Shard:
        """Inverse of `to_json`; TypeError where a member is missing or unknown."""
        members = shard_members(checksums)
        odd = parts.keys() ^ set(members.values())
        if odd:
            raise TypeError(f"a shard has {', '.join(members.values())}; missing or unknown: {', '.join(sorted(odd))}")
        return Shard(**{name: parts[member] for name, member in members.items()})


def shard_members(checksums: Checksums) -> dict[str, str]:
    """What the manifest calls each part of a `Shard`, in its order."""
    own = {"checksum": checksums.file, "index_checksum": f"index_{checksums.file}"}
    return {part.name: own.get(part.name, part.name) for part in fields(Shard)}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json."""

    format: Format
    """webdataset: POSIX tars; ffcv: .beton files."""
    fields: Mapping[str, Field]
    """Fields of every sample, in the order in which shards store them."""
    shards: tuple[Shard, ...]
    """In the order of the samples."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the samples came from and with which settings; free-form JSON."""
    version: int = 0
    """Of the manifest and the index files; one of `CHECKSUMS`. 0 becomes the version that such fields are written
    in."""

    def __post_init__(self) -> None:
        oriented = any(of_samples.oriented or of_samples.as_stored for of_samples in self.fields.values())
        if not self.version:
            object.__setattr__(self, "version", ORIENTED_VERSION if oriented else VERSION)
        if oriented and self.version < ORIENTED_VERSION:
            raise ValueError(f"version {self.version} has no orientations, {ORIENTED_VERSION} has")

    @property
    def checksums(self) -> Checksums:
        """Those of the version."""
        return CHECKSUMS[self.version]

    @property
    def samples(self) -> int:
        """Number of samples in the set."""
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of all shards, without indexes."""
        return sum(shard.bytes for shard in self.shards)

    def to_json(self) -> str:
        """The text of the file; the same set gives the same text."""
        document = {
            "headrace_shards": self.version,
            "format": self.format,
            "samples": self.samples,
            "bytes": self.bytes,
            "fields": {name: field.to_json() for name, field in self.fields.items()},
            "provenance": dict(self.provenance),
            "shards": [shard.to_json(self.checksums) for shard in self.shards],
        }
        return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder; ShardError where it is missing, damaged or of another version."""
    path = folder / MANIFEST_NAME
    check_plain(path)
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise cannot_read(path, error) from error
    except UnicodeDecodeError as error:
        raise ShardError(f"{path}, offset {error.start}: the manifest is not UTF-8; write the set again") from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for numbers of thousands of digits
        raise ShardError(f"{path}: the manifest is not valid JSON ({error}); write the set again") from error
    if not isinstance(document, dict) or "headrace_shards" not in document:
        raise ShardError(f"{path}: not the manifest of a shard set")
    version = document["headrace_shards"]
    if type(version) is not int or version not in CHECKSUMS:
        reads = f"this library reads versions {min(CHECKSUMS)} to {max(CHECKSUMS)}"
        raise ShardError(f"{path}: version {version!r}, {reads}; read it with a newer one, or write the set again")
    try:
        return parse(document)
    except ShardError as error:
        raise ShardError(f"{path}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError, SyntaxError, RecursionError) as error:
        raise ShardError(f"{path}: the manifest is damaged ({type(error).__name__}: {error})") from error


def parse(document: Mapping[str, Any]) -> Manifest:
    """Checks types and that no file name leaves the folder; any failure is an exception."""
    format = document["format"]
    if format not in get_args(Format):
        raise ValueError(f"unknown format {format!r}")
    version = document["headrace_shards"]
    checksums = CHECKSUMS[version]
    declared = {name: Field.from_json(parts) for name, parts in document["fields"].items()}
    check_fields(declared)
    for name, of_samples in declared.items():
        dtype, shape = of_samples.dtype, of_samples.shape
        if dtype and (np.dtype(dtype).kind not in "biufc" or math.prod(shape) > MAX_ELEMENTS):
            raise ValueError(f"{name} cannot be an array of {dtype} with shape {shape}")
    shards = tuple(parse_shard(number, parts, format, checksums) for number, parts in enumerate(document["shards"]))
    if not shards:
        raise ValueError("no shards")
    if not isinstance(document["provenance"], dict):
        raise TypeError("provenance must be an object")
    provenance = document["provenance"]
    manifest = Manifest(format=format, fields=declared, shards=shards, provenance=provenance, version=version)
    for name in ("samples", "bytes"):
        if document[name] != getattr(manifest, name):
            raise ValueError(f"{name} is {document[name]!r}, the shards add up to {getattr(manifest, name)}")
    return manifest


def parse_shard(number: int, parts: Mapping[str, Any], format: str, checksums: Checksums) -> Shard:
    """One entry of `shards`."""
    shard = Shard.from_json(parts, checksums)
    name = shard_name(number, format)
    if (shard.name, shard.index) != (name, index_name(name)):
        raise ValueError(f"shard {number} must be called {name}, not {shard.name!r}")
    for count in (shard.samples, shard.bytes, shard.index_bytes):
        if type(count) is not int or count < 1:
            raise ValueError(f"{name}: {count!r} is not a count")
    for checksum in (shard.checksum, shard.index_checksum):
        if not (isinstance(checksum, str) and re.fullmatch(rf"[0-9a-f]{{{checksums.digits}}}", checksum)):
            raise ValueError(f"{name}: {checksum!r} is no {checksums.title}")
    return shard
