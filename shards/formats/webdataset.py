"""WebDataset shards: plain POSIX (ustar) tars in which the files of a sample follow each other.

    n01440764/000017.jpg    n01440764/000017.cls    n01440764/000018.jpg    ...
    '------ key ------' '-- extension

A file's name is its sample's key, a dot and an extension. The one field that is usual for a kind has the bare
extension, any other field puts its name and a dot before it:

    kind      extension        content, as the `webdataset` package decodes it       bare for the field
    image     jpg, png, npy    JPEG file, PNG file, array of uint8 (H, W, 3)         image
    video     mp4, webm, ...   a file of that type, see `VIDEO_ENCODINGS`            video
    audio     flac, ogg, ...   likewise, see `AUDIO_ENCODINGS`                       audio
    int       cls              decimal digits                                        label
    text      txt              UTF-8                                                 text
    json      json             JSON                                                  json
    bytes     bin              anything                                              bytes
    float     json             a number; webdataset decodes no other text to it      none
    array     npy              array                                                 none

Each member is one 512-byte header and the content, padded with zeros to a multiple of 512; two blocks of
zeros end the tar, which is padded to a multiple of 10,240. Owner, mode and time are constants: the same
samples give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.shards.checksums import Checksums
from headrace.shards.fields import ENCODINGS, IMAGE_ENCODINGS, RAW, Field
from headrace.shards.formats.media import HEAD, media_type
from headrace.shards.formats.npy import npy_header, parse_npy
from headrace.shards.formats.orientation import UPRIGHT
from headrace.shards.formats.tar import BLOCK, padded
from headrace.shards.formats.values import (
    check_array,
    check_bytes,
    check_float,
    check_int,
    check_text,
    decimal,
    image_payload,
    json_bytes,
    media_payload,
)
from headrace.shards.index import Entry
from headrace.shards.write_back import SMALL, GrowingFile

ZEROS = bytes(BLOCK)
RECORD = 20 * BLOCK
MAX_MEMBER = (1 << 33) - 1  # eleven octal digits

BARE = {"int": "label"} | {kind: kind for kind in ("image", "video", "audio", "text", "json", "bytes")}
KIND_EXTENSIONS = {
    "int": "cls",
    "float": "json",
    "bytes": "bin",
    "text": "txt",
    "json": "json",
    "array": "npy",
}
IMAGE_EXTENSIONS = {"jpg": "jpg", "png": "png", "raw": "npy"}


def extension(name: str, kind: str, encoding: str = "") -> str:
    """What follows the key and the dot; `encoding` that of the sample, for kinds that have one."""
    ending = IMAGE_EXTENSIONS.get(encoding, encoding) if kind in ENCODINGS else KIND_EXTENSIONS[kind]
    return ending if BARE.get(kind) == name else f"{name}.{ending}"


def stored_encoding(field: Field, payload: npt.NDArray[np.uint8], code: int) -> str:
    """Encoding of one sample, empty for kinds without; ValueError where a video or audio file has no known type.

    Args:
        field: The field.
        payload: uint8, one dimension.
        code: What the index says, for images.
    """
    if field.kind == "image":
        return IMAGE_ENCODINGS[code]
    return media_type(field.kind, payload[:HEAD].data) if field.kind in ENCODINGS else ""


class Member(NamedTuple):
    """One file of a sample, ready to be written."""

    extension: str
    lead: bytes
    """The .npy header of raw pixels; the index points behind it."""
    payload: bytes | memoryview
    height: int = 0
    width: int = 0
    encoding: int = 0
    value: int | float = 0
    orientation: int = UPRIGHT


def encode(name: str, field: Field, value: object) -> Member:
    """One field of a sample; ValueError where the value is not what the field says."""
    if field.kind == "image":
        payload, height, width, code, orientation = image_payload(field, value)
        lead = npy_header(np.dtype(np.uint8), (height, width, 3)) if code == RAW else b""
        ending = extension(name, "image", IMAGE_ENCODINGS[code])
        return Member(ending, lead, payload, height, width, code, orientation=orientation)
    if field.kind in ENCODINGS:
        payload, code = media_payload(field, value)
        return Member(extension(name, field.kind, ENCODINGS[field.kind][code]), b"", payload, encoding=code)
    ending = extension(name, field.kind)
    if field.kind == "int":
        number = check_int(value)
        return Member(ending, b"", b"%d" % number, value=number)
    if field.kind == "float":
        real = check_float(value)
        return Member(ending, b"", json.dumps(real).encode(), value=real)
    if field.kind == "text":
        return Member(ending, b"", check_text(value).encode())
    if field.kind == "json":
        return Member(ending, b"", json_bytes(value))
    if field.kind == "array":
        array = check_array(value)
        return Member(ending, b"", npy_header(array.dtype, array.shape) + array.tobytes())
    return Member(ending, b"", check_bytes(value))


def decode(field: Field, payload: npt.NDArray[np.uint8], height: int = 0, width: int = 0, encoding: int = 0) -> Any:
    """Inverse of `encode` for one payload (uint8, one dimension); ValueError where it does not decode."""
    if field.kind == "image":
        return payload.reshape(height, width, 3).copy() if encoding == RAW else payload.tobytes()
    if field.kind == "array":
        return parse_npy(payload)
    content = payload.tobytes()
    if field.kind == "int":
        return class_number(field, content)
    if field.kind == "float":
        return float(json.loads(content, parse_int=float))  # a number of 400 digits is infinite, not an error
    if field.kind == "text":
        return content.decode()
    return json.loads(content) if field.kind == "json" else content


def class_number(field: Field, content: bytes) -> int:
    """An integer, or the number of a class that is there by its name, as other programs write it."""
    try:
        return decimal(content)
    except ValueError:
        name = content.decode(errors="replace").strip()
        if name in field.classes:
            return field.classes.index(name)
        raise


class TarShard:
    """Writes one tar."""

    def __init__(self, path: Path, checksums: Checksums) -> None:
        self.path = path
        self.checksums = checksums
        self.file = open(path, "wb", buffering=0)  # noqa: SIM115  closed by the caller after `finish`
        self.growing = GrowingFile(self.file)
        self.checksum = checksums.start()
        self.size = 0

    def room_for(self, key: bytes, members: Sequence[Member], shard_size: int) -> bool:
        """True if the sample fits under `shard_size`."""
        return self.size + sample_size(members) + 2 * BLOCK <= shard_size

    def add(self, key: bytes, members: Sequence[Member]) -> list[Entry]:
        """Append the files of one sample."""
        entries = []
        parts: list[bytes | memoryview] = []
        small = b""  # what comes between large payloads, in one piece
        at = self.size
        for member in members:
            size = len(member.lead) + len(member.payload)
            small += tar_header(b"%s.%s" % (key, member.extension.encode()), size) + member.lead
            if len(member.payload) < SMALL:
                small += member.payload
            else:
                parts += (small, member.payload)
                small = b""
            small += ZEROS[: -size % BLOCK]
            offset = at + BLOCK + len(member.lead)
            checksum = self.checksums.of_payload(member.payload)
            value = (member.value, member.height, member.width, member.encoding, member.orientation)
            entries.append(Entry(offset, len(member.payload), checksum, *value))
            at += BLOCK + padded(size)
        self._append([*parts, small])
        return entries

    def _append(self, parts: Sequence[bytes | memoryview]) -> None:
        for part in parts:
            self.checksum.update(part)
            self.size += len(part)
        self.growing.append(parts)

    def finish(self) -> str:
        """Write the end of the tar and return its checksum; the file stays open for the caller to sync."""
        self._append([bytes(2 * BLOCK)])
        self._append([bytes(-self.size % RECORD)])
        self.growing.flush()
        return str(self.checksum.hexdigest())


def sample_size(members: Sequence[Member]) -> int:
    """Bytes that a sample takes of a tar."""
    return sum(BLOCK + padded(len(member.lead) + len(member.payload)) for member in members)


def check_fits(key: bytes, members: Sequence[Member]) -> None:
    """ValueError where no tar can hold a sample: its key is too long, or a file of it too large."""
    for member in members:
        split_name(b"%s.%s" % (key, member.extension.encode()))
        size = len(member.lead) + len(member.payload)
        if size > MAX_MEMBER:
            raise ValueError(f"{member.extension}: {size:,} bytes, a file in a tar has at most 8 GiB")


HEADER_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(80)  # type, link, magic, version, owner's and device's names
HEADER_OWNER = b"0000644\0" + b"0000000\0" * 2  # mode, uid, gid
MTIME = b"00000000000\0"
CONSTANT_SUM = sum(HEADER_OWNER + MTIME + HEADER_TAIL) + 8 * ord(" ")
"""What a header's checksum is made of besides name, size and prefix; the checksum itself counts as blanks."""


def split_name(name: bytes) -> tuple[bytes, bytes]:
    """(prefix, name) as a header has them; ValueError where they have no room."""
    if len(name) <= 100:
        return b"", name
    cut = name.find(b"/", len(name) - 101)
    if not 0 < cut <= 155:
        raise ValueError("too long for a tar, use at most 100 bytes between two slashes")
    return name[:cut], name[cut + 1 :]


def tar_header(name: bytes, size: int) -> bytes:
    """The 512-byte header of a regular file (POSIX.1-1988, ustar) that passes `check_fits`."""
    prefix, name = split_name(name)
    octal_size = b"%011o" % size
    checksum = b"%06o\0 " % (CONSTANT_SUM + sum(name) + sum(octal_size) + sum(prefix))
    parts = (name.ljust(100, b"\0"), HEADER_OWNER, octal_size, b"\0", MTIME, checksum, HEADER_TAIL)
    return b"".join(parts) + prefix.ljust(167, b"\0")
