"""Barlow Twins' views and groups of parameters."""

from __future__ import annotations

import pytest
import torch

from headrace.models import build_method
from headrace.models.methods.joint.barlow_twins import BarlowTwinsConfig
from headrace.pipeline import Loader
from headrace.shards import ShardSet
from headrace.train import OptimConfig
from headrace.train.optim import build_optimizer, set_schedule
from tests.models.authors_views import byol_pair, in_torchvisions_words
from tests.models.tiny_methods import TINY, tiny


def test_it_asks_for_the_authors_views() -> None:
    assert in_torchvisions_words(BarlowTwinsConfig().views().views) == byol_pair(0.08)


def test_biases_and_norms_have_a_learning_rate_of_their_own() -> None:
    """0.2 and 0.0048 in the authors' command for batches of 256, and no decay."""
    method = tiny("barlow_twins")
    config = OptimConfig(name="lars", lr=0.2, weight_decay=1e-6, lr_in_momentum=False)
    optimizer = build_optimizer(method.parameter_groups(), config, 256)
    set_schedule(optimizer, 0.1, 0.2, 1e-6)
    kernels, vectors = optimizer.param_groups
    assert (kernels["lr"], kernels["weight_decay"], kernels["adapt"]) == (0.1, 1e-6, True)
    assert (round(vectors["lr"], 6), vectors["weight_decay"], vectors["adapt"]) == (0.0024, 0.0, False)
    assert all(p.ndim > 1 for p in kernels["params"])
    assert all(p.ndim == 1 for p in vectors["params"])


def test_scale_is_a_factor_of_the_loss(digits_webdataset: ShardSet) -> None:
    whole, part = tiny("barlow_twins"), build_method("barlow_twins", **{**TINY["barlow_twins"], "scale": 0.1}).train()
    with Loader(digits_webdataset, whole.inputs, 8, threads=1) as loader:
        batch = next(iter(loader))
    torch.testing.assert_close(part.loss(batch)["loss"], 0.1 * whole.loss(batch)["loss"])
    with pytest.raises(ValueError, match=r"BarlowTwinsConfig\.scale must be above 0, got 0"):
        BarlowTwinsConfig(scale=0)
