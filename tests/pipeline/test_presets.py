"""The presets: values of the papers in a few places, and that every one of them can be drawn and loaded."""

import numpy as np
import pytest
import torch

from headrace.pipeline import DrawnViews, Loader, plan
from headrace.pipeline.masks import BlockMasks, ContextMasks, PatchMasks, RegionMasks, draw_masks
from headrace.pipeline.presets import PRESETS
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
    assert simmim.visible.shape[1] + simmim.masked.shape[1] == 36
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


def test_multi_crops() -> None:
    assert [view.size for view in PRESETS["swav"].views().views] == [224] * 2 + [96] * 6
    assert [view.size for view in PRESETS["dino"].views().views] == [224] * 2 + [96] * 8
    assert [view.size for view in PRESETS["dinov2"].views().views] == [224] * 2 + [98] * 8


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
