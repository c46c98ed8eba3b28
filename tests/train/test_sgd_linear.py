"""The papers' linear probes: what is trained, what is not, and that a sweep is many probes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models import Method, build_method
from headrace.models.parts.backbones import tiny_resnet, tiny_vit
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader, ViewSpec, center_view
from headrace.shards import ShardSet
from headrace.train import RunError
from headrace.train.probes import sgd_linear as module
from headrace.train.probes.finetune import cropped
from headrace.train.probes.sgd_linear import DINOV2, SIMCLR, SgdLinearConfig, _Heads, sgd_linear
from headrace.train.schedule import warmup_cosine

QUICK = SgdLinearConfig(epochs=2, batch_size=50, rates=(0.5,), crop_scale=(0.6, 1.0))


class Pixels(Method):
    """Means of 4 x 4 pixels, with a batch norm that would move in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: ViewSpec = center_view(28)
        self.backbone = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.BatchNorm1d(147))
        self.feature_dim = 147

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError


@pytest.fixture
def pixels() -> Method:
    return Pixels().eval()


def test_it_is_a_plain_loop(pixels: Method, digits_webdataset: ShardSet) -> None:
    """torch's SGD on the same crops, in this test's own words."""
    found = sgd_linear(pixels, digits_webdataset, digits_webdataset, QUICK)
    with seeded(QUICK.seed):
        weight = (torch.randn(10, 147) * 0.01).requires_grad_()
    bias = torch.zeros(10, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=0.0, momentum=0.9)
    assert isinstance(pixels.inputs, ViewSpec)
    crops = ViewSpec([replace(cropped(pixels.inputs.views[0]), scale=(0.6, 1.0), flip=0.5)])
    with Loader(digits_webdataset, crops, 50, seed=0) as loader:
        for step, batch in enumerate([*loader, *loader]):
            loss = F.cross_entropy(pixels.encode(batch).detach() @ weight.T + bias, batch.labels)
            optimizer.param_groups[0]["lr"] = 0.5 * 50 / 256 * warmup_cosine(step, total=8, warmup=0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with Loader(digits_webdataset, pixels.probe_inputs, 200, shuffle=False) as loader:
        (whole,) = loader
        predicted = (pixels.encode(whole) @ weight.T + bias).argmax(1)
    assert (found.predicted == predicted.numpy()).mean() > 0.99
    assert (found.truth == whole.labels.numpy()).all()
    assert (found.predicted == found.truth).mean() > 0.5  # chance is 0.1


def test_the_encoder_stays_as_it_was(digits_webdataset: ShardSet) -> None:
    method = build_method("simclr", size=28, backbone=tiny_resnet(width=8)).eval()
    before = {name: x.clone() for name, x in method.state_dict().items()}
    sgd_linear(method, digits_webdataset, digits_webdataset, replace(QUICK, epochs=1, batch_norm=True, lars=True))
    assert all(torch.equal(x, before[name]) for name, x in method.state_dict().items())
    assert all(p.grad is None for p in method.parameters())


def test_shuffled_labels_teach_nothing(pixels: Method, digits_webdataset: ShardSet, monkeypatch: Any) -> None:
    learn = _Heads.learn
    random = np.random.default_rng(0)

    def shuffled(self: _Heads, features: Any, labels: Tensor, taught: Tensor, share: float) -> Tensor:
        return learn(self, features, labels[torch.from_numpy(random.permutation(len(labels)))], taught, share)

    monkeypatch.setattr(_Heads, "learn", shuffled)
    found = sgd_linear(pixels, digits_webdataset, digits_webdataset, QUICK)
    assert (found.predicted == found.truth).mean() < 0.25


def test_a_head_of_zeros_begins_at_ln_k(pixels: Method, digits_webdataset: ShardSet) -> None:
    with Loader(digits_webdataset, pixels.probe_inputs, 64) as loader:
        batch = next(iter(loader))
    features: Any = {"output": pixels.encode(batch).detach()}
    heads = _Heads(features, 10, 64, SIMCLR)
    (loss,) = heads.learn(features, batch.labels, torch.ones(64, dtype=torch.bool), 1.0)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(np.log(10), abs=1e-6)
    (later,) = heads.learn(features, batch.labels, torch.ones(64, dtype=torch.bool), 1.0)  # type: ignore[arg-type]
    assert later < loss


@pytest.mark.parametrize("lars", [False, True])
def test_heads_of_a_sweep_do_not_know_of_each_other(lars: bool) -> None:
    random = torch.Generator().manual_seed(0)
    batches = [(torch.randn(32, 6, generator=random), torch.randint(3, (32,), generator=random)) for _ in range(6)]
    taught = torch.ones(32, dtype=torch.bool)
    config = replace(QUICK, rates=(0.5, 5.0), lars=lars, deviation=0.0, weight_decay=1e-3, batch_norm=True)
    whole = _Heads({"output": batches[0][0]}, 3, 32, config)
    alone = [_Heads({"output": batches[0][0]}, 3, 32, replace(config, rates=(rate,))) for rate in config.rates]
    for x, y in batches:
        both = whole.learn({"output": x}, y, taught, 1.0)
        each = torch.cat([heads.learn({"output": x}, y, taught, 1.0) for heads in alone])
        torch.testing.assert_close(both, each)
    assert both[0] != both[1]


def test_a_sweep_of_dinov2s_features_chooses_without_the_test_set(digits_webdataset: ShardSet) -> None:
    backbone = tiny_vit(width=32, depth=2)
    method = build_method("simclr", size=28, backbone=replace(backbone, options={**backbone.options, "img_size": 28}))
    rates = (1e-3, 3.0)
    config = replace(DINOV2, epochs=2, batch_size=50, rates=rates, held_out=0.2)
    found = sgd_linear(method.eval(), digits_webdataset, digits_webdataset, config)
    assert found.heads == 8
    assert found.rate in rates
    tokens = module._features(method, _whole(method, digits_webdataset), DINOV2.features)
    assert {kind: x.shape[1] for kind, x in tokens.items()} == {
        "cls1": 32, "cls4": 64, "cls1+mean": 64, "cls4+mean": 96,
    }  # fmt: skip
    torch.testing.assert_close(tokens["cls1"], method.encode(_whole(method, digits_webdataset)))


def _whole(method: Method, shards: ShardSet) -> Batch:
    with torch.no_grad(), Loader(shards, method.probe_inputs, 20, shuffle=False) as loader:
        return next(iter(loader))


def test_what_held_out_samples_say_is_what_counts(
    pixels: Method, digits_webdataset: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step is taken on them, whatever their number, and with one head there are none."""
    taught: list[int] = []
    learn = _Heads.learn

    def noted(self: _Heads, features: Any, labels: Tensor, known: Tensor, share: float) -> Tensor:
        taught.append(int(known.sum()))
        return learn(self, features, labels, known, share)

    monkeypatch.setattr(_Heads, "learn", noted)
    sgd_linear(pixels, digits_webdataset, digits_webdataset, replace(QUICK, epochs=1, rates=(0.1, 1.0), held_out=0.25))
    assert sum(taught) == 150
    taught.clear()
    sgd_linear(pixels, digits_webdataset, digits_webdataset, replace(QUICK, epochs=1))
    assert sum(taught) == 200


def test_what_an_encoder_has_not_is_refused(pixels: Method, digits_webdataset: ShardSet) -> None:
    with pytest.raises(RunError, match=r"a Sequential has no class token; set features to \[output\]"):
        sgd_linear(pixels, digits_webdataset, digits_webdataset, replace(QUICK, features=("cls4",)))
