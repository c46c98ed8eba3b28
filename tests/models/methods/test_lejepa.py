"""LeJEPA's directions, views and terms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from headrace.models import Context, build_method
from headrace.models.methods.joint.lejepa import LeJEPAConfig
from headrace.pipeline import Loader
from headrace.shards import ShardSet
from tests.models.authors_views import BYOL, IMAGENET, in_torchvisions_words
from tests.models.tiny_methods import TINY, tiny

CONTEXT = Context(step=3, epoch=0, steps_per_epoch=5, epochs=2, batch_size=8, seed=7)


def directions(method: Any, context: Context) -> torch.Tensor:
    with torch.no_grad():
        method.before_step(context)
    found: torch.Tensor = method.directions.clone()
    return found


def test_it_asks_for_the_authors_views() -> None:
    large = ((224, 0.3, 1.0), 0.5, BYOL, 0.2, (0.5, 0.1, 2.0, 23), 0.2, IMAGENET)
    small = ((98, 0.05, 0.3), 0.5, BYOL, 0.2, (0.5, 0.1, 2.0, 9), 0.2, IMAGENET)
    assert in_torchvisions_words(LeJEPAConfig().views().views) == [large] * 2 + [small] * 6


def test_directions_are_of_length_1_and_a_function_of_seed_and_step() -> None:
    """So that they are the same on all ranks, and after a resume."""
    method, other = tiny("lejepa"), tiny("lejepa", seed=1)
    found = directions(method, CONTEXT)
    torch.testing.assert_close(found.norm(dim=0), torch.ones(32))
    assert torch.equal(found, directions(other, CONTEXT))
    for changed in (replace(CONTEXT, step=4), replace(CONTEXT, seed=8)):
        assert not torch.equal(found, directions(method, changed))
    assert "directions" not in method.state_dict()


def test_the_loss_is_the_weighted_sum_of_its_terms(digits_webdataset: ShardSet) -> None:
    method: Any = build_method("lejepa", **{**TINY["lejepa"], "lambd": 0.3}).train()
    with Loader(digits_webdataset, method.inputs, 16, threads=1) as loader:
        terms = method.loss(next(iter(loader)))
    torch.testing.assert_close(terms["loss"].detach(), 0.7 * terms["agreement"] + 0.3 * terms["gaussian"])
    assert 0.3 < terms["gaussian"].item() < 0.41 * 16
