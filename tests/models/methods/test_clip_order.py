"""Methods that compare clips of a video with each other: clip order, odd one out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from headrace.models import build_method
from headrace.models.methods.video.clip_order import ClipOrderConfig
from headrace.models.methods.video.odd_one_out import OddOneOutConfig, grey_differences
from headrace.pipeline import Batch, ClipSpec, Loader
from headrace.shards import ShardSet
from tests.models.tiny_methods import TINY, tiny


def batch_of(method: Any, shards: ShardSet, samples: int = 40) -> Batch:
    with Loader(shards, method.inputs, samples, threads=1) as loader:
        return next(iter(loader))


# Clip order


def test_it_asks_for_the_authors_clips() -> None:
    """3 clips of 16 frames with 8 between them, 112 of 128 x 171 pixels, not mirrored, levels from 0 to 1."""
    with torch.device("meta"):
        spec: Any = build_method("clip_order").inputs
    assert (len(spec), spec.starts, spec.interval) == (3, "row", 8)
    (clip,) = set(spec.clips)
    assert (clip.frames, clip.strides, clip.view.size, clip.view.flip) == (16, (1,), 112, 0.0)
    assert clip.view.scale[0] == clip.view.scale[1] == pytest.approx(112**2 / (128 * 171))
    assert (clip.view.normalize.mean, clip.view.normalize.std) == ((0.0,) * 3, (1.0,) * 3)
    assert spec.plain() == ClipSpec(spec.plain().clips)


def test_labels_are_the_order_of_the_clips(clips_webdataset: ShardSet) -> None:
    method: Any = build_method("clip_order", **{**TINY["clip_order"], "clips": 3, "interval": 2}).train()
    batch = batch_of(method, clips_webdataset)
    starts = batch.drawn.frames[:, :, 0]
    assert torch.equal(starts.argsort(dim=1).argsort(dim=1), batch.drawn.sequence)
    in_time = starts.sort(dim=1).values
    assert (in_time.diff(dim=1) == 2 + 2).all()
    assert len(method.orders(batch.drawn.sequence).unique()) == 6
    with torch.no_grad():
        for parameter in method.head.last.parameters():
            parameter.zero_()
    assert method.loss(batch)["loss"].item() == pytest.approx(math.log(6))


def test_a_head_that_knows_the_order_is_right(clips_webdataset: ShardSet) -> None:
    method: Any = tiny("clip_order").eval()
    batch = batch_of(method, clips_webdataset)
    method.head.forward = lambda features: 20.0 * torch.eye(6)[method.orders(batch.drawn.sequence)]
    terms = method.loss(batch)
    assert terms["accuracy"] == 1
    assert terms["loss"] < 1e-6


# Odd one out


def test_the_odd_clip_is_in_disorder_and_lies_anywhere() -> None:
    with torch.device("meta"):
        spec: Any = build_method("odd_one_out").inputs
    assert (len(spec), spec.odd, spec.clips[0].frames) == (6, True, 6)


def test_exchanging_two_clips_exchanges_their_scores() -> None:
    method: Any = tiny("odd_one_out").eval()
    features = torch.randn(5, 3, method.feature_dim)
    scores = method._scores(features)
    assert scores.shape == (5, 3)
    torch.testing.assert_close(method._scores(features[:, [2, 1, 0]]), scores[:, [2, 1, 0]])
    # The sum of differences to the others, one by one.
    each = torch.stack([sum(features[:, i] - features[:, j] for j in range(3)) for i in range(3)], dim=1)  # type: ignore[arg-type]
    torch.testing.assert_close(scores, method.score(each)[:, :, 0])
    torch.testing.assert_close(method._scores(features + 7.0), scores, rtol=1e-3, atol=1e-4)


def test_equal_clips_cost_ln_of_their_number(clips_webdataset: ShardSet) -> None:
    method: Any = tiny("odd_one_out").eval()
    with torch.no_grad():
        for parameter in method.score[-1].parameters():
            parameter.zero_()
    assert method.loss(batch_of(method, clips_webdataset))["loss"].item() == pytest.approx(math.log(3))


def test_the_network_sees_how_grey_levels_change(clips_webdataset: ShardSet) -> None:
    method: Any = tiny("odd_one_out")
    assert method.backbone[0].conv1.in_channels == 3
    batch = batch_of(method, clips_webdataset, 4)
    (clips, *_) = batch.normalized()
    found = grey_differences(clips)
    assert found.shape == (4, 3, 24, 24)
    torch.testing.assert_close(found[:, 1], (clips[:, :, 2] - clips[:, :, 1]).mean(dim=1))
    still = clips[:, :, :1].expand_as(clips)
    assert grey_differences(still).abs().max() == 0


def test_a_bag_of_frames_says_nothing(clips_webdataset: ShardSet) -> None:
    """Which frames a clip shows does not tell whether it is the odd one."""
    method: Any = build_method("odd_one_out", **{**TINY["odd_one_out"], "strides": (1,)})
    batch = batch_of(method, clips_webdataset, 200)
    frames, odd = batch.drawn.frames.sort(dim=2).values, batch.drawn.odd
    assert (frames.diff(dim=2) == 1).all()
    starts = frames[:, :, 0].double()
    of_odd = starts.gather(1, odd[:, None])
    assert abs(of_odd.mean() - starts.mean()) < 0.5
    assert np.abs(np.bincount(odd.numpy(), minlength=3) - 200 / 3).max() < 4 * math.sqrt(200 * 2 / 9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClipOrderConfig(clips=6), r"ClipOrderConfig.clips must lie in \[2, 5\], got 6"),
        (lambda: ClipOrderConfig(dropout=1.0), r"ClipOrderConfig.dropout must lie in \[0, 1\), got 1.0"),
        (lambda: OddOneOutConfig(clips=1), "OddOneOutConfig.clips must be at least 2, got 1"),
        (lambda: OddOneOutConfig(frames=2), "OddOneOutConfig.frames must be at least 3, got 2"),
    ],
)
def test_it_says_what_it_cannot_use(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
