"""CVRL beside a slow loop and lightly's loss, and what its authors' code says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headrace.models import build_method
from headrace.models.methods.video.cvrl import CVRLConfig
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from tests.models.tiny_methods import TINY, tiny


def batch_of(method: Any, shards: ShardSet, samples: int = 8) -> Batch:
    with Loader(shards, method.inputs, samples, threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_the_authors_clips() -> None:
    """dataloaders/video_ssl_input.py: blur always of the first clip, 0.1 of the second, which 0.2 are solarised of."""
    with torch.device("meta"):
        spec: Any = build_method("cvrl").inputs
    assert (spec.starts, len(spec)) == ("near", 2)
    for clip in spec.clips:
        assert (clip.frames, clip.strides, clip.colours, clip.short) == (16, (2,), "clip", "loop")
        view = clip.view
        assert (view.scale, view.ratio, view.flip, view.grayscale) == ((0.3, 1.0), (0.5, 2.0), 0.5, 0.2)
        assert (view.jitter, view.brightness, view.contrast, view.saturation, view.hue) == (0.8, 0.8, 0.8, 0.8, 0.2)
    assert [clip.view.blur for clip in spec.clips] == [1.0, 0.1]
    assert [clip.view.solarize for clip in spec.clips] == [0.0, 0.2]


def test_the_head_has_three_hidden_layers_of_2048() -> None:
    """modeling/video_ssl_model.py: Dense, batch norm, ReLU three times, and Dense."""
    with torch.device("meta"):
        method: Any = build_method("cvrl")
    linears = [m for m in method.projector if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(512, 2048), (2048, 2048), (2048, 2048), (2048, 128)]
    assert all(m.bias is not None for m in linears)
    assert sum(isinstance(m, nn.BatchNorm1d) for m in method.projector) == 3


def outputs(method: Any, batch: Batch) -> list[torch.Tensor]:
    with torch.no_grad():
        return [method.projector(method.backbone(clips)).double() for clips in batch.normalized()]


def test_both_directions_are_added(clips_webdataset: ShardSet) -> None:
    """losses/losses.py: loss_a + loss_b, each a mean over the batch, against all clips but the own one."""
    method: Any = tiny("cvrl").eval()
    batch = batch_of(method, clips_webdataset)
    first, second = (F.normalize(z, dim=1).tolist() for z in outputs(method, batch))
    slow = 0.0
    for ours, theirs in ((first, second), (second, first)):
        for i, anchor in enumerate(ours):
            scores = {(0, j): z for j, z in enumerate(theirs)} | {(1, j): z for j, z in enumerate(ours) if j != i}
            logits = {key: sum(a * b for a, b in zip(anchor, z, strict=True)) / 0.1 for key, z in scores.items()}
            slow += (math.log(sum(map(math.exp, logits.values()))) - logits[0, i]) / len(ours)
    assert method.loss(batch)["loss"].item() == pytest.approx(slow, rel=1e-5)


@pytest.mark.peer("lightly")
def test_it_is_twice_lightlys_loss(clips_webdataset: ShardSet) -> None:
    from lightly.loss import NTXentLoss

    method: Any = tiny("cvrl").eval()
    batch = batch_of(method, clips_webdataset)
    theirs = NTXentLoss(temperature=0.1)(*outputs(method, batch))
    assert method.loss(batch)["loss"].item() == pytest.approx(2 * theirs.item(), rel=1e-5)


def test_one_video_alone_costs_nothing(clips_webdataset: ShardSet) -> None:
    method: Any = tiny("cvrl").eval()
    assert method.loss(batch_of(method, clips_webdataset, 1))["loss"].item() == pytest.approx(0.0, abs=1e-6)


def test_equal_projections_cost_twice_ln_of_the_others(clips_webdataset: ShardSet) -> None:
    method: Any = tiny("cvrl").eval()
    method.projector.forward = lambda features: torch.ones(len(features), 4)
    found = method.loss(batch_of(method, clips_webdataset))["loss"].item()
    assert found == pytest.approx(2 * math.log(2 * 8 - 1), rel=1e-6)


def test_all_frames_of_a_clip_have_one_colour_change(clips_webdataset: ShardSet) -> None:
    """Where a video stands still, so does the clip."""
    from dataclasses import replace

    method: Any = tiny("cvrl")
    still = [replace(clip, strides=(1000,), short="clamp") for clip in method.inputs.clips]
    with Loader(clips_webdataset, type(method.inputs)(still), 8, threads=1) as loader:
        for views in next(iter(loader)).views:
            assert torch.equal(views[:, :, 1:2].expand_as(views[:, :, 1:]), views[:, :, 1:])


def test_it_says_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match=r"CVRLConfig\.temperature must be above 0, got 0"):
        CVRLConfig(temperature=0)
    with pytest.raises(ValueError, match=r"CVRLConfig\.hidden_dim must be at least 1, got 0"):
        build_method("cvrl", **{**TINY["cvrl"], "hidden_dim": 0})
