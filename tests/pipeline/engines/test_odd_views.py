"""Pictures that one library or another takes amiss: every engine gives the pixels that Pillow gives, or the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headrace.benchmarks.parity import opened
from headrace.pipeline import View, ViewSpec
from headrace.pipeline.engines import CPU_ENGINES, DEVICE_ENGINES, Engine
from headrace.pipeline.images.limits import VARIABLE
from headrace.pipeline.images.plan import Plan, plan
from headrace.pipeline.images.whole import looks_whole
from headrace.shards import JPG, Field, ShardError, ShardSet, open_shards, write_shards
from headrace.shards.formats.images import image_header
from tests.odd_pictures import CHINA, CUT, WHOLE, Pixels

LEVELS = {"native": 0, "torchvision": 0, "kornia": 0, "dali": 2, "dali+kornia": 2, "ffcv": 8}
"""How far pixels may be from Pillow's: DALI's resize rounds otherwise, ffcv's decoder has a faster inverse DCT."""
PACKAGES = {name: name.split("+") for name in DEVICE_ENGINES} | {"ffcv": ["ffcv"]}
CASES = [
    pytest.param(engine, format, marks=pytest.mark.peer(*PACKAGES[engine]) if engine in PACKAGES else ())
    for engine in CPU_ENGINES
    for format in ("webdataset", "ffcv")
    if engine != "ffcv" or format == "ffcv"  # which reads .beton only
]


def write(path: Path, files: dict[str, bytes], format: str) -> None:
    """A set of these files as they are, as another program could have written it. In a .beton there are no PNGs."""
    kept = {name: data for name, data in files.items() if format != "ffcv" or image_header(data).encoding == JPG}
    samples = ({"__key__": name.replace(" ", "_"), "image": data} for name, data in kept.items())
    write_shards(path, samples, {"image": Field(kind="image", encoding="mixed")}, format=format)  # type: ignore[arg-type]


def whole_crops(shards: ShardSet, side: int) -> tuple[ViewSpec, Plan]:
    """The upper left `side` x `side` pixels, as they are."""
    spec = ViewSpec([View(size=side, flip=0.0)])
    sizes = np.full((len(shards), 2), side)
    drawn = plan(spec, 0, 0, np.arange(len(shards)), sizes)
    crop = np.tile(np.array([0, 0, side, side], np.int32), (len(shards), 1, 1))
    return spec, drawn.with_crops(crop)


def rendered(engine: Engine, shards: ShardSet, drawn: Plan, ids: np.ndarray, side: int) -> Pixels:
    views = [np.empty((len(ids), side, side, 3), np.uint8)]
    engine.render(ids, shards.spans("image", ids), drawn[ids], views)
    return views[0]


@pytest.mark.parametrize(("name", "format"), CASES)
def test_pixels_are_pillows(name: str, format: str, tmp_path: Path) -> None:
    side = 64
    write(tmp_path / "set", {key: data for key, (data, _) in WHOLE.items()}, format)
    with open_shards(tmp_path / "set") as shards:
        assert len(shards) > (6 if format == "ffcv" else 16)
        spec, drawn = whole_crops(shards, side)
        with opened(name, shards, spec) as engine:
            found = rendered(engine, shards, drawn, np.arange(len(shards)), side)
        for i, view in enumerate(found):
            expected = WHOLE[shards.key(i).replace("_", " ")][1][:side, :side]
            difference = np.abs(view.astype(int) - expected.astype(int))
            assert difference.max() <= LEVELS[name], (shards.key(i), difference.max())
            assert difference.mean() <= LEVELS[name] / 4


@pytest.mark.parametrize(("name", "format"), CASES)
def test_what_is_cut_is_named_with_its_reason(name: str, format: str, tmp_path: Path) -> None:
    side = 90  # nearly down to the last row
    write(tmp_path / "set", {"whole": WHOLE["progressive"][0], **CUT}, format)
    with open_shards(tmp_path / "set") as shards:
        assert len(shards) >= (9 if format == "ffcv" else 11)
        spec, drawn = whole_crops(shards, side)
        with opened(name, shards, spec) as engine:
            rendered(engine, shards, drawn, np.array([0]), side)
            for i in range(1, len(shards)):
                with pytest.raises(ShardError, match=r"cannot decode the image: .*(truncated|broken)") as caught:
                    rendered(engine, shards, drawn, np.array([0, i]), side)
                assert shards.key(i) in str(caught.value)


@pytest.mark.parametrize(("name", "format"), CASES)
def test_the_limit_of_pixels_is_one(name: str, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "set", {"large": WHOLE["sampling 1x2"][0], "progressive": WHOLE["progressive"][0]}, format)
    pixels = CHINA.shape[0] * CHINA.shape[1]
    with open_shards(tmp_path / "set") as shards:
        spec, drawn = whole_crops(shards, 64)
        for limit, fits in ((pixels - 1, False), (pixels, True)):
            monkeypatch.setenv(VARIABLE, str(limit))
            with opened(name, shards, spec) as engine:
                for i in range(2):
                    if fits:
                        rendered(engine, shards, drawn, np.array([i]), 64)
                        continue
                    with pytest.raises(
                        ShardError, match=f"120x96 pixels, more than the limit of {limit:,}.*{VARIABLE}"
                    ):
                        rendered(engine, shards, drawn, np.array([i]), 64)


@pytest.mark.parametrize(("name", "format"), CASES)
def test_a_cut_that_looks_like_an_end_is_found(name: str, format: str, photos: ShardSet, tmp_path: Path) -> None:
    """A look at the last codes of these files sees nothing: every code is read before another decoder gets them."""
    data = photos.read(0)["image"]
    closed = (data[:cut] + b"\xff\xd9" for cut in range(len(data) // 2, len(data) - 9))
    cut = next(each for each in closed if looks_whole(each))
    write(tmp_path / "set", {"whole": data, "cut": cut}, format)
    with open_shards(tmp_path / "set") as shards:
        side = image_header(data).height - 2
        spec, drawn = whole_crops(shards, side)
        with opened(name, shards, spec) as engine:
            assert rendered(engine, shards, drawn, np.array([0]), side).any()
            with pytest.raises(ShardError, match=r"key cut: cannot decode the image: .*truncated"):
                rendered(engine, shards, drawn, np.array([0, 1]), side)
