"""The engines against each other, on real shards, with one plan."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headrace.benchmarks.parity import render
from headrace.pipeline import View, ViewSpec
from headrace.pipeline.engines import CPU_ENGINES, DEVICE_ENGINES, ENGINES, operations_of
from headrace.pipeline.images.view import OPERATIONS
from headrace.shards import Field, ShardError, ShardSet, open_shards, write_shards

SIMCLR = View(
    size=64,
    jitter=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    grayscale=0.2,
    blur=0.5,
    solarize=0.2,
)
PLAIN = View(size=96, scale=(0.05, 0.25))
SPEC = ViewSpec([SIMCLR, SIMCLR, PLAIN])
PLAIN_SPEC = ViewSpec([PLAIN])

# Those that need an optional package are skipped without it.
AVAILABLE = [
    pytest.param(name, marks=pytest.mark.peer(*name.split("+"))) if name in DEVICE_ENGINES else name
    for name in CPU_ENGINES
    if name != "ffcv"  # which reads .beton only, and takes seconds to start: see test_ffcv_engine
]


@pytest.mark.parametrize("source", ["photos", "photos_ffcv", "digits_webdataset", "digits_ffcv"])
def test_native_matches_torchvision(source: str, request: pytest.FixtureRequest) -> None:
    shards = request.getfixturevalue(source)
    ids = np.arange(len(shards))[:36]
    for ours, theirs in zip(render("native", shards, SPEC, ids), render("torchvision", shards, SPEC, ids), strict=True):
        difference = np.abs(ours.astype(int) - theirs.astype(int))
        # A level that the blur rounds the other way can fall on the other side of the solarise threshold.
        assert difference.mean() < 0.05
        assert np.mean(difference > 1) < 1e-3
    plain = np.abs(ours.astype(int) - theirs.astype(int))  # the last view: crop, resize and flip alone
    assert plain.max() <= 1
    assert plain.mean() < 1e-3


@pytest.mark.parametrize("engine", AVAILABLE)
def test_an_engine_refuses_what_it_lacks(engine: str, photos: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named with the operation and the engines that have it; views that have it off are drawn."""
    made = ENGINES[engine](photos, "image", SPEC)
    assert operations_of(engine) == made.operations == set(OPERATIONS)
    monkeypatch.setattr(type(made), "operations", frozenset(OPERATIONS) - {"solarize"})
    said = rf"^engine '{re.escape(engine)}' has no operation 'solarize' \(View.solarize\); use \w+"
    with pytest.raises(ValueError, match=said) as caught:
        ENGINES[engine](photos, "image", SPEC)
    others = str(caught.value).partition("; use ")[2].split(" or ")
    assert engine not in others
    assert {"native", "torchvision", "ffcv"} - {engine} <= set(others)
    ENGINES[engine](photos, "image", PLAIN_SPEC)


@pytest.mark.parametrize("engine", AVAILABLE)
def test_floats_are_the_normalised_levels(engine: str, photos: ShardSet) -> None:
    ids = np.arange(4)
    levels, floats = (render(engine, photos, SPEC, ids, dtype)[0] for dtype in ("uint8", "float32"))
    normalize = SIMCLR.normalize
    np.testing.assert_allclose(floats, (levels / 255 - normalize.mean) / normalize.std, atol=1e-5)


@pytest.mark.parametrize("engine", AVAILABLE)
def test_both_formats_give_the_same_views(engine: str, request: pytest.FixtureRequest) -> None:
    for tars, betons in (("photos", "photos_ffcv"), ("digits_webdataset", "digits_ffcv")):
        a, b = (render(engine, request.getfixturevalue(name), SPEC, np.arange(12)) for name in (tars, betons))
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def encoded(image: np.ndarray, format: str, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).convert(mode).save(stream, format)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("format", "mode"), [("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("JPEG", "L"), ("JPEG", "CMYK")]
)
def test_unusual_images(format: str, mode: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    image = np.kron(random.integers(0, 256, (5, 7, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    encoding = "png" if format == "PNG" else "jpg"
    samples = [{"__key__": "odd", "image": encoded(image, format, mode)}]
    write_shards(tmp_path / "odd", samples, {"image": Field(kind="image", encoding=encoding)})
    with open_shards(tmp_path / "odd") as shards:
        spec = ViewSpec([View(size=32)])
        (ours,), (theirs,) = (render(engine, shards, spec, np.arange(1)) for engine in ("native", "torchvision"))
        # simplejpeg and Pillow turn CMYK into RGB with different rounding.
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= (2 if mode == "CMYK" else 0)


@pytest.mark.parametrize("engine", AVAILABLE)
def test_a_damaged_image_is_named(engine: str, photos: ShardSet, tmp_path: Path) -> None:
    samples = [photos.read(i) for i in range(3)]
    samples[1]["image"] = samples[1]["image"][: len(samples[1]["image"]) // 2]
    write_shards(tmp_path / "bad", samples, photos.fields)
    with open_shards(tmp_path / "bad") as shards:
        render(engine, shards, SPEC, np.array([0, 2]))
        with pytest.raises(ShardError, match=r"shard-000000\.tar.*photo_0001.*cannot decode") as caught:
            render(engine, shards, SPEC, np.arange(3))
        assert "\n" not in str(caught.value)
