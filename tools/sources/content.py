"""What kind of media a file holds, by its first bytes, as the formats' specifications have them."""

from __future__ import annotations

import os
import re

from headrace.shards.errors import is_machine_fault
from headrace.shards.formats.heif import heif_brand
from headrace.shards.formats.media import ASF, QUICKTIME_ATOMS, matroska
from headrace.tools.sources.listing import SpecialFile, StrPath, open_file, unreadable

HEAD = 1024
"""Bytes that are enough to tell."""

PICTURES = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF
    b"MM\0*",
    b"\0\0\0\x0cjP  \r\n\x87\n",  # JPEG 2000
    b"\xff\x4f\xff\x51",
)
NETPBM = re.compile(rb"P[1-6]\s(?:\s|#[^\n]*\n)*\d+\s+(?:#[^\n]*\n)*\d+\s")
BITMAP_HEADERS = {12, 40, 52, 56, 64, 108, 124}
"""Sizes of the second header of a BMP."""
NO_VIDEOS = {b"crx ", b"jxl "}
"""Brands of files that look like videos: a camera's own pictures."""
PACKET_SIZES = (188, 192)
"""Of MPEG transport streams; cameras (AVCHD) put a time of four bytes before each packet."""


LISTS = "xml csv tsv yaml yml toml ini cfg log md rst html htm css js py ipynb sh pdf doc docx xls xlsx rtf tex srt vtt"
ARRAYS = "npy npz mat h5 hdf5 pkl pt pth ckpt safetensors parquet arrow feather db sqlite lmdb mdb idx rec lst lab"
OTHERS = "tar tgz gz bz2 xz zst zip rar 7z tmp part crdownload svg aae xmp thm"
CAMERAS = "dng nef nrw cr2 cr3 arw srf sr2 orf rw2 raf pef srw 3fr erf kdc dcr iiq mrw x3f"
NEVER_MEDIA = frozenset(f".{ending}" for ending in f"{LISTS} {ARRAYS} {OTHERS} {CAMERAS}".split())
"""Endings of what is not looked into: lists and annotations, of which there may be one a picture; archives; and the own
files of cameras, of which Pillow would read the thumbnail alone."""


def kind_of_file(path: StrPath) -> str:
    """`media_kind` of a file, empty for what is no regular file or may not be read; MachineError where that cannot be
    told."""
    if os.path.splitext(path)[1].lower() in NEVER_MEDIA:
        return ""
    try:
        with open_file(path) as file:
            return media_kind(file.read(HEAD))
    except SpecialFile:
        return ""
    except OSError as error:
        if is_machine_fault(error):
            raise unreadable(path, error) from error
        return ""


def media_kind(head: bytes) -> str:
    """image, video or audio; empty for everything else.

    Args:
        head: the first `HEAD` bytes.
    """
    if is_picture(head):
        return "image"
    if head[4:8] == b"ftyp":
        return "" if head[8:12] in NO_VIDEOS else "audio" if head[8:11] == b"M4A" else "video"
    if head[:4] == b"RIFF":
        return {b"AVI ": "video", b"WAVE": "audio"}.get(head[8:12], "")
    if head[4:8] in QUICKTIME_ATOMS or head[:4] in (b"\0\0\1\xba", b"\0\0\1\xb3", b"FLV\1") or matroska(head):
        return "video"
    if head[:16] == ASF or any(is_transport_stream(head, size) for size in PACKET_SIZES):
        return "video"
    if head[:4] == b"OggS":
        return "video" if head[28:35] == b"\x80theora" else "audio"
    if head[:4] in (b"fLaC", b".snd", b"RF64") or head[:3] == b"ID3":
        return "audio"
    return "audio" if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC") else ""


def is_picture(head: bytes) -> bool:
    """Whether it is a picture of a format that Pillow reads, by itself or with pillow-heif."""
    if head.startswith(PICTURES) or NETPBM.match(head) or heif_brand(head):
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[:2] == b"BM":
        return int.from_bytes(head[14:18], "little") in BITMAP_HEADERS
    # ICO: type 1, some pictures, and of the first a zero, one plane or none.
    return head[:4] == b"\0\0\1\0" and 0 < head[4] < 65 and head[5] == head[9] == head[11] == 0 and head[10] < 2


def is_transport_stream(head: bytes, size: int) -> bool:
    """Whether it begins with packets of this size (ISO 13818-1, 2.4.3.2)."""
    places = range(size - 188, len(head), size)
    return len(places) > 2 and all(head[at] == 0x47 for at in places)
