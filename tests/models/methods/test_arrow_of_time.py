"""The arrow of time: every clip in both directions, and what the network is shown."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from headrace.models import build_method
from headrace.models.methods.video.arrow_of_time import ArrowOfTimeConfig
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from tests.models.tiny_methods import RESNET, TINY, tiny


@pytest.fixture(scope="module")
def batch(clips_webdataset: ShardSet) -> Batch:
    """16 real clips of 7 frames."""
    with Loader(clips_webdataset, tiny("arrow_of_time").inputs, 16, threads=1) as loader:
        return next(iter(loader))


def test_two_segments_of_ten_differences_take_21_frames() -> None:
    """donglaiw/AoT_TCAM, README.md: 20 pictures in 2 parts; convolutions of 1024 channels, dropout 0.5."""
    method: Any = build_method("arrow_of_time", ArrowOfTimeConfig(backbone=RESNET))
    (clip,) = method.inputs.clips
    assert (clip.frames, clip.reverse) == (21, 0.0)
    assert method.backbone[0].conv1.in_channels == 30
    convolutions = [m for m in method.head if isinstance(m, torch.nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size) for m in convolutions] == [
        (2 * 64, 1024, (3, 3)),
        (1024, 1024, (3, 3)),
    ]
    assert [m.p for m in method.head if isinstance(m, torch.nn.Dropout)] == [0.5, 0.5]
    frames: Any = build_method("arrow_of_time", ArrowOfTimeConfig(backbone=RESNET, shown="frames"))
    assert frames.inputs.clips[0].frames == 20


def test_every_clip_is_there_in_both_directions(batch: Batch) -> None:
    """Turning all clips round turns the labels round, and so nothing changes but which is which."""
    method: Any = tiny("arrow_of_time").eval()
    turned = replace(batch, streams={"clip": replace(batch.lone, views=[batch.views[0].flip(2)])})
    with torch.no_grad():
        terms = method.loss(batch)
        method.classifier.weight.neg_()
        method.classifier.bias.neg_()
        other = method.loss(turned)
    torch.testing.assert_close(other["loss"], terms["loss"])
    torch.testing.assert_close(other["accuracy"], terms["accuracy"])


def test_a_film_that_is_its_own_reverse_tells_nothing(batch: Batch) -> None:
    """Exactly half is right, in differences of frames and in frames."""
    levels = batch.views[0]
    same = torch.cat([levels[:, :, :4], levels[:, :, :3].flip(2)], dim=2)
    for shown, frames in (
        ("differences", same),
        ("frames", torch.cat([same[:, :, :3], same[:, :, :3].flip(2)], dim=2)),
    ):
        method: Any = build_method("arrow_of_time", **{**TINY["arrow_of_time"], "shown": shown}).eval()
        part = replace(batch, streams={"clip": replace(batch.lone, views=[frames])})
        assert method.loss(part)["accuracy"].item() == 0.5


def test_segments_are_differences_in_the_order_of_time(batch: Batch) -> None:
    method: Any = tiny("arrow_of_time")
    (clips,) = batch.normalized()
    segments = method._segments(clips)
    assert segments.shape == (32, 9, 24, 24)
    second = segments[1].unflatten(0, (3, 3))  # colours, pictures
    torch.testing.assert_close(second[1, 2], clips[0, 1, 6] - clips[0, 1, 5])
    torch.testing.assert_close(second[1, 0], clips[0, 1, 4] - clips[0, 1, 3])


def test_a_classifier_that_says_nothing_costs_ln_2(batch: Batch) -> None:
    method: Any = tiny("arrow_of_time")
    with torch.no_grad():
        for parameter in method.classifier.parameters():
            parameter.zero_()
    terms = method.loss(batch)
    assert terms["loss"].item() == pytest.approx(math.log(2))
    assert terms["accuracy"].item() == 0.5


def test_probes_see_the_segments_one_behind_the_other(batch: Batch) -> None:
    method: Any = tiny("arrow_of_time").eval()
    (clips,) = batch.normalized()
    with torch.no_grad():
        found = method.encode(batch)
        first, second = (method.backbone(clips[:, :, t : t + 4].diff(dim=2).flatten(1, 2)) for t in (0, 3))
    assert found.shape == (16, 2 * 64)
    torch.testing.assert_close(found, torch.cat([first, second], dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segments": 0}, "ArrowOfTimeConfig.segments must be at least 1, got 0"),
        ({"shown": "flow"}, "ArrowOfTimeConfig.shown must be 'differences' or 'frames', got flow"),
        ({"dropout": 1.0}, r"ArrowOfTimeConfig.dropout must lie in \[0, 1\), got 1.0"),
    ],
)
def test_it_says_what_it_cannot_use(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArrowOfTimeConfig(**options)
