"""Which pictures are whole, by a look and by every code: what is cut is seen however it was closed."""

from __future__ import annotations

import io
import time
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from sklearn.datasets import load_sample_images

from headrace.pipeline.images.decode import decode_image, decode_rgb
from headrace.pipeline.images.whole import check_whole, looks_whole
from headrace.pipeline.jpeg.coefficients import MAX_SCANS
from headrace.shards import Field, ShardSet
from headrace.tools.conversion.encode import Encode, EncodeSettings
from tests.odd_jpegs import SAMPLINGS, sampled_jpeg

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


SMALL = CHINA.crop((200, 100, 264, 161))
KINDS = {
    "plain": encode(SMALL, quality=92),
    "grey": encode(SMALL.convert("L")),
    "4:4:4": encode(SMALL, subsampling=0),
    "own tables": encode(SMALL, optimize=True),
    "restart": encode(SMALL, restart_marker_blocks=3),
    "progressive": encode(SMALL, progressive=True),
    "progressive grey": encode(SMALL.convert("L"), progressive=True),
    "progressive restart": encode(SMALL, progressive=True, restart_marker_rows=1),
    "CMYK": encode(SMALL.convert("CMYK")),
    **{name: sampled_jpeg(np.asarray(SMALL), sampling) for name, sampling in SAMPLINGS.items()},
    "4x1 restart": sampled_jpeg(np.asarray(SMALL), SAMPLINGS["4x1,2x1,2x1"], restart=2),
}
"""Small JPEGs of every kind that has scans of its own."""


def is_whole(data: bytes) -> bool:
    try:
        check_whole(data)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_files_are_whole(name: str) -> None:
    assert looks_whole(ORDINARY[name]) == (name not in ("png palette", "png alpha"))  # small: they are decoded
    check_whole(ORDINARY[name])


def test_photographs_are_whole(photos: ShardSet) -> None:
    """And nearly all of them look it, so that a conversion need not read every code."""
    files = [photos.read(i)["image"] for i in range(len(photos))]
    assert sum(map(looks_whole, files)) > 0.9 * len(files)
    assert all(map(is_whole, files))


@pytest.mark.parametrize("name", [*ORDINARY, *KINDS])
def test_no_truncated_file_is_whole(name: str) -> None:
    """Also none that was cut behind the end marker of its thumbnail, or in its last bytes."""
    data = {**ORDINARY, **KINDS}[name]
    random = np.random.Generator(np.random.Philox(11))
    cuts = {*random.integers(0, len(data), 60).tolist(), *range(len(data) - 20, len(data))}
    at = data.find(b"\xff\xd9")
    while at >= 0:
        cuts |= {at + 2} - {len(data)}
        at = data.find(b"\xff\xd9", at + 1)
    pixels_end = len(data) - (
        24 if name.startswith("png") else 0
    )  # behind the pixels of a PNG are checksums and an end
    for cut in cuts:
        assert not looks_whole(data[:cut])
        assert cut >= pixels_end or not is_whole(data[:cut])


@pytest.mark.parametrize("name", KINDS)
def test_an_end_marker_behind_a_cut_makes_nothing_whole(name: str) -> None:
    """Every cut; only what encoders put behind the last code may be missing."""
    data = KINDS[name]
    wrong = [cut for cut in range(2, len(data) - 3) if is_whole(data[:cut] + b"\xff\xd9")]
    assert not wrong
    assert not any(looks_whole(data[:cut] + b"\xff\xd9") for cut in range(2, len(data) - 3))


@pytest.mark.parametrize("name", ["plain", "4:4:4", "progressive", "thumbnail"])
def test_a_large_file_with_an_end_marker_behind_a_cut(name: str) -> None:
    """Every cut is found where every code is read; a look misses less than one in a hundred."""
    data = ORDINARY[name]
    cuts = np.random.Generator(np.random.Philox(12)).integers(len(data) // 8, len(data) - 9, 200).tolist()
    closed = [data[:cut] + b"\xff\xd9" for cut in cuts]
    assert not any(map(is_whole, closed[:: 1 if name != "progressive" else 8]))
    assert sum(map(looks_whole, closed)) <= 2


@pytest.mark.parametrize("name", ["plain", "progressive", "restart", "CMYK", "4x2", "grey"])
def test_what_costs_no_coefficient_costs_nothing(name: str) -> None:
    """Stray bytes, a film behind the picture, fill bytes, odd metadata: Pillow's pixels of the picture without them."""
    data = KINDS[name]
    film = np.random.default_rng(0).bytes(300_000) + b"\xff\xda" * 600 + b"\xff\xd8"
    for odd in (
        data[:-2] + b"\x7f" * 4 + data[-2:],
        data[:-2] + bytes(2) + data[-2:],
        data[:-2] + b"\xff" * 9 + data[-2:],
        data[:-2] + bytes(range(1, 100)) + data[-2:],
        data + film,
        data + data,
        data + b"\0",
        data[:2] + b"\xff\xe0\0\7JFIF\0" + data[2:],
        data[:2] + b"\xff\xe1\0\x0aExif\0\0\1\1" + data[2:],
        data[:2] + b"\xff\xe2\0\x0eICC_PROFILE" + data[2:],
    ):
        check_whole(odd)
        assert np.array_equal(decode_image(odd), decode_image(data))


def test_without_huffman_tables_they_are_the_usual_ones() -> None:
    """As frames of motion JPEG have it."""
    data = KINDS["plain"]
    without = data[: data.index(b"\xff\xc4")] + data[data.index(b"\xff\xda") :]
    check_whole(without)
    assert np.array_equal(decode_image(without), decode_image(data))
    assert not is_whole(without[: len(without) * 2 // 3] + b"\xff\xd9")


@pytest.mark.parametrize("name", ["plain", "4:4:4", "4:2:2", "own tables", "grey"])
def test_lost_blocks_are_not_made_up_for(name: str) -> None:
    """A piece that is gone or overwritten: mostly there are too few or too many codes, or some that are none."""
    data = ORDINARY[name]
    random = np.random.Generator(np.random.Philox(13))
    holes = random.integers(len(data) // 2, len(data) - 600, 40).tolist()
    damaged = [data[:at] + data[at + 512 :] for at in holes]
    damaged += [data[:at] + bytes(512) + data[at + 512 :] for at in holes]
    assert not any(map(looks_whole, damaged[40:]))
    assert sum(map(is_whole, damaged)) <= 8


def rewritten(data: bytes, change: Callable[[bytearray], object]) -> bytes:
    copy = bytearray(data)
    change(copy)
    return bytes(copy)


def test_what_is_no_picture_is_not_whole() -> None:
    plain = ORDINARY["plain"]
    frame, tables = plain.index(b"\xff\xc0"), plain.index(b"\xff\xc4")
    for odd in (
        plain[:frame] + plain[tables:],  # no frame
        rewritten(plain, lambda data: data.__setitem__(tables + 1, 0xF0)),  # a marker that there is not
        plain.replace(b"\xff\xdb", b"\xff\xe5"),  # no steps
        rewritten(plain, lambda data: data.__setitem__(frame + 4, 12)),  # 12 bits
        rewritten(plain, lambda data: data.__setitem__(slice(frame + 5, frame + 9), b"\xff\xff\xff\xff")),  # too large
        rewritten(plain, lambda data: data.__setitem__(slice(frame + 5, frame + 7), b"\xff\x00")),  # too little data
        sampled_jpeg(np.asarray(SMALL), ((3, 1), (2, 1), (2, 1))),  # chroma that libjpeg does not enlarge
        b"",
        b"\xff\xd8\xff\xd9",
        b"\x89PNG\r\n\x1a\n",
    ):
        assert not looks_whole(odd)
        assert not is_whole(odd)
        with pytest.raises(ValueError, match=r"."):
            decode_image(odd)


@pytest.mark.parametrize("name", ["progressive", "progressive grey", "progressive restart"])
def test_a_progressive_jpeg_without_some_of_its_scans_is_not_whole(name: str) -> None:
    """libjpeg-turbo decodes it without complaint, but blurred."""
    data = KINDS[name]
    scans = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 4
    begins = [data.rindex(b"\xff\xc4", 0, at) if b"\xff\xc4" in data[at - 80 : at] else at for at in scans]
    for number, begin in enumerate(begins[1:], 1):
        with pytest.raises(ValueError, match="truncated: no scan"):
            check_whole(data[:begin] + b"\xff\xd9")
        following = begins[number + 1] if number + 1 < len(begins) else len(data) - 2
        assert not is_whole(data[:begin] + data[following:])


def png_chunk(name: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")


def test_a_png_is_whole_by_its_chunks() -> None:
    data = ORDINARY["png"]
    for name, whole in ((b"teSt", True), (b"TESt", False)):
        assert looks_whole(data[:33] + png_chunk(name, b"ab") + data[33:]) == whole
    flipped = rewritten(data, lambda copy: copy.__setitem__(len(data) * 9 // 10, data[len(data) * 9 // 10] ^ 1))
    for odd in (data + b"\0", b"\0" + data, flipped):
        assert not looks_whole(odd)
    check_whole(data + b"film")
    with pytest.raises(ValueError, match=r"."):
        check_whole(flipped)


@pytest.mark.parametrize("size", [40, 400])
def test_a_png_without_its_last_pixels_is_not_whole(size: int) -> None:
    """Whole chunks, right checksums, an end: and yet cut."""
    random = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    data = encode(Image.fromarray(random), "PNG")
    parts, at = [], 8
    while at < len(data):
        stop = at + 12 + int.from_bytes(data[at : at + 4], "big")
        parts.append(data[at:stop])
        at = stop
    pixels = [part for part in parts if part[4:8] == b"IDAT"]
    if len(pixels) > 1:
        closed = data[:8] + b"".join(part for part in parts if part is not pixels[-1])
    else:
        short = png_chunk(b"IDAT", pixels[0][8 : len(pixels[0]) // 2])
        closed = data[:8] + b"".join(short if part is pixels[0] else part for part in parts)
    assert not looks_whole(closed)
    for function in (check_whole, decode_rgb):
        with pytest.raises(ValueError, match="truncated"):
            function(closed)


def test_a_look_costs_little() -> None:
    """A photograph of 640 x 427 pixels: many times less than decoding it as fast as that can be done."""
    data = encode(CHINA, quality=98)

    def seconds(function: Callable[[bytes], object]) -> float:
        function(data)
        times = []
        for _ in range(9):
            start = time.perf_counter()
            function(data)
            times.append(time.perf_counter() - start)
        return min(times)

    look, reading, decoding = seconds(looks_whole), seconds(check_whole), seconds(simplejpeg.decode_jpeg)
    print(f"a look {1e6 * look:.0f} us, all codes {1e6 * reading:.0f} us, decoding {1e6 * decoding:.0f} us")
    assert look < decoding / 5
    assert reading < decoding


def test_damage_never_passes_for_more_than_pillow_reads() -> None:
    """Flipped bytes: not whole, or pixels."""
    random = np.random.default_rng(5)
    whole = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, on odd metadata
        for name in ("plain", "restart", "progressive", "4x1 restart", "CMYK"):
            for _ in range(150):
                data = bytearray(KINDS[name])
                for _ in range(int(random.integers(1, 4))):
                    data[int(random.integers(0, len(data)))] = int(random.integers(0, 256))
                if is_whole(bytes(data)):
                    whole += 1
                    decode_image(bytes(data))
    assert whole > 100


def test_a_jpeg_of_a_thousand_scans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each runs over all of the picture: some kilobytes could keep a core busy for hours."""
    data = ORDINARY["progressive"]
    first = data.index(b"\xff\xda")
    bomb = data[:first] + data[first : data.index(b"\xff\xc4", first)] * (MAX_SCANS + 1) + b"\xff\xd9"
    for function in (check_whole, decode_rgb):
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
