"""BYOL's gradients, momentum and views."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headrace.models import Context, build_method
from headrace.models.methods.joint.byol import BYOLConfig
from headrace.models.parts.schedules import cosine
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from tests.models.authors_views import byol_pair, in_torchvisions_words
from tests.models.tiny_methods import TINY, tiny


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_the_authors_views() -> None:
    views = BYOLConfig().views().views
    assert in_torchvisions_words(views) == byol_pair(0.08)
    assert {view.interpolation for view in views} == {"bicubic"}


def test_a_predictor_that_says_nothing_teaches_the_encoder_nothing(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("byol")
    with torch.no_grad():
        method.predictor[-1].weight.zero_()
    method.loss(batch_of(method, digits_webdataset))["loss"].backward()
    for parameter in (*method.backbone.parameters(), *method.projector.parameters()):
        assert parameter.grad is not None
        assert (parameter.grad == 0).all()
    assert all(p.grad is None for m in (method.slow_backbone, method.slow_projector) for p in m.parameters())


def test_the_slow_network_is_drawn_by_itself_and_keeps_its_own_statistics(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("byol")
    pairs = list(zip(method.backbone.parameters(), method.slow_backbone.parameters(), strict=True))
    assert not all(torch.equal(fast, slow) for fast, slow in pairs)
    copied: Any = build_method("byol", seed=0, **TINY["byol"], slow_start="copy").train()
    for module, follower in ((copied.backbone, copied.slow_backbone), (copied.projector, copied.slow_projector)):
        assert all(torch.equal(*pair) for pair in zip(module.parameters(), follower.parameters(), strict=True))
        assert not any(p.requires_grad for p in follower.parameters())
    method.loss(batch_of(method, digits_webdataset))
    fast, slow = (dict(m.named_buffers()) for m in (method.backbone, method.slow_backbone))
    moved = [key for key in slow if key.endswith("running_mean") and slow[key].abs().sum() > 0]
    assert moved
    assert all(not torch.equal(fast[key], slow[key]) for key in moved)


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.996), (0.5, 0.998), (1.0, 1.0)])
def test_momentum_rises_on_a_cosine(progress: float, expected: float) -> None:
    assert cosine(0.996, 1.0, progress) == pytest.approx(expected)


def test_it_moves_after_the_step_towards_the_new_weights() -> None:
    method: Any = tiny("byol")
    slow, fast = next(method.slow_projector.parameters()), next(method.projector.parameters())
    before = slow.detach().clone()
    with torch.no_grad():
        fast.add_(1.0)
        method.after_step(Context(step=0, epoch=0, steps_per_epoch=4, epochs=1, batch_size=8))
    torch.testing.assert_close(slow.detach(), 0.996 * before + 0.004 * fast.detach())
