"""The compiled JPEG decoder against libjpeg-turbo (simplejpeg), bit for bit."""

import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from sklearn.datasets import load_sample_images

from headrace.pipeline.jpeg import DAMAGED, DECODED, UNSUPPORTED, decode_region, jpeg_scratch, room_for

CHINA, FLOWER = (np.ascontiguousarray(image) for image in load_sample_images().images)
NOISE = np.random.default_rng(0).integers(0, 256, (75, 93, 3), dtype=np.uint8)
SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


def encode(image: np.ndarray, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def decode(
    data: bytes, height: int, width: int, region: tuple[int, int, int, int] | None = None
) -> tuple[int, np.ndarray]:
    """Status and image; pixels outside of the region stay 77."""
    image = np.full((height, width, 3), 77, np.uint8)
    scratch = jpeg_scratch(room_for(height, width), width, len(data))
    status = decode_region(np.frombuffer(data, np.uint8), *(region or (0, 0, height, width)), scratch, image)
    return status, image


def assert_exact(data: bytes) -> None:
    expected = simplejpeg.decode_jpeg(data, "RGB")
    status, image = decode(data, *expected.shape[:2])
    assert status == DECODED
    assert np.array_equal(image, expected)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [100, 98, 90, 50, 5])
def test_whole_images(quality: int, subsampling: str) -> None:
    for image in (CHINA[:375, :500], FLOWER[:, :331], NOISE):
        assert_exact(encode(image, quality=quality, subsampling=SUBSAMPLINGS[subsampling]))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_highest_contrast(subsampling: str) -> None:
    """Coefficients near what 16-bit sums can hold, in every block."""
    levels = np.random.default_rng(2).choice(np.array([28, 228], np.uint8), (120, 136, 1))
    assert_exact(encode(levels.repeat(3, 2), quality=100, subsampling=SUBSAMPLINGS[subsampling]))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_every_small_size(subsampling: str) -> None:
    """All ways to end inside an MCU."""
    for height in range(8, 34, 3):
        for width in range(8, 34):
            image = CHINA[100 : 100 + height, 200 : 200 + width]
            assert_exact(encode(image, quality=90, subsampling=SUBSAMPLINGS[subsampling]))


@pytest.mark.parametrize("options", [{"optimize": True}, {"restart_marker_blocks": 5}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_own_tables_and_restart_markers(subsampling: str, options: dict[str, Any]) -> None:
    assert_exact(encode(CHINA[:203, :301], quality=85, subsampling=SUBSAMPLINGS[subsampling], **options))


def test_gray_and_flat_images() -> None:
    assert_exact(encode(CHINA[:203, :301], mode="L", quality=90))
    for level in (0, 1, 128, 254, 255):
        assert_exact(encode(np.full((40, 56, 3), level, np.uint8), quality=75))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_regions(subsampling: str) -> None:
    """A region's pixels are the whole image's; nothing outside of it is written."""
    data = encode(FLOWER[:203, :301], quality=92, subsampling=SUBSAMPLINGS[subsampling], restart_marker_blocks=11)
    expected = simplejpeg.decode_jpeg(data, "RGB")
    random = np.random.default_rng(3)
    corners = [(0, 0, 1, 1), (202, 300, 1, 1), (0, 0, 203, 301), (101, 0, 1, 301), (0, 150, 203, 1)]
    for _ in range(60):
        top, left = (int(random.integers(0, n)) for n in (203, 301))
        corners.append((top, left, int(random.integers(1, 204 - top)), int(random.integers(1, 302 - left))))
    for region in corners:
        top, left, height, width = region
        status, image = decode(data, 203, 301, region)
        inside = np.zeros((203, 301), bool)
        inside[top : top + height, left : left + width] = True
        assert status == DECODED
        assert np.array_equal(image[inside], expected[inside])
        assert np.all(image[~inside] == 77)


def test_other_kinds_are_declined() -> None:
    small = CHINA[:64, :64]
    assert decode(encode(small, progressive=True), 64, 64)[0] == UNSUPPORTED
    assert decode(encode(small, mode="CMYK"), 64, 64)[0] == UNSUPPORTED
    assert decode(encode(CHINA[:64, :7]), 64, 7)[0] == UNSUPPORTED
    keep_rgb = encode(small, keep_rgb=True)
    assert decode(keep_rgb, 64, 64)[0] == UNSUPPORTED
    assert decode(encode(small), 64, 65)[0] == DAMAGED  # another size than the index says
    assert decode(b"", 64, 64)[0] == DAMAGED
    assert decode(b"\x89PNG" + bytes(100), 64, 64)[0] == DAMAGED


def test_truncation_is_noticed_anywhere() -> None:
    data = encode(CHINA[:64, :96], quality=80)
    for length in range(0, len(data) - 1):
        assert decode(data[:length], 64, 96)[0] != DECODED


@pytest.mark.timeout(120)
def test_damage_never_gives_pixels_that_libjpeg_would_not() -> None:
    """Flipped bytes: decline, or decode exactly as libjpeg-turbo does without complaint."""
    random = np.random.default_rng(5)
    accepted = 0
    originals = [
        encode(CHINA[:64, :96], quality=80),
        encode(FLOWER[:61, :87], quality=95, subsampling=0, restart_marker_blocks=4),
        encode(NOISE[:50, :50], quality=60, optimize=True),
    ]
    for trial in range(6000):
        data = bytearray(originals[trial % 3])
        for _ in range(int(random.integers(1, 4))):
            data[int(random.integers(0, len(data)))] = int(random.integers(0, 256))
        height, width = [(64, 96), (61, 87), (50, 50)][trial % 3]
        status, image = decode(bytes(data), height, width)
        if status == DECODED:
            accepted += 1
            expected = simplejpeg.decode_jpeg(bytes(data), "RGB")
            assert np.array_equal(image, expected)
    assert accepted > 1000
