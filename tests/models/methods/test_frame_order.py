"""Methods that put the frames of a video in order: shuffle and learn, sorting sequences."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.models import build_method
from headrace.models.methods.video.frame_order import FrameOrderConfig
from headrace.models.methods.video.sorting import SortingConfig, one_channel, strayed
from headrace.models.parts.frames import each_frame
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader, clip_plan
from headrace.shards import ShardSet
from tests.models.tiny_methods import RESNET, TINY, tiny


def batch_of(method: Any, shards: ShardSet, samples: int = 40) -> Batch:
    with Loader(shards, method.inputs, samples, threads=1) as loader:
        return next(iter(loader))


def with_views(batch: Batch, views: list[Tensor]) -> Batch:
    return replace(batch, streams={"clip": replace(batch.lone, views=views)})


def drawn(spec: Any, count: int = 4000, length: int = 300) -> Any:
    sizes = np.tile(np.int32([48, 64]), (count, 1))
    return clip_plan(spec, 0, 0, np.arange(count), np.full(count, length, np.int32), sizes)


# Frames of clips


def test_each_frame_passes_by_itself() -> None:
    clips = torch.randn(2, 3, 4, 5, 6)
    found = each_frame(lambda images: images.mean(dim=(2, 3)), clips)
    torch.testing.assert_close(found, clips.mean(dim=(3, 4)).transpose(1, 2))


@pytest.mark.parametrize("name", ["frame_order", "sorting", "time_contrastive"])
def test_probes_see_the_mean_over_the_frames_of_the_plain_clip(name: str, clips_webdataset: ShardSet) -> None:
    method: Any = tiny(name).eval()
    with Loader(clips_webdataset, method.probe_inputs, 4, threads=1, shuffle=False) as loader:
        batch = next(iter(loader))
    (clips,) = batch.normalized()
    assert clips.shape[-1] == TINY[name]["size"]
    with torch.no_grad():
        frames = [method.backbone(clips[:, :, t]) for t in range(clips.shape[2])]
        torch.testing.assert_close(method.encode(batch), torch.stack(frames).mean(dim=0), rtol=1e-4, atol=1e-5)


# Shuffle and learn


def test_three_in_four_triples_are_not_in_order_and_the_middle_frame_alone_tells() -> None:
    """Of equally spaced a b c d e: b c d or d c b in order, else b a d or b e d, or these backwards."""
    with torch.device("meta"):
        spec: Any = build_method("frame_order", FrameOrderConfig(backbone=RESNET)).inputs
    plan = drawn(spec)
    ordered, frames = plan.ordered[:, 0], plan.frames[:, 0].astype(int)
    assert abs(ordered.mean() - 0.25) < 0.03
    stride = np.array([15, 20, 25, 30])[plan.pace[:, 0]]
    assert (np.abs(frames[:, 2] - frames[:, 0]) == 2 * stride).all(), "first and last are b and d in any case"
    middle = np.abs(frames[:, 1] - (frames[:, 0] + frames[:, 2]) / 2) / stride
    assert (middle == np.where(ordered, 0, 2)).all()
    assert abs(plan.reversed.mean() - 0.5) < 0.03
    assert abs(ordered[plan.reversed[:, 0]].mean() - 0.25) < 0.03, "the reversed triple has the label of the triple"


def test_a_video_that_stands_still_tells_nothing(clips_webdataset: ShardSet) -> None:
    """All triples that show one frame three times get one answer."""
    method: Any = tiny("frame_order").eval()
    batch = batch_of(method, clips_webdataset)
    still = with_views(batch, [batch.views[0][:1, :, :1].expand_as(batch.views[0]).contiguous()])
    with torch.no_grad():
        terms = method.loss(still)
    ordered = batch.drawn.ordered.float().mean().item()
    assert terms["accuracy"].item() in (pytest.approx(ordered), pytest.approx(1 - ordered))


def test_a_classifier_that_says_nothing_costs_ln_2(clips_webdataset: ShardSet) -> None:
    method: Any = tiny("frame_order")
    with torch.no_grad():
        for parameter in method.classifier[-1].parameters():
            parameter.zero_()
    terms = method.loss(batch_of(method, clips_webdataset))
    assert terms["loss"].item() == pytest.approx(math.log(2))


def test_without_a_layer_for_all_three_the_head_is_the_authors() -> None:
    """imisra/shuffle-tuple at 5d27dfa, tuple_train.prototxt: fc8_tri sees the frames side by side."""
    method: Any = build_method("frame_order", **{**TINY["frame_order"], "hidden_dim": 0})
    assert [tuple(p.shape) for p in method.classifier.parameters()] == [(2, 3 * 32), (2,)]
    config = FrameOrderConfig()
    assert (config.frame_dim, config.hidden_dim, config.dropout, config.negatives) == (4096, 0, 0.5, 0.75)


# Sorting


def test_all_24_orders_are_equally_likely_and_twelve_are_told_apart() -> None:
    with torch.device("meta"):
        spec: Any = build_method("sorting", SortingConfig(backbone=RESNET)).inputs
    order = drawn(spec).permutation[:, 0]
    found, counts = np.unique(order, axis=0, return_counts=True)
    assert len(found) == 24
    assert np.abs(counts - 4000 / 24).max() < 5 * math.sqrt(4000 / 24)
    method: Any = tiny("sorting")
    assert method.orders.count == 12
    (clip,) = spec.clips
    assert (clip.frames, clip.view.size, clip.view.flip) == (4, 90, 0.5)


def test_patches_stray_each_by_itself_and_lie_in_the_middle_in_evaluation() -> None:
    images = torch.arange(9 * 9.0).view(1, 1, 9, 9).expand(300, 3, -1, -1)
    with seeded(0):
        found = strayed(images, 2, random=True)
    assert found.shape == (300, 3, 5, 5)
    corners = found[:, 0, 0, 0]
    assert set(corners.tolist()) == {9.0 * y + x for y in range(5) for x in range(5)}
    assert torch.equal(found, corners[:, None, None, None] + images[:, :, :5, :5])
    assert torch.equal(strayed(images, 2, random=False), images[:, :, 2:7, 2:7])
    assert torch.equal(strayed(images, 0, random=True), images)


def test_each_frame_shows_one_of_its_colours_three_times() -> None:
    images = torch.randn(300, 3, 4, 4)
    with seeded(0):
        found = one_channel(images, random=True)
    assert torch.equal(found[:, :1].expand_as(found), found)
    shown = (found[:, :1] == images).flatten(2).all(dim=2)  # (N, 3)
    assert (shown.sum(dim=1) == 1).all()
    assert (shown.float().mean(dim=0) - 1 / 3).abs().max() < 0.1
    assert torch.equal(one_channel(images, random=False), images[:, 1:2].expand_as(images))


def test_labels_are_the_orders_of_the_frames_that_are_shown(clips_webdataset: ShardSet) -> None:
    method: Any = tiny("sorting")
    batch = batch_of(method, clips_webdataset)
    places = batch.drawn.frames[:, 0].argsort(dim=1).argsort(dim=1)
    assert torch.equal(places, batch.drawn.permutation[:, 0])
    assert len(method.orders(places).unique()) > 6
    with torch.no_grad():
        for parameter in method.head.last.parameters():
            parameter.zero_()
    assert method.loss(batch)["loss"].item() == pytest.approx(math.log(12))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SortingConfig(frames=6), r"SortingConfig.frames must lie in \[3, 5\], got 6"),
        (lambda: SortingConfig(jitter=-1), "SortingConfig.jitter must not be negative, got -1"),
        (lambda: FrameOrderConfig(dropout=1.0), r"FrameOrderConfig.dropout must lie in \[0, 1\), got 1.0"),
        (lambda: FrameOrderConfig(frame_dim=0), "FrameOrderConfig.frame_dim must be at least 1, got 0"),
    ],
)
def test_it_says_what_it_cannot_use(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
