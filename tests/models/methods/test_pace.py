"""Methods that say how fast a clip is shown: pace, speediness."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from headrace.models import build_method
from headrace.models.methods.video.pace import PaceConfig
from headrace.models.methods.video.speediness import SpeedinessConfig, largest_in_space
from headrace.models.parts.clip_backbones import build_clip_backbone
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from tests.models.tiny_methods import CLIP_RESNET, TINY, tiny


def batch_of(method: Any, shards: ShardSet, samples: int = 40) -> Batch:
    with Loader(shards, method.inputs, samples, threads=1) as loader:
        return next(iter(loader))


# Pace


def test_it_asks_for_the_authors_clips() -> None:
    """Strides 1 to 4; colours of 0.8, 0.8, 0.8 and 0.2 with probability 0.8, of each frame by itself."""
    with torch.device("meta"):
        (clip,) = build_method("pace").inputs.clips  # type: ignore[union-attr]
    assert (clip.frames, clip.strides, clip.colours) == (16, (1, 2, 3, 4), "frame")
    view = clip.view
    assert (view.size, view.flip, view.jitter) == (112, 0.5, 0.8)
    assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.8, 0.8, 0.8, 0.2)
    assert view.operations == ("jitter",)


def test_the_label_is_the_stride_and_no_clip_jumps(clips_webdataset: ShardSet) -> None:
    method: Any = tiny("pace")
    batch = batch_of(method, clips_webdataset, 200)
    steps = batch.drawn.frames[:, 0].diff(dim=1)
    assert torch.equal(steps, (batch.drawn.pace + 1).to(torch.int32).expand_as(steps))
    assert len(batch.drawn.pace.unique()) == 3
    with torch.no_grad():
        for parameter in method.classifier.parameters():
            parameter.zero_()
    assert method.loss(batch)["loss"].item() == pytest.approx(math.log(3))


def test_a_video_that_stands_still_has_no_pace(clips_webdataset: ShardSet) -> None:
    method: Any = tiny("pace").eval()
    batch = batch_of(method, clips_webdataset)
    still = batch.views[0][:1, :, :1].expand_as(batch.views[0]).contiguous()
    paces = batch.drawn.pace[:, 0].bincount(minlength=3) / 40
    accuracy = method.loss(replace(batch, streams={"clip": replace(batch.lone, views=[still])}))["accuracy"].item()
    assert any(accuracy == pytest.approx(share.item()) for share in paces)


def test_frames_of_a_clip_have_colours_of_their_own(clips_webdataset: ShardSet) -> None:
    """A clip of one and the same frame is no longer that."""
    method: Any = build_method("pace", **{**TINY["pace"], "strides": (1, 2), "jitter": 1.0})
    (clip,) = method.inputs.clips
    still = replace(method.inputs.clips[0], strides=(1000,), short="clamp")  # the last frame on and on
    for colours, same in (("frame", False), ("clip", True)):
        spec = type(method.inputs)([replace(still, colours=colours)])
        with Loader(clips_webdataset, spec, 8, threads=1) as loader:
            (views,) = next(iter(loader)).views
        assert torch.equal(views[:, :, 1], views[:, :, 2]) is same
    assert clip.colours == "frame"


# Speediness


def test_both_speeds_of_one_moment_are_in_the_batch(clips_webdataset: ShardSet) -> None:
    method: Any = tiny("speediness")
    spec = method.inputs
    assert [clip.rate for clip in spec.clips] == [(1.0, 1.2), (1.7, 2.2)]
    batch = batch_of(method, clips_webdataset, 200)
    normal, sped_up = batch.drawn.frames.unbind(1)
    assert torch.equal(normal[:, 0], sped_up[:, 0])
    span = {"normal": normal[:, -1] - normal[:, 0], "sped_up": sped_up[:, -1] - sped_up[:, 0]}
    assert (span["normal"].min(), span["normal"].max()) == (3, 3)  # 3 times 1 to 1.2, rounded down
    assert (span["sped_up"].min(), span["sped_up"].max()) == (5, 6)  # 3 times 1.7 to 2.2
    assert not (normal == sped_up).all(dim=1).any()


def test_a_classifier_that_says_nothing_costs_ln_2_and_half_is_right(clips_webdataset: ShardSet) -> None:
    method: Any = tiny("speediness")
    with torch.no_grad():
        for parameter in method.classifier.parameters():
            parameter.zero_()
    terms = method.loss(batch_of(method, clips_webdataset))
    assert terms["loss"].item() == pytest.approx(math.log(2))
    assert terms["accuracy"].item() == 0.5


def test_features_are_the_largest_over_space_and_the_mean_over_time() -> None:
    backbone: Any = build_clip_backbone(CLIP_RESNET)[0].eval()
    clips = torch.randn(2, 3, 8, 32, 32)
    cells = backbone[0].forward_features(clips)
    assert cells.shape[2:] == (1, 2, 2)
    torch.testing.assert_close(largest_in_space(backbone, clips), cells[:, :, 0].amax(dim=(2, 3)))
    alone, _ = build_clip_backbone(replace(CLIP_RESNET, feature_norm=False))
    assert largest_in_space(alone.eval(), clips).shape == (2, 64)


def test_the_norm_of_the_features_that_are_probed_learns_its_statistics(clips_webdataset: ShardSet) -> None:
    method: Any = tiny("speediness")
    method.loss(batch_of(method, clips_webdataset))
    assert method.backbone[1].num_batches_tracked == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PaceConfig(strides=(2,)), "PaceConfig.strides must be two or more different numbers"),
        (lambda: PaceConfig(strides=(2, 2)), "PaceConfig.strides must be two or more different numbers"),
        (lambda: PaceConfig(frames=1), "PaceConfig.frames must be at least 2, got 1"),
        (lambda: SpeedinessConfig(normal=(1.0, 1.8)), "SpeedinessConfig.normal must lie below sped_up"),
    ],
)
def test_it_says_what_it_cannot_use(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
