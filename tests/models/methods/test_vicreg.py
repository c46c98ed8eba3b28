"""VICReg's views, weights and run."""

from __future__ import annotations

from typing import Any

import torch

from headrace.models.methods.joint.vicreg import VICRegConfig
from headrace.pipeline import Loader
from headrace.shards import ShardSet
from headrace.train.optim import peak_lr
from headrace.train.recipes import vicreg_imagenet
from tests.models.authors_views import byol_pair, in_torchvisions_words
from tests.models.tiny_methods import tiny


def test_it_asks_for_the_authors_views() -> None:
    assert in_torchvisions_words(VICRegConfig().views().views) == byol_pair(0.08)


def test_the_loss_is_the_weighted_sum_of_its_terms(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("vicreg")
    with Loader(digits_webdataset, method.inputs, 16, threads=1) as loader:
        terms = method.loss(next(iter(loader)))
    expected = 25 * terms["invariance"] + 25 * terms["variance"] + terms["covariance"]
    torch.testing.assert_close(terms["loss"].detach(), expected)


def test_imagenet_is_the_authors_run() -> None:
    config = vicreg_imagenet()
    assert peak_lr(config.optim, config.batch_size) == 0.2 * 2048 / 256
    assert (config.optim.lr_in_momentum, config.schedule.final, config.sync_batch_norm) == (False, 0.001, True)
    assert (config.model.hidden_dim, config.model.projection_dim) == (8192, 8192)
