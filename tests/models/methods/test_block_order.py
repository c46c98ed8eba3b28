"""Order of blocks: every order is drawn, and each tile is asked for its place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models import build_method
from headrace.models.losses import placement_loss, placements
from headrace.models.methods.pretext.block_order import BlockOrderConfig, block_tiles
from headrace.pipeline import Batch, Loader, ViewSpec, center_view, plan
from headrace.shards import ShardSet
from tests.models.tiny_methods import TINY, tiny


class Says(nn.Module):
    """A head that always gives the same scores, (V, V) or for each sample."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, features: Tensor) -> Tensor:
        return self.scores.expand(len(features), -1, -1).flatten(1)


def batch_of(inputs: Any, shards: ShardSet, samples: int = 8) -> Batch:
    with Loader(shards, inputs, samples, threads=1) as loader:
        return next(iter(loader))


def test_tiles_are_the_authors_in_any_order() -> None:
    """In a picture of 256 x 256 pixels: 225 of them, cells of 75, tiles of 64 that begin at 0 to 11."""
    config = BlockOrderConfig()
    tiles = block_tiles(config)
    drawn = plan(ViewSpec([tiles]), 0, 0, np.arange(2000), np.full((2000, 2), 256))
    assert np.all(drawn.crop[..., 2:] == 64)
    assert tiles.permutations is None
    assert tiles.view.operations == ()
    assert tiles.view.flip == 0.0
    assert len(np.unique(drawn.arrangement)) > 1980  # of 362,880
    places = tiles.orders[drawn.arrangement[:, 0]]
    assert np.array_equal(np.sort(places, axis=1), np.tile(np.arange(9), (2000, 1)))
    corners = drawn.crop[..., :2] - 75 * np.stack(np.divmod(places, 3), axis=2)
    assert np.ptp(corners, axis=1).max() == 11
    assert corners.max() == 31 + 11
    assert (config.tile_dim, config.hidden_dim, config.dropout) == (512, 4096, 0.5)
    assert (config.iterations, config.regularizer) == (1, 0.001)


def test_scores_of_nothing_cost_v_ln_v(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("block_order")
    with torch.no_grad():
        method.head.last.weight.zero_()
    terms = method.loss(batch_of(method.inputs, digits_webdataset))
    assert terms["loss"].item() == pytest.approx(4 * math.log(4))


def test_each_slot_is_asked_for_the_place_of_its_tile(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("block_order").eval()
    batch = batch_of(method.inputs, digits_webdataset)
    places = method._places(batch)
    assert len(places.unique(dim=0)) > 3
    scores = 30.0 * F.one_hot(places, 4).float()
    method.head = Says(scores)
    terms = method.loss(batch)
    assert terms["accuracy"] == 1
    torch.testing.assert_close(terms["loss"], placement_loss(placements(scores, 1, 0.001), places))
    method.head = Says(scores.roll(1, dims=2))
    assert method.loss(batch)["accuracy"] == 0
    pictures = method.pictures(batch)
    assert not torch.equal(pictures["solved"], pictures["true"])


def test_pictures_give_every_tile_another_place_and_the_true_ones_are_the_picture(digits_webdataset: ShardSet) -> None:
    fields = {"size": 14, "extent": (1.0, 1.0), "tile": 1.0}
    method: Any = build_method("block_order", **{**TINY["block_order"], **fields}).eval()
    batch = batch_of(method.inputs, digits_webdataset)
    with Loader(digits_webdataset, center_view(28), 8, threads=1) as loader:
        whole = next(iter(loader)).views[0] / 255
    # All tiles look most like the first place; slots 1 and 2 look like the second and third, too.
    scores = torch.tensor([[3.0, 0.0, 0.0, 1.0], [3.0, 2.0, 0.0, 0.0], [3.0, 0.0, 2.0, 0.0], [3.5, 0.0, 0.0, 0.0]])
    method.head = Says(scores)
    pictures = method.pictures(batch)
    rows = [*range(14), *range(16, 30)]  # without the gap
    assert torch.equal(pictures["true"][:, :, rows][..., rows], whole)
    for slot, place in enumerate((3, 1, 2, 0)):
        top, left = 16 * (place // 2), 16 * (place % 2)
        assert torch.equal(pictures["solved"][:, :, top : top + 14, left : left + 14], batch.views[slot] / 255)


def test_it_says_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match=r"BlockOrderConfig\.iterations must be at least 1, got 0"):
        BlockOrderConfig(iterations=0)
    with pytest.raises(ValueError, match=r"BlockOrderConfig\.regularizer must be above 0, got 0"):
        BlockOrderConfig(regularizer=0)
