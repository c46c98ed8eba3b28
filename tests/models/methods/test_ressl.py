"""ReSSL's views, queue, slow network and run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headrace.models import Context
from headrace.models.methods.joint.ressl import ReSSLConfig
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from headrace.train.recipes import ressl_imagenet
from tests.models.authors_views import IMAGENET, in_torchvisions_words, plain
from tests.models.tiny_methods import tiny

CONTEXT = Context(step=0, epoch=0, steps_per_epoch=5, epochs=2, batch_size=8)


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


def test_the_teachers_view_is_weak() -> None:
    strong = ((224, 0.2, 1.0), 0.5, (0.8, 0.4, 0.4, 0.4, 0.1), 0.2, (0.5, 0.1, 2.0, 23), 0.0, IMAGENET)
    student, teacher = in_torchvisions_words(ReSSLConfig().views().views)
    assert student == strong
    assert (*teacher[:2], teacher[2][0], *teacher[3:]) == (*plain(224, 0.2)[:2], 0.0, *plain(224, 0.2)[3:])


def test_a_samples_own_key_is_among_the_others_in_the_next_step_only(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("ressl")
    batch, before = batch_of(method, digits_webdataset), method.queue.rows.clone()
    with seeded(1):
        loss = method.loss(batch)["loss"]
    assert torch.equal(method.queue.rows, before)
    (keys,) = method.queue.new
    with torch.no_grad():
        method.after_step(CONTEXT)
    torch.testing.assert_close(method.queue.rows[:8], keys)
    with seeded(1):
        assert method.loss(batch)["loss"] != loss


def test_the_slow_network_gets_no_gradient_and_follows_with_a_constant(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("ressl")
    method.loss(batch_of(method, digits_webdataset))["loss"].backward()
    for module in (method.slow_backbone, method.slow_projector):
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    slow, fast = next(method.slow_projector.parameters()), next(method.projector.parameters())
    before = slow.detach().clone()
    with torch.no_grad():
        fast.add_(1.0)
        method.after_step(CONTEXT)
    torch.testing.assert_close(slow.detach(), 0.999 * before + 0.001 * fast.detach())


def test_imagenet_is_the_authors_run() -> None:
    config = ressl_imagenet()
    assert (config.batch_size, config.optim.lr, config.schedule.warmup_epochs) == (256, 0.05, 5)
    assert (config.model.queue, config.model.projection_dim) == (131072, 512)
    with pytest.raises(ValueError, match=r"ReSSLConfig\.teacher_temperature must be above 0, got 0"):
        ReSSLConfig(teacher_temperature=0)
