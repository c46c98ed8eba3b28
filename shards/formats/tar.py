"""The files in a tar, whoever wrote it: ustar (POSIX.1-1988), pax (POSIX.1-2001), GNU's long names."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from headrace.shards.errors import ShardError
from headrace.shards.formats.tar_links import TarLink, TarMember, followed
from headrace.shards.reading import FileBytes

BLOCK = 512


def padded(size: int) -> int:
    """Size of a member's content with its padding."""
    return size + -size % BLOCK


MAX_NAME = 4096
"""Bytes of a path, as in Linux."""
MAX_NAME_ENTRY = 1 << 20
"""Bytes of an entry that holds a long name; pax puts other attributes of the file beside it."""
CHUNK = 1 << 20


def scan_tar(mapped: FileBytes) -> list[TarMember]:
    """The files of a tar in their order. A link is the file that it leads to once more, at that one's place; one that
    leads to none is a `BrokenLink`, and one that leads to a folder is left out.

    Unlike Python's tarfile, which takes a damaged header or a hole of zeros in the middle for the end, this raises
    ShardError on anything but a whole tar.
    """
    members = list(walk_tar(mapped))
    return followed(members) if any(type(member) is TarLink for member in members) else members  # type: ignore[return-value]


def walk_tar(mapped: FileBytes) -> Iterator[TarMember | TarLink]:
    """The files and links of a tar in their order; raises as `scan_tar` does."""
    at, type_flag, said = 0, b"", Said()
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
        elif type_flag in FILES:
            yield TarMember(said.name or header_name(block), at, size)
            said = Said()
        elif type_flag in LINKS:
            name, target = said.name or header_name(block), said.link or link_target(block)
            yield TarLink(name, at - BLOCK, target, hard=type_flag == HARD_LINK)
            said = Said()
        elif type_flag == b"S":
            raise ShardError(f"{mapped.path}, offset {at}: sparse files are not supported; pack the tar without them")
        elif type_flag != b"g":  # the attributes of the tar belong to no file
            said = Said()
        at += padded(size)


FILES = b"0\x007"
HARD_LINK = b"1"
LINKS = b"12"
NAMES = b"LKx"
"""Types of headers: regular files, files under another name, and what says more about the file behind."""
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


PACKERS = {
    b"\x1f\x8b": "gunzip",
    b"\x1f\x9d": "uncompress",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\0": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
    b"LZIP": "lunzip",
    b"PK\3\4": "unzip",
}
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
    """What a header of type 1 or 2 is another name of."""
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
