"""The JPEG kernels work on addresses: whatever a file holds, they write nowhere but into the memory they are given."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from headrace.pipeline import View, ViewSpec
from headrace.pipeline.engines.native import NativeEngine
from headrace.pipeline.jpeg import DECODED, decode_region, jpeg_scratch, room_for
from headrace.pipeline.jpeg.transcode import transcode_scan, transcode_scratch
from headrace.pipeline.jpeg.whole import written_as
from headrace.shards import JPG, ShardSet, Spans

PICTURES = load_sample_images().images
MARGIN, UNTOUCHED = 4096, 0xA5


def guarded(arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Copies of arrays, each with a margin on both sides; and the memory with the margins."""
    memory = [np.full(array.nbytes + 2 * MARGIN, UNTOUCHED, np.uint8) for array in arrays]
    copies = [
        whole[MARGIN:-MARGIN].view(array.dtype).reshape(array.shape)
        for whole, array in zip(memory, arrays, strict=True)
    ]
    for copy, array in zip(copies, arrays, strict=True):
        copy[...] = array
    return copies, memory


def touched(memory: Sequence[np.ndarray]) -> list[int]:
    """Which margins something was written to."""
    return [
        place
        for place, whole in enumerate(memory)
        if np.any(whole[:MARGIN] != UNTOUCHED) or np.any(whole[-MARGIN:] != UNTOUCHED)
    ]


def some_jpeg(draw: np.random.Generator) -> tuple[np.ndarray, int, int]:
    """The bytes of a small picture, every second one damaged or cut off; and its height and width."""
    height, width = int(draw.integers(8, 120)), int(draw.integers(8, 140))
    picture = PICTURES[int(draw.integers(2))]
    top, left = int(draw.integers(picture.shape[0] - height)), int(draw.integers(picture.shape[1] - width))
    options: dict[str, Any] = {"quality": int(draw.integers(1, 101)), "optimize": bool(draw.integers(2))}
    image = Image.fromarray(np.ascontiguousarray(picture[top : top + height, left : left + width]))
    if draw.integers(8):
        options["subsampling"] = int(draw.integers(3))
    else:
        image = image.convert("L")
    if draw.integers(2):
        options["restart_marker_blocks"] = int(draw.integers(1, 9))
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    data = np.frombuffer(stream.getvalue(), np.uint8).copy()
    if draw.integers(2):
        data[draw.integers(2, len(data), int(draw.integers(1, 6)))] = draw.integers(0, 256)
    if not draw.integers(6):
        data = data[: int(draw.integers(4, len(data)))].copy()
    return data, height, width


@pytest.mark.timeout(120)
def test_nothing_is_written_beside_the_memory_that_is_given() -> None:
    draw = np.random.default_rng(4)
    decoded = transcoded = 0
    for _ in range(600):
        data, height, width = some_jpeg(draw)
        scratch_type = type(scratch := jpeg_scratch(room_for(height, width), width, len(data)))
        (image, *arrays), memory = guarded([np.empty((height, width, 3), np.uint8), *scratch])
        scratch = scratch_type(*arrays)
        top, left = int(draw.integers(height)), int(draw.integers(width))
        region = top, left, int(draw.integers(1, height - top + 1)), int(draw.integers(1, width - left + 1))
        decoded += decode_region(data, *region, scratch, image) == DECODED
        assert touched(memory) == []

        room = int(draw.choice([500, 5000, 1 << 16]))  # often not enough
        (out, *arrays), own_memory = guarded([np.empty(room, np.uint8), *(own := transcode_scratch(room))])
        tables = written_as(int(draw.integers(1, 101)))[2]
        transcoded += transcode_scan(data, height, width, tables, scratch, type(own)(*arrays), out)[0] == DECODED
        assert touched([*memory, *own_memory]) == []
    assert decoded > 200
    assert transcoded > 50


def test_a_tall_and_a_wide_picture_need_no_square(digits_webdataset: ShardSet) -> None:
    engine = NativeEngine(digits_webdataset, "image", ViewSpec([View(size=8)]))
    sides = np.array([20_000, 500], np.int32)
    jpg, upright = np.full(2, JPG, np.uint8), np.ones(2, np.uint8)
    spans = Spans(np.zeros(2, np.int64), np.full(2, 1000), sides, sides[::-1].copy(), jpg, upright)
    scratch = engine._scratch(spans)
    held = sum(array.nbytes for array in (*scratch.memory.jpeg, scratch.memory.decoded))
    assert held < 7 * 20_000 * 600
    assert engine._scratch(spans) is scratch
