"""Instance discrimination's memory: what it begins with, when and how it moves, and the softmax over it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models import Context, Method, build_method
from headrace.models.losses import instance_softmax, noise_contrastive
from headrace.models.methods.joint.instance_discrimination import InstanceDiscriminationConfig, instance_views
from headrace.models.parts.memory import MemoryBank
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet, open_shards
from tests.models.authors_views import IMAGENET, in_torchvisions_words
from tests.models.tiny_methods import TINY
from tests.ranks import on_ranks
from tests.train.tiny_runs import same_bits

# Three of seven samples, with features of five numbers, and six draws of noise for each.
SAMPLES, DIM, NOISE = 7, 5, 6
OWN = torch.tensor([4, 1, 6])


def method_of(**changes: Any) -> Any:
    """With the memory of 200 digits, before its first step."""
    method = build_method("instance_discrimination", **{**TINY["instance_discrimination"], **changes}).train()
    method.on_epoch(context())
    return method


def context(epoch: int = 0, seed: int = 0) -> Context:
    return Context(
        step=5 * epoch, epoch=epoch, steps_per_epoch=5, epochs=2, batch_size=40, samples=200, seed=seed
    )  # fmt: skip


def batch_of(method: Any, shards: ShardSet, samples: int = 40) -> Batch:
    with Loader(shards, method.inputs, samples, threads=1) as loader:
        return next(iter(loader))


def step(method: Method, batch: Batch) -> Tensor:
    with seeded(1):
        loss = method.loss(batch)["loss"]
    with torch.no_grad():
        method.after_step(context())
    return loss.detach()


def test_it_asks_for_the_authors_views() -> None:
    spec = instance_views(InstanceDiscriminationConfig())
    view = ((224, 0.2, 1.0), 0.5, (1.0, 0.4, 0.4, 0.4, 0.4), 0.2, (), 0.0, IMAGENET)
    assert in_torchvisions_words(spec.views) == [view]
    assert spec.views[0].operations == ("grayscale", "jitter")


def test_a_memory_begins_uniform_with_the_variance_of_a_random_direction() -> None:
    bank = MemoryBank(128, momentum=0.5)
    bank.begin(3000, seed=0)
    assert bank.rows.abs().max().item() == pytest.approx(1 / math.sqrt(128 / 3), rel=1e-3)
    assert bank.rows.var().item() == pytest.approx(1 / 128, rel=0.01)
    other = MemoryBank(128, momentum=0.5)
    other.begin(3000, seed=0)
    assert torch.equal(bank.rows, other.rows)
    other.begin(3000, seed=1)
    assert not torch.equal(bank.rows, other.rows)


def test_the_exact_softmax_begins_at_the_logarithm_of_the_samples_and_half_a_variance() -> None:
    """10.82 + 0.39 for 50,000 samples and a temperature of 0.1: logits have the variance 1 / (128 t^2)."""
    bank = MemoryBank(128, momentum=0.5)
    bank.begin(50_000, seed=0)
    features = F.normalize(torch.randn(64, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    loss = instance_softmax(features, bank.rows, torch.arange(64), 0.1)
    assert math.log(50_000) + 1 / (2 * 128 * 0.1**2) == pytest.approx(11.21, abs=0.01)
    assert loss.item() == pytest.approx(11.21, abs=0.3)  # of 64 samples, whose logits deviate by 0.9


def test_rows_of_the_batch_move_half_way_and_to_length_1_and_no_others(digits_webdataset: ShardSet) -> None:
    method = method_of()
    batch, before = batch_of(method, digits_webdataset), method.bank.rows.clone()
    loss = method.loss(batch)["loss"]
    assert torch.equal(method.bank.rows, before)  # not before the step
    loss.backward()
    ((index, features),) = method.seen
    with torch.no_grad():
        method.after_step(context())
    assert torch.equal(index, batch.index)
    rows = method.bank.rows[index]
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(index)))
    torch.testing.assert_close(rows, F.normalize(0.5 * before[index] + 0.5 * features, dim=1))
    others = torch.ones(200, dtype=torch.bool)
    others[index] = False
    assert torch.equal(method.bank.rows[others], before[others])
    assert not method.bank.rows.requires_grad
    assert method.seen == []


def test_of_a_sample_that_is_there_twice_the_last_one_counts() -> None:
    bank = MemoryBank(3, momentum=0.0)
    bank.begin(4, seed=0)
    features = F.normalize(torch.arange(12.0).view(4, 3) + 1, dim=1)
    bank.put(torch.tensor([2, 0, 2, 3]), features)
    torch.testing.assert_close(bank.rows[[2, 0, 3]], features[[2, 1, 3]])


class Authors:
    """Figures of zhirongw/lemniscate.pytorch at f7cfe29, run with the rows, features and draws of `state`."""

    nce = (5.3288894, 5.1169057)
    z = 604.15625
    nce_gradients = (
        (-0.08461260, -0.06219274, 0.01740682, 0.08100267),
        (4.19579411, 1.90559804, -1.19915235, -4.16405010),
    )
    rows = (
        (0.58083326, 0.46844235, 0.07004579, -0.36059946, -0.55520827),
        (0.51087695, 0.21368550, -0.22031783, -0.55031806, -0.58476785),
    )
    softmax = 4.1379557
    softmax_gradient = (-0.08028407, -0.01009123, 0.06937943, 0.08506297)

    @staticmethod
    def features(shift: float = 0.0) -> Tensor:
        numbers = torch.cos(torch.arange(len(OWN) * DIM, dtype=torch.float32) * 0.7 + shift)
        return F.normalize(numbers.view(len(OWN), DIM), dim=1).requires_grad_()

    @staticmethod
    def bank() -> Tensor:
        return torch.sin(torch.arange(SAMPLES * DIM, dtype=torch.float32)).view(SAMPLES, DIM) / 4


def drawn_noise() -> Tensor:
    return (torch.arange(len(OWN) * (NOISE + 1)) * 5 % SAMPLES).view(len(OWN), -1)[:, 1:]


def authors_step(method: Any, shift: float, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The loss of a method whose network gives the authors' features and whose draws are theirs, and its step."""
    features = Authors.features(shift).detach()
    method.backbone, method.projector = torch.nn.Identity(), torch.nn.Identity()
    monkeypatch.setattr(torch, "randint", lambda high, shape, device: drawn_noise())
    monkeypatch.setattr(Batch, "normalized", lambda _: [features])
    loss: Tensor = method.loss(Batch(streams={}, index=OWN, labels=None, epoch=0))["loss"]
    with torch.no_grad():
        method.after_step(context())
    return loss


def bare(**changes: Any) -> Any:
    """With the authors' rows."""
    method = method_of(projection_dim=DIM, temperature=0.07, **changes)
    method.bank.rows.data = Authors.bank()
    return method


def test_noise_contrast_z_and_memory_are_those_of_the_authors_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps: z is of the first, and the second sees the rows that the first has moved."""
    method = bare(noise=NOISE)
    for number, shift in enumerate((0.0, 1.0)):
        features, rows = Authors.features(shift), method.bank.rows[torch.cat([OWN[:, None], drawn_noise()], dim=1)]
        noise_contrastive((rows * features[:, None]).sum(dim=2) / 0.07, torch.tensor(Authors.z), SAMPLES).backward()
        assert features.grad is not None
        assert features.grad.flatten()[:4].tolist() == pytest.approx(Authors.nce_gradients[number], rel=1e-3)
        assert authors_step(method, shift, monkeypatch).item() == pytest.approx(Authors.nce[number], rel=2e-5)
        assert method.z.item() == pytest.approx(Authors.z, rel=1e-5)
        assert method.bank.rows[4].tolist() == pytest.approx(Authors.rows[number], rel=1e-4)


def test_the_exact_softmax_is_that_of_the_authors_code(monkeypatch: pytest.MonkeyPatch) -> None:
    features = Authors.features()
    loss = instance_softmax(features, Authors.bank(), OWN, 0.07)
    loss.backward()
    assert loss.item() == pytest.approx(Authors.softmax, rel=1e-5)
    assert features.grad is not None
    assert features.grad.flatten()[:4].tolist() == pytest.approx(Authors.softmax_gradient, rel=1e-3)
    method = bare(noise=0)
    assert authors_step(method, 0.0, monkeypatch).item() == pytest.approx(Authors.softmax, rel=1e-5)
    assert method.bank.rows[4].tolist() == pytest.approx(Authors.rows[0], rel=1e-4)


def test_noise_is_drawn_anew_and_z_only_once(digits_webdataset: ShardSet) -> None:
    method = method_of(noise=30)
    batch = batch_of(method, digits_webdataset)
    with seeded(1):
        first = method.loss(batch)["loss"]
    with seeded(2):
        assert method.loss(batch)["loss"] != first
    assert method.z == 0
    step(method, batch)
    z = method.z.clone()
    assert z > 0
    step(method, batch)
    assert torch.equal(method.z, z)


def test_noise_compiles_as_one_graph(digits_webdataset: ShardSet) -> None:
    method = method_of(noise=30)
    batch = batch_of(method, digits_webdataset, 8)
    with seeded(3):
        expected = method.loss(batch)["loss"]
    with seeded(3):
        found = torch.compile(method.loss, backend="aot_eager", fullgraph=True)(batch)["loss"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_kept_state_brings_its_memory_along(digits_webdataset: ShardSet) -> None:
    method = method_of(noise=30)
    step(method, batch_of(method, digits_webdataset))
    other = build_method("instance_discrimination", **{**TINY["instance_discrimination"], "noise": 30}, seed=1)
    other.load_state_dict(method.state_dict())
    assert same_bits(dict(other.state_dict()), dict(method.state_dict()))
    other.on_epoch(context(epoch=1))
    assert same_bits(dict(other.state_dict()), dict(method.state_dict()))


def memory_of(rank: int, path: str) -> dict[str, Tensor]:
    """After a step of four samples on each of two ranks."""
    method = method_of(noise=30)
    with open_shards(path) as shards, Loader(shards, method.inputs, 8, rank=rank, world_size=2, threads=1) as loader:
        batch = next(iter(loader))
    step(method, batch)
    return {"rows": method.bank.rows, "z": method.z, "index": batch.index}


def test_the_samples_of_all_ranks_move_the_rows_of_all_ranks(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    first, second = on_ranks(memory_of, 2, tmp_path, str(digits_webdataset.path))
    assert torch.equal(first["rows"], second["rows"])
    assert torch.equal(first["z"], second["z"])
    before = method_of().bank.rows
    moved = (first["rows"] != before).any(dim=1).nonzero().flatten()
    assert moved.tolist() == sorted([*first["index"].tolist(), *second["index"].tolist()])


def test_it_says_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match=r"InstanceDiscriminationConfig\.noise must not be negative, got -1"):
        InstanceDiscriminationConfig(noise=-1)
    with pytest.raises(ValueError, match=r"InstanceDiscriminationConfig\.momentum must lie in \[0, 1\], got 2"):
        InstanceDiscriminationConfig(momentum=2)
