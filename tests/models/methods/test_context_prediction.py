"""Context prediction: places, both orders of a pair, and what is taken from patches so that they tell nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models import build_method
from headrace.models.methods.pretext.context_prediction import (
    LEVELS,
    ContextPredictionConfig,
    context_views,
    opposite,
    resampling,
    unit_rms,
)
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, DrawnViews, Loader, PatchPair, Views, ViewSpec
from headrace.shards import ShardSet
from tests.models.tiny_methods import TINY, tiny

AROUND = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def batch_of(inputs: Any, shards: ShardSet, samples: int = 8) -> Batch:
    with Loader(shards, inputs, samples, threads=1) as loader:
        return next(iter(loader))


def made(views: list[Tensor], places: Tensor) -> Batch:
    """Of pairs of patches that no loader cut, and their places (B, A)."""
    nothing = torch.zeros(len(places), len(views), dtype=torch.int64)
    drawn = DrawnViews(crop=nothing[..., None].int(), flip=nothing.bool(), turns=nothing, arrangement=places)
    part = Views(views=views, normalize=(LEVELS,) * len(views), drawn=drawn)
    return Batch(streams={"image": part}, index=torch.arange(len(places)), labels=None, epoch=0)


def test_it_asks_for_the_authors_patches() -> None:
    config = ContextPredictionConfig()
    spec = context_views(config)
    assert len(spec) == 2 * 4
    for _, pair in spec.arranged:
        assert isinstance(pair, PatchPair)
        assert (pair.view.size, pair.view.size * pair.gap, pair.view.size * pair.jitter) == (96, 48, 7)
        assert pair.view.operations == ("drop_channels",)
        assert pair.view.drop_channels == 1.0
        assert not pair.alike
    assert (config.lose_resolution, config.smallest) == (0.33, 10)
    assert (config.patch_dim, config.hidden_dim) == (4096, 4096)


def test_the_place_of_a_patch_seen_from_the_other_one() -> None:
    """Row by row without the centre: label(-d) = 7 - label(d)."""
    for place, (y, x) in enumerate(AROUND):
        assert AROUND[opposite(torch.tensor(place)).item()] == (-y, -x)


def test_both_orders_of_a_pair_are_asked_for(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("context_prediction").eval()
    batch = batch_of(method.inputs, digits_webdataset)
    with torch.no_grad():
        logits, labels = method._logits(batch)
        first, second, third, fourth = batch.views
        swapped = made([second, first, fourth, third], opposite(batch.drawn.arrangement))
        others, other_labels = method._logits(swapped)
    assert len(logits) == len(labels) == 2 * 2 * 8
    assert torch.equal(labels[:16], batch.drawn.arrangement.T.flatten())
    assert torch.equal(labels[16:], 7 - labels[:16])
    assert torch.equal(other_labels, labels.roll(16))
    torch.testing.assert_close(others, logits.roll(16, dims=0))
    torch.testing.assert_close(method.loss(swapped)["loss"], method.loss(batch)["loss"])


def test_a_classifier_that_says_nothing_costs_ln_8(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("context_prediction")
    batch = batch_of(method.inputs, digits_webdataset, 40)
    assert method.loss(batch)["loss"].item() == pytest.approx(math.log(8), abs=0.25)
    with torch.no_grad():
        method.both[-1].weight.zero_()
    assert method.loss(batch)["loss"].item() == pytest.approx(math.log(8)) == pytest.approx(2.0794, abs=1e-4)


def test_patches_without_a_picture_are_right_once_in_eight() -> None:
    method: Any = build_method("context_prediction", **{**TINY["context_prediction"], "lose_resolution": 0.0})
    grey = [torch.full((8, 3, 16, 16), level, dtype=torch.uint8) for level in (10, 90, 200, 250)]
    batch = made(grey, torch.arange(8)[:, None].repeat(1, 2))
    for training in (True, False):
        assert method.train(training).loss(batch)["accuracy"].item() == 0.125


def test_a_patch_passes_the_network_by_itself(digits_webdataset: ShardSet) -> None:
    """The head alone sees both."""
    method: Any = tiny("context_prediction").eval()
    batch = batch_of(method.inputs, digits_webdataset)
    seen: list[Tensor] = []
    method.each.register_forward_hook(lambda module, arguments, output: seen.append(output))
    with torch.no_grad():
        method.loss(batch)
        other = [batch.views[0], 255 - batch.views[1], *batch.views[2:]]
        method.loss(made(other, batch.drawn.arrangement))
    before, after = seen
    torch.testing.assert_close(after[:8], before[:8], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after[8:16], before[8:16], atol=1e-2)


def test_with_dropping_on_one_colour_alone_tells_of_the_picture(photos: ShardSet) -> None:
    config = replace(ContextPredictionConfig(), size=48, pairs=1)
    with_colours = replace(config, drop_channels=0.0)
    dropped, whole = (batch_of(context_views(each), photos, 6) for each in (config, with_colours))
    kept: set[int] = set()
    for patches, pictures in zip(dropped.normalized(), whole.normalized(), strict=True):
        for patch, picture in zip(unit_rms(patches), pictures, strict=True):
            pairs = [torch.stack([patch[c].flatten(), picture[c].flatten()]) for c in range(3)]
            told = [torch.corrcoef(pair)[0, 1].abs().nan_to_num(0.0).item() for pair in pairs]
            assert [value > 0.99 for value in told].count(True) == 1
            assert sorted(told)[1] < 0.1
            deviation = patch.std(dim=(1, 2))
            assert deviation.max().item() == pytest.approx(math.sqrt(3), rel=0.01)
            kept.add(int(deviation.argmax()))
    assert kept == {0, 1, 2}


def test_patches_have_mean_0_and_one_size() -> None:
    images = torch.rand(5, 3, 8, 8) * torch.tensor([0.1, 0.5, 1.0])[:, None, None] + 3
    found = unit_rms(images)
    torch.testing.assert_close(found.mean(dim=(2, 3)), torch.zeros(5, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.square().mean(dim=(1, 2, 3)), torch.ones(5))
    torch.testing.assert_close(unit_rms(7 * images - 2), found, rtol=1e-3, atol=1e-4)  # gradients of light go
    assert not unit_rms(torch.full((1, 3, 8, 8), 0.3)).any()


def test_resolution_is_lost_by_bilinear_interpolation_there_and_back() -> None:
    images = torch.rand(4, 3, 20, 20)
    rows = resampling(20, range(5, 20))
    assert rows.shape == (15, 20, 20)
    for side in (5, 11, 19):
        there = F.interpolate(images, (side, side), mode="bilinear")
        expected = F.interpolate(there, (20, 20), mode="bilinear")
        row = rows[side - 5]
        torch.testing.assert_close(row @ images @ row.T, expected, rtol=1e-4, atol=1e-5)


def test_a_third_of_the_patches_lose_resolution_in_training_alone() -> None:
    config = {**TINY["context_prediction"], "size": 24, "lose_resolution": 0.33, "smallest": 3}
    method: Any = build_method("context_prediction", **config).train()
    patches = torch.rand(1000, 3, 24, 24)
    with seeded(0):
        coarse = method._with_resolution_lost(patches)
    lost = (coarse != patches).flatten(1).any(dim=1)
    assert lost.float().mean().item() == pytest.approx(0.33, abs=0.05)
    # Which side each was shrunk to: its area is uniform between 9 and 23 squared.
    candidates = torch.stack([row @ patches[lost] @ row.T for row in method.resampling])  # (R, n, 3, 24, 24)
    sides = (candidates - coarse[lost]).abs().amax(dim=(2, 3, 4)).argmin(dim=0) + 3
    assert sides.min() >= 3
    assert sides.max() <= 22
    assert sides.float().square().mean().item() == pytest.approx((9 + 23**2) / 2 - 16, abs=32)  # rounded down
    assert torch.equal(method.eval()._with_resolution_lost(patches), patches)


def test_norms_and_weights_are_the_authors() -> None:
    """Behind fc6 and fc7 a norm that scales and shifts nothing, behind fc8 and fc9 none; Caffe's xavier."""
    method: Any = tiny("context_prediction")
    layers = [method.each, *method.both]
    kinds = [[type(part) for part in layer] if isinstance(layer, nn.Sequential) else [type(layer)] for layer in layers]
    normed, plain = [nn.Linear, nn.BatchNorm1d, nn.ReLU], [nn.Linear, nn.ReLU]
    assert kinds == [normed, normed, plain, [nn.Linear]]
    assert not any(layer[1].affine for layer in layers[:2])
    for linear in [m for layer in layers for m in layer.modules() if isinstance(m, nn.Linear)]:
        bound = math.sqrt(3 / linear.in_features)
        assert 0.9 * bound < linear.weight.abs().max().item() <= bound
        assert not linear.bias.any()
    assert layers[-1].out_features == 8


def test_pictures_put_the_second_patch_on_its_side_of_the_first() -> None:
    method: Any = tiny("context_prediction").eval()
    views = [torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8) for _ in range(4)]
    places = torch.stack([torch.arange(8), torch.zeros(8, dtype=torch.int64)], dim=1)
    with torch.no_grad():
        method.both[-1].weight.zero_()
        method.both[-1].bias.copy_(torch.arange(8) == 6)  # below
    pictures = method.pictures(made(views, places))
    first, second = views[0] / 255, views[1] / 255
    assert torch.equal(pictures["patches"], torch.cat([first, torch.full((8, 3, 16, 2), 0.5), second], dim=3))
    for sample, (y, x) in enumerate(AROUND):
        for name, (down, right) in {"true": (y, x), "solved": (1, 0)}.items():
            picture, top, left = pictures[name][sample], 18 * (1 + down), 18 * (1 + right)
            assert torch.equal(picture[:, 18:34, 18:34], first[sample])
            assert torch.equal(picture[:, top : top + 16, left : left + 16], second[sample])


def test_probes_see_the_whole_picture_normalised_as_patches_are(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("context_prediction").eval()
    inputs = method.probe_inputs
    assert isinstance(inputs, ViewSpec)
    assert [(view.size, view.operations) for view in inputs.views] == [(24, ())]
    batch = batch_of(inputs, digits_webdataset)
    with torch.no_grad():
        torch.testing.assert_close(method.encode(batch), method.backbone(unit_rms(batch.views[0] / 255)))


def test_it_says_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match=r"ContextPredictionConfig\.smallest must lie in \[1, 95\], below the size"):
        ContextPredictionConfig(smallest=96)
    with pytest.raises(ValueError, match=r"ContextPredictionConfig\.pairs must be at least 1, got 0"):
        ContextPredictionConfig(pairs=0)
