"""W-MSE's views, projector, groups over ranks, and run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headrace.models import build_method
from headrace.models.methods.joint.w_mse import WMSEConfig
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet, open_shards
from headrace.train.recipes import w_mse_imagenet
from headrace.train.schedule import dropped
from tests.models.authors_views import BYOL, IMAGENET, STRONG, in_torchvisions_words
from tests.models.tiny_methods import TINY, tiny
from tests.ranks import on_ranks


def batch_of(method: Any, shards: ShardSet, samples: int = 16, **options: int) -> Batch:
    with Loader(shards, method.inputs, samples, threads=1, **options) as loader:
        return next(iter(loader))


def test_it_asks_for_the_authors_views() -> None:
    """Of ImageNet-100 by their README's command, and of CIFAR-10 by cfg.py."""
    strong = ((224, 0.08, 1.0), 0.5, STRONG, 0.2, (0.5, 0.1, 2.0, 23), 0.0, IMAGENET)
    views = WMSEConfig().views().views
    assert in_torchvisions_words(views) == [strong] * 2
    assert views[0].interpolation == "bicubic"
    cifar = WMSEConfig(size=32, crop_scale=(0.2, 1.0), strength=0.5, grayscale=0.1, blur=0.0, draws=4)
    colours = (BYOL[0], 0.4, 0.4, 0.4, 0.1)
    assert in_torchvisions_words(cifar.views().views) == [((32, 0.2, 1.0), 0.5, colours, 0.1, (), 0.0, IMAGENET)] * 4


def test_the_projector_is_the_authors() -> None:
    projector = build_method("w_mse", **TINY["w_mse"]).projector
    assert [type(layer) for layer in projector] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert projector[0].bias is not None
    assert projector[3].bias is not None


def test_views_pass_the_backbone_alone_and_the_projector_together(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("w_mse")
    seen: dict[str, list[int]] = {"backbone": [], "projector": []}
    for name, samples in seen.items():
        module = getattr(method, name)
        module.register_forward_pre_hook(lambda _, inputs, samples=samples: samples.append(len(inputs[0])))
    method.loss(batch_of(method, digits_webdataset))
    assert seen == {"backbone": [16, 16], "projector": [32]}


def test_each_step_draws_its_groups(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("w_mse").eval()
    batch = batch_of(method, digits_webdataset)
    first, again, other = (float(_seeded_loss(method, batch, seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    several: Any = build_method("w_mse", **TINY["w_mse"], partitions=3).eval()
    losses = torch.stack([_seeded_loss(method, batch, seed) for seed in range(2)])
    assert losses.std() > 0
    assert _seeded_loss(several, batch, 0) != first


def _seeded_loss(method: Any, batch: Batch, *seed: int) -> Tensor:
    with seeded(*seed):
        loss: Tensor = method.loss(batch)["loss"].detach()
    return loss


def loss_of_rank(rank: int, path: str) -> Tensor:
    """As the loop does it, with a seed of the rank's own."""
    method: Any = tiny("w_mse").eval()
    with open_shards(path) as shards:
        batch = batch_of(method, shards, rank=rank, world_size=2)
    return _seeded_loss(method, batch, 3, 0, rank)


def test_groups_are_of_the_samples_of_all_ranks(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    """Two groups of eight of a batch of sixteen, on two ranks those of one, as the first rank draws them."""
    method: Any = tiny("w_mse").eval()
    expected = _seeded_loss(method, batch_of(method, digits_webdataset), 3, 0, 0)
    for loss in on_ranks(loss_of_rank, 2, tmp_path, str(digits_webdataset.path)):
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_that_groups_do_not_fill_is_refused_where_it_is_trained_on(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("w_mse")
    with pytest.raises(ValueError, match="a batch of 12 cannot be put into groups of 8; take a multiple of it"):
        method.loss(batch_of(method, digits_webdataset, samples=12))
    method.eval()
    assert method.loss(batch_of(method, digits_webdataset, samples=12))["loss"].isfinite()  # of eight of them
    with pytest.raises(ValueError, match="a batch of 5 cannot be put into groups of 8"):
        method.loss(batch_of(method, digits_webdataset, samples=5))
    with pytest.raises(ValueError, match=r"WMSEConfig\.group must be above projection_dim, 128, got 128"):
        WMSEConfig(group=128)
    with pytest.raises(ValueError, match=r"WMSEConfig\.draws must be at least 2, got 1"):
        WMSEConfig(draws=1)


def test_imagenet_is_the_authors_run() -> None:
    config = w_mse_imagenet()
    assert (config.epochs, config.batch_size, config.schedule.warmup_epochs) == (240, 512, 2)
    rates = [config.optim.lr * dropped(epoch, config.schedule.drops) for epoch in (0, 189, 190, 214, 215, 239)]
    assert rates == pytest.approx([2e-3, 2e-3, 4e-4, 4e-4, 8e-5, 8e-5])
    model = config.model
    assert (model.draws, model.group, model.partitions, model.eps) == (2, 256, 1, 0.0)
    assert (model.hidden_dim, model.projection_dim, model.backbone.name) == (1024, 128, "resnet18")
    assert replace(model, draws=4).views().views[3] == model.views().views[0]
    (group,) = tiny("w_mse").parameter_groups()
    assert group.decay_scale == 1.0
