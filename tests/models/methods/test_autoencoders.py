"""Autoencoders beside their definitions: tied weights, what is lost, what is compared, and the VAE's cloud."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models import build_method
from headrace.models.methods.pretext.autoencoder import AutoencoderConfig
from headrace.models.methods.pretext.denoising_autoencoder import DenoisingAutoencoderConfig
from headrace.models.methods.pretext.vae import VAEConfig
from headrace.models.parts.autoencoders import Levels, TiedLayer
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader, RandomMask
from headrace.pipeline.masks import PatchMasks
from headrace.shards import ShardSet
from headrace.train.recipes import RECIPES
from tests.models.tiny_methods import TINY, tiny

NAMES = ("autoencoder", "denoising_autoencoder", "vae")


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


@pytest.mark.parametrize("name", NAMES)
def test_it_asks_for_the_whole_picture_in_levels_from_0_to_1(name: str, digits_webdataset: ShardSet) -> None:
    inputs: Any = build_method(name).inputs
    (view,) = inputs.views
    assert (view.size, view.scale, view.ratio, view.flip, view.operations) == (28, (1.0, 1.0), (1.0, 1.0), 0.0, ())
    method: Any = tiny(name)
    batch = batch_of(method, digits_webdataset)
    (levels,) = batch.normalized()
    torch.testing.assert_close(levels, batch.views[0].float() / 255)


def test_defaults_are_the_laboratory_s() -> None:
    config = DenoisingAutoencoderConfig()
    assert (config.size, config.channels, config.network, config.hidden) == (28, 1, "tied", 500)
    assert config.corruption == 0.3
    assert RECIPES["autoencoder_mnist"]().model == AutoencoderConfig()
    for name in ("autoencoder_mnist", "denoising_autoencoder_mnist"):
        run = RECIPES[name]()
        assert (run.batch_size, run.epochs, run.optim.name, run.optim.lr) == (20, 15, "sgd", 0.1)
        assert (run.optim.momentum, run.optim.weight_decay, run.schedule.final) == (0.0, 0.0, 1.0)
    config, run = VAEConfig(), RECIPES["vae_mnist"]()
    assert (config.hidden, config.latent) == (400, 20)
    assert (run.batch_size, run.epochs, run.optim.lr) == (128, 10, 1e-3)


def test_weights_are_tied_and_drawn_within_4_times_xavier_s_bound() -> None:
    method: Any = build_method("autoencoder", hidden=100)
    layer = method.backbone[1]
    bound = 4 * math.sqrt(6 / (784 + 100))
    assert layer.weight.shape == (100, 784)
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert not layer.bias.any()
    assert not layer.bias_back.any()
    assert sum(p.numel() for p in method.parameters()) == 784 * 100 + 784 + 100


def by_hand(layer: Any, x: Tensor, clean: Tensor) -> Tensor:
    """dA.py in float64, from inputs (B, D) that are seen and those that are wanted."""
    w, b, c = (p.double() for p in (layer.weight, layer.bias, layer.bias_back))
    y = 1 / (1 + torch.exp(-(x @ w.T + b)))
    z = 1 / (1 + torch.exp(-(y @ w + c)))
    return -(clean * z.log() + (1 - clean) * (1 - z).log()).sum(dim=1).mean()


def test_the_loss_is_the_laboratory_s_with_its_gradient(digits_webdataset: ShardSet) -> None:
    """Summed over inputs, mean over samples, against the picture as it is; what is left is not scaled up."""
    method: Any = tiny("denoising_autoencoder")
    batch = batch_of(method, digits_webdataset)
    clean = batch.views[0][:, 0].flatten(1).double() / 255  # digits are grey
    (masks,) = batch.masks
    seen = clean.clone()
    for row, lost in enumerate(masks.masked.tolist()):
        seen[row, lost] = 0
    layer = method.backbone[1]
    expected = by_hand(layer, seen, clean)
    found = method.loss(batch)["loss"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, layer.weight)
    (wanted,) = torch.autograd.grad(expected, layer.weight)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)
    assert by_hand(layer, clean, clean).item() != pytest.approx(found.item(), rel=1e-3)


@pytest.mark.parametrize(("channels", "rows"), [(1, 16), (3, 48)])
def test_a_share_of_the_inputs_is_lost_each_by_itself(channels: int, rows: int, digits_webdataset: ShardSet) -> None:
    method: Any = build_method("denoising_autoencoder", size=16, channels=channels, hidden=8)
    assert method.inputs.masks == (RandomMask(grid=(rows, 16), ratio=0.3),)
    batch = batch_of(method, digits_webdataset)
    ones = torch.ones(8, channels, 16, 16)
    seen = method.seen(ones, batch)
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    lost = round(rows * 16 - int(rows * 16 * 0.7))
    assert (seen == 0).flatten(1).sum(dim=1).tolist() == [lost] * 8
    if channels == 3:
        assert not torch.equal(seen[:, 0], seen[:, 1])


def test_where_all_is_lost_every_picture_is_drawn_alike(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("denoising_autoencoder")
    batch = batch_of(method, digits_webdataset)
    everything = PatchMasks(visible=torch.empty(8, 0, dtype=torch.int64), masked=torch.arange(256).expand(8, -1))
    lone = replace(batch.lone, masks=[everything])
    shown = method.pictures(replace(batch, streams={"image": lone}))
    assert (shown["corrupted"] == 0).all()
    assert torch.equal(shown["reconstruction"], shown["reconstruction"][:1].expand(8, -1, -1, -1))
    shown = method.pictures(batch)
    assert not torch.allclose(shown["reconstruction"][0], shown["reconstruction"][1])


def test_a_linear_tied_layer_comes_down_to_the_error_of_principal_components() -> None:
    """On centred data, under squared error, with as many units as components."""
    with seeded(0):
        points = (torch.randn(60, 8) * torch.linspace(2, 0.2, 8)).double()
        layer = TiedLayer(8, 3).double()
    points = points - points.mean(dim=0)
    best = torch.linalg.svdvals(points)[3:].square().sum() / 60
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def error() -> Tensor:
        optimizer.zero_grad()
        found = (layer.down(layer.up(points)) - points).square().sum() / 60
        found.backward()
        return found

    optimizer.step(error)
    assert error().item() == pytest.approx(best.item(), rel=1e-4)


def test_levels_of_grey_add_up_to_white() -> None:
    white, red = torch.ones(1, 3, 2, 2), torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(Levels(1)(white), torch.ones(1, 1, 2, 2))
    assert Levels(1)(red).item() == pytest.approx(0.299, abs=1e-3)
    assert Levels(3)(white) is white


def test_a_convolutional_network_narrows_to_its_bottleneck_and_is_its_own_mirror(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("autoencoder")
    batch = batch_of(method, digits_webdataset)
    assert method.backbone(batch.normalized()[0]).shape == (8, 16)
    down = [tuple(p.shape) for p in method.backbone.parameters() if p.ndim == 4]
    up = [tuple(p.shape) for p in method.decoder.parameters() if p.ndim == 4]
    assert down == [(8, 1, 4, 4), (16, 8, 4, 4), (16, 16, 4, 4)]
    assert up == down[::-1]


# The VAE


def test_the_vae_s_loss_is_the_negative_lower_bound(digits_webdataset: ShardSet) -> None:
    """Both terms summed over a sample's numbers and averaged over samples."""
    method: Any = tiny("vae")
    batch = batch_of(method, digits_webdataset)
    x = batch.views[0][:, 0].flatten(1).float() / 255
    with seeded(4):
        terms = method.loss(batch)
    layers = method.backbone
    hidden = F.relu(layers[2](x))
    mean, log_variance = layers[4](hidden), method.log_variance(hidden)
    with seeded(4):
        point = mean + torch.randn(8, 8) * torch.exp(0.5 * log_variance)
    z = method.decoder(point).sigmoid()
    reconstruction = -(x * z.log() + (1 - x) * (1 - z).log()).sum(dim=1).mean()
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(dim=1).mean()
    torch.testing.assert_close(terms["reconstruction"], reconstruction.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(terms["divergence"], divergence.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms["loss"], reconstruction + divergence, rtol=1e-5, atol=1e-5)


def test_the_vae_s_features_are_the_mean_and_nothing_is_drawn_in_evaluation(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("vae").eval()
    batch = batch_of(method, digits_webdataset)
    levels = batch.normalized()[0]
    mean, _ = method._cloud(method.backbone[0](levels))
    assert torch.equal(method.encode(batch), mean)
    before = torch.get_rng_state()
    first = method.loss(batch)["loss"]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(method.loss(batch)["loss"], first)


# Pictures, and what is refused


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_the_input_and_what_is_made_of_it(name: str, channels: int, digits_webdataset: ShardSet) -> None:
    method: Any = build_method(name, **{**TINY[name], "channels": channels}).eval()
    batch = batch_of(method, digits_webdataset)
    shown = method.pictures(batch)
    corrupted = ["corrupted"] if name == "denoising_autoencoder" else []
    assert list(shown) == ["input", *corrupted, "reconstruction"]
    for picture in shown.values():
        assert picture.shape == (8, 3, 16, 16)
        assert picture.dtype == torch.float32
        assert 0 <= picture.min() <= picture.max() <= 1
    torch.testing.assert_close(shown["input"], batch.views[0].float() / 255, rtol=0, atol=1e-5)
    assert not torch.equal(shown["reconstruction"], shown["input"])


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="corruption must lie between 0 and 1, got 0"):
        build_method("denoising_autoencoder", corruption=0.0)
    with pytest.raises(ValueError, match="size must be a multiple of 8, for 3 halvings, got 28"):
        build_method("autoencoder", network="convolutional", widths=(8, 8, 8))
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 2"):
        build_method("vae", channels=2)
