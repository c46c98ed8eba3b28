"""DeepCluster-v2's memory, clusters and centres."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models import Context, build_method
from headrace.models.methods.joint import deepcluster_v2
from headrace.models.methods.joint.deepcluster_v2 import NO_CLUSTER, DeepClusterV2Config
from headrace.pipeline import Batch, Loader, ViewSpec
from headrace.shards import ShardSet
from headrace.train import OptimConfig
from headrace.train.optim import build_optimizer, peak_lr
from headrace.train.recipes import deepcluster_v2_imagenet
from tests.models.authors_views import PIL, STRONG, in_torchvisions_words
from tests.models.tiny_methods import TINY, tiny
from tests.train.tiny_runs import same_bits

CLUSTERS = TINY["deepcluster_v2"]["clusters"]


def context(shards: ShardSet, epoch: int = 0, seed: int = 0, size: int = 50) -> Context:
    def batches(views: ViewSpec) -> Iterator[Batch]:
        with Loader(shards, views, size, shuffle=False, drop_last=False, threads=1) as loader:
            yield from loader

    return Context(
        step=4 * epoch, epoch=epoch, steps_per_epoch=4, epochs=3, batch_size=50, seed=seed, samples=len(shards),
        batches=batches,
    )  # fmt: skip


@torch.no_grad()
def begin(method: Any, *arguments: Any, **options: Any) -> Tensor:
    """The epoch's clusters."""
    method.on_epoch(context(*arguments, **options))
    return method.assignments.clone()


def batches_of(method: Any, shards: ShardSet, size: int = 50) -> list[Batch]:
    with Loader(shards, method.inputs, size, threads=1) as loader:
        return list(loader)


def test_it_asks_for_swavs_views() -> None:
    std = (0.228, 0.224, 0.225)
    large = ((224, 0.14, 1.0), 0.5, STRONG, 0.2, (0.5, 0.1, 2.0, 23), 0.0, std)
    small = ((96, 0.05, 0.14), 0.5, STRONG, 0.2, (0.5, 0.1, 2.0, PIL), 0.0, std)
    assert in_torchvisions_words(DeepClusterV2Config().views().views) == [*[large] * 2, *[small] * 6]


def test_settings_are_the_authors() -> None:
    config, run = DeepClusterV2Config(), deepcluster_v2_imagenet()
    assert (config.clusters, config.iterations, config.temperature) == ((3000, 3000, 3000), 10, 0.1)
    assert (config.hidden_dim, config.projection_dim) == (2048, 128)
    assert peak_lr(run.optim, run.batch_size) == 4.8
    assert run.schedule.final * 4.8 == pytest.approx(0.0048)


def test_centres_have_length_1_and_stay_as_they_are_within_an_epoch(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("deepcluster_v2")
    begin(method, digits_webdataset)
    first = [layer.weight.clone() for layer in method.centres]
    assert [len(weight) for weight in first] == list(CLUSTERS)
    for weight in first:
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(len(weight)))
    optimizer = build_optimizer(method.parameter_groups(), OptimConfig(name="sgd", lr=0.1, weight_decay=0.1), 256)
    for batch in batches_of(method, digits_webdataset):
        optimizer.zero_grad()
        method.loss(batch)["loss"].backward()
        optimizer.step()
        with torch.no_grad():
            method.after_step(context(digits_webdataset))
        assert all(torch.equal(layer.weight, weight) for layer, weight in zip(method.centres, first, strict=True))
    begin(method, digits_webdataset, 1)
    assert not any(torch.equal(layer.weight, weight) for layer, weight in zip(method.centres, first, strict=True))


def test_all_crops_of_an_image_belong_to_the_cluster_that_it_is_nearest_to(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("deepcluster_v2")
    found = begin(method, digits_webdataset)
    assert found.shape == (3, 200)
    assert (found >= 0).all()
    for head, layer in enumerate(method.centres):
        assert torch.equal(found[head], (method.memory[head % 2] @ layer.weight.T).argmax(dim=1))
    method.eval()
    batch = batches_of(method, digits_webdataset, 8)[0]
    with torch.no_grad():
        loss, expected = method.loss(batch)["loss"], []
        embeddings = [F.normalize(method.projector(method.backbone(view)), dim=1) for view in batch.normalized()]
        for head, layer in enumerate(method.centres):
            labels = found[head, batch.index]
            expected += [F.cross_entropy(z @ layer.weight.T / 0.1, labels) for z in embeddings]
    assert len(expected) == 3 * 4
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_clusterings_are_of_the_two_large_views_in_turn(
    digits_webdataset: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Tensor] = []

    def recorded(points: Tensor, clusters: int, **options: Any) -> tuple[Tensor, Tensor]:
        given.append(points.clone())
        return points[:clusters], torch.zeros(len(points), dtype=torch.int64)

    monkeypatch.setattr(deepcluster_v2, "spherical_kmeans", recorded)
    method: Any = tiny("deepcluster_v2")
    begin(method, digits_webdataset)
    assert [torch.equal(points, method.memory[head % 2]) for head, points in enumerate(given)] == [True] * 3
    assert not torch.equal(given[0], given[1])


def test_steps_overwrite_the_memory_with_their_embeddings(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("deepcluster_v2")
    begin(method, digits_webdataset)
    before, batch = method.memory.clone(), batches_of(method, digits_webdataset)[0]
    method.eval()
    with torch.no_grad():
        method.loss(batch)
        assert torch.equal(method.memory, before)  # until the step is done
        method.after_step(context(digits_webdataset))
        for row, view in zip(method.memory, batch.normalized()[:2], strict=True):
            z = F.normalize(method.projector(method.backbone(view)), dim=1)
            torch.testing.assert_close(row[batch.index], z, rtol=1e-4, atol=1e-5)
    rest = torch.ones(200, dtype=torch.bool)
    rest[batch.index] = False
    assert torch.equal(method.memory[:, rest], before[:, rest])
    assert torch.equal(method.fresh, ~rest)


def test_what_the_last_epoch_left_out_has_no_cluster_and_no_part_in_the_loss(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("deepcluster_v2")
    begin(method, digits_webdataset)
    *seen, left_out = batches_of(method, digits_webdataset)
    for batch in seen:
        method.loss(batch)
        with torch.no_grad():
            method.after_step(context(digits_webdataset))
    found = begin(method, digits_webdataset, 1)
    assert set((found == NO_CLUSTER).all(dim=0).nonzero().flatten().tolist()) == set(left_out.index.tolist())
    assert method.loss(left_out)["loss"].item() == 0
    assert method.loss(seen[0])["loss"].item() > 0.1


def test_the_first_pass_moves_norms_and_draws_from_nothing(digits_webdataset: ShardSet) -> None:
    def state(*arguments: Any) -> dict[str, Tensor]:
        method = tiny("deepcluster_v2").eval()
        before = torch.get_rng_state()
        begin(method, digits_webdataset, *arguments)
        assert torch.equal(before, torch.get_rng_state())
        assert not any(module.training for module in method.modules())
        return method.state_dict()

    first, fresh = state(0, 0), tiny("deepcluster_v2").state_dict()
    assert same_bits(first, state(0, 0))
    assert not torch.equal(first["assignments"], state(0, 1)["assignments"])
    moved = {key for key in first if first[key].shape == fresh[key].shape and not torch.equal(first[key], fresh[key])}
    assert {key for key in moved if not key.startswith("centres.")} == {
        key for key in first if key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }


def test_a_sample_alone_in_the_last_batch_is_left_out_of_the_first_pass(digits_webdataset: ShardSet) -> None:
    found = begin(tiny("deepcluster_v2"), digits_webdataset, size=199)
    assert (found == NO_CLUSTER).sum(dim=1).tolist() == [1, 1, 1]


def test_a_kept_state_brings_memory_and_clusters_along(digits_webdataset: ShardSet) -> None:
    method, other = tiny("deepcluster_v2"), tiny("deepcluster_v2", seed=1)
    begin(method, digits_webdataset)
    other.load_state_dict(method.state_dict())
    assert same_bits(dict(other.state_dict()), dict(method.state_dict()))
    other.load_state_dict(tiny("deepcluster_v2").state_dict())
    assert other.memory.shape == (2, 0, 16)  # type: ignore[union-attr]


def test_what_cannot_be_is_said(digits_webdataset: ShardSet) -> None:
    with pytest.raises(ValueError, match=r"DeepClusterV2Config\.clusters must be at most 200, the samples of an epoch"):
        begin(build_method("deepcluster_v2", **{**TINY["deepcluster_v2"], "clusters": (8, 201)}), digits_webdataset)
    with pytest.raises(
        ValueError, match=r"DeepClusterV2Config\.clusters must be one or more, each at least 2, got \(\)"
    ):
        build_method("deepcluster_v2", clusters=())
    method: Any = tiny("deepcluster_v2")
    with torch.no_grad():
        next(method.backbone.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match="epoch 2: embeddings are not finite"):
        begin(method, digits_webdataset, 2)
