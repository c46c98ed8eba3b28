"""RAR archives, written from the published formats: technote.txt of RAR 4 and of RAR 5 (https://www.rarlab.com).

Free programs read RAR and none writes it, so what is compressed here comes packed: a text of 2,048 bytes from the test
files of rarfile 4.5 (seektest.rar, rar5-times.rar, rar3-solid.rar, rar5-solid.rar; Copyright (c) 2005-2024 Marko Kreen,
ISC licence).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

TEXT = "".join(f"{number:03}\n" for number in range(512)).encode()
"""What the packed files unpack to."""


class Packed(NamedTuple):
    """Content of a file as an archive holds it, and what the header says about how it was packed."""

    content: bytes
    flags: int
    """RAR 4: of the file. RAR 5: compression information."""
    method: int = 0x33
    """RAR 4 only."""
    size: int = len(TEXT)
    """Bytes unpacked, as the header says."""


RAR4 = Packed(
    bytes.fromhex(
        "0cccccfe8cdeafffec5f3575920765e26696e556482c5746403c42e19006ad874002080002223a5e03348301d84e905e12ecdba7d482b6b2"
        "89d02eb9c2d922989c7eee0010f7903fed7dd615eea9b7df851c8dbed2d0dbedb940"
    ),
    flags=0x20,
    method=0x35,
)
RAR4_SOLID = (
    Packed(
        bytes.fromhex(
            "110cccfe8c9eb0fe3181abacb1bb4077a80a64d64b3783c107bc01e08592eefbb61d000820000888e9780cd20c07613a41784bb36e9f"
            "520adaca2740bae70b648a6271fbb800919e502fd855fffac658ebebc4d7887e5496871f4dec"
        ),
        flags=0x80,
    ),
    Packed(bytes.fromhex("b120008807ebf20a69fafc94ded0"), flags=0x90),
)
RAR5 = Packed(
    bytes.fromhex(
        "c4aa34443424fa32eb47fac44d7dbde60580820a8cc1032a95ca229b501a93dd40fc00400200d4600436ed15f9b754832a644ecd7c1fe0"
    ),
    flags=384,
)
RAR5_SOLID = (
    Packed(
        bytes.fromhex(
            "c1ac37444423fa23f697fd625351be4c918141028cc103795cbf47a3aa2da03693dda05800400200d4500476f6c47f32ea9f32a5c4cc"
            "d783df00"
        ),
        flags=3456,
    ),
    Packed(bytes.fromhex("45150a6001000803dfb7fbf6fc"), flags=3520),
)


def rar4(files: Mapping[str, bytes | Packed], *, solid: bool = False, encrypted: bool = False) -> bytes:
    """An archive of files that are stored, or packed already.

    Args:
        solid: Of the whole archive.
        encrypted: Say so of every file, or, where there is none, of the archive.
    """

    def block(kind: int, flags: int, fields: bytes) -> bytes:
        head = struct.pack("<BHH", kind, flags, 7 + len(fields)) + fields
        return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head

    parts = [b"Rar!\x1a\x07\x00", block(0x73, 0x08 * solid | 0x80 * (encrypted and not files), bytes(6))]
    for name, given in files.items():
        packed = given if isinstance(given, Packed) else Packed(given, flags=0, method=0x30, size=len(given))
        content = TEXT if isinstance(given, Packed) else given
        encoded = name.replace("/", "\\").encode()
        sizes = struct.pack("<II", len(packed.content), packed.size)
        rest = struct.pack("<BIIBBHI", 3, zlib.crc32(content), 0x5A210000, 29, packed.method, len(encoded), 0o100644)
        flags = 0x8000 | packed.flags | 0x04 * encrypted
        parts += [block(0x74, flags, sizes + rest + encoded), packed.content]
    return b"".join([*parts, block(0x7B, 0x4000, b"")])


def rar5(files: Mapping[str, bytes | Packed], *, solid: bool = False) -> bytes:
    """The same in the format of RAR 5."""
    head = [b"Rar!\x1a\x07\x01\x00", block5(1, 0, vint(0x04 * solid))]
    return b"".join([*head, *(file5(name, given) for name, given in files.items()), block5(5, 0, vint(0))])


def rar5_volumes(name: str, content: bytes, count: int) -> list[bytes]:
    """A stored file cut into the volumes of an archive."""
    cuts = [number * len(content) // count for number in range(count + 1)]
    volumes = []
    for number in range(count):
        before, after = number > 0, number < count - 1
        main = vint(1 | 2 * before) + (vint(number) if before else b"")
        part = file5(name, content, slice(cuts[number], cuts[number + 1]), 0x08 * before | 0x10 * after)
        volumes.append(b"".join([b"Rar!\x1a\x07\x01\x00", block5(1, 0, main), part, block5(5, 0, vint(after))]))
    return volumes


def file5(name: str, given: bytes | Packed, part: slice = slice(None), flags: int = 0) -> bytes:
    """Header and data of a file."""
    packed = given if isinstance(given, Packed) else Packed(given, flags=0, size=len(given))
    content = TEXT if isinstance(given, Packed) else given
    data = packed.content[part]
    checksum = struct.pack("<I", zlib.crc32(content))
    encoded = name.encode()
    fields = vint(0x04) + vint(packed.size) + vint(0o100644) + checksum + vint(packed.flags) + vint(1)
    return block5(2, 0x02 | flags, vint(len(data)) + fields + vint(len(encoded)) + encoded) + data


def block5(kind: int, flags: int, fields: bytes) -> bytes:
    """Header of a block."""
    head = vint(kind) + vint(flags) + fields
    sized = vint(len(head)) + head
    return struct.pack("<I", zlib.crc32(sized)) + sized


def vint(number: int) -> bytes:
    """A number in groups of seven bits, the lowest first."""
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])
