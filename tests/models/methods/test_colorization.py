"""Colourisation: what is asked of which pixels, what rare colours count, and what probes see."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from headrace.models import build_method
from headrace.models.parts.lab import rarity_weights, soft_bins, spread
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from tests.models.test_contract import context
from tests.models.tiny_methods import TINY, tiny


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_the_authors_view() -> None:
    """A square crop of 176 of 256 pixels, mirrored or not, in Lab around L = 50."""
    inputs: Any = build_method("colorization", width=1).inputs
    (view,) = inputs.views
    assert (view.size, view.ratio, view.flip, view.operations) == (176, (1.0, 1.0), 0.5, ())
    assert [math.sqrt(each) * 256 for each in view.scale] == pytest.approx([176, 176])
    assert (view.normalize.space, view.normalize.mean, view.normalize.std) == ("lab", (50, 0, 0), (1, 1, 1))


def test_defaults_are_the_authors() -> None:
    config = build_method("colorization", width=1).config
    assert (config.neighbours, config.deviation, config.uniform, config.rarity) == (10, 5.0, 0.5, 1.0)
    assert (config.grey, config.temperature, config.depth) == (5.0, 0.38, 3)


def test_the_network_is_the_authors() -> None:
    """Widths, strides and dilations of the prototxt, for a first width of 64."""
    method: Any = build_method("colorization", width=8)
    convolutions = [m for m in method.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    found = [(m.out_channels // 8, m.kernel_size[0], m.stride[0], m.dilation[0]) for m in convolutions]
    assert found == [
        (1, 3, 1, 1), (1, 3, 2, 1),
        (2, 3, 1, 1), (2, 3, 2, 1),
        (4, 3, 1, 1), (4, 3, 1, 1), (4, 3, 2, 1),
        *[(8, 3, 1, 1)] * 3, *[(8, 3, 1, 2)] * 6, *[(8, 3, 1, 1)] * 3,
        (4, 4, 2, 1), (4, 3, 1, 1), (4, 3, 1, 1), (313 // 8, 1, 1, 1),
    ]  # fmt: skip
    norms = [m for m in method.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 7
    assert not any(m.affine for m in norms)
    assert sum(isinstance(m, nn.ReLU) for m in method.modules()) == len(convolutions) - 1
    lab = torch.zeros(2, 3, 176, 176)
    assert method.backbone.map(lab).shape == (2, 64, 22, 22)
    assert method.head(method.backbone.map(lab)).shape == (2, 313, 44, 44)


def test_the_loss_begins_at_ln_313(colours_webdataset: ShardSet) -> None:
    method: Any = tiny("colorization")
    loss = method.loss(batch_of(method, colours_webdataset))["loss"]
    assert loss.item() == pytest.approx(math.log(313), abs=0.1)


def test_the_target_is_every_fourth_pixel_as_it_is(colours_webdataset: ShardSet) -> None:
    method: Any = tiny("colorization")
    (lab,) = batch_of(method, colours_webdataset).normalized()
    target = method._target(lab)
    assert target.shape == (8, 2, 4, 4)
    assert torch.equal(target[:, :, 1, 2], lab[:, 1:, 4, 8])


def test_the_prior_is_that_of_the_set_and_is_found_out_once(colours_webdataset: ShardSet) -> None:
    method: Any = tiny("colorization")
    with torch.no_grad():
        method.on_epoch(context(0, colours_webdataset))
    expected, places = torch.zeros(313), 0
    with Loader(colours_webdataset, method.probe_inputs, 50, shuffle=False, threads=1) as loader:
        for batch in loader:
            ab = batch.normalized()[0][:, 1:, ::4, ::4].movedim(1, -1).reshape(-1, 2)
            expected += spread(soft_bins(ab, method.bins, neighbours=10, deviation=5.0), 313).sum(dim=0)
            places += len(ab)
    torch.testing.assert_close(method.prior, expected / places, rtol=1e-4, atol=1e-7)
    assert method.prior.sum().item() == pytest.approx(1, abs=1e-5)
    assert (method.prior * method.weights).sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(method.weights, rarity_weights(method.prior, uniform=0.5, power=1.0))
    assert {"prior", "weights"} <= method.state_dict().keys()
    before = method.prior.clone()
    method.on_epoch(context(5))  # which has no batches to ask for
    assert torch.equal(method.prior, before)


def test_rare_colours_weigh_in_the_gradient_and_not_in_the_value(colours_webdataset: ShardSet) -> None:
    method: Any = tiny("colorization").eval()
    batch = batch_of(method, colours_webdataset)
    kernel = method.head[-1].weight
    plain = method.loss(batch)["loss"]
    (before,) = torch.autograd.grad(plain, kernel)
    method.weights.fill_(3.0)
    weighed = method.loss(batch)["loss"]
    (after,) = torch.autograd.grad(weighed, kernel)
    torch.testing.assert_close(weighed, plain)
    torch.testing.assert_close(after, 3 * before, rtol=1e-4, atol=1e-7)


def test_pictures_without_colours_have_no_gradient(digits_webdataset: ShardSet, colours_webdataset: ShardSet) -> None:
    method: Any = tiny("colorization")
    method.loss(batch_of(method, digits_webdataset))["loss"].backward()
    assert all(not p.grad.any() for p in method.parameters())
    method.loss(batch_of(method, colours_webdataset))["loss"].backward()
    assert all(p.grad.any() for p in method.parameters())
    every: Any = build_method("colorization", **{**TINY["colorization"], "grey": -1.0})
    every.loss(batch_of(every, digits_webdataset))["loss"].backward()
    assert every.head[-1].weight.grad.any()


def test_features_are_of_the_lightness_alone(colours_webdataset: ShardSet) -> None:
    method: Any = tiny("colorization").eval()
    (view,) = method.probe_inputs.views
    assert view.normalize == method.inputs.views[0].normalize
    with Loader(colours_webdataset, method.probe_inputs, 8, shuffle=False, threads=1) as loader, torch.no_grad():
        batch = next(iter(loader))
        (lab,) = batch.normalized()
        features = method.encode(batch)
        other = torch.cat([lab[:, :1], torch.randn_like(lab[:, 1:])], dim=1)
        assert features.shape == (8, 32)
        torch.testing.assert_close(method.backbone(other), features)
        torch.testing.assert_close(features, method.backbone.map(lab).mean(dim=(2, 3)))
        assert -50 <= lab[:, 0].min() < 0 < lab[:, 0].max() <= 50


@pytest.mark.parametrize("predict", ["bins", "ab"])
def test_pictures_are_the_original_its_lightness_and_its_colours(predict: str, colours_webdataset: ShardSet) -> None:
    method: Any = build_method("colorization", **TINY["colorization"], predict=predict).eval()
    batch = batch_of(method, colours_webdataset)
    shown = method.pictures(batch)
    assert list(shown) == ["original", "input", "colorization"]
    for picture in shown.values():
        assert picture.shape == (8, 3, 16, 16)
        assert 0 <= picture.min() <= picture.max() <= 1
    levels = batch.views[0]
    if levels.dtype == torch.uint8:
        torch.testing.assert_close(shown["original"], levels.float() / 255, rtol=0, atol=1e-3)
    torch.testing.assert_close(shown["input"], shown["input"][:, :1].expand(-1, 3, -1, -1), rtol=0, atol=2e-3)
    assert not torch.allclose(shown["original"], shown["input"], atol=0.05)


def test_the_regression_has_two_outputs_and_the_squared_distance(colours_webdataset: ShardSet) -> None:
    method: Any = build_method("colorization", **TINY["colorization"], predict="ab").eval()
    batch = batch_of(method, colours_webdataset)
    (lab,) = batch.normalized()
    found = method.head(method.backbone.map(lab))
    assert found.shape == (8, 2, 4, 4)
    expected = ((found - lab[:, 1:, ::4, ::4] / 110) ** 2).sum(dim=1).mean() / 2
    torch.testing.assert_close(method.loss(batch)["loss"], expected)
    method.on_epoch(context(0))  # needs no prior


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be a multiple of 8, got 20"):
        build_method("colorization", size=20)
    with pytest.raises(ValueError, match="predict must be 'bins' or 'ab', got rgb"):
        build_method("colorization", predict="rgb")
    with pytest.raises(ValueError, match=r"neighbours must lie in \[1, 313\], got 400"):
        build_method("colorization", neighbours=400)
