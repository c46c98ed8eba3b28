"""Pictures of views, masks and tiles: what is dimmed, tinted and outlined."""

import numpy as np
import pytest
import torch

from headrace.pipeline import (
    BlockMask,
    ContextMask,
    InverseBlockMask,
    PatchPair,
    PrefixMask,
    RandomMask,
    RegionMask,
    RolledBlockMask,
    Tiles,
    View,
    ViewSpec,
)
from headrace.pipeline.masks import MaskSpec, draw_masks
from headrace.shards import ShardSet
from headrace.tools.pictures import show_views
from headrace.tools.pictures.masks import masked
from headrace.tools.pictures.show_views import augmented, caption, draw_tiles

VIEW = np.tile(np.arange(0, 240, 10, dtype=np.uint8)[:, None, None], (1, 24, 3))  # (24, 24, 3)


@pytest.mark.parametrize(
    "spec",
    [
        RandomMask(grid=(4, 6)),
        BlockMask(grid=(4, 4), smallest=1),
        InverseBlockMask(grid=(4, 6)),
        RolledBlockMask(grid=(4, 6), predicted=0.2),
        PrefixMask(grid=(4, 6)),
        ContextMask(grid=(6, 6), targets=2),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_pixels_change_where_a_patch_is_hidden_and_nowhere_else(spec: MaskSpec) -> None:
    (mask,) = draw_masks((spec,), 0, 0, np.arange(1))
    assert not isinstance(spec, RegionMask)
    rows, columns = spec.grid
    seen = np.ones((rows, columns), bool)
    if isinstance(spec, ContextMask):
        seen[:] = False
        seen.ravel()[mask.context[0, : mask.context_count[0]].numpy()] = True  # type: ignore[union-attr]
    elif isinstance(spec, PrefixMask):
        seen.ravel()[int(mask.prefix[0]) :] = False  # type: ignore[union-attr]
    else:
        hidden = mask.masked[0].numpy()  # type: ignore[union-attr]
        seen.ravel()[hidden if hidden.dtype != bool else np.flatnonzero(hidden)] = False
    whole = np.kron(seen, np.ones((24 // rows, 24 // columns), bool))
    same = (masked(VIEW, spec, mask) == VIEW).all(axis=2)
    assert np.all(same[whole])
    assert not same[~whole].any()


def test_regions_are_dimmed() -> None:
    spec = RegionMask(size=24)
    (mask,) = draw_masks((spec,), 0, 0, np.arange(1))
    changed = (masked(VIEW, spec, mask) != VIEW).any(axis=2)
    assert np.array_equal(changed, mask.mask[0].numpy())  # type: ignore[union-attr]
    assert torch.equal(mask.mask[0, 6:18, 6:18], torch.ones(12, 12, dtype=torch.bool))  # type: ignore[union-attr]


def test_captions_name_every_kind_of_draw() -> None:
    draws = {"crop": (1, 2, 3, 4), "turned": "90 degrees", "hue": 0.125, "flip": True, "erase": (5, 6, 7, 8)}
    assert caption(draws) == "crop 3x4 at 1,2 · turned 90 degrees · hue 0.12 · flip · erase 7x8 at 5,6"


def test_tiles_are_named_in_the_order_of_delivery(photos: ShardSet) -> None:
    spec = ViewSpec([Tiles(view=View(size=16, flip=0.0)), PatchPair(view=View(size=16, flip=0.0))])
    rows = augmented(photos, spec, count=2)
    figure = draw_tiles(rows, spec, "title")
    axes = [axis for line in figure.subfigs for part in line.subfigs for axis in part.axes]
    assert len(axes) == 2 * (1 + 9 + 1 + 2)
    texts = [axis.get_xlabel() for axis in axes]
    assert f"permutation {rows[0].labels[0]}: " in texts[0]
    order = [int(axis.get_title()) for axis in axes[1:10]]
    assert sorted(order) == list(range(9))
    assert texts[0].endswith(" ".join(map(str, order)))
    # A box further down or right belongs to a later place.
    tops = {place: rows[0].crops[i][0] for i, place in enumerate(order)}
    assert tops[0] < tops[3] < tops[6]
    assert f"neighbour {rows[0].labels[1]}: " in texts[10]


def test_two_masks_have_two_columns_each(photos: ShardSet) -> None:
    spec = ViewSpec.repeat(View(size=16), 2)
    spec = ViewSpec(spec.views, [BlockMask(grid=(4, 4), smallest=1)] * 2)
    figure = show_views.draw_masks(augmented(photos, spec, count=3), spec, "title")
    assert len(figure.axes) == 3 * 4
    assert "6 of 16 patches masked" in figure.axes[1].get_xlabel()
