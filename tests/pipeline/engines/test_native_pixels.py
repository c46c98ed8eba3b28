"""The native engine's pixels stay what they were, level for level and bit for bit."""

from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from headrace.pipeline import Normalize, PatchPair, Tiles, View, ViewSpec, plan
from headrace.pipeline.engines.base import pixel_spans
from headrace.pipeline.engines.native import NativeEngine
from headrace.shards import ShardSet

EVERYTHING = View(
    size=40,
    turns=(0, 1, 2, 3),
    jitter=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    project=0.3,
    drop_channels=0.3,
    grayscale=0.2,
    blur=0.5,
    solarize=0.2,
    erase=0.5,
    erase_value=(124, 116, 104),
)
PATCH = replace(EVERYTHING, size=24, flip=0.0, turns=(0,), interpolation="bicubic")
SPECS = {
    "everything": ViewSpec([EVERYTHING, replace(EVERYTHING, size=27, blur_kernel=7, solarize_threshold=90)]),
    "bicubic": ViewSpec.repeat(replace(EVERYTHING, interpolation="bicubic", scale=(0.01, 0.1)), 2),
    "patches": ViewSpec([Tiles(view=PATCH, grid=(2, 2), permutations=9), PatchPair(view=PATCH)]),
    "floats": ViewSpec(
        [
            replace(EVERYTHING, normalize=normalize)
            for normalize in (Normalize(), Normalize.lab(mean=(50, 0, 0)), Normalize(per_view=True))
        ]
    ),
}
FROZEN = {
    "everything": "10d9fa5f366f178a",
    "bicubic": "0b8a6e70368f6fa6",
    "patches": "8c025a4f18d2ed25",
    "floats": "f66c671d107ebbef",
}
"""SHA-256 of the views of 24 pictures, as the engine drew them when each column of a plan was an array of its own."""


def pictures() -> np.ndarray:
    """uint8 (24, 90, 120, 3): slopes and steps with some noise, made of whole numbers alone."""
    noise = np.random.default_rng(1).integers(0, 24, (24, 90, 120, 3))
    picture, y, x, channel = np.ogrid[:24, :90, :120, :3]
    levels = (picture + 1) * 7 + y * (1 + channel) + x * (3 - channel) // 2 + (x // 30 + y // 30) % 2 * 60
    return (levels % 232 + noise).astype(np.uint8)


@pytest.mark.parametrize("spec", SPECS)
def test_pixels_stay(spec: str, photos: ShardSet) -> None:
    """Of stored pixels, so that no decoder has a say."""
    views, stored = SPECS[spec], pictures()
    ids = np.arange(len(stored))
    drawn = plan(views, 4, 1, ids, np.tile(stored.shape[1:3], (len(ids), 1)))
    dtype = np.float32 if spec == "floats" else np.uint8
    out = [np.empty((len(ids), view.size, view.size, 3), dtype) for view in views.views]
    NativeEngine(photos, "image", views).render(ids, pixel_spans(stored, ids), drawn, out)
    digest = sha256(b"".join(view.tobytes() for view in out))
    assert digest.hexdigest()[:16] == FROZEN[spec]
