"""Views of pretext tasks through the loader: tiles, pairs of patches, turns, Lab, two sizes of one crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.pipeline import (
    BlockMask,
    DrawnViews,
    Loader,
    Normalize,
    PatchPair,
    RegionMask,
    Tiles,
    View,
    ViewSpec,
    plan,
)
from headrace.pipeline.masks import BlockMasks, RegionMasks, draw_masks
from headrace.shards import ShardSet

LAB = Normalize.lab(mean=(50.0, 0.0, 0.0), std=(100.0, 110.0, 110.0))
SPECS = {
    "tiles": ViewSpec([Tiles(view=View(size=24, flip=0.0, grayscale=0.3, normalize=Normalize(per_view=True)))]),
    "patch pair": ViewSpec([PatchPair(view=View(size=32, flip=0.0, project=1.0))]),
    "turns": ViewSpec.rotations(View(size=48)),
    "lab": ViewSpec([View(size=44, scale=(0.5, 0.5), ratio=(1.0, 1.0), normalize=LAB)]),
}


@pytest.mark.parametrize("name", SPECS)
def test_the_loader_brings_views_and_labels(name: str, photos: ShardSet) -> None:
    spec = SPECS[name]
    with Loader(photos, spec, 8, threads=2) as loader:
        batch = next(iter(loader))
    assert isinstance(batch.drawn, DrawnViews)
    assert [view.shape[-1] for view in batch.normalized()] == [view.size for view in spec.views]
    assert batch.drawn.arrangement.shape == (8, len(spec.arranged))
    if name == "turns":
        assert batch.drawn.turns.tolist() == [[0, 1, 2, 3]] * 8
        for turns, view in enumerate(batch.views):
            assert torch.equal(view, torch.rot90(batch.views[0], turns, dims=(2, 3)))


def test_two_sizes_are_one_crop_in_the_same_colours() -> None:
    """BEiT (2106.08254): what the encoder sees and what the tokenizer does."""
    view = View(size=224, interpolation="bicubic", jitter=1.0, brightness=0.4, contrast=0.4, saturation=0.4)
    half = View(size=112, interpolation="bicubic", jitter=1.0, brightness=0.4, contrast=0.4, saturation=0.4)
    drawn = plan(ViewSpec([view, half], draws=[0, 0]), 0, 0, np.arange(9), np.tile((375, 500), (9, 1)))
    assert np.array_equal(drawn.crop[:, 0], drawn.crop[:, 1])
    assert np.array_equal(drawn.jitter_factor[:, 0], drawn.jitter_factor[:, 1])


def test_each_patch_of_a_pair_keeps_a_channel_of_its_own() -> None:
    """Context prediction (1505.05192), section 3.1."""
    spec = ViewSpec([PatchPair(view=View(size=48, flip=0.0, drop_channels=1.0))])
    drawn = plan(spec, 0, 0, np.arange(200), np.tile((375, 500), (200, 1)))
    assert (drawn.kept[:, 0] != drawn.kept[:, 1]).mean() > 0.5


def test_large_crops_alone_are_masked(photos: ShardSet) -> None:
    """iBOT (2111.07832): mask m belongs to view m, and the small views have none."""
    large = View(size=32, scale=(0.25, 1.0))
    mask = BlockMask(grid=(4, 4), ratio=(0.1, 0.5), probability=0.5, smallest=1)
    spec = ViewSpec([large, large, *[View(size=16, scale=(0.05, 0.25))] * 3], [mask] * 2)
    with Loader(photos, spec, 8, threads=1) as loader:
        batch = next(iter(loader))
    assert [view.shape[-1] for view in batch.views] == [32, 32, 16, 16, 16]
    first, second = batch.masks
    assert isinstance(first, BlockMasks)
    assert isinstance(second, BlockMasks)
    assert not torch.equal(first.masked, second.masked)
    assert {bool(count) for count in [*first.masked_count.tolist(), *second.masked_count.tolist()]} == {False, True}


def test_random_blocks_hide_a_quarter_at_most() -> None:
    """Context encoders (1604.07379), section 3.3: four blocks of at most a sixteenth, which may overlap."""
    spec = RegionMask(size=128, place="random", regions=4, scale=(0.03, 0.0625), aspect=(0.5, 2.0))
    (blocks,) = draw_masks((spec,), 0, 0, np.arange(20))
    assert isinstance(blocks, RegionMasks)
    shares = blocks.mask.flatten(1).float().mean(dim=1)
    assert 0.05 < shares.mean() <= 0.25
    assert shares.max() <= 0.26
