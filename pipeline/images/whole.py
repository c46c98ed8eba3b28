"""Is all of a picture there? One decision for converters, engines, `verify` and its repair.

A JPEG is whole where every coefficient of every block has its code and an end marker follows, whatever a library warns
of: stray bytes, odd metadata, a film behind the picture. Any other is whole where Pillow decodes it to its end.
"""

from __future__ import annotations

import zlib

from headrace.pipeline.images.limits import check_pixels
from headrace.pipeline.images.reading import is_jpeg, open_image, plain_words
from headrace.pipeline.jpeg import coefficients
from headrace.pipeline.jpeg.coefficients import MARKERS, MAX_SCANS, TAIL
from headrace.pipeline.jpeg.whole import Scans, examine
from headrace.shards import JPG
from headrace.shards.formats.images import PNG_SIGNATURE, ImageHeader, image_header


class Damaged(ValueError):
    """A JPEG has bits that are no codes, or more blocks than the picture: something was lost or changed within, and
    libjpeg goes on to the last block, with other colours or with pieces out of place."""


_DAMAGED = {coefficients.BAD_CODE, coefficients.TOO_LONG}
_REASONS = {
    coefficients.NO_END: "image file is truncated: there is no end marker",
    coefficients.SHORT: "image file is truncated: the scan that ends at byte {where} lacks some of its blocks",
    coefficients.MISSING: "image file is truncated: no scan before byte {where} has some of the coefficients",
    coefficients.BAD_CODE: "damaged: the scan that ends at byte {where} has bits that are no code",
    coefficients.TOO_LONG: "damaged: the scan that ends at byte {where} has more blocks than the picture",
    coefficients.BROKEN: "damaged at byte {where}: no segment of a JPEG, or one that lacks its tables",
    coefficients.NO_TABLE: "damaged at byte {where}: a scan without its Huffman table",
    coefficients.SCANS: f"a JPEG of more than {MAX_SCANS} scans",
}


def check_whole(
    data: bytes | memoryview,
    header: ImageHeader | None = None,
    *,
    thorough: bool = True,
    max_pixels: int | None = None,
) -> None:
    """ValueError with the reason unless all of an encoded picture is there, and no more pixels than the limit.

    Every code of a JPEG is read, any other picture decoded; where it need not be `thorough`, only of those that do not
    pass `looks_whole`. `header` is the file's, where the caller has it; `max_pixels` takes the place of `pixel_limit`.
    """
    if not thorough and looks_whole(data, header, max_pixels=max_pixels):
        return
    image = open_image(data)
    check_pixels(*image.size, max_pixels)
    if is_jpeg(data) and check_codes(data):
        return
    try:
        image.load()
    except Exception as error:
        raise ValueError(plain_words(error)) from error


def check_codes(data: bytes | memoryview) -> bool:
    """ValueError with the reason where a JPEG has not all coefficients; False where that is not known, of one with
    other codes than Huffman's or a sampling that no decoder knows. Takes up to 8 bytes for each 64 samples."""
    scans = examine(data)
    _check(scans)
    return scans.found == coefficients.WHOLE


def check_scans(data: bytes | memoryview) -> None:
    """ValueError with the reason unless the scans of a JPEG, as their headers say, bring every coefficient.

    With a decoder that complains of each code that is missing, this is `check_whole`.
    """
    _check(examine(data, MARKERS))


def _check(scans: Scans) -> None:
    reason = _REASONS.get(scans.found)
    if reason is not None:
        kind = Damaged if scans.found in _DAMAGED else ValueError
        raise kind(reason.format(where=scans.where))


def looks_whole(data: bytes | memoryview, header: ImageHeader | None = None, *, max_pixels: int | None = None) -> bool:
    """True where there is hardly a doubt that a JPEG or PNG is whole, at a tenth of the cost of decoding it.

    Of a large sequential JPEG, which most are, the end of its only scan is read: what was cut does not end with the
    last bit of a block, ones up to the end of the byte and an end marker, but for one of some hundred that a program
    closed behind the cut. Every code of the others is read. A PNG passes if its chunks do, with their checksums, and
    none is likely to have been left out. False says nothing: see `check_whole`. `header` is the file's, where the
    caller has it, `max_pixels` takes the place of `pixel_limit`.
    """
    try:
        header = header or image_header(data)
        check_pixels(header.width, header.height, max_pixels)
        if header.encoding == JPG:
            return examine(data, TAIL).found == coefficients.WHOLE
        return _whole_png(bytes(data))
    except (ValueError, IndexError):
        return False


PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
SMALL = 1 << 15
"""Bytes of compressed pixels that are decoded, in less time than the file takes elsewhere."""


def _whole_png(data: bytes) -> bool:
    """`looks_whole` of a PNG (ISO 15948, clause 5 and 11.2)."""
    at, names, sizes = len(PNG_SIGNATURE), [], []
    while at + 12 <= len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        stop = at + 12 + length
        if stop > len(data) or zlib.crc32(data[at + 4 : stop - 4]) != int.from_bytes(data[stop - 4 : stop], "big"):
            return False
        names.append(name)
        if name == b"IDAT":
            sizes.append(length)
        at = stop
    if at != len(data) or names[0] != b"IHDR" or names[-1] != b"IEND" or not sizes:
        return False
    first, count = names.index(b"IDAT"), len(sizes)
    known = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
    ordinary = (
        data[8:12] == b"\0\0\0\r"
        and data[24] in PNG_DEPTHS[data[25]]
        and data[26:28] == b"\0\0"
        and data[28] < 2
        and names[first : first + count] == [b"IDAT"] * count
        and all(names.count(name) <= 1 for name in known - {b"IDAT"})
        and (data[25] != 3 or b"PLTE" in names[:first])
        and all(name in known or name[0] & 0x20 for name in names)  # other chunks may be skipped only in lower case
    )
    # Encoders write chunks of one size and a smaller one at last. Where that is missing, one may have been left out.
    return ordinary and sum(sizes) > SMALL and (count == 1 or sizes[-1] != sizes[0])
