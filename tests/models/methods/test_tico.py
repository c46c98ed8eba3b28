"""TiCo's running moment, slow network and views."""

from __future__ import annotations

from typing import Any

import torch

from headrace.models import Context
from headrace.models.losses import second_moment
from headrace.models.methods.joint.tico import TiCoConfig
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from tests.models.authors_views import byol_pair, in_torchvisions_words
from tests.models.tiny_methods import tiny

CONTEXT = Context(step=0, epoch=0, steps_per_epoch=5, epochs=2, batch_size=8)


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_byols_views() -> None:
    assert in_torchvisions_words(TiCoConfig().views().views) == byol_pair(0.08)


def test_the_moment_is_a_running_mean_that_is_part_of_the_state(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("tico")
    batch = batch_of(method, digits_webdataset)
    with torch.no_grad():
        moment = second_moment(method.projector(method.backbone(batch.normalized()[0])))
        method.loss(batch)
        assert not method.moment.any()
        method.after_step(CONTEXT)
    torch.testing.assert_close(method.moment, 0.1 * moment)
    assert "moment" in method.state_dict()


def test_only_the_first_view_is_trained_on(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("tico")
    method.loss(batch_of(method, digits_webdataset))["loss"].backward()
    assert all(p.grad is not None for p in method.projector.parameters())
    for module in (method.slow_backbone, method.slow_projector):
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
