"""Type of a video or audio file from its first bytes, as the containers' specifications have them."""

from __future__ import annotations

import re

HEAD = 256
"""Bytes that are enough to tell."""

DOC_TYPE = re.compile(rb"\x42\x82[\x80-\xff](webm|matroska)")  # EBML (RFC 8794, 11.2.6)
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
QUICKTIME_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def media_type(kind: str, data: bytes | memoryview) -> str:
    """One of `VIDEO_ENCODINGS` or, for the kind audio, of `AUDIO_ENCODINGS`; ValueError where it is none of them.

    Containers that hold either, such as MP4, are named by the kind: mp4 or m4a, webm or weba.
    """
    head = bytes(data[:HEAD])
    found = video_type(head) if kind == "video" else audio_type(head)
    if not found:
        raise ValueError("empty" if not head else f"no {kind} file of a known type (starts with {head[:12].hex()})")
    return found


def video_type(head: bytes) -> str:
    """Of a file that begins like this; empty where it is unknown."""
    if head[4:8] == b"ftyp":  # ISO 14496-12, 4.3
        return {b"qt": "mov", b"3g": "3gp"}.get(head[8:10], "mp4")
    if head[4:8] in QUICKTIME_ATOMS:  # QuickTime before it knew ftyp
        return "mov"
    if doc_type := matroska(head):
        return {b"webm": "webm", b"matroska": "mkv"}[doc_type]
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:4] in (b"\0\0\1\xba", b"\0\0\1\xb3"):  # ISO 13818-1, pack header; ISO 13818-2, sequence header
        return "mpg"
    # ISO 13818-1, packets of 188 bytes; cameras (.mts) put a time of four bytes before each.
    if (head[:1] == b"G" and head[188:189] == b"G") or (head[4:5] == b"G" and head[196:197] == b"G"):
        return "ts"
    if head[:4] == b"FLV\1":
        return "flv"
    if head[:16] == ASF:
        return "wmv"
    return "ogv" if head[:4] == b"OggS" and head[28:35] == b"\x80theora" else ""


def audio_type(head: bytes) -> str:
    """Likewise."""
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":  # RFC 3533; the first page has a header of 28 bytes
        return "opus" if head[28:36] == b"OpusHead" else "ogg"
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[4:8] == b"ftyp":
        return "m4a"
    if doc_type := matroska(head):
        return {b"webm": "weba", b"matroska": "mka"}[doc_type]
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[:4] == b".snd":
        return "au"
    if head[:16] == ASF:
        return "wma"
    if head[:3] == b"ID3" or is_mp3_frame(head):
        return "mp3"
    return "aac" if len(head) > 6 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 else ""  # ADTS, layer 0


def matroska(head: bytes) -> bytes:
    """The document type in an EBML header."""
    match = DOC_TYPE.search(head) if head[:4] == b"\x1a\x45\xdf\xa3" else None
    return match[1] if match else b""


def is_mp3_frame(head: bytes) -> bool:
    """Frame header of MPEG audio, layers 1 to 3 (ISO 11172-3, 2.4.1.3), without the reserved values."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer, rate, frequency = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer != 0 and rate != 15 and frequency != 3
