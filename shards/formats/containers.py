"""Does a media file end where its own sizes say? Decoders do not ask: they show what is there."""

from __future__ import annotations

from headrace.shards.formats.media import media_type

ISO = ("mp4", "mov", "3gp", "m4a")
RIFF = ("avi", "wav")
EBML = ("webm", "mkv", "weba", "mka")
OGG = ("ogg", "opus", "ogv")


def check_whole(kind: str, data: bytes) -> str:
    """The type of a file of the kind video or audio; ValueError with the offset where it is cut off.

    Formats that are a stream of packets without an end (mpg, ts, mp3, ...) pass.
    """
    found = media_type(kind, data)
    if found in ISO:
        check_iso(data)
    elif found in RIFF:
        check_riff(data)
    elif found in EBML:
        check_ebml(data)
    elif found in OGG:
        check_ogg(data)
    elif found == "aiff" and int.from_bytes(data[4:8], "big") in (0, 0xFFFFFFFF):
        raise ValueError("has no sizes, as one written into a pipe, and programs read nothing of it; make it a .wav")
    return found


def cut_off(what: str, at: int, missing: int) -> ValueError:
    """The error for a part that goes on behind the end of the file."""
    return ValueError(f"cut off: {what} at offset {at} lacks {missing} bytes")


def check_iso(data: bytes) -> None:
    """Boxes of the outermost level (ISO 14496-12, 4.2): u4 size, 4 letters; size 1: u8 size follows; 0: to the end."""
    at = 0
    seen: set[bytes] = set()
    while at + 8 <= len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size == 0:
            size = len(data) - at
        complete = {b"moov", b"mdat"} <= seen
        if size < 8 and not complete:
            raise ValueError(f"damaged: a box of {size} bytes at offset {at}")
        if size < 8 or (at + size > len(data) and complete and name not in (b"moof", b"mdat")):
            return  # litter behind the film
        if at + size > len(data):
            raise cut_off(f"the box {name.decode('latin1')!r}", at, at + size - len(data))
        seen.add(name)
        at += size
    if b"moov" not in seen:
        raise ValueError("cut off: has no index (a box 'moov')")


PIPED = (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Sizes of a sound that say that its writer could not know, because it wrote into a pipe: most programs', SoX's and
MPlayer's, and those of others."""
HEADERS = 256
"""Bytes, more than lie before the sound, that such a size may have been counted with or without."""


def is_piped(size: int) -> bool:
    """Whether it is one that its writer could not know, counted from some place in the headers."""
    return any(abs(size - known) <= HEADERS for known in PIPED[1:]) or size == 0


def check_riff(data: bytes) -> None:
    """One chunk, in a large AVI several: 4 letters, u4 size, which may be none, see `PIPED`."""
    at = 0
    while data[at : at + 4] in (b"RIFF", b"RF64"):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if is_piped(size):
            return
        if at + 8 + size > len(data):
            raise cut_off("the chunk 'RIFF'", at, at + 8 + size - len(data))
        at += 8 + size + size % 2


def sized(found: str, data: bytes) -> bytes:
    """A file with the sizes that its writer could not know: the sound goes on to the end. FFmpeg would take the last
    part of it for damaged. Types other than wav do without, and files that have theirs are returned as they are.

    ValueError where the sound has a size and is cut off.
    """
    if found != "wav" or not is_piped(int.from_bytes(data[4:8], "little")):
        return data
    at, ds64 = 12, 0
    while data[at : at + 4] != b"data":
        if at + 8 > len(data):
            return data
        ds64 = at + 8 if data[at : at + 4] == b"ds64" else ds64
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    begin = at + 8
    place = slice(ds64 + 8, ds64 + 16) if ds64 else slice(at + 4, begin)  # RF64 has sizes of 8 bytes elsewhere
    size = int.from_bytes(data[place], "little")
    if size and begin + size <= len(data):
        return data
    if not is_piped(size) and size != (1 << 64) - 1:
        raise cut_off("the chunk 'data'", at, begin + size - len(data))
    width = place.stop - place.start
    size = max(0, len(data) - begin)
    return data[: place.start] + size.to_bytes(width, "little") + data[place.stop :]


SEGMENT = b"\x18\x53\x80\x67"
"""Identifier of the element that holds everything but the header (RFC 9559, 5.1)."""
CLUSTER = b"\x1f\x43\xb6\x75"
"""Of one that holds some frames."""


def check_ebml(data: bytes) -> None:
    """Elements of the outermost level (RFC 8794, 4): identifier, size, both of variable length. Where a size is unknown
    (all ones), as of a film written into a pipe, those of the level below as well."""
    at, seen = 0, False
    while at < len(data):
        place = at + 9 - data[at].bit_length()  # behind the identifier
        width = 9 - data[place].bit_length() if place < len(data) else 1
        if place + width > len(data) and not seen:
            raise cut_off("the element", at, place + width - len(data))
        if place + width > len(data) or width > 8 or place > at + 4:
            break  # litter behind the film
        seen = seen or data[at:place] == SEGMENT
        size = int.from_bytes(data[place : place + width], "big") - (1 << 7 * width)
        if size == (1 << 7 * width) - 1 and data[at:place] in (SEGMENT, CLUSTER):
            at = place + width
            continue
        if size == (1 << 7 * width) - 1:
            break
        end = place + width + size
        if end > len(data):
            raise cut_off("the element", at, end - len(data))
        at = end
    if not seen:
        raise ValueError("cut off: has no segment")


def check_ogg(data: bytes) -> None:
    """Pages (RFC 3533, 6): 27 bytes, the last of them the number of segments; a byte with the size of each. A packet
    ends with a segment of less than 255 bytes."""
    at, last = 0, 0
    while data[at : at + 4] == b"OggS":
        if at + 27 > len(data):
            raise cut_off("the page", at, at + 27 - len(data))
        sizes = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + data[at + 26] + sum(sizes)
        if end > len(data):
            raise cut_off("the page", at, end - len(data))
        at, last = end, sizes[-1] if sizes else last
    if last == 255 or (at < len(data) and b"OggS".startswith(data[at:])):
        raise ValueError(f"cut off: a packet at offset {at} does not end")
