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
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.shards.checksums import Checksums
from headrace.shards.errors import ShardError
from headrace.shards.fields import ENCODINGS, IMAGE_ENCODINGS, RAW, Field
from headrace.shards.formats.media import HEAD, media_type
from headrace.shards.formats.npy import npy_header, parse_npy
from headrace.shards.formats.orientation import UPRIGHT
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
from headrace.shards.reading import FileBytes
from headrace.shards.write_back import SMALL, GrowingFile

BLOCK = 512
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


def padded(size: int) -> int:
    """Size of a member's content with its padding."""
    return size + -size % BLOCK


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


class TarMember(NamedTuple):
    """A regular file found in a tar."""

    name: str
    offset: int
    size: int


MAX_NAME = 4096
"""Bytes of a path, as in Linux."""
MAX_NAME_ENTRY = 1 << 20
"""Bytes of an entry that holds a long name; pax puts other attributes of the file beside it."""
CHUNK = 1 << 20


def scan_tar(mapped: FileBytes) -> Iterator[TarMember]:
    """The regular files of a tar, whoever wrote it: ustar, GNU long names, pax. A hard link is a file once more.

    Unlike Python's tarfile, which takes a damaged header or a hole of zeros in the middle for the end, this raises
    ShardError on anything but a whole tar.
    """
    at, type_flag, said = 0, b"", Said()
    places: dict[str, TarMember] = {}
    while True:
        block = mapped.array[at : at + BLOCK].tobytes()
        if at == 0 and (packer := packed_by(block)):
            raise ShardError(f"{mapped.path}: {packer}")
        if len(block) < BLOCK:
            raise ShardError(f"{mapped.path}, offset {at}: the tar has no end, so it is truncated; copy it again")
        if not any(block):
            if type_flag and type_flag in NAMES:
                raise ShardError(f"{mapped.path}, offset {at}: a name without its file; copy it again")
            rest = range(at, mapped.size, CHUNK)
            behind = next((start for start in rest if mapped.array[start : start + CHUNK].any()), None)
            if behind is not None:
                behind += int(np.argmax(mapped.array[behind : behind + CHUNK] != 0))
                raise ShardError(
                    f"{mapped.path}, offset {at}: zeros as at the end, but data at {behind}; copy it again"
                )
            return
        try:
            size, type_flag = check_header(block)
        except ValueError as error:
            raise ShardError(f"{mapped.path}, offset {at}: damaged tar header ({error}); copy it again") from error
        at += BLOCK
        size = said.size_of(size, type_flag)
        if size > mapped.size - at:
            missing = at + size - mapped.size
            raise ShardError(
                f"{mapped.path}, offset {at}: the last file lacks {missing} bytes, so the tar is truncated"
            )
        if type_flag in NAMES:
            try:
                if size > MAX_NAME_ENTRY:
                    raise ValueError(f"{size} bytes")
                said.add(mapped.array[at : at + size].tobytes(), type_flag)
            except ValueError as error:
                raise ShardError(f"{mapped.path}, offset {at}: damaged name ({error})") from error
        elif type_flag in FILES or type_flag == LINK:
            member = TarMember(said.name or header_name(block), at, size)
            if type_flag == LINK:
                target = said.link or link_target(block)
                if target not in places:
                    what = f"{member.name} is a link to {target}, which is not there before it"
                    raise ShardError(f"{mapped.path}, offset {at}: {what}; pack the tar with --hard-dereference")
                member = TarMember(member.name, *places[target][1:])
            places[member.name] = member
            yield member
            said = Said()
        elif type_flag == b"S":
            raise ShardError(f"{mapped.path}, offset {at}: sparse files are not supported; pack the tar without them")
        elif type_flag != b"g":  # the attributes of the tar belong to no file
            said = Said()
        at += padded(size)


FILES = b"0\x007"
LINK = b"1"
NAMES = b"LKx"
"""Types of headers: regular files, a file under another name, and what says more about the file behind."""
CONTENTLESS = b"123456"
"""Links, devices, folders: no content, whatever the size says."""


class Said:
    """What GNU and pax entries say about the file behind them."""

    def __init__(self) -> None:
        self.name = ""
        self.link = ""
        """The file that it is another name of."""
        self.size: int | None = None

    def size_of(self, size: int, type_flag: bytes) -> int:
        """Bytes of an entry's content, whose header says `size`."""
        if type_flag in CONTENTLESS:
            return 0
        return self.size if type_flag in FILES and self.size is not None else size

    def add(self, content: bytes, type_flag: bytes) -> None:
        """An entry of type L (name), K (link) or x (pax); ValueError where it is damaged, or describes a file with
        holes."""
        if type_flag == b"x":
            records = pax_records(content)
            name, link, size = (records.get(key, b"") for key in (b"path", b"linkpath", b"size"))
        else:
            text, size = content.split(b"\0", 1)[0], b""
            name, link = (text, b"") if type_flag == b"L" else (b"", text)
        if max(len(name), len(link)) > MAX_NAME:
            raise ValueError(f"a path of {max(len(name), len(link))} bytes")
        if size and not (size.isdigit() and len(size) <= 18):
            raise ValueError(f"{size[:40]!r} is no size")
        self.name = name.decode(errors="surrogateescape") or self.name
        self.link = link.decode(errors="surrogateescape") or self.link
        self.size = int(size) if size else self.size


def packed_by(head: bytes) -> str:
    """Why a tar that begins like this is none; empty where that is not known."""
    for magic, program in PACKERS.items():
        if head.startswith(magic):
            return f"is compressed, so that nothing in it can be read by itself: unpack it ({program})"
    return ""


PACKERS = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ\0": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
"""What unpacks a compressed file, by its first bytes."""


def check_header(block: bytes) -> tuple[int, bytes]:
    """(size, type) of a header whose checksum is right; ValueError otherwise."""
    if octal(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise ValueError("wrong checksum")
    if block[124] == 0x80:  # GNU's spelling of sizes beyond 8 GiB
        return int.from_bytes(block[125:136], "big"), block[156:157]
    return octal(block[124:136]), block[156:157]


def octal(field: bytes) -> int:
    """A number in a header; ValueError on the signs, underscores and other digits that `int` admits."""
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise ValueError(f"{field!r} is not an octal number")
    return int(digits or b"0", 8)


def header_name(block: bytes) -> str:
    """Name of a member with its ustar prefix."""
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode(errors="surrogateescape")


def link_target(block: bytes) -> str:
    """Name of the member that a header of type 1 is another name of."""
    return block[157:257].split(b"\0", 1)[0].decode(errors="surrogateescape")


def pax_records(content: bytes) -> dict[bytes, bytes]:
    """What a pax header says, in records like b"21 path=long/name.jpg\\n"; ValueError where it is damaged, or describes
    a file with holes."""
    at = 0
    records: dict[bytes, bytes] = {}
    while at < len(content):
        space = content.index(b" ", at)
        if space - at > 7 or not content[at:space].isdigit():
            raise ValueError("pax record without a length")
        length = int(content[at:space])
        record = content[space + 1 : at + length]
        if length <= space + 1 - at or at + length > len(content) or record[-1:] != b"\n":
            raise ValueError("pax record of another length than it says")
        keyword, _, value = record[:-1].partition(b"=")
        if keyword.startswith(b"GNU.sparse"):
            raise ValueError("a file with holes; pack the tar without --sparse")
        records[keyword] = value
        at += length
    return records


KEY_AND_EXTENSION = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
META_NAME = re.compile(r"__[^/]*__($|/)")


def group_members(path: Path, members: Iterator[TarMember]) -> Iterator[tuple[str, dict[str, TarMember]]]:
    """(key, members by extension) of every sample, by webdataset's rule: neighbours with the same name up to
    the first dot of the last component; names without an extension, `__meta__` names and hidden ones, such as a Mac's
    ._ doubles, are skipped."""
    current = ""
    found: dict[str, TarMember] = {}
    for member in members:
        match = KEY_AND_EXTENSION.fullmatch(member.name)
        if match is None or META_NAME.match(member.name) or member.name.rpartition("/")[2].startswith("."):
            continue
        key, ending = match[1], match[2].lower()
        if key != current:
            if found:
                yield current, found
            current, found = key, {}
        if ending in found:
            raise ShardError(f"{path}, offset {member.offset}, key {key}: two files {ending}")
        found[ending] = member
    if found:
        yield current, found
