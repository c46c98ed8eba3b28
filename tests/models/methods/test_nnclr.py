"""NNCLR's neighbours, queue and gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from headrace.models import Context
from headrace.models.losses import in_batch_info_nce
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from tests.models.tiny_methods import tiny

CONTEXT = Context(step=0, epoch=0, steps_per_epoch=5, epochs=2, batch_size=8)


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


def test_where_the_queue_holds_the_batch_neighbours_are_the_samples_themselves(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("nnclr").eval()
    first, second = batch_of(method, digits_webdataset).normalized()
    with torch.no_grad():
        z1, p2 = method.projector(method.backbone(first)), method.predictor(method.projector(method.backbone(second)))
        method.queue.rows.copy_(F.normalize(torch.randn(80, 16), dim=1))
        method.queue.rows[20:28] = F.normalize(z1, dim=1)
        found = method.nearest(z1)
    torch.testing.assert_close(found, F.normalize(z1, dim=1))
    torch.testing.assert_close(
        in_batch_info_nce(found, p2, 0.1, key_gradient=True), in_batch_info_nce(z1, p2, 0.1, key_gradient=True)
    )


def test_one_view_enters_behind_the_loss(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("nnclr")
    batch, before = batch_of(method, digits_webdataset), method.queue.rows.clone()
    loss = method.loss(batch)["loss"]
    assert torch.equal(method.queue.rows, before)
    (rows,) = method.new_rows
    with torch.no_grad():
        method.after_step(CONTEXT)
    torch.testing.assert_close(method.queue.rows[:8], rows)
    assert torch.equal(method.queue.rows[8:], before[8:])
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(8))
    method.queue.rows.copy_(before)
    torch.testing.assert_close(method.loss(batch)["loss"], loss)


def test_gradient_comes_through_predictions_only(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("nnclr")
    with torch.no_grad():
        method.predictor[-1].weight.zero_()
    method.loss(batch_of(method, digits_webdataset))["loss"].backward()
    for parameter in (*method.backbone.parameters(), *method.projector.parameters()):
        assert (parameter.grad == 0).all()
    assert method.predictor[-1].weight.grad.abs().sum() > 0


def test_predictions_that_are_all_alike_cost_the_logarithm_of_the_batch(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("nnclr")
    with torch.no_grad():
        method.predictor[-1].weight.zero_()
    loss = method.loss(batch_of(method, digits_webdataset))["loss"]
    assert loss.item() == pytest.approx(math.log(8), rel=1e-5)
