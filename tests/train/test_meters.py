"""Meters of collapse: the formulas, known values, what they see of a run, and that they change nothing of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.models import Method
from headrace.models.methods.joint.deepcluster_v2 import NO_CLUSTER, DeepClusterV2
from headrace.models.methods.joint.dino import DINO
from headrace.models.parts.meters import rank_me, share_used, spread, target_entropies
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from headrace.train import ConfigError, read_metrics, train
from headrace.train.config import GuardConfig
from headrace.train.distributed import World
from headrace.train.guard.meters import ROWS, FeatureMeters
from tests.models.tiny_methods import tiny
from tests.ranks import on_ranks
from tests.train.tiny_runs import final_state, same_bits, tiny_run

TARGETS = {"target_entropy", "mean_target_entropy", "prototypes_used"}
ALONE = World(0, 1, torch.device("cpu"))


def slow_rank_me(features: Tensor) -> float:
    """Equation 1 of arXiv 2210.02885, term by term in float64, with numpy's singular values."""
    values = np.linalg.svd(features.double().numpy(), compute_uv=False)
    entropy = 0.0
    for value in values:
        p = value / values.sum() + 1e-7
        entropy -= p * math.log(p)
    return math.exp(entropy)


def slow_spread(features: Tensor) -> float:
    rows = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in features.double().tolist()]
    columns = list(zip(*rows, strict=True))
    deviations = []
    for column in columns:
        mean = sum(column) / len(column)
        deviations.append(math.sqrt(sum((x - mean) ** 2 for x in column) / len(column)))
    return sum(deviations) / len(deviations)


def normal(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * columns))


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (7, 7)])
def test_they_are_what_slow_loops_say(shape: tuple[int, int]) -> None:
    features = normal(*shape) * torch.logspace(0, -4, shape[1]) + 0.1
    assert rank_me(features).item() == pytest.approx(slow_rank_me(features), rel=1e-5)
    assert spread(features).item() == pytest.approx(slow_spread(features), rel=1e-5)


def test_known_values() -> None:
    line = normal(300, 1) * normal(1, 64)
    assert rank_me(line).item() == pytest.approx(1, abs=1e-3)
    assert rank_me(torch.eye(16).repeat(5, 1)).item() == pytest.approx(16, rel=1e-4)
    many = normal(20_000, 32)
    assert rank_me(many).item() == pytest.approx(32, rel=1e-3)
    assert spread(many).item() == pytest.approx(1 / math.sqrt(32), rel=0.01)
    assert spread(normal(1, 32).repeat(9, 1)).item() < 1e-6
    assert rank_me(torch.zeros(4, 3)).item() == pytest.approx(1, abs=1e-4)
    assert rank_me(torch.full((4, 3), torch.nan)).isnan()


def test_entropies_of_targets() -> None:
    uniform = torch.full((6, 8), 1 / 8)
    assert target_entropies(uniform)["target_entropy"].item() == pytest.approx(math.log(8))
    assert target_entropies(uniform)["mean_target_entropy"].item() == pytest.approx(math.log(8))
    one = torch.eye(8)[:1].repeat(6, 1)
    assert [x.item() for x in target_entropies(one).values()] == [0, 0]
    each = torch.eye(8)
    found = target_entropies(each)
    assert found["target_entropy"] == 0
    assert found["mean_target_entropy"].item() == pytest.approx(math.log(8))
    p = torch.softmax(3 * normal(5, 7), dim=1)
    slow = [-sum(x * math.log(x) for x in row) for row in p.double().tolist()]
    mean = p.double().mean(dim=0).tolist()
    assert target_entropies(p)["target_entropy"].item() == pytest.approx(sum(slow) / 5, rel=1e-5)
    assert target_entropies(p)["mean_target_entropy"].item() == pytest.approx(-sum(x * math.log(x) for x in mean), 1e-5)


def test_prototypes_in_use() -> None:
    assert share_used(torch.eye(4)[[0, 0, 2]]) == 0.5
    assert share_used(torch.eye(4)) == 1
    assert share_used(torch.zeros(9, 4)) == 0.25


@pytest.fixture(scope="module")
def batch(digits_webdataset: ShardSet) -> Batch:
    with Loader(digits_webdataset, tiny("dino").inputs, 8, threads=1) as loader:
        return next(iter(loader))


def metered_terms(method: Method, batch: Batch) -> dict[str, Tensor]:
    plain = method.loss(batch)
    for name in ("new_centers", "new_patch_centers", "patch_sums", "new_rows"):
        if hasattr(method, name):
            setattr(method, name, [])
    with FeatureMeters(GuardConfig(), method, ALONE).taken() as meters:
        terms = method.loss(batch)
    assert torch.equal(plain["loss"], terms["loss"])
    assert not method.metered
    assert all(value.shape == () and not value.requires_grad for value in meters.values())
    return {**terms, **meters}


def test_a_uniform_teacher_of_dino_has_the_entropy_of_all_prototypes(batch: Batch) -> None:
    class Indifferent(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features.new_zeros(len(features), method.config.prototypes)

    method = tiny("dino").eval()
    assert isinstance(method, DINO)
    method.head = Indifferent()  # type: ignore[assignment]
    terms = metered_terms(method, batch)
    entropy = math.log(method.config.prototypes)
    assert terms["target_entropy"].item() == pytest.approx(entropy, rel=1e-5)
    assert terms["mean_target_entropy"].item() == pytest.approx(entropy, rel=1e-5)
    assert terms["prototypes_used"].item() == pytest.approx(1 / method.config.prototypes)
    method.center[0, 0] = -100.0  # one prototype takes all
    terms = metered_terms(method, batch)
    assert terms["target_entropy"] < 1e-3
    assert terms["mean_target_entropy"] < 1e-3


@pytest.mark.parametrize(
    ("name", "own"),
    [
        *((name, TARGETS) for name in ("swav", "dino", "ibot", "dinov2", "dinov2_gram", "msn", "capi")),
        ("deepcluster", {"clusters_used"}),
        ("deepcluster_v2", {"clusters_used"}),
        ("mae", set()),
        ("simclr", set()),
    ],
)
def test_what_methods_have(digits_webdataset: ShardSet, name: str, own: set[str]) -> None:
    method = tiny(name).eval()
    with Loader(digits_webdataset, method.inputs, 8, threads=1) as loader:
        batch = next(iter(loader))
    plain = method.loss(batch).keys()
    method = tiny(name).eval()
    terms = metered_terms(method, batch)
    assert terms.keys() == plain | own | {"feature_rank", "feature_std"}
    if "clusters_used" in own:  # DeepCluster's first clusters are the samples' numbers, its successor has none yet
        assert terms["clusters_used"] == (name == "deepcluster")
    assert not any(module._forward_hooks for module in method.modules())


def test_clusters_of_all_clusterings_count_but_for_those_that_stand_for_none() -> None:
    method = tiny("deepcluster_v2")
    assert isinstance(method, DeepClusterV2)
    clusters = method.config.clusters
    method.assignments = torch.full((len(clusters), 50), NO_CLUSTER)
    method.assignments[0, :3] = torch.tensor([2, 0, 2])
    assert method._used().item() == pytest.approx(2 / clusters[0] / len(clusters))


def test_rows_are_bounded(batch: Batch) -> None:
    class Many(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    method = tiny("simclr")
    method.backbone = Many()
    seen = normal(ROWS + 9, 4)
    seen[ROWS:] = 1e9
    with FeatureMeters(GuardConfig(), method, ALONE).taken() as meters:
        method.backbone(seen[:100])
        method.backbone(seen[100:])
    assert torch.equal(meters["feature_rank"], rank_me(seen[:ROWS]))


def of_rank(rank: int, features: Tensor, targets: Tensor) -> dict[str, Tensor]:
    method = tiny("simclr")
    method.backbone = nn.Identity()
    with FeatureMeters(GuardConfig(), method, World(rank, 2, torch.device("cpu"))).taken() as meters:
        method.backbone(features.chunk(2)[rank])
    own = targets.chunk(2)[rank]
    return {**meters, **target_entropies(own), "used": share_used(own)}


def test_two_ranks_have_the_meters_of_the_global_batch(tmp_path: Path) -> None:
    features, targets = normal(20, 6), torch.softmax(5 * normal(20, 9), dim=1)
    method = tiny("simclr")
    method.backbone = nn.Identity()
    with FeatureMeters(GuardConfig(), method, ALONE).taken() as meters:
        method.backbone(features)
    whole = {**meters, **target_entropies(targets), "used": share_used(targets)}
    for found in on_ranks(of_rank, 2, tmp_path, features, targets):
        assert found.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_a_runs_bits_are_the_same_with_and_without_them(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    for name, every in (("with", 3), ("without", 0)):
        overrides = ("log.every_steps=2", f"log.meters_every={every}", "optim.accumulate=2")
        train(tiny_run(digits_webdataset.path, tmp_path / name, *overrides), progress=False)
    assert same_bits(final_state(tmp_path / "with")["model"], final_state(tmp_path / "without")["model"])
    lines = {record["step"]: "feature_rank" in record for record in read_metrics(tmp_path / "with")}
    assert lines == {2: False, 4: False, 6: True, 8: False, 10: False, 12: True}
    assert 1 <= read_metrics(tmp_path / "with")[-1]["feature_rank"] <= 64
    assert not any("feature_rank" in record for record in read_metrics(tmp_path / "without"))


def test_a_limit_needs_meters() -> None:
    with pytest.raises(ConfigError, match=r"log\.meters_every: must be above 0 where guard\.least_rank"):
        tiny_run("", "", "log.meters_every=0", "guard.least_rank=2")
    with pytest.raises(ConfigError, match=r"guard\.least_std: must be in \[0, 1\), got 1\.0"):
        tiny_run("", "", "guard.least_std=1.0")
