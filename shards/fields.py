"""What a sample holds: named fields of a few kinds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from headrace.shards.errors import ShardError

Kind = Literal["image", "video", "audio", "int", "float", "bytes", "text", "json", "array"]

IMAGE_ENCODINGS = ("jpg", "raw", "png")
"""Position is the code in `Spans.encoding` and in the index files: 0 jpg, 1 raw, 2 png."""
JPG, RAW, PNG = range(3)
OTHER = 3
"""In the place of such a code: another picture that Pillow decodes, such as a WebP, in a set that is opened as another
program wrote it. No set of ours holds one."""
UNREADABLE = 255
"""In the place of such a code, in `Spans` of any field: the bytes cannot be what the field says."""
VIDEO_ENCODINGS = ("mp4", "mov", "3gp", "webm", "mkv", "avi", "mpg", "ts", "flv", "wmv", "ogv")
AUDIO_ENCODINGS = ("flac", "ogg", "opus", "wav", "mp3", "m4a", "aac", "aiff", "au", "wma", "weba", "mka")
"""Types of file, by their usual extensions; `headrace.shards.formats.media` tells them by their first bytes."""
ENCODINGS = {"image": IMAGE_ENCODINGS, "video": VIDEO_ENCODINGS, "audio": AUDIO_ENCODINGS}
"""What the samples of a field may be, for the kinds that have encodings. The index has codes for images only."""

FLAGS = ("oriented", "as_stored")
"""Parts of a field that are true or false."""
FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,15}")
"""Sixteen characters are what a .beton has room for; WebDataset readers lower the case of extensions."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One named part of every sample."""

    kind: Kind
    """image: see `encoding`; video, audio: the bytes of a file, sound and all; int: 64 bits, signed; float: 64 bits;
    bytes; text: str; json: anything JSON can hold; array: a numpy array of numbers."""
    encoding: str = ""
    """Images: jpg, the bytes of a JPEG file; png, the bytes of a PNG file; raw, uint8 RGB pixels (H, W, 3); mixed,
    where each sample is one of the three, which the index says for each. Video and audio: the type of the files, such
    as mp4 or flac; mixed, where each sample is one of these, as its first bytes say. Empty for other kinds."""
    classes: tuple[str, ...] = ()
    """Names of an int field's values 0, 1, ...; empty where they have none."""
    dtype: str = ""
    """Arrays only: numpy's name of the type, such as "<f4". A writer fills it in from the samples; empty
    where they differ."""
    shape: tuple[int, ...] = ()
    """Arrays only: likewise."""
    oriented: bool = False
    """Images only: whether what the files say about how they are to be shown counts, see
    `headrace.shards.formats.orientation`: then the index has the number of each, and whoever shows one turns it. A
    writer that is told so keeps it so only where at least one picture says something else than 1."""
    as_stored: bool = False
    """Videos only: frames are shown as they are stored, whatever the files say. Else they are turned as those say,
    which is seen when one is opened."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"Field.kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        encodings = (*ENCODINGS[self.kind], "mixed") if self.kind in ENCODINGS else ("",)
        if self.encoding not in encodings:
            expected = " or ".join(map(repr, encodings))
            raise ValueError(f"Field.encoding of kind {self.kind} must be {expected}, got {self.encoding!r}")
        if self.classes and self.kind != "int":
            raise ValueError(f"Field.classes belongs to int fields, not to kind {self.kind}")
        if (self.dtype or self.shape) and self.kind != "array":
            raise ValueError(f"Field.dtype and Field.shape belong to array fields, not to kind {self.kind}")
        if self.oriented and self.kind != "image":
            raise ValueError(f"Field.oriented belongs to image fields, not to kind {self.kind}")
        if self.as_stored and self.kind != "video":
            raise ValueError(f"Field.as_stored belongs to video fields, not to kind {self.kind}")

    def to_json(self) -> dict[str, Any]:
        """The parts that are set."""
        parts = {name: getattr(self, name) for name in ("kind", "encoding", "dtype", *FLAGS)}
        lists = {"classes": list(self.classes), "shape": list(self.shape)}
        return {name: value for name, value in {**parts, **lists}.items() if value}

    @staticmethod
    def from_json(parts: Mapping[str, Any]) -> Field:
        """Inverse of `to_json`; ValueError or TypeError on anything else."""
        known = {"kind", "encoding", "dtype", "classes", "shape", *FLAGS}
        if not set(parts) <= known:
            raise ValueError(f"unknown part {min(set(parts) - known)!r} of a field")
        classes, shape = parts.get("classes", []), parts.get("shape", [])
        if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
            raise ValueError("classes of a field must be a list of names")
        if not (isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape)):
            raise ValueError("shape of a field must be a list of sizes")
        for flag in FLAGS:
            if type(parts.get(flag, False)) is not bool:
                raise ValueError(f"{flag} of a field must be true or false")
        return Field(
            kind=parts["kind"],
            encoding=parts.get("encoding", ""),
            classes=tuple(classes),
            dtype=str(parts.get("dtype", "")),
            shape=tuple(shape),
            **{flag: parts.get(flag, False) for flag in FLAGS},
        )


def as_stored(field: Field) -> Field:
    """The field, its pictures or videos shown as they are stored."""
    return replace(field, oriented=False, as_stored=field.kind == "video")


def check_fields(fields: Mapping[str, Field]) -> None:
    """Raise ShardError on a set of fields that no shard can hold."""
    if not fields:
        raise ShardError("a sample needs at least one field")
    for name in fields:
        if not FIELD_NAME.fullmatch(name):
            raise ShardError(f"field name {name!r}: use 1 to 16 of a-z, 0-9 and _, the first a letter")


KEY_BYTES = 200
"""Longest key. A tar also wants that at most 100 bytes, with the extension, follow a slash."""


def check_key(key: object) -> bytes:
    """The key as UTF-8; ShardError on one that tar or WebDataset readers would cut or skip."""
    if not isinstance(key, str) or not key:
        raise ShardError(f"key {key!r}: every sample needs a non-empty str under '__key__'")
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        raise ShardError(f"key {key!r}: not valid Unicode") from None
    if len(encoded) > KEY_BYTES:
        raise ShardError(f"key {key!r}: {len(encoded)} bytes, at most {KEY_BYTES} fit")
    # WebDataset cuts a name at its first dot, skips what starts with two underscores, and tar cleans up
    # slashes.
    *folders, name = key.split("/")
    if "." in name or "\\" in key or key[0] == "~" or key.startswith("__") or {"", ".", ".."} & {*folders, name}:
        raise ShardError(f"key {key!r}: must have no '.' in its name, no '\\', no leading '__' or '~', no empty folder")
    if not key.isprintable():
        raise ShardError(f"key {key!r}: must be printable")
    return encoded
