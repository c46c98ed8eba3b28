"""Which pictures are taken for whole without being decoded, and what decoding refuses."""

from __future__ import annotations

import io
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from sklearn.datasets import load_sample_images

from headrace.shards import Field, ShardSet
from headrace.tools.conversion.encode import Encode, EncodeSettings
from headrace.tools.media.images import MAX_SCANS, check_decodes, check_structure, decode_rgb

CHINA, FLOWER = (Image.fromarray(image) for image in load_sample_images().images)


def encode(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


THUMBNAIL = b"Exif\0\0" + encode(CHINA.resize((64, 43)), quality=90)
ORDINARY = {
    "plain": encode(CHINA, quality=90),
    "grey": encode(CHINA.convert("L")),
    "4:4:4": encode(FLOWER, subsampling=0, quality=98),
    "4:2:2": encode(FLOWER, subsampling=1),
    "own tables": encode(CHINA, optimize=True),
    "progressive": encode(CHINA, progressive=True),
    "progressive grey": encode(FLOWER.convert("L"), progressive=True, quality=40),
    "thumbnail": encode(CHINA, exif=THUMBNAIL, comment="with a \xff\xd9"),
    "profile": encode(CHINA, icc_profile=bytes(range(256)) * 700),
    "tiny": encode(CHINA.crop((0, 0, 3, 5))),
    "white": encode(Image.new("RGB", (640, 480), "white"), quality=98),
    "png": encode(CHINA.crop((0, 0, 200, 200)), "PNG"),
    "png palette": encode(FLOWER.crop((0, 0, 200, 200)).quantize(50), "PNG"),
    "png alpha": encode(FLOWER.convert("RGBA").crop((0, 0, 150, 99)), "PNG", dpi=(72, 72)),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_files_are_whole(name: str) -> None:
    assert check_structure(ORDINARY[name])
    check_decodes(ORDINARY[name])


def test_photographs_are_whole(photos: ShardSet) -> None:
    assert all(check_structure(photos.read(i)["image"]) for i in range(len(photos)))


@pytest.mark.parametrize("name", ORDINARY)
def test_no_truncated_file_is_whole(name: str) -> None:
    """Also none that was cut behind the end marker of its thumbnail, or in its last bytes."""
    data = ORDINARY[name]
    random = np.random.Generator(np.random.Philox(11))
    cuts = {*random.integers(0, len(data), 200).tolist(), *range(len(data) - 20, len(data))}
    at = data.find(b"\xff\xd9")
    while at >= 0:
        cuts |= {at + 2} - {len(data)}
        at = data.find(b"\xff\xd9", at + 1)
    assert not any(check_structure(data[:cut]) for cut in cuts)
    assert not any(check_structure(data[:cut] + b"\xff\xd9") for cut in sorted(cuts)[: len(cuts) // 2] if cut < 600)


@pytest.mark.parametrize("name", ORDINARY)
def test_what_is_odd_is_left_to_decoding(name: str) -> None:
    data = ORDINARY[name]
    png = name.startswith("png")
    hole = len(data) * 9 // 10  # in the scan
    for odd in (
        data + b"\0",
        data + data,
        b"\0" + data,
        data[:hole] + data[hole + 512 :] if png else data[:-2],
        data[:hole] + bytes(512) + data[hole + 512 :] if len(data) > 2000 else b"",
    ):
        assert not check_structure(odd)
    if png:
        flipped = bytearray(data)
        flipped[hole] ^= 1
        assert not check_structure(bytes(flipped))


def rewritten(data: bytes, change: Callable[[bytearray], object]) -> bytes:
    copy = bytearray(data)
    change(copy)
    return bytes(copy)


def test_rare_kinds_are_left_to_decoding() -> None:
    plain = ORDINARY["plain"]
    frame, scan = plain.index(b"\xff\xc0"), plain.index(b"\xff\xda")
    tables = plain.index(b"\xff\xc4")
    for odd in (
        encode(CHINA, restart_marker_blocks=9),
        encode(CHINA.convert("CMYK")),
        plain[:tables] + plain[scan:],  # no Huffman tables
        plain[:frame] + plain[tables:],  # no frame
        rewritten(plain, lambda data: data.__setitem__(frame + 1, 0xC9)),  # arithmetic codes
        rewritten(plain, lambda data: data.__setitem__(frame + 4, 12)),  # 12 bits
        rewritten(plain, lambda data: data.__setitem__(slice(frame + 5, frame + 9), b"\xff\xff\xff\xff")),  # too large
        rewritten(plain, lambda data: data.__setitem__(slice(frame + 5, frame + 7), b"\xff\x00")),  # too little data
        b"",
        b"\xff\xd8\xff\xd9",
        b"\x89PNG\r\n\x1a\n",
    ):
        assert not check_structure(odd)


def test_a_progressive_jpeg_without_its_last_scans_is_not_whole() -> None:
    """It decodes without complaint, but blurred."""
    data = ORDINARY["progressive"]
    scans = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for at in scans[1:]:
        marker = data.rindex(b"\xff\xc4", 0, at) if b"\xff\xc4" in data[at - 80 : at] else at
        assert not check_structure(data[:marker] + b"\xff\xd9")


def test_a_png_chunk_that_must_be_understood() -> None:
    data = ORDINARY["png"]
    for name, whole in ((b"teSt", True), (b"TESt", False)):
        chunk = b"\0\0\0\2" + name + b"ab" + zlib.crc32(name + b"ab").to_bytes(4, "big")
        assert check_structure(data[:33] + chunk + data[33:]) == whole


def test_structure_costs_little() -> None:
    """A photograph of 640 x 427 pixels: many times less than decoding it as fast as that can be done."""
    data = encode(CHINA, quality=98)
    check_structure(data)

    def seconds(function: Callable[[bytes], object]) -> float:
        times = []
        for _ in range(9):
            start = time.perf_counter()
            function(data)
            times.append(time.perf_counter() - start)
        return min(times)

    structure, decoding = seconds(check_structure), seconds(check_decodes)
    print(f"structure {1e6 * structure:.0f} us, decoding {1e6 * decoding:.0f} us, {len(data)} bytes")
    assert structure < decoding / 5


def test_a_jpeg_of_a_thousand_scans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each runs over all of the picture: some kilobytes could keep a core busy for hours."""
    data = ORDINARY["progressive"]
    first = data.index(b"\xff\xda")
    bomb = data[:first] + data[first : data.index(b"\xff\xc4", first)] * (MAX_SCANS + 1) + b"\xff\xd9"
    for function in (check_decodes, decode_rgb):
        with pytest.raises(ValueError, match="more than 500 scans"):
            function(bomb)

    def decode_jpeg(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode_jpeg)
    kinds: tuple[Encode, ...] = ("jpeg", "raw")
    for kind in kinds:
        settings = EncodeSettings(encode=kind)
        with pytest.raises(ValueError, match="more than 500 scans"):
            settings.stored(Field(kind="image", encoding="mixed"), "key", bomb)


def test_programs_in_pictures_are_not_run() -> None:
    """Pillow would hand a PostScript file to Ghostscript."""
    with pytest.raises(ValueError, match="not an image"):
        decode_rgb(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")


def test_a_palette_png_without_palette() -> None:
    """Pillow fails on an assertion here."""
    data = encode(CHINA.crop((0, 0, 50, 50)).quantize(20), "PNG")
    at = data.index(b"PLTE")
    length = int.from_bytes(data[at - 4 : at], "big")
    with pytest.raises(ValueError, match="damaged"):
        decode_rgb(data[: at - 4] + data[at + 8 + length :])
