"""The presets: the values of the authors' code, and that every one of them can be drawn and loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headrace.pipeline import DrawnViews, Loader, plan
from headrace.pipeline.clips.clip_presets import CLIP_PRESETS
from headrace.pipeline.images.masks import BlockMask, BlockMasks, ContextMasks, PatchMasks, RegionMasks, draw_masks
from headrace.pipeline.images.presets import PRESETS, context_prediction, moco_v3
from headrace.pipeline.images.views import View
from headrace.shards import ShardSet


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_plans_and_masks_its_views(name: str) -> None:
    spec = PRESETS[name].views()
    ids = np.arange(3)
    drawn = plan(spec, 0, 0, ids, np.array([[32, 32], [375, 500], [500, 375]]))
    assert drawn.crop.shape == (3, len(spec), 4)
    for number, mask in enumerate(draw_masks(spec.masks, 0, 0, ids)):
        size = spec.views[number].size  # mask m belongs to view m
        if isinstance(mask, RegionMasks):
            assert mask.mask.shape == (3, size, size)
        else:
            rows, columns = spec.masks[number].grid  # type: ignore[union-attr]
            assert rows == columns
            assert size % rows == 0


def recipe(view: View) -> tuple[Any, ...]:
    """In the words of torchvision: RandomResizedCrop, flip, ColorJitter, grayscale, blur, solarisation, Normalize."""
    jitter = (view.jitter, view.brightness, view.contrast, view.saturation, view.hue)
    return (
        (view.size, *view.scale),
        view.flip,
        jitter,
        view.grayscale,
        (view.blur, *view.blur_sigma, view.blur_taps) if view.blur else (),
        view.solarize,
        view.normalize.std,
    )


IMAGENET = (0.229, 0.224, 0.225)
PIL = 13  # taps for a blur without an end, on small views
NO_JITTER = (0.0, 0.0, 0.0, 0.0, 0.0)
STRONG, BYOL = (0.8, 0.8, 0.8, 0.8, 0.2), (0.8, 0.4, 0.4, 0.2, 0.1)


def byol_pair(smallest: float, taps: int = 23) -> list[tuple[Any, ...]]:
    crop = (224, smallest, 1.0)
    return [
        (crop, 0.5, BYOL, 0.2, (1.0, 0.1, 2.0, taps), 0.0, IMAGENET),
        (crop, 0.5, BYOL, 0.2, (0.1, 0.1, 2.0, taps), 0.2, IMAGENET),
    ]


def small_crops(count: int, size: int, largest: float, taps: int = PIL) -> list[tuple[Any, ...]]:
    return [((size, 0.05, largest), 0.5, BYOL, 0.2, (0.5, 0.1, 2.0, taps), 0.0, IMAGENET)] * count


SIMCLR = [((224, 0.08, 1.0), 0.5, STRONG, 0.2, (0.5, 0.1, 2.0, 23), 0.0, IMAGENET)] * 2
MOCO_V2 = [((224, 0.2, 1.0), 0.5, (0.8, 0.4, 0.4, 0.4, 0.1), 0.2, (0.5, 0.1, 2.0, 23), 0.0, IMAGENET)] * 2
SWAV_STD = (0.228, 0.224, 0.225)
SWAV = [
    *[((224, 0.14, 1.0), 0.5, STRONG, 0.2, (0.5, 0.1, 2.0, 23), 0.0, SWAV_STD)] * 2,
    *[((96, 0.05, 0.14), 0.5, STRONG, 0.2, (0.5, 0.1, 2.0, PIL), 0.0, SWAV_STD)] * 6,
]


@pytest.mark.parametrize(
    ("name", "views"),
    {
        "simclr": SIMCLR,
        "nnclr": SIMCLR,
        "moco_v1": [((224, 0.2, 1.0), 0.5, (1.0, 0.4, 0.4, 0.4, 0.4), 0.2, (), 0.0, IMAGENET)] * 2,
        "moco_v2": MOCO_V2,
        "simsiam": MOCO_V2,
        **dict.fromkeys(("moco_v3", "byol", "barlow_twins", "vicreg"), byol_pair(0.08)),
        **dict.fromkeys(("swav", "deepcluster_v2"), SWAV),
        "deepcluster": [((224, 0.08, 1.0), 0.5, NO_JITTER, 0.0, (), 0.0, IMAGENET)],
        "rotation": [((224, 0.08, 1.0), 0.5, NO_JITTER, 0.0, (), 0.0, IMAGENET)] * 4,
        "dino": [*byol_pair(0.4), *small_crops(8, 96, 0.4)],
        "ibot": [*byol_pair(0.25), *small_crops(10, 96, 0.25)],
        "dinov2": [*byol_pair(0.32, 9), *small_crops(8, 98, 0.32, 9)],
        "lejepa": [((128, 0.08, 1.0), 0.5, STRONG, 0.2, (0.5, 0.1, 2.0, 7), 0.2, IMAGENET)] * 4,
        "ijepa": [((224, 0.3, 1.0), 0.0, NO_JITTER, 0.0, (), 0.0, IMAGENET)],
        "mae": [((224, 0.2, 1.0), 0.5, NO_JITTER, 0.0, (), 0.0, IMAGENET)],
        "simmim": [((192, 0.67, 1.0), 0.5, NO_JITTER, 0.0, (), 0.0, IMAGENET)],
        "data2vec": [((224, 0.08, 1.0), 0.5, (1.0, 0.4, 0.4, 0.4, 0.0), 0.0, (), 0.0, IMAGENET)],
        "beit": [
            ((224, 0.08, 1.0), 0.5, (1.0, 0.4, 0.4, 0.4, 0.0), 0.0, (), 0.0, IMAGENET),
            ((112, 0.08, 1.0), 0.5, (1.0, 0.4, 0.4, 0.4, 0.0), 0.0, (), 0.0, (1.25, 1.25, 1.25)),
        ],
    }.items(),
)
def test_views_have_the_values_of_the_authors_code(name: str, views: list[tuple[Any, ...]]) -> None:
    ours = PRESETS[name].views().views
    assert [recipe(view) for view in ours] == views
    assert all(view.ratio == (3 / 4, 4 / 3) and view.solarize_threshold == 128 for view in ours)


def test_clips_have_the_values_of_the_authors_code() -> None:
    (videomae,), (vjepa,), (pace,) = (CLIP_PRESETS[name]().clips for name in ("videomae", "vjepa", "pace"))
    assert (videomae.frames, videomae.strides, videomae.view.flip) == (16, (4,), 0.0)
    assert (vjepa.frames, vjepa.strides, vjepa.view.flip) == (16, (4,), 0.5)
    assert (vjepa.view.scale, vjepa.view.ratio) == ((0.3, 1.0), (0.75, 1.35))
    assert (pace.frames, pace.strides, pace.view.size, recipe(pace.view)[2]) == (16, (1, 2, 3, 4), 112, STRONG)


def test_videomaes_crops_are_as_large_as_the_authors() -> None:
    """GroupMultiScaleCrop of VideoMAE's transforms.py in a frame of 340 x 256."""
    sides = [int(256 * scale) for scale in (1, 0.875, 0.75, 0.66)]
    pairs = [(w, h) for i, w in enumerate(sides) for j, h in enumerate(sides) if abs(i - j) <= 1]
    drawn = plan(CLIP_PRESETS["videomae"]().views, 0, 0, np.arange(4000), np.tile((256, 340), (4000, 1)))
    height, width = drawn.crop[:, 0, 2:].T.astype(float)
    shares, aspects = [w * h / (340 * 256) for w, h in pairs], [w / h for w, h in pairs]
    assert np.percentile(height * width / (340 * 256), [0, 100]) == pytest.approx([min(shares), max(shares)], abs=0.02)
    assert np.percentile(width / height, [0, 100]) == pytest.approx([min(aspects), max(aspects)], abs=0.02)
    assert np.mean(height * width) / (340 * 256) == pytest.approx(np.mean(shares), abs=0.03)


def test_every_preset_is_in_the_docs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "presets.md").read_text(encoding="utf-8")
    for name in (*PRESETS, *CLIP_PRESETS):
        assert f"`{name}`" in page


def test_mocos_crops_for_convolutions() -> None:
    assert [view.scale for view in moco_v3(smallest=0.2).views] == [(0.2, 1.0)] * 2


def masks_of(name: str) -> object:
    spec = PRESETS[name].views()
    return draw_masks(spec.masks, 0, 0, np.arange(20))[0]


def test_masks_have_the_papers_counts() -> None:
    mae, beit, data2vec, simmim = (masks_of(name) for name in ("mae", "beit", "data2vec", "simmim"))
    assert isinstance(mae, PatchMasks)
    assert mae.visible.shape[1] == 49
    assert isinstance(beit, BlockMasks)
    assert isinstance(data2vec, BlockMasks)
    assert beit.masked_count.tolist() == [75] * 20
    assert data2vec.masked_count.tolist() == [120] * 20
    assert isinstance(simmim, PatchMasks)
    assert (simmim.visible.shape[1], simmim.masked.shape[1]) == (14, 22)  # SimMIM: ceil(36 * 0.6)
    smallest = {name: PRESETS[name].views().masks[0] for name in ("beit", "data2vec", "ibot", "dinov2")}
    assert [mask.smallest for mask in smallest.values() if isinstance(mask, BlockMask)] == [16, 16, 16, 4]
    ijepa, inpainting, blocks = (masks_of(name) for name in ("ijepa", "inpainting", "inpainting_blocks"))
    assert isinstance(ijepa, ContextMasks)
    assert ijepa.targets.shape[1] == 4
    assert isinstance(inpainting, RegionMasks)
    assert inpainting.boxes.tolist() == [[[32, 32, 64, 64]]] * 20
    assert isinstance(blocks, RegionMasks)
    assert 0.05 < blocks.mask.float().mean() <= 0.25
    assert blocks.mask.flatten(1).float().mean(dim=1).max() <= 0.26


def test_beits_two_views_are_one_crop() -> None:
    spec = PRESETS["beit"].views()
    assert [view.size for view in spec.views] == [224, 112]
    drawn = plan(spec, 0, 0, np.arange(9), np.tile((375, 500), (9, 1)))
    assert np.array_equal(drawn.crop[:, 0], drawn.crop[:, 1])
    assert np.array_equal(drawn.jitter_factor[:, 0], drawn.jitter_factor[:, 1])


@pytest.mark.parametrize("name", ["jigsaw", "context_prediction", "rotation", "colorization"])
def test_the_loader_brings_views_and_labels(name: str, photos: ShardSet) -> None:
    spec = PRESETS[name].views()
    with Loader(photos, spec, 8, threads=2) as loader:
        batch = next(iter(loader))
    assert isinstance(batch.drawn, DrawnViews)
    assert [view.shape[-1] for view in batch.normalized()] == [view.size for view in spec.views]
    if name == "rotation":
        assert batch.drawn.turns.tolist() == [[0, 1, 2, 3]] * 8
        for turns, view in enumerate(batch.views):
            assert torch.equal(view, torch.rot90(batch.views[0], turns, dims=(2, 3)))
    else:
        assert batch.drawn.arrangement.shape == (8, len(spec.arranged))


def test_context_prediction_has_two_remedies_against_chromatic_aberration() -> None:
    for against, project, drop in (("projection", 1.0, 0.0), ("dropping", 0.0, 1.0)):
        spec = context_prediction(48, against=against)  # type: ignore[arg-type]
        assert [(view.project, view.drop_channels) for view in spec.views] == [(project, drop)] * 2
    drawn = plan(spec, 0, 0, np.arange(200), np.tile((375, 500), (200, 1)))
    assert (drawn.kept[:, 0] != drawn.kept[:, 1]).mean() > 0.5, "each patch keeps a channel of its own"
    with pytest.raises(ValueError, match="must be projection or dropping, got 'blur'"):
        context_prediction(against="blur")  # type: ignore[arg-type]
