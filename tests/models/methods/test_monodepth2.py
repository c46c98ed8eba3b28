"""monodepth2 and SfMLearner: networks and losses beside figures of the authors' code, and what depth may learn from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models import BackboneConfig, build_method
from headrace.models.methods.video.monodepth2 import Monodepth2Config
from headrace.models.methods.video.sfmlearner import SfMLearnerConfig
from headrace.models.parts.cameras import Intrinsics, Motion, rotation
from headrace.models.parts.depth_networks import DepthDecoder, PoseDecoder, depth_of
from headrace.pipeline import Batch, Clip, ClipSpec, Loader, View
from headrace.shards import ShardSet
from headrace.tools.catalogue import inputs_of
from headrace.train.recipes import monodepth2_kitti, sfmlearner_kitti
from tests.models.tiny_methods import TINY, tiny
from tests.models.written_weights import waves, write_weights


@pytest.fixture(scope="module")
def batch(clips_webdataset: ShardSet) -> Batch:
    """4 real clips."""
    with Loader(clips_webdataset, tiny("monodepth2").inputs, 4, threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_whole_frames_three_in_a_row() -> None:
    spec: Any = inputs_of("monodepth2")
    ratio = (1242 / 375,) * 2
    view = View(size=352, scale=(1.0, 1.0), ratio=ratio, flip=0.5, normalize=Monodepth2Config().normalize)
    assert spec == ClipSpec([Clip(frames=3, strides=(1,), view=view)])
    assert (view.normalize.mean, view.normalize.std) == ((0.45,) * 3, (0.225,) * 3)


def test_the_networks_have_the_authors_weights() -> None:
    """Numbers counted from their classes, of ResNet-18 without its classifier."""
    with torch.device("meta"):
        method: Any = build_method("monodepth2")

    def count(module: Any) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(method.decoder) == 3_152_724
    assert count(method.pose_encoder) == 11_185_920
    assert count(method.pose_decoder) == 1_314_572
    assert count(method.backbone) == 11_185_920 - 64 * 3 * 49


# Beside the authors' code


def test_disparities_are_the_authors() -> None:
    """Means over pixels and pictures of their DepthDecoder at b676244 with the same weights and maps."""
    channels = [8, 8, 16, 24, 32]
    decoder = DepthDecoder(channels, (16, 32, 64, 128, 256))
    write_weights(decoder)
    maps = [waves(2, c, 64 // 2 ** (i + 1), 64 // 2 ** (i + 1)) for i, c in enumerate(channels)]
    found = decoder(maps)
    assert [tuple(each.shape) for each in found] == [(2, 1, side, side) for side in (64, 32, 16, 8)]
    expected = [0.4832320431688766, 0.5053021395946238, 0.5282632965911389, 0.3720981442927624]
    assert [each.mean().item() for each in found] == pytest.approx(expected, rel=1e-10)


def test_poses_are_the_authors() -> None:
    decoder = PoseDecoder(32, width=256, poses=2)
    write_weights(decoder)
    turn = [-0.003723606456615295, 0.0018265231923572072, -0.0034117245139112878]
    shift = [0.0022253083843199505, -0.001641725596317063, 0.002766593442214276]
    assert decoder(waves(2, 32, 2, 2))[0].tolist() == pytest.approx([*turn, *shift], rel=1e-9)


def scene() -> tuple[tuple[Tensor, ...], list[Tensor], list[Motion], Intrinsics]:
    """Frames, disparities, motions and camera by formulas."""
    one = waves(2, 3, 64, 64) * 0.5 + 0.5
    other = waves(2, 3, 64, 64).transpose(2, 3) * 0.5 + 0.5
    frames = one, 0.7 * other + 0.3 * one, waves(2, 3, 64, 64).flip(3) * 0.4 + 0.5
    disparities = [waves(2, 1, 64 // 2**s, 64 // 2**s) * 0.3 + 0.35 for s in range(4)]
    turn, shift = waves(2, 6)[:, :3] * 0.05, waves(2, 6)[:, 3:] * 0.05
    motions = [Motion(rotation(turn), shift).inverted(), Motion(rotation(1.3 * turn), 0.8 * shift)]
    camera = Intrinsics(*(torch.full((2,), value, dtype=torch.float64) for value in (50.0, 45.0, 32.0, 32.0)))
    return frames, disparities, motions, camera


def test_the_loss_is_the_authors() -> None:
    """What their layers and trainer at b676244 make of it, with `align_corners`, pictures averaged for smaller scales,
    and a principal point that counts from the first pixel's middle; but for the noise, of 1e-5."""
    frames, disparities, motions, camera = scene()
    method: Any = build_method("monodepth2", **{**TINY["monodepth2"], "smoothness": 1e-3})
    loss, share = method.explain(frames, disparities, motions, camera)
    assert loss.item() == pytest.approx(0.3074334140043167, abs=1e-6)
    assert share.item() == pytest.approx(0.1646728515625, abs=1e-3)


# What it learns from


def test_depth_and_shift_may_grow_together() -> None:
    """A loss without a scale, thanks to the disparity's mean in the smoothness."""
    frames, disparities, motions, camera = scene()
    method: Any = tiny("monodepth2")
    losses = []
    for factor in (1.0, 3.0):
        limits = {"nearest": factor * 0.5, "farthest": 1e9}  # disparities are then proportional
        method.config = replace(method.config, **limits)
        longer = [motion._replace(translation=factor * motion.translation) for motion in motions]
        torch.manual_seed(0)
        losses.append(method.explain(frames, disparities, longer, camera)[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)


def test_a_static_camera_teaches_no_depth(batch: Batch) -> None:
    method: Any = tiny("monodepth2").train()
    clips = batch.normalized()[0]
    frozen = clips[:, :, 1:2].expand(-1, -1, 3, -1, -1)
    method.config = replace(method.config, smoothness=0.0)
    terms = method.loss(replace(batch, streams={"clip": replace(batch.lone, views=[frozen])}))
    terms["loss"].backward()
    assert terms["moved"] <= 0.01
    moving: Any = tiny("monodepth2").train()
    moving.config = method.config
    moving.loss(batch)["loss"].backward()
    ours, theirs = (m.backbone.conv1[0].weight.grad.norm() for m in (method, moving))
    assert ours < 0.05 * theirs


def test_motions_are_asked_for_in_the_order_of_time(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    method: Any = tiny("monodepth2").eval()
    earlier, image, later = batch.normalized()[0].unbind(2)
    asked = []
    motion = method.motion

    def noted(first: Tensor, second: Tensor) -> Motion:
        asked.append((first, second))
        return motion(first, second)

    monkeypatch.setattr(method, "motion", noted)
    used = []
    monkeypatch.setattr(method, "explain", lambda *given: used.append(given[2]) or (torch.zeros(()), torch.zeros(())))
    method.loss(batch)
    for (first, second), (a, b) in zip(asked, ((earlier, image), (image, later)), strict=True):
        assert torch.equal(first, a)
        assert torch.equal(second, b)
    way = motion(earlier, image)
    torch.testing.assert_close(used[0][0].rotation, way.rotation.transpose(1, 2))
    torch.testing.assert_close(used[0][1].rotation, motion(image, later).rotation)


def test_the_camera_goes_with_crop_and_flip(batch: Batch) -> None:
    method: Any = build_method("monodepth2", **{**TINY["monodepth2"], "intrinsics": (100.0, 90.0, 60.0, 40.0)})
    found = method.camera(batch)
    for row in range(4):
        _top, left, height, width = batch.drawn.crop[row, 0].tolist()
        assert found.focal_x[row].item() == pytest.approx(100 * 64 / width, rel=1e-5)
        assert found.focal_y[row].item() == pytest.approx(90 * 64 / height, rel=1e-5)
        centre = (60 - left) * 64 / width
        expected = 64 - centre if batch.drawn.flip[row, 0] else centre
        assert found.centre_x[row].item() == pytest.approx(expected, rel=1e-5)


def test_depths_lie_between_the_limits_and_features_are_of_frames_and_pairs(batch: Batch) -> None:
    method: Any = tiny("monodepth2").eval()
    assert depth_of(torch.tensor([0.0, 1.0]), 0.1, 100.0).tolist() == pytest.approx([100.0, 0.1])
    frames = batch.normalized()[0]
    with torch.no_grad():
        depth = method.depth(frames[:, :, 1])
        features = method.encode(batch)
        assert depth.shape == (4, 1, 64, 64)
        assert (depth >= 0.1).all()
        assert (depth <= 100).all()
        of_frames = torch.stack([method.backbone(frames[:, :, t]) for t in range(3)]).mean(0)
        torch.testing.assert_close(features[:, : of_frames.shape[1]], of_frames)
        assert features.shape == (4, method.feature_dim)


# SfMLearner


def test_sfmlearner_sums_over_sources_and_scales_at_their_own_resolution() -> None:
    frames, disparities, motions, camera = scene()
    method: Any = tiny("sfmlearner")
    loss, share = method.explain(frames, disparities, motions, camera)
    total = 0.0
    for scale, disparity in enumerate(disparities):
        side = 64 // 2**scale
        small = [2 * F.interpolate(frame, (side, side), mode="area") - 1 for frame in frames]
        depth = 1 / (10 * disparity + 0.01)
        fx, fy, cx, cy = (each[0].item() / 2**scale for each in camera)
        row, column = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
        for source, motion in ((small[0], motions[0]), (small[2], motions[1])):
            points = torch.stack([(column - cx) / fx, (row - cy) / fy, torch.ones(side, side)]).double() * depth
            there = torch.einsum("bij,bjhw->bihw", motion.rotation, points) + motion.translation[:, :, None, None]
            x = fx * there[:, 0] / there[:, 2] + cx
            y = fy * there[:, 1] / there[:, 2] + cy
            places = torch.stack([2 * x / side - 1, 2 * y / side - 1], dim=3)
            seen = F.grid_sample(source, places, padding_mode="zeros", align_corners=False)
            total += (seen - small[1]).abs().mean().item()
        d = (10 * disparity + 0.01)[:, 0]
        across, down = d.diff(dim=2), d.diff(dim=1)
        bends = across.diff(dim=2), across.diff(dim=1), down.diff(dim=2), down.diff(dim=1)
        total += 0.5 / 2**scale * sum(bend.abs().mean().item() for bend in bends)
    assert loss.item() == pytest.approx(total, rel=1e-5)
    assert share == 1


def test_recipes_have_the_authors_steps() -> None:
    first, second = monodepth2_kitti(), sfmlearner_kitti()
    assert (first.epochs, first.batch_size, first.optim.lr, first.optim.weight_decay) == (20, 12, 1e-4, 0.0)
    assert first.schedule.drops == {15: 0.1}
    assert first.schedule.final == second.schedule.final == 1.0
    assert (second.batch_size, second.optim.lr) == (4, 2e-4)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Monodepth2Config.size must be a multiple of 32, and 64 at least, got 80"):
        Monodepth2Config(size=80)
    with pytest.raises(ValueError, match=r"SfMLearnerConfig.nearest must be positive and less than farthest, got 200"):
        SfMLearnerConfig(nearest=200.0)
    vit = {**TINY["monodepth2"], "backbone": BackboneConfig(name="vit_tiny_patch16_224")}
    with pytest.raises(ValueError, match="depth needs a ResNet of timm's, a VisionTransformer is not one"):
        build_method("monodepth2", **vit)
    options = {**TINY["monodepth2"], "backbone": BackboneConfig(name="resnet18", stem="small")}
    with pytest.raises(ValueError, match="depth needs a ResNet with its standard stem"):
        build_method("monodepth2", **options)
