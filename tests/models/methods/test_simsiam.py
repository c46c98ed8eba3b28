"""SimSiam's gradients, statistics, groups of parameters and views."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from headrace.models.methods.joint.simsiam import SimSiamConfig
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from headrace.train import OptimConfig
from headrace.train.optim import build_optimizer, set_schedule
from headrace.train.recipes import simsiam_imagenet
from tests.models.authors_views import IMAGENET, in_torchvisions_words
from tests.models.tiny_methods import tiny


def batch_of(method: Any, shards: ShardSet, samples: int = 16) -> Batch:
    with Loader(shards, method.inputs, samples, threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_moco_v2s_views() -> None:
    colours = (0.8, 0.4, 0.4, 0.4, 0.1)
    view = ((224, 0.2, 1.0), 0.5, colours, 0.2, (0.5, 0.1, 2.0, 23), 0.0, IMAGENET)
    assert in_torchvisions_words(SimSiamConfig().views().views) == [view] * 2


def test_gradient_reaches_the_encoder_through_the_predictor_only(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("simsiam")
    with torch.no_grad():
        method.predictor[-1].weight.zero_()
    method.loss(batch_of(method, digits_webdataset))["loss"].backward()
    for parameter in (*method.backbone.parameters(), *method.projector.parameters()):
        assert parameter.grad is not None
        assert (parameter.grad == 0).all()
    assert method.predictor[-1].weight.grad.abs().sum() > 0


def test_projections_have_mean_0_and_deviation_1(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("simsiam")
    z = method.projector(method.backbone(batch_of(method, digits_webdataset, 64).normalized()[0]))
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.var(dim=0, correction=0), torch.ones(16), atol=1e-2, rtol=0)
    assert [module.bias for module in method.projector if isinstance(module, torch.nn.Linear)] == [None] * 3


def test_the_loss_is_minus_1_where_predictions_are_right(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("simsiam")
    method.predictor = torch.nn.Identity()
    batch = batch_of(method, digits_webdataset)
    batch.views[1].copy_(batch.views[0])
    terms = method.loss(batch)
    assert terms["loss"].item() == pytest.approx(-1, abs=1e-5)
    assert 0.5 / 16**0.5 < terms["spread"].item() <= 1 / 16**0.5 + 1e-6


def test_the_spread_tells_a_collapse(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("simsiam")
    method.projector = torch.nn.Linear(method.feature_dim, 16)
    with torch.no_grad():
        method.projector.weight.zero_()
    terms = method.loss(batch_of(method, digits_webdataset))
    assert terms["spread"].item() == pytest.approx(0, abs=1e-6)
    z = F.normalize(torch.randn(4096, 2048, generator=torch.Generator().manual_seed(0)), dim=1)
    assert z.std(dim=0, correction=0).mean().item() == pytest.approx(0.0221, abs=1e-4)


def test_the_predictor_keeps_the_peak_rate_and_all_decay() -> None:
    method = tiny("simsiam")
    optimizer = build_optimizer(method.parameter_groups(), OptimConfig(name="sgd", lr=0.1, weight_decay=1e-4), 256)
    set_schedule(optimizer, 0.02, 0.1, 1e-4)
    others, predictor = optimizer.param_groups
    assert (others["lr"], predictor["lr"]) == (0.02, 0.1)
    assert (others["weight_decay"], predictor["weight_decay"]) == (1e-4, 1e-4)
    assert len(others["params"]) + len(predictor["params"]) == len(list(method.parameters()))


def test_imagenet_is_the_authors_run() -> None:
    config = simsiam_imagenet()
    assert (config.batch_size, config.epochs, config.optim.name, config.schedule.warmup_epochs) == (512, 100, "sgd", 0)
