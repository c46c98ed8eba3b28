"""DeepCluster's clusters, their weights, and the classifier that is new in each epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models import METHODS, Context, build_method
from headrace.models.methods.joint import deepcluster
from headrace.models.methods.joint.deepcluster import VGG, DeepClusterConfig, deepcluster_views
from headrace.pipeline import Batch, Loader, ViewSpec
from headrace.shards import ShardSet
from headrace.train import CheckpointConfig, LogConfig, OptimConfig, RunConfig, train
from headrace.train.optim import build_optimizer
from tests.models.authors_views import in_torchvisions_words, plain
from tests.models.tiny_methods import TINY, tiny
from tests.train.tiny_runs import final_state, same_bits

CLUSTERS = TINY["deepcluster"]["clusters"]


def context(shards: ShardSet, epoch: int = 0, seed: int = 0, *, backwards: bool = False) -> Context:
    def batches(views: ViewSpec) -> Iterator[Batch]:
        with Loader(shards, views, 50, shuffle=False, drop_last=False, threads=1) as loader:
            yield from list(loader)[:: -1 if backwards else 1]

    return Context(
        step=4 * epoch, epoch=epoch, steps_per_epoch=4, epochs=3, batch_size=50, seed=seed, samples=len(shards),
        batches=batches,
    )  # fmt: skip


@torch.no_grad()
def begin(method: Any, *arguments: Any, **options: Any) -> Tensor:
    """The epoch's clusters."""
    method.on_epoch(context(*arguments, **options))
    return method.assignments.clone()


def whole_set(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, len(shards), threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_the_authors_views() -> None:
    assert in_torchvisions_words(deepcluster_views(DeepClusterConfig()).views) == [plain(224, 0.08)]


def test_the_loss_begins_each_epoch_at_ln_k_whatever_was_reached_before(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("deepcluster")
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    batch = whole_set(method, digits_webdataset)  # over the whole set the weights have mean 1
    for epoch in range(3):
        begin(method, digits_webdataset, epoch)
        losses = []
        for _ in range(6):
            optimizer.zero_grad()
            losses.append(method.loss(batch)["loss"])
            losses[-1].backward()
            optimizer.step()
        assert losses[0].item() == pytest.approx(math.log(CLUSTERS), abs=0.05)
        assert losses[-1].item() < math.log(CLUSTERS) - 0.15


def test_every_cluster_with_samples_weighs_the_same(digits_webdataset: ShardSet) -> None:
    """The loss of the whole set is the mean over clusters of their samples' mean, and an empty one has no part in it:
    what uniform draws over clusters have for expectation."""
    method: Any = tiny("deepcluster").eval()
    labels = torch.arange(len(digits_webdataset)).square() % (CLUSTERS - 1)  # uneven, and the last is empty
    method._assign(labels)
    batch = whole_set(method, digits_webdataset)
    with torch.no_grad():
        loss = method.loss(batch)["loss"]
        logits = method.classifier(F.relu(method.encode(batch)))
    own = labels[batch.index]
    means = [F.cross_entropy(logits[own == k], own[own == k]) for k in own.unique()]
    assert 1 < len(means) < CLUSTERS
    torch.testing.assert_close(loss, torch.stack(means).mean())
    sizes = labels.bincount(minlength=CLUSTERS)
    assert torch.equal(method.weights == 0, sizes == 0)
    torch.testing.assert_close((method.weights * sizes).sum(), torch.tensor(float(len(labels))))


def test_the_numbers_of_the_clusters_mean_nothing(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("deepcluster").eval()
    found = begin(method, digits_webdataset)
    batch, other = whole_set(method, digits_webdataset), torch.arange(CLUSTERS).roll(3)
    with torch.no_grad():
        loss = method.loss(batch)["loss"]
        method._assign(other[found])
        method.classifier.weight[other] = method.classifier.weight.clone()
        torch.testing.assert_close(method.loss(batch)["loss"], loss)
    assert method.nmi.item() == pytest.approx(1)


def test_it_logs_how_far_clusters_agree_with_those_before(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("deepcluster")
    begin(method, digits_webdataset)
    batch = whole_set(method, digits_webdataset)
    assert method.loss(batch)["nmi"].item() == 0
    begin(method, digits_webdataset, 1)
    assert 0.2 < method.loss(batch)["nmi"].item() < 1


def test_labels_are_of_the_samples_that_features_were_taken_of(
    digits_webdataset: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halves(points: Tensor, clusters: int, **options: Any) -> Tensor:
        return (points[:, -1] ** 2 > 0.1).long()

    monkeypatch.setattr(deepcluster, "kmeans", halves)
    forth = begin(tiny("deepcluster"), digits_webdataset)
    back = begin(tiny("deepcluster"), digits_webdataset, backwards=True)
    assert 20 < forth.sum() < 180
    assert torch.equal(forth, back)


def test_an_epochs_beginning_is_a_function_of_seed_and_epoch_and_draws_from_nothing(
    digits_webdataset: ShardSet,
) -> None:
    def state(*arguments: int) -> dict[str, Tensor]:
        method = tiny("deepcluster")
        before = torch.get_rng_state()
        begin(method, digits_webdataset, *arguments)
        assert torch.equal(before, torch.get_rng_state())
        assert method.training
        assert all(module.training for module in method.modules())
        return method.state_dict()

    first, other_epoch, other_seed = state(0, 0), state(1, 0), state(0, 1)
    assert same_bits(first, state(0, 0))
    for key in ("classifier.weight", "assignments"):
        assert not torch.equal(first[key], other_epoch[key])
        assert not torch.equal(first[key], other_seed[key])
    untouched = [key for key in first if key.startswith("backbone.")]
    fresh = tiny("deepcluster").state_dict()
    assert all(torch.equal(first[key], fresh[key]) for key in untouched)


def test_the_classifier_is_drawn_anew(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("deepcluster")
    with torch.no_grad():
        method.classifier.weight.fill_(9.0)
        method.classifier.bias.fill_(9.0)
    begin(method, digits_webdataset)
    assert method.classifier.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert not method.classifier.bias.any()


def test_a_kept_state_brings_its_clusters_along(digits_webdataset: ShardSet) -> None:
    method, other = tiny("deepcluster"), tiny("deepcluster", seed=1)
    begin(method, digits_webdataset)
    other.load_state_dict(method.state_dict())
    assert same_bits(dict(other.state_dict()), dict(method.state_dict()))
    other.load_state_dict(tiny("deepcluster").state_dict())
    assert len(other.assignments) == 0  # type: ignore[arg-type]


def test_a_run_gives_the_new_classifier_a_new_optimiser_state(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    config = RunConfig(
        method="deepcluster", model=replace(METHODS["deepcluster"].config(), **TINY["deepcluster"]),
        data=str(digits_webdataset.path), out=str(tmp_path), epochs=2, batch_size=50, device="cpu", precision="float32",
        optim=OptimConfig(lr=1e-3), checkpoint=CheckpointConfig(every_steps=8),
        log=LogConfig(every_steps=1, tensorboard=False),
    )  # fmt: skip
    train(config, progress=False, on_step=records.append)
    state = final_state(tmp_path)
    assert len(state["model"]["assignments"]) == len(digits_webdataset)
    groups = [group["params"] for group in state["optimizer"]["param_groups"]]
    taken = [{int(state["optimizer"]["state"][number]["step"]) for number in group} for group in groups]
    assert taken == [{8}, {4}]
    assert [record["nmi"] > 0 for record in records] == [False] * 4 + [True] * 4


def test_the_classifier_moves_without_momentum() -> None:
    method: Any = tiny("deepcluster")
    optimizer = build_optimizer(method.parameter_groups(), OptimConfig(name="sgd", momentum=0.9), 256)
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.0]
    assert [group["decay_scale"] for group in optimizer.param_groups] == [1.0, 1.0]
    for name in ("lars", "adamw"):
        optimizer = build_optimizer(method.parameter_groups(), OptimConfig(name=name, betas=(0.8, 0.9)), 256)
        found = [group["momentum"] if name == "lars" else group["betas"] for group in optimizer.param_groups]
        assert found == ([0.9, 0.0] if name == "lars" else [(0.8, 0.9), (0.0, 0.9)])


def test_a_vgg_ends_before_its_last_relu_and_starts_as_the_authors() -> None:
    """In front of the classifier stand ReLU and nothing else."""
    narrow = replace(VGG, options={**VGG.options, "mlp_ratio": 1 / 64})
    method: Any = build_method("deepcluster", backbone=narrow, size=32, clusters=4)
    assert method.feature_dim == 4096
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network, head = method.backbone[1], method.backbone[1].pre_logits
    assert network.features[0].in_channels == 2
    assert head.drop.p == 0.5
    for layer in (head.fc1, head.fc2):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
    features = method.backbone(x)
    assert features.shape == (2, 4096)
    assert (features < 0).any()
    assert (features != 0).all()  # dropout would leave zeros


def test_colours_are_kept_without_sobel() -> None:
    method: Any = build_method("deepcluster", **{**TINY["deepcluster"], "sobel": False})
    assert method.backbone(torch.zeros(2, 3, 24, 24)).shape == (2, method.feature_dim)
    assert not [module for module in method.modules() if type(module).__name__ == "Sobel"]


def test_what_cannot_be_is_said(digits_webdataset: ShardSet) -> None:
    with pytest.raises(ValueError, match=r"DeepClusterConfig.pca_dim must be at most 64, the features', got 65"):
        build_method("deepcluster", **{**TINY["deepcluster"], "pca_dim": 65})
    with pytest.raises(
        ValueError, match=r"DeepClusterConfig.clusters must be at most 200, the samples of the set, got"
    ):
        begin(build_method("deepcluster", **{**TINY["deepcluster"], "clusters": 201}), digits_webdataset)
    method: Any = tiny("deepcluster")
    with torch.no_grad():
        next(method.backbone.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match="epoch 2: features are not finite"):
        begin(method, digits_webdataset, 2)
