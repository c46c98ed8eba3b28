"""Each engine against the torchvision reference with the plan's own numbers, in grey levels.

What is compared, and on which pictures, is in `headrace.benchmarks.parity`. Every engine decodes to the same pixels.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from headrace.benchmarks.parity import (
    CLIPS,
    COLOUR,
    OPERATORS,
    PIPELINES,
    SIDE,
    WHOLE,
    alone,
    clip_differences,
    errors,
    render,
    write_films,
    write_squares,
)
from headrace.pipeline import Clip, ClipSpec, Loader, Normalize, View, ViewSpec, plan
from headrace.pipeline.clips.clips import DrawnClips
from headrace.pipeline.images.view import OPERATIONS
from headrace.shards import ShardSet, open_shards
from tests.pipeline.colour import lab_of
from tests.pipeline.engines.test_engines import AVAILABLE

SAMPLES = 8

CLOSE = (1, 0.001)
"""Largest and mean difference, in grey levels, of an engine that computes what torchvision computes."""

BOUNDS: dict[str, dict[str, tuple[int, float]]] = {
    # Blur weights have 16 bits, so that levels within 0.05 of a rounding border may round the other way.
    "native": {
        "blur": (1, 0.02),
        "blur, gray, erase": (1, 0.02),
        "simclr": (2, 0.01),
        "byol": (2, 0.01),
        "clips: simclr, byol": (2, 0.01),
    },
    "dali": {
        # One matrix a sample; torchvision's truncated grey level is met on average, half a level lower.
        "saturation": (1, 0.2),
        # Later changes multiply what saturation left.
        "jitter": (6, 0.2),
        "gray, jitter": (6, 0.2),
        "backwards": (6, 0.2),
        "between": (6, 0.2),
        # torchvision rounds to levels between the horizontal and the vertical pass, DALI after both.
        "enlarge": (1, 0.25),
        # Bicubic weights overshoot; torchvision clips that between the passes as well.
        "bicubic enlarge": (12, 0.25),
        # Besides, where the antialiasing filter reaches beyond the crop, DALI repeats the outermost pixel and
        # torchvision leaves those taps out: the outermost pixels of the view differ.
        "crop": (16, 0.25),
        "bicubic": (16, 0.25),
        # The same borders; and the enlarged patch's level is multiplied by up to four thirds.
        "tiles": (12, 0.25),
        "patch pair": (2, 0.25),
        # All of the above, and contrast and brightness up to 1.8 times on top.
        "simclr": (30, 0.4),
        "byol": (30, 0.4),
        "clip: crop": (16, 0.25),
        "clips: simclr, byol": (30, 0.4),
    },
    # A level that float32 rounds the other way, multiplied by one change of up to 1.8; of so many frames, and of grey
    # pixels, of which many lie on a rounding border, also by two.
    "kornia": {
        "gray, jitter": (3, 0.001),
        "simclr": (2, 0.001),
        "byol": (2, 0.001),
        "clips: simclr, byol": (3, 0.001),
    },
    # DALI's crops, see above, and what kornia makes of them.
    "dali+kornia": {
        "gray, jitter": (3, 0.001),
        "enlarge": (1, 0.25),
        "bicubic enlarge": (12, 0.25),
        "crop": (16, 0.25),
        "bicubic": (16, 0.25),
        "tiles": (12, 0.25),
        "patch pair": (2, 0.25),
        "simclr": (30, 0.4),
        "byol": (30, 0.4),
        "clip: crop": (16, 0.25),
        "clips: simclr, byol": (30, 0.4),
    },
    # What comes after the crop is the native engine's. The crop is OpenCV's INTER_AREA, for bicubic views as well:
    # shrinking it averages the area that an output pixel covers, where torchvision's filter is a triangle twice as
    # wide; enlarging it interpolates only across the border of two pixels. Besides, ffcv decodes JPEG with the fast,
    # less accurate DCT. Colour changes of up to 1.8 times multiply all of it.
    "ffcv": {
        "blur": (1, 0.02),
        "crop": (56, 2.5),
        "bicubic": (56, 2.5),
        "enlarge": (72, 2.5),
        "bicubic enlarge": (72, 2.5),
        "simclr": (80, 2.5),
        "byol": (80, 2.5),
        "tiles": (56, 2.5),
        "patch pair": (56, 2.5),
    },
}
HALF = dict.fromkeys(("jitter", "grayscale", "solarize", "project", "drop_channels", "erase"), 0.6)
ORDERS = {
    "gray, jitter": View(**{**WHOLE, **COLOUR, "jitter": 0.9, "grayscale": 0.5, "order": ("grayscale", "jitter")}),
    "backwards": View(**{**WHOLE, **COLOUR, **HALF, "order": OPERATIONS[::-1]}),
    "between": View(
        **{**WHOLE, **COLOUR, **HALF},
        order=("solarize", "project", "erase", "jitter", "drop_channels", "grayscale"),
        erase_value=(200, 30, 90),
    ),
    "blur, gray, erase": View(
        **WHOLE, blur=0.9, grayscale=0.5, erase=0.9, erase_value=(200, 30, 90), order=("erase", "blur", "grayscale")
    ),
}
"""Views whose operations apply in another order than the usual one."""
CHECKED = [engine for engine in AVAILABLE if engine != "torchvision"]


@pytest.fixture(scope="module")
def squares(photos: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """Centres of photographs, raw, as large as the views."""
    path = tmp_path_factory.mktemp("squares") / "raw"
    write_squares(photos, path, SAMPLES)
    with open_shards(path) as shards:
        yield shards


@pytest.fixture(scope="module")
def films(photos: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """Four films of stored frames."""
    path = tmp_path_factory.mktemp("films") / "set"
    write_films(photos, path, 4)
    with open_shards(path) as shards:
        yield shards


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("engine", CHECKED)
def test_one_operator(engine: str, operator: str, squares: ShardSet) -> None:
    """At probability 1 it does what torchvision does."""
    largest, mean = errors(engine, squares, alone(operator), SAMPLES)
    bound = BOUNDS[engine].get(operator, CLOSE)
    assert (largest <= bound[0], mean <= bound[1]) == (True, True), (largest, mean)


@pytest.mark.parametrize("engine", AVAILABLE)
def test_nothing_happens_at_probability_0(engine: str, squares: ShardSet) -> None:
    (view,) = render(engine, squares, ViewSpec([View(**{**WHOLE, **COLOUR})]), np.arange(SAMPLES))
    assert all(np.array_equal(view[i], squares.read(i)["image"]) for i in range(SAMPLES))


@pytest.mark.parametrize("engine", AVAILABLE)
def test_samples_that_go_without_stay_as_they_are(engine: str, squares: ShardSet) -> None:
    """An operator must not touch the samples of its batch that the plan spares."""
    gates = {"jitter": 0.2, **COLOUR, "project": 0.2, "grayscale": 0.2, "blur": 0.2, "solarize": 0.2, "erase": 0.2}
    gates["drop_channels"] = 0.2
    spec, ids = ViewSpec.repeat(View(**{**WHOLE, **gates}), 2), np.arange(SAMPLES)
    drawn = plan(spec, 11, 0, ids, np.full((SAMPLES, 2), SIDE))  # as `render` draws it
    spared = (drawn.jitter_order[..., 0] < 0) & ~drawn.grayscale & (drawn.blur_sigma == 0) & ~drawn.solarize
    spared &= ~drawn.project & (drawn.kept < 0) & (drawn.erase[..., 2] == 0)
    assert 0 < spared.sum() < spared.size
    views = render(engine, squares, spec, ids)
    for i, v in np.argwhere(spared):
        assert np.array_equal(views[v][i], squares.read(int(i))["image"])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("engine", CHECKED)
def test_orders(engine: str, order: str, squares: ShardSet) -> None:
    largest, mean = errors(engine, squares, ViewSpec.repeat(ORDERS[order], 2), SAMPLES)
    bound = BOUNDS[engine].get(order, CLOSE)
    assert (largest <= bound[0], mean <= bound[1]) == (True, True), (largest, mean)


@pytest.mark.parametrize("order", ORDERS)
def test_another_order_gives_other_pixels(order: str, squares: ShardSet) -> None:
    view = ORDERS[order]
    spec = ViewSpec([view, replace(view, order=OPERATIONS)], draws=[0, 0])
    ours, usual = render("native", squares, spec, np.arange(SAMPLES))
    assert not np.array_equal(ours, usual)


def test_mocos_order_is_its_code(squares: ShardSet) -> None:
    """1911.05722's main_moco.py greys, then jitters: torchvision's operators one after the other, by the plan."""
    view = View(**{**WHOLE, **COLOUR, "jitter": 0.9, "grayscale": 0.5, "order": ("grayscale", "jitter")})
    ids = np.arange(SAMPLES)
    (ours,) = render("native", squares, ViewSpec([view]), ids)
    drawn = plan(ViewSpec([view]), 11, 0, ids, np.full((SAMPLES, 2), SIDE))  # as `render` draws it
    changes = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for i in range(SAMPLES):
        image = torch.from_numpy(squares.read(i)["image"].copy()).permute(2, 0, 1)
        if drawn.grayscale[i, 0]:
            image = F.rgb_to_grayscale(image, 3)
        for code in drawn.jitter_order[i, 0]:
            if code >= 0:
                image = changes[code](image, float(drawn.jitter_factor[i, 0, code]))
        assert np.array_equal(ours[i], image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("engine", AVAILABLE)
def test_turns_move_pixels_and_change_none(engine: str, squares: ShardSet) -> None:
    """The four rotations are `torch.rot90`'s of the same flipped crop."""
    ids = np.arange(SAMPLES)
    turned = render(engine, squares, ViewSpec.rotations(View(**{**WHOLE, "flip": 0.5})), ids)
    for turns, view in enumerate(turned):
        assert np.array_equal(view, np.rot90(turned[0], turns, axes=(1, 2)))
    mirrored = [np.array_equal(turned[0][i], squares.read(i)["image"][:, ::-1]) for i in range(SAMPLES)]
    assert 0 < sum(mirrored) < SAMPLES


@pytest.mark.parametrize("engine", AVAILABLE)
def test_lab_is_the_float64_formula(engine: str, squares: ShardSet) -> None:
    normalize = Normalize.lab(mean=(50.0, 0.0, 0.0), std=(100.0, 110.0, 110.0))
    spec, ids = ViewSpec([View(**{**WHOLE, "normalize": normalize})]), np.arange(SAMPLES)
    (levels,), (floats,) = (render(engine, squares, spec, ids, dtype) for dtype in ("uint8", "float32"))
    expected = (lab_of(levels) - normalize.mean) / normalize.std
    assert np.abs(floats - expected).max() < 5e-6


@pytest.mark.parametrize("engine", AVAILABLE)
def test_views_have_their_own_mean_and_deviation(engine: str, squares: ShardSet) -> None:
    spec, ids = ViewSpec([View(**{**WHOLE, "normalize": Normalize(per_view=True)})]), np.arange(SAMPLES)
    (levels,), (floats,) = (render(engine, squares, spec, ids, dtype) for dtype in ("uint8", "float32"))
    mean, deviation = (getattr(levels.astype(np.float64), name)(axis=(1, 2), keepdims=True) for name in ("mean", "std"))
    np.testing.assert_allclose(floats, (levels - mean) / deviation, atol=2e-6)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("engine", CHECKED)
def test_pipelines(engine: str, pipeline: str, photos: ShardSet) -> None:
    largest, mean = errors(engine, photos, PIPELINES[pipeline], SAMPLES)
    bound = BOUNDS[engine].get(pipeline, CLOSE)
    assert (largest <= bound[0], mean <= bound[1]) == (True, True), (largest, mean)


@pytest.mark.parametrize("engine", CHECKED)
def test_crops_agree_inside_to_the_level(engine: str, photos: ShardSet) -> None:
    ids = np.arange(SAMPLES)
    (ours,), (theirs,) = (render(name, photos, PIPELINES["crop"], ids) for name in (engine, "torchvision"))
    inside = np.abs(ours.astype(int) - theirs.astype(int))[:, 1:-1, 1:-1]
    assert inside.max() <= 1


@pytest.mark.parametrize("clips", CLIPS)
@pytest.mark.parametrize("engine", CHECKED)
def test_clips(engine: str, clips: str, films: ShardSet) -> None:
    """Each frame is a picture with its clip's draws."""
    largest, mean = clip_differences(engine, films, CLIPS[clips])
    bound = BOUNDS[engine].get(clips, CLOSE)
    assert (largest <= bound[0], mean <= bound[1]) == (True, True), (largest, mean)


@pytest.mark.parametrize("engine", AVAILABLE)
def test_a_clip_is_spared_or_changed_as_a_whole(engine: str, films: ShardSet) -> None:
    """One draw for all frames of a clip: at probability 0 all stay, at 1 none, and between as the plan says."""
    whole = {"size": 150, "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "erase_value": (1, 2, 3)}
    probabilities = (0.0, 0.5, 0.5, 0.5, 1.0)
    spec = ClipSpec([Clip(frames=3, strides=(2,), view=View(**whole, erase=p)) for p in probabilities])
    with Loader(films, spec, 4, engine=engine, seed=2, threads=2) as loader:
        (batch,) = loader
    assert isinstance(batch.drawn, DrawnClips)
    changed = np.zeros((4, len(spec), 3), bool)
    for row, sample in enumerate(batch.index.tolist()):
        frames = films.read(sample)["frames"][:, :, 25:175]
        for k, view in enumerate(batch.views):
            for t, number in enumerate(batch.drawn.frames[row, k].tolist()):
                changed[row, k, t] = not np.array_equal(view[row, :, t].permute(1, 2, 0).numpy(), frames[number])
    assert (changed == changed[..., :1]).all()
    assert not changed[:, 0].any()
    assert changed[:, 4].all()
    assert 0 < changed[:, 1:4, 0].sum() < 12
