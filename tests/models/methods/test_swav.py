"""SwAV's prototypes and queue."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from headrace.models import Context
from headrace.models.methods.joint.swav import SwAVConfig
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from headrace.train import OptimConfig
from headrace.train.optim import build_optimizer, drop_frozen
from tests.models.authors_views import PIL, STRONG, in_torchvisions_words
from tests.models.tiny_methods import tiny


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


def context(step: int) -> Context:
    return Context(step=step, epoch=step // 2, steps_per_epoch=2, epochs=5, batch_size=8)


def one_step(method: Any, optimizer: torch.optim.Optimizer, batch: Batch, step: int) -> None:
    with torch.no_grad():
        method.before_step(context(step))
    optimizer.zero_grad()
    method.loss(batch)["loss"].backward()
    drop_frozen(optimizer, context(step).epoch)
    optimizer.step()
    with torch.no_grad():
        method.after_step(context(step))


def test_it_asks_for_the_authors_views() -> None:
    std = (0.228, 0.224, 0.225)  # red as in the authors' code
    large = ((224, 0.14, 1.0), 0.5, STRONG, 0.2, (0.5, 0.1, 2.0, 23), 0.0, std)
    small = ((96, 0.05, 0.14), 0.5, STRONG, 0.2, (0.5, 0.1, 2.0, PIL), 0.0, std)
    assert in_torchvisions_words(SwAVConfig().views().views) == [*[large] * 2, *[small] * 6]


def test_prototypes_of_the_frozen_epoch_are_normalised_and_nothing_else(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("swav")
    optimizer = build_optimizer(method.parameter_groups(), OptimConfig(name="sgd", lr=0.1), 256)
    batch, first = batch_of(method, digits_webdataset), F.normalize(method.prototypes.weight.detach(), dim=1)
    for step in (0, 1):
        one_step(method, optimizer, batch, step)
        torch.testing.assert_close(method.prototypes.weight.detach(), first)
    assert "momentum_buffer" not in optimizer.state[method.prototypes.weight]
    one_step(method, optimizer, batch, 2)
    assert not torch.allclose(method.prototypes.weight.detach(), first, atol=1e-4)


def test_the_queue_fills_from_its_epoch_on_and_takes_part_when_it_is_full(digits_webdataset: ShardSet) -> None:
    """It begins in epoch 1, at step 2, and holds 40 rows: full behind five steps."""
    method: Any = tiny("swav")
    batch = batch_of(method, digits_webdataset)
    for step in range(8):
        with torch.no_grad():
            method.before_step(context(step))
            assert method.queue_is_full == (step >= 7)
            assert len(method._queued(0, 8)) == (40 if step >= 7 else 0)
            method.loss(batch)
            method.after_step(context(step))
        filled = sum(int(row.abs().sum() > 0) for row in method.queues[0].rows)
        assert filled == min(40, 8 * max(0, step - 1))


def test_no_gradient_flows_into_queue_or_assignments(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("swav")
    method.queue_is_full = True
    for queue in method.queues:
        queue.rows.copy_(F.normalize(torch.randn_like(queue.rows), dim=1))
    method.loss(batch_of(method, digits_webdataset))["loss"].backward()
    assert all(queue.rows.grad is None for queue in method.queues)
    assert not method._assignments(torch.randn(8, 12, requires_grad=True), 0).requires_grad
