"""Jigsaw's tiles lie where their label says, and nothing but the head knows in which order."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from headrace.models import build_method
from headrace.models.methods.pretext.jigsaw import JigsawConfig, jigsaw_tiles, shifted
from headrace.models.parts.puzzles import PuzzleHead, each_alone, laid_out
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader, Normalize, ViewSpec, center_view, plan
from headrace.shards import ShardSet
from tests.models.tiny_methods import RESNET, TINY, VIT, tiny


def batch_of(inputs: Any, shards: ShardSet, samples: int = 8) -> Batch:
    with Loader(shards, inputs, samples, threads=1) as loader:
        return next(iter(loader))


def test_every_tile_lies_inside_its_cell_of_85_pixels_whatever_is_drawn() -> None:
    """In a picture of 256 x 256 pixels: tiles of 64, and two more for the shift of colours."""
    tiles = jigsaw_tiles(replace(JigsawConfig(), permutations=20))
    drawn = plan(ViewSpec([tiles]), 0, 0, np.arange(3000), np.full((3000, 2), 256))
    assert np.all(drawn.crop[..., 2:] == 66)
    places = tiles.orders[drawn.arrangement[:, 0]]
    cells = 85 * np.stack(np.divmod(places, 3), axis=2)
    in_cell = drawn.crop[..., :2] - cells  # and the puzzle lies anywhere in the picture, by a pixel
    assert np.ptp(in_cell, axis=1).max() == 85 - 66
    assert in_cell.min() == 0
    assert in_cell.max() + 66 == 85 + 1
    assert np.std(in_cell[:, 0] - in_cell[:, 1], axis=0).min() > 5  # each tile by itself


def test_colours_are_those_of_the_authors() -> None:
    config = JigsawConfig()
    view = jigsaw_tiles(config).view
    assert view.operations == ("grayscale", "project")  # half are grey, half of the others are projected
    assert (view.grayscale, view.project, view.flip) == (0.5, 0.5, 0.0)
    assert jigsaw_tiles(config).alike
    assert (config.permutations, config.tile_dim, config.hidden_dim, config.dropout) == (1000, 1024, 4096, 0.5)
    assert config.tile * 85 == 64


def whole_tiles(**changes: Any) -> Any:
    """A method whose four tiles are the quarters of a picture of 28 pixels."""
    fields = {"size": 14, "extent": (1.0, 1.0), "tile": 1.0, "shift": 0, "grayscale": 0.0, "project": 0.0}
    return build_method("jigsaw", **{**TINY["jigsaw"], **fields, "permutations": 24, **changes})


def test_tiles_in_their_places_are_the_picture(digits_webdataset: ShardSet) -> None:
    method = whole_tiles().eval()
    batch = batch_of(method.inputs, digits_webdataset)
    with Loader(digits_webdataset, center_view(28), 8, threads=1) as loader:
        whole = next(iter(loader)).views[0] / 255
    pictures = method.pictures(batch)
    rows = [*range(14), *range(16, 30)]  # without the gap
    assert torch.equal(pictures["true"][:, :, rows][..., rows], whole)
    assert not torch.equal(pictures["shuffled"], pictures["true"])
    assert len(batch.drawn.arrangement.unique()) > 3  # each sample has an order of its own
    for sample, label in enumerate(batch.drawn.arrangement[:, 0].tolist()):
        for slot, place in enumerate(method.orders[label].tolist()):
            top, left = 14 * (place // 2), 14 * (place % 2)
            expected = whole[sample, :, top : top + 14, left : left + 14]
            assert torch.equal(batch.views[slot][sample] / 255, expected)


def test_the_network_puts_tiles_where_its_likeliest_order_says(digits_webdataset: ShardSet) -> None:
    method = whole_tiles().eval()
    batch = batch_of(method.inputs, digits_webdataset)
    with torch.no_grad():
        method.head.last.weight.zero_()
        method.head.last.bias.copy_(torch.arange(24) == 0)  # the identity
    pictures = method.pictures(batch)
    assert torch.equal(pictures["solved"], pictures["shuffled"])


def test_tiles_that_are_laid_out_leave_grey_where_there_are_none() -> None:
    tiles = torch.rand(1, 2, 3, 4, 4)
    picture = laid_out(tiles, torch.tensor([[3, 0]]), 2, 2)
    assert picture.shape == (1, 3, 10, 10)
    assert torch.equal(picture[0, :, :4, :4], tiles[0, 1])
    assert torch.equal(picture[0, :, 6:, 6:], tiles[0, 0])
    assert (picture[0, :, :4, 4:] == 0.5).all()


def test_a_classifier_that_says_nothing_costs_the_logarithm_of_the_orders(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("jigsaw")
    with torch.no_grad():
        method.head.last.weight.zero_()
    terms = method.loss(batch_of(method.inputs, digits_webdataset))
    assert terms["loss"].item() == pytest.approx(math.log(6))
    assert math.log(JigsawConfig().permutations) == pytest.approx(6.908, abs=1e-3)


def test_features_of_a_tile_do_not_know_the_order(digits_webdataset: ShardSet) -> None:
    """In training, with norms over the batch: the same tiles in another order have the same features."""
    method: Any = tiny("jigsaw")
    tiles = [tile[:, :, 1:-1, 1:-1] for tile in batch_of(method.inputs, digits_webdataset).normalized()]
    order = [2, 0, 3, 1]
    with torch.no_grad():
        features = each_alone(method.backbone, tiles)
        others = each_alone(method.backbone, [tiles[i] for i in order])
    assert features.shape == (8, 4, method.feature_dim)
    torch.testing.assert_close(others, features[:, order], rtol=1e-3, atol=1e-4)
    method.eval()
    with torch.no_grad():
        alone = each_alone(method.backbone, [tiles[1][:1]])
        torch.testing.assert_close(alone[0, 0], each_alone(method.backbone, tiles)[0, 1], rtol=1e-4, atol=1e-5)
        head = method.head
        assert not torch.equal(head(features), head(features[:, order]))


def test_the_head_begins_as_the_authors_and_drops_in_training_alone() -> None:
    config = JigsawConfig(tile_dim=60, hidden_dim=80)
    head = PuzzleHead(200, 100, config).eval()
    for layer, deviation, bias in ((head.each, 0.005, 1.0), (head.all, 0.005, 1.0), (head.last, 0.01, 0.0)):
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05)
        assert (layer.bias == bias).all()
    x = torch.randn(4, 9, 200)
    assert torch.equal(head(x), head(x))
    head.train()
    assert not torch.equal(head(x), head(x))


def test_biases_learn_twice_as_fast_and_are_not_decayed() -> None:
    method: Any = tiny("jigsaw")
    groups = method.parameter_groups()
    found = {id(p): (g.lr_scale, g.decay_scale) for g in groups for p in g.params}
    for name, p in method.head.named_parameters():
        assert found[id(p)] == ((2.0, 0.0) if name.endswith("bias") else (1.0, 1.0))
    assert found[id(method.backbone[0].bn1.weight)] == (1.0, 0.0)


def test_each_colour_of_a_tile_is_moved_by_itself_and_the_middle_is_taken_in_evaluation() -> None:
    images = torch.rand(200, 3, 10, 10)
    middle = shifted(images, 2, random=False)
    assert torch.equal(middle, images[:, :, 1:9, 1:9])
    with seeded(0):
        moved = shifted(images, 2, random=True)
    corners: dict[tuple[int, int], int] = {}
    alike = 0
    for image, windows in zip(images, moved, strict=True):
        places = []
        for channel, window in zip(image, windows, strict=True):
            fits = [
                (y, x) for y in range(3) for x in range(3) if torch.equal(channel[y : y + 8, x : x + 8], window)
            ]  # fmt: skip
            assert len(fits) == 1
            places += fits
            corners[fits[0]] = corners.get(fits[0], 0) + 1
        alike += len(set(places)) == 1
    assert len(corners) == 9
    assert min(corners.values()) > 40  # of 600, 67 expected
    assert alike < 12  # 200 / 81


def test_tiles_may_be_normalised_each_by_itself(digits_webdataset: ShardSet) -> None:
    """As in the paper; there is no way back to pictures then."""
    method = whole_tiles(normalize=Normalize(per_view=True)).eval()
    batch = batch_of(method.inputs, digits_webdataset)
    assert method.loss(batch)["loss"].isfinite()
    assert set(method.pictures(batch)) == {"shuffled", "solved", "true"}  # of levels
    with Loader(digits_webdataset, method.inputs, 8, threads=1, dtype="float32") as loader:
        assert method.pictures(next(iter(loader))) == {}


def test_probes_see_the_whole_picture() -> None:
    inputs: Any = tiny("jigsaw").probe_inputs
    assert [view.size for view in inputs.views] == [24]
    assert inputs.views[0].operations == ()


def test_it_says_what_it_cannot_use() -> None:
    fixed = replace(VIT, options={**VIT.options, "dynamic_img_size": False})
    for name in ("jigsaw", "block_order", "context_prediction"):
        with pytest.raises(
            ValueError, match=r"Config\.backbone must take pictures of any size, .* vit_tiny_patch16_224"
        ):
            build_method(name, **{**TINY[name], "backbone": fixed})
        build_method(name, **{**TINY[name], "backbone": VIT})
    with pytest.raises(ValueError, match=r"JigsawConfig\.grid must be 2 or 3, got 4"):
        JigsawConfig(grid=4)
    with pytest.raises(ValueError, match=r"Tiles\.permutations must lie in \[1, 24\], got 25"):
        JigsawConfig(grid=2, permutations=25, backbone=RESNET)
