"""JPEGs at another quality: coefficients against those that scipy's DCT finds in libjpeg-turbo's samples."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from scipy.fft import dctn
from sklearn.datasets import load_sample_images

from headrace.pipeline.jpeg import decode_whole, transcode
from headrace.pipeline.jpeg.whole import written_as

CHINA, FLOWER = (np.ascontiguousarray(image) for image in load_sample_images().images)


def encode(image: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, "JPEG", **{"subsampling": 2, **options})
    return stream.getvalue()


def pixels(data: bytes, colours: str = "RGB") -> np.ndarray:
    return simplejpeg.decode_jpeg(data, colours, strict=True)


def luma_coefficients(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """int (blocks, 8, 8) in steps, and the steps (8, 8): exact if samples are rounded by much less than a step."""
    samples = pixels(data, "GRAY")[..., 0].astype(float) - 128
    height, width = samples.shape
    blocks = samples.reshape(height // 8, 8, width // 8, 8).transpose(0, 2, 1, 3).reshape(-1, 8, 8)
    steps = np.array(Image.open(io.BytesIO(data)).quantization[0], float).reshape(8, 8)  # Pillow's are in natural order
    found = dctn(blocks, axes=(1, 2), norm="ortho") / steps
    assert np.abs(found - np.round(found)).max() < 0.4
    return np.round(found).astype(int), steps.astype(int)


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_blocks": 5}, {"comment": b"private"}])
@pytest.mark.parametrize("quality", [100, 98, 75, 10])
def test_the_same_quality_keeps_every_pixel(quality: int, options: dict[str, Any]) -> None:
    for image in (CHINA[:203, :301], FLOWER[:64, :96], CHINA[:9, :17]):
        data = encode(image, quality=quality, **options)
        again = transcode(data, *image.shape[:2], quality)
        assert again is not None
        assert np.array_equal(pixels(again), pixels(data))
        assert b"private" not in again


@pytest.mark.parametrize(("old", "new"), [(60, 40), (40, 60), (60, 15), (20, 50)])
def test_coefficients_are_rounded_to_the_nearest_step(old: int, new: int) -> None:
    for image in (CHINA[:208, :304], FLOWER[80:240, 160:480]):
        image = (64 + image // 2).astype(np.uint8)  # no sample is clipped
        data = encode(image, quality=old)
        again = transcode(data, *image.shape[:2], new)
        assert again is not None
        before, old_steps = luma_coefficients(data)
        after, new_steps = luma_coefficients(again)
        reference = Image.open(io.BytesIO(encode(image, quality=new)))
        assert np.array_equal(new_steps.ravel(), reference.quantization[0])
        size = np.abs(before) * old_steps
        assert np.array_equal(after, np.sign(before) * ((size + new_steps // 2) // new_steps))


def test_rounding_is_that_of_integers() -> None:
    """For every coefficient that baseline JPEG can hold afterwards."""
    for quality in (100, 90, 50, 1):
        tables = written_as(quality)[2]
        for bias, inverse in zip(tables.biases.ravel(), tables.inverses.ravel(), strict=True):
            step = round(1 / float(inverse))
            sizes = np.arange(1024 * step, dtype=np.int32)
            found = ((sizes.astype(np.float32) + bias) * inverse).astype(np.int32)
            assert np.array_equal(found, (sizes + step // 2) // step)


def test_it_loses_less_than_going_through_pixels() -> None:
    """Chroma included: it is neither enlarged nor shrunk on the way."""
    for image in (CHINA[:304, :400], FLOWER[:304, :400]):
        data = encode(image, quality=95)
        before = pixels(data).astype(float)
        for quality in (98, 90, 70):
            direct = transcode(data, 304, 400, quality)
            assert direct is not None
            through = simplejpeg.encode_jpeg(pixels(data), quality, "RGB", "420", fastdct=False)
            losses = [np.square(pixels(each) - before).mean() for each in (direct, through)]
            assert losses[0] < losses[1]


def test_what_came_before_leaves_no_trace() -> None:
    first, second = encode(CHINA[:203, :301], quality=90), encode(FLOWER[:64, :96], quality=40, optimize=True)
    alone = transcode(second, 64, 96, 60)
    transcode(first, 203, 301, 60)
    transcode(first[:-300], 203, 301, 60)
    assert transcode(second, 64, 96, 60) == alone


def test_other_kinds_are_left_to_the_library() -> None:
    image = CHINA[:64, :96]
    for options in (
        {"subsampling": 0},
        {"subsampling": 1},
        {"progressive": True},
        {"keep_rgb": True, "subsampling": 0},
    ):
        assert transcode(encode(image, **options), 64, 96, 90) is None
    assert transcode(encode(image[..., 0]), 64, 96, 90) is None
    assert transcode(encode(image), 64, 97, 90) is None  # another size than the header says
    assert transcode(b"", 64, 96, 90) is None


@pytest.mark.parametrize("level", [160, 96])
def test_coefficients_beyond_sixteen_bits_are_left_to_the_library(level: int) -> None:
    """A DC of 256 in steps of 255, as no encoder writes it: in 16 bits it would come back as -256."""
    data = bytearray(encode(np.full((32, 32, 3), level, np.uint8), quality=100))
    table = data.index(b"\xff\xdb")
    data[table + 5 : table + 69] = b"\xff" * 64
    assert pixels(bytes(data)).shape == (32, 32, 3)
    assert transcode(bytes(data), 32, 32, 100) is None


def test_truncation_is_noticed_anywhere() -> None:
    data = encode(CHINA[:64, :96], quality=80)
    for length in range(len(data) - 1):
        assert transcode(data[:length], 64, 96, 90) is None


def test_damage_never_passes_that_libjpeg_would_see() -> None:
    random = np.random.default_rng(7)
    originals = [encode(CHINA[:64, :96], quality=80), encode(FLOWER[:64, :96], quality=95, restart_marker_blocks=4)]
    passed = 0
    for trial in range(3000):
        data = bytearray(originals[trial % 2])
        for _ in range(int(random.integers(1, 4))):
            data[int(random.integers(0, len(data)))] = int(random.integers(0, 256))
        again = transcode(bytes(data), 64, 96, 90)
        if again is not None:
            passed += 1
            assert pixels(bytes(data)).shape == pixels(again).shape == (64, 96, 3)
    assert passed > 300


def test_whole_files_are_decoded_as_libjpeg_does() -> None:
    for image in (CHINA, FLOWER[:64, :96], CHINA[:9, :17]):  # memory grows, and is used again
        data = encode(image, quality=92)
        assert np.array_equal(decode_whole(data, *image.shape[:2]), pixels(data))
    assert decode_whole(encode(CHINA, progressive=True), *CHINA.shape[:2]) is None
    assert decode_whole(encode(CHINA[:64, :96])[:-40], 64, 96) is None
