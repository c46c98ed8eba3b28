"""MoCo v2's order of things within a step, its queue and its shuffle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headrace.models import Context
from headrace.models.methods.joint.moco import MoCoV2Config
from headrace.models.parts.momentum import follow, slow_copy
from headrace.models.parts.norms import SplitBatchNorm2d, split_batch_norms
from headrace.models.parts.queue import Queue
from headrace.models.parts.shuffling import shuffled, unshuffled
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from tests.models.authors_views import IMAGENET, in_torchvisions_words
from tests.models.tiny_methods import tiny
from tests.ranks import on_ranks


def batch_of(method: Any, shards: ShardSet, samples: int = 8) -> Batch:
    with Loader(shards, method.inputs, samples, threads=1) as loader:
        return next(iter(loader))


CONTEXT = Context(step=0, epoch=0, steps_per_epoch=5, epochs=2, batch_size=8)


def test_it_asks_for_the_authors_views() -> None:
    colours = (0.8, 0.4, 0.4, 0.4, 0.1)
    view = ((224, 0.2, 1.0), 0.5, colours, 0.2, (0.5, 0.1, 2.0, 23), 0.0, IMAGENET)
    assert in_torchvisions_words(MoCoV2Config().views().views) == [view] * 2


def test_the_keys_of_a_step_replace_the_oldest_rows_after_its_loss(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("moco_v2")
    batch, before = batch_of(method, digits_webdataset), method.queue.rows.clone()
    method.queue.oldest.fill_(36)
    torch.testing.assert_close(before.norm(dim=1), torch.ones(40))
    with seeded(1):
        loss = method.loss(batch)["loss"]
    assert torch.equal(method.queue.rows, before)
    (keys,) = method.queue.new
    with torch.no_grad():
        method.after_step(CONTEXT)
    changed = [36, 37, 38, 39, 0, 1, 2, 3]
    torch.testing.assert_close(method.queue.rows[changed], keys)
    kept = [row for row in range(40) if row not in changed]
    assert torch.equal(method.queue.rows[kept], before[kept])
    assert int(method.queue.oldest) == 4
    method.queue.rows.copy_(before)
    with seeded(1):
        torch.testing.assert_close(method.loss(batch)["loss"], loss)


def test_a_queue_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="a queue of 4 rows cannot take 5 at once"):
        Queue(4, 3, noise=True).put(torch.zeros(5, 3))


def test_keys_carry_no_gradient_and_the_slow_network_stays_out_of_it(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("moco_v2")
    method.loss(batch_of(method, digits_webdataset))["loss"].backward()
    for module in (method.slow_backbone, method.slow_projector):
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert all(p.grad is not None for p in method.backbone.parameters())


@pytest.mark.parametrize("momentum", [0.0, 0.25, 1.0])
def test_the_slow_network_follows_in_parameters_alone(momentum: float) -> None:
    torch.manual_seed(0)
    fast = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    slow = slow_copy(fast)
    with torch.no_grad():
        for p in fast.parameters():
            p.add_(torch.randn_like(p))
    fast(torch.randn(8, 3))
    before = [p.clone() for p in slow.parameters()]
    follow(slow, fast, momentum)
    for old, now, target in zip(before, slow.parameters(), fast.parameters(), strict=True):
        if momentum in (0.0, 1.0):
            assert torch.equal(now, old if momentum else target)
        else:
            torch.testing.assert_close(now, momentum * old + (1 - momentum) * target)
    assert torch.equal(slow[1].running_mean, torch.zeros(4))


def test_split_batch_norm_is_batch_norm_of_each_part() -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 4, 3, 3)
    split, whole = SplitBatchNorm2d(4, 3), nn.BatchNorm2d(4)
    torch.testing.assert_close(split(x), torch.cat([whole(part) for part in x.chunk(3)]))
    means = torch.stack([part.mean(dim=(0, 2, 3)) for part in x.chunk(3)])
    torch.testing.assert_close(split.running_mean, 0.1 * means.mean(dim=0))
    split.eval()
    assert split(x[:1]).shape == (1, 4, 3, 3)
    with pytest.raises(ValueError, match="a batch of 12 cannot be split into 5 parts"):
        SplitBatchNorm2d(4, 5)(x)


def test_every_batch_norm_of_a_backbone_is_split() -> None:
    method: Any = tiny("moco_v2")
    for backbone in (method.backbone, method.slow_backbone):
        norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert all(isinstance(norm, SplitBatchNorm2d) and norm.splits == 2 for norm in norms)
    plain = nn.Sequential(nn.BatchNorm2d(3))
    assert split_batch_norms(plain, 1) is plain


def order_of_rank(rank: int) -> dict[str, Tensor]:
    x = torch.arange(6.0).reshape(3, 2) + 10 * rank
    with seeded(5, rank):
        moved, order = shuffled(x)
    return {"moved": moved, "back": unshuffled(moved, order), "order": order}


def test_shuffling_goes_over_all_ranks_and_back(tmp_path: Path) -> None:
    found = on_ranks(order_of_rank, 2, tmp_path)
    whole = torch.cat([torch.arange(6.0).reshape(3, 2) + 10 * rank for rank in range(2)])
    assert torch.equal(found[0]["order"], found[1]["order"])
    assert torch.equal(torch.cat([rank["moved"] for rank in found]), whole[found[0]["order"]])
    assert torch.equal(torch.cat([rank["back"] for rank in found]), whole)
    assert sorted(found[0]["order"].tolist()) == list(range(6))
