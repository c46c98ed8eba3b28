"""How a picture says that it is to be shown, against Pillow."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.shards.formats.images import image_header
from headrace.shards.formats.orientation import INVERSE, exif_orientation, shown_size, turned
from tests.oriented import ORIENTATIONS, encoded, quarters, shown, stored

FORMATS = [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {})]


@pytest.mark.parametrize(("format", "options"), FORMATS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_header_says_it_and_pixels_turn_as_pillow_turns_them(format: str, options: dict, orientation: int) -> None:
    data = encoded(quarters(), format, orientation, **options)
    header = image_header(data)
    assert (header.height, header.width, header.orientation) == (61, 94, orientation)
    assert image_header(memoryview(data)) == header
    assert np.array_equal(turned(stored(data), orientation), shown(data))
    assert shown_size(61, 94, orientation) == shown(data).shape[:2]
    assert np.array_equal(turned(turned(stored(data), orientation), INVERSE[orientation]), stored(data))


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_no_tag_is_upright(format: str) -> None:
    assert image_header(encoded(quarters(), format)).orientation == 1


def exif(orientation: int, order: str = "<", kind: int = 3, count: int = 1, others: int = 3) -> bytes:
    """An EXIF block by hand; the tag stands behind others."""
    code = {3: "H2x"}.get(kind, "I")
    entries = [struct.pack(f"{order}HHI4x", 0x100 + n, 4, 1) for n in range(others)]
    entries.append(struct.pack(f"{order}HHI{code}", 0x112, kind, count, orientation))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)


def jpeg_with(*segments: bytes) -> bytes:
    """A JPEG with APP1 segments behind its first marker."""
    data = encoded(quarters(), "JPEG")
    parts = [b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment for segment in segments]
    return data[:2] + b"".join(parts) + data[2:]


def png_with(block: bytes, behind: bool, damaged: bool = False) -> bytes:
    """A PNG with a chunk eXIf before its pixels or behind them."""
    data = encoded(quarters(), "PNG")
    at = data.index(b"IEND") - 4 if behind else data.index(b"IDAT") - 4
    checksum = zlib.crc32(b"eXIf" + block) ^ damaged
    return data[:at] + len(block).to_bytes(4, "big") + b"eXIf" + block + checksum.to_bytes(4, "big") + data[at:]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [3, 4])
def test_either_byte_order_and_any_whole_number(order: str, kind: int) -> None:
    data = jpeg_with(b"http://ns.adobe.com/xap/1.0/\0<x/>", b"Exif\0\0" + exif(6, order, kind))
    assert image_header(data).orientation == 6
    assert np.array_equal(turned(stored(data), 6), shown(data))


def test_the_first_block_counts() -> None:
    data = jpeg_with(b"Exif\0\0" + exif(8), b"Exif\0\0" + exif(3))
    assert image_header(data).orientation == 8
    assert np.array_equal(turned(stored(data), 8), shown(data))


@pytest.mark.parametrize("behind", [False, True])
def test_a_png_says_it_before_its_pixels_or_behind_them(behind: bool) -> None:
    data = png_with(exif(5), behind)
    assert image_header(data).orientation == 5
    assert np.array_equal(turned(stored(data), 5), shown(data))
    assert image_header(png_with(exif(5), True, damaged=True)).orientation == 1


DAMAGED = [
    b"",
    b"II",
    b"XX" + exif(6)[2:],
    exif(6)[:20],
    exif(0),
    exif(9),
    exif(6, count=2),
    exif(6, kind=1),
    exif(6, kind=7),
    exif(6)[:4] + b"\xff\xff\xff\xff" + exif(6)[8:],
    exif(6)[:8] + b"\xff\xff" + exif(6, others=0)[10:20],
]


@pytest.mark.parametrize("block", DAMAGED)
def test_a_damaged_block_is_upright_and_no_error(block: bytes) -> None:
    assert exif_orientation(block) == 1
    assert image_header(jpeg_with(b"Exif\0\0" + block)).orientation == 1
    assert image_header(png_with(block, False)).orientation == 1


@given(st.binary(max_size=80), st.integers(0, 60), st.binary(max_size=4))
def test_no_bytes_are_an_error(block: bytes, at: int, change: bytes) -> None:
    whole = exif(6)
    for each in (block, whole[:at] + change + whole[at + len(change) :]):
        assert exif_orientation(each) in ORIENTATIONS
        image_header(jpeg_with(b"Exif\0\0" + each))
