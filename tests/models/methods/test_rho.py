"""The rho methods against slow loops over pairs of clips, and what their authors' code says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models import Context, build_method
from headrace.models.losses import nt_xent, sinkhorn
from headrace.models.methods.video.rho_byol import RhoBYOLConfig
from headrace.models.methods.video.rho_moco import RhoMoCoConfig
from headrace.models.methods.video.rho_simclr import RhoSimCLRConfig
from headrace.models.parts.several_clips import SeveralClipsConfig
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from tests.models.tiny_methods import TINY

KINDS = ("rho_simclr", "rho_moco", "rho_byol", "rho_swav")
each_kind = pytest.mark.parametrize("name", KINDS)


def made(name: str, clips: int, stills: int = 0) -> Any:
    return build_method(name, **{**TINY[name], "clips": clips, "stills": stills}).eval()


def batch_of(method: Any, shards: ShardSet, samples: int = 8) -> Batch:
    with Loader(shards, method.inputs, samples, threads=1) as loader:
        return next(iter(loader))


def with_views(batch: Batch, views: list[Tensor]) -> Batch:
    return replace(batch, streams={"clip": replace(batch.lone, views=views)})


def context(step: int, steps: int = 100) -> Context:
    return Context(step=step, epoch=0, steps_per_epoch=steps, epochs=1, batch_size=8)


@each_kind
def test_it_asks_for_the_authors_clips(name: str) -> None:
    """Their configs: 8 frames at a stride of 8, of any time, which may overlap; MoCo v2's colours, stronger."""
    with torch.device("meta"):
        method: Any = build_method(name, queue=1024) if name == "rho_moco" else build_method(name)
    spec = method.inputs
    assert spec.starts == "independent"
    assert len(spec) == {"rho_simclr": 4, "rho_moco": 4}.get(name, 2)
    (clip,) = set(spec.clips)
    assert (clip.frames, clip.strides, clip.colours) == (8, (8,), "clip")
    view = clip.view
    assert (view.scale, view.ratio) == ((0.2, 0.766), (3 / 4, 4 / 3))
    assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.6, 0.6, 0.6, 0.15)
    assert (view.jitter, view.grayscale, view.blur, view.flip) == (0.8, 0.2, 0.5, 0.5)


def test_heads_are_the_authors() -> None:
    """slowfast/models/head_helper.py, MLPHead: three layers with biases, without norms; BYOL's two with one between."""
    with torch.device("meta"):
        simclr: Any = build_method("rho_simclr")
        byol: Any = build_method("rho_byol")
    assert [type(m) for m in simclr.projector] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [m.out_features for m in simclr.projector if isinstance(m, nn.Linear)] == [2048, 2048, 128]
    for head in (byol.projector, byol.predictor):
        assert [type(m) for m in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
        assert [m.out_features for m in head if isinstance(m, nn.Linear)] == [4096, 256]
        assert (head[0].bias is None, head[3].bias is None) == (True, False)
    assert (RhoMoCoConfig().momentum, RhoMoCoConfig().temperature, RhoMoCoConfig().queue) == (0.994, 0.1, 65536)
    assert (RhoBYOLConfig().momentum, RhoSimCLRConfig().temperature) == (0.996, 0.1)


@each_kind
def test_the_second_clip_matters_to_the_first_one_s_query(name: str, clips_webdataset: ShardSet) -> None:
    """A clip that was paired with itself would not notice."""
    method = made(name, 2)
    batch = batch_of(method, clips_webdataset)
    first, second = batch.views
    noise = torch.randint(0, 256, second.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = method.loss(batch)["loss"]
        after = method.loss(with_views(batch, [first, noise]))["loss"]
    assert (after - before).abs() > 1e-3


def terms(name: str, method: Any, clips: list[Tensor]) -> list[Tensor]:
    """Of each query by itself, as the authors' contrastive_forward goes on: what it adds to the loss."""

    def fast(each: Tensor) -> Tensor:
        return method.projector(method.backbone(each))

    if name in ("rho_simclr", "rho_swav"):  # each clip and the next one
        pairs = [(fast(a), fast(b)) for a, b in pairwise(clips)]
        if name == "rho_simclr":
            return [nt_xent(a, b, 0.1) for a, b in pairs]
        found = []
        for pair in pairs:
            scores = [method.prototypes(F.normalize(z, dim=1)) for z in pair]
            q = [sinkhorn(each, 0.05, 3, slack=0.0) for each in scores]
            crossed = [-(q[i] * F.log_softmax(scores[1 - i] / 0.1, dim=1)).sum(dim=1).mean() for i in (0, 1)]
            found.append(sum(crossed) / 2)
        return found  # type: ignore[return-value]
    with torch.no_grad():
        keys = [F.normalize(method.slow_projector(method.slow_backbone(each)), dim=1) for each in clips]
    found = []
    for k, each in enumerate(clips):
        others = keys[:k] + keys[k + 1 :]
        if name == "rho_byol":
            p = F.normalize(method.predictor(fast(each)), dim=1)
            found.append(sum(2 - 2 * (p * key).sum(dim=1).mean() for key in others) / len(others))
        else:
            q = F.normalize(fast(each), dim=1)
            negatives = q @ method.queue.rows.T
            logits = torch.cat([torch.cat([(q * key).sum(dim=1)[:, None], negatives], dim=1) for key in others])
            found.append(F.cross_entropy(logits / 0.1, torch.zeros(len(logits), dtype=torch.int64)))
    return found  # type: ignore[return-value]


@each_kind
@pytest.mark.parametrize("clips", [2, 3])
def test_the_loss_is_the_sum_over_queries_and_its_gradient_what_they_accumulate(
    name: str, clips: int, clips_webdataset: ShardSet
) -> None:
    method = made(name, clips)
    batch = batch_of(method, clips_webdataset)
    views = batch.normalized()
    loss = method.loss(batch)["loss"]
    loss.backward()
    joint = {key: p.grad.clone() for key, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    total = 0.0
    for number in range(len(terms(name, method, views))):
        term = terms(name, method, views)[number]  # a graph of its own
        term.backward()
        total += term.item()
    assert loss.item() == pytest.approx(total, rel=1e-5)
    accumulated = {key: p.grad for key, p in method.named_parameters() if p.grad is not None}
    assert accumulated.keys() == joint.keys()
    for key, gradient in accumulated.items():
        torch.testing.assert_close(joint[key], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")


def test_the_queue_takes_the_keys_of_all_clips_behind_the_step(clips_webdataset: ShardSet) -> None:
    method = made("rho_moco", 2)
    before = method.queue.rows.clone()
    method.loss(batch_of(method, clips_webdataset))
    assert torch.equal(method.queue.rows, before)
    with torch.no_grad():
        method.after_step(context(0))
    assert (method.queue.rows != before).any(dim=1).sum() == 2 * 8
    assert method.queue.oldest == 2 * 8
    torch.testing.assert_close(method.queue.rows.norm(dim=1), torch.ones(160))


@pytest.mark.parametrize(("name", "start"), [("rho_moco", 0.99), ("rho_byol", 0.99)])
def test_the_slow_network_begins_as_a_copy_and_follows_on_a_cosine(name: str, start: float) -> None:
    method = build_method(name, **{**TINY[name], "momentum": start})
    fast, slow = method.backbone, method.slow_backbone  # type: ignore[attr-defined]
    for a, b in zip(fast.parameters(), slow.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not b.requires_grad
    with torch.no_grad():
        for a in fast.parameters():
            a.add_(1.0)
        for step, moved in ((0, 1 - start), (99, 0.0)):
            before = [b.clone() for b in slow.parameters()]
            method.after_step(context(step))
            for a, b, old in zip(fast.parameters(), slow.parameters(), before, strict=True):
                torch.testing.assert_close(b, old + moved * (a - old), rtol=1e-3, atol=1e-5)


@each_kind
def test_pictures_agree_with_their_videos(name: str, clips_webdataset: ShardSet) -> None:
    method = made(name, 3, stills=1)
    assert [clip.frames for clip in method.inputs.clips] == [4, 4, 1]
    batch = batch_of(method, clips_webdataset)
    assert [tuple(view.shape[2:]) for view in batch.views] == [(4, 16, 16)] * 2 + [(1, 16, 16)]
    assert method.loss(batch)["loss"].isfinite()
    assert [clip.frames for clip in method.probe_inputs.clips] == [4]


def test_prototypes_have_length_1_and_wait_for_an_epoch() -> None:
    method = made("rho_swav", 2)
    with torch.no_grad():
        method.before_step(context(0))
    torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(12))
    *_, group = method.parameter_groups()
    assert (group.params, group.frozen_epochs) == ([method.prototypes.weight], 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clips": 1}, "SeveralClipsConfig.clips must be at least 2, got 1"),
        ({"stills": 2}, "SeveralClipsConfig.stills must leave a clip, got 2"),
        ({"strength": -1.0}, "SeveralClipsConfig.strength must not be negative, got -1.0"),
    ],
)
def test_it_says_what_it_cannot_use(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SeveralClipsConfig(**options)
