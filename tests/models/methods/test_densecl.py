"""DenseCL's heads, queues, and what it shares with MoCo v2."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headrace.models import BackboneConfig, Context, build_method
from headrace.models.methods.joint.densecl import DenseCLConfig, DenseHeads
from headrace.models.methods.joint.moco import MoCoV2Config
from headrace.models.parts.backbones import build_backbone, map_and_features, map_channels
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from headrace.train.recipes import densecl_imagenet
from tests.models.tiny_methods import RESNET, TINY, VIT, tiny

CONTEXT = Context(step=0, epoch=0, steps_per_epoch=5, epochs=2, batch_size=8)


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


def test_views_are_those_of_moco_v2() -> None:
    assert DenseCLConfig().views() == MoCoV2Config().views()


def test_without_its_dense_part_it_is_moco_v2(digits_webdataset: ShardSet) -> None:
    method: Any = build_method("densecl", **TINY["densecl"], dense_weight=0.0).train()
    moco: Any = build_method("moco_v2", **TINY["moco_v2"]).train()
    for ours, theirs in (
        (method.backbone, moco.backbone),
        (method.slow_backbone, moco.slow_backbone),
        (method.queue, moco.queue),
    ):
        theirs.load_state_dict(ours.state_dict())
    moco.projector, moco.slow_projector = method.projector.whole, method.slow_projector.whole
    batch = batch_of(method, digits_webdataset)
    with seeded(1):
        terms = method.loss(batch)
    with seeded(1):
        torch.testing.assert_close(terms["loss"], moco.loss(batch)["loss"])
    torch.testing.assert_close(terms["loss"], terms["whole"])


def test_both_terms_have_their_share(digits_webdataset: ShardSet) -> None:
    method: Any = build_method("densecl", **TINY["densecl"], dense_weight=0.25).train()
    terms = method.loss(batch_of(method, digits_webdataset))
    torch.testing.assert_close(terms["loss"].detach(), 0.75 * terms["whole"] + 0.25 * terms["dense"])
    assert terms["whole"] != terms["dense"]


def test_both_queues_take_the_keys_of_a_step_behind_it(digits_webdataset: ShardSet) -> None:
    """The second holds the mean key of a picture's places, at length 1."""
    method: Any = tiny("densecl")
    batch = batch_of(method, digits_webdataset)
    before = [queue.rows.clone() for queue in (method.queue, method.dense_queue)]
    outputs: list[tuple[Tensor, ...]] = []
    slow_outputs = method.slow_outputs

    def seen(images: Tensor) -> tuple[Tensor, ...]:
        outputs.append(slow_outputs(images))
        return outputs[-1]

    method.slow_outputs = seen
    with seeded(1):
        method.loss(batch)
    with seeded(1):
        order = torch.randperm(8)  # the samples' new places
    for queue, rows in zip((method.queue, method.dense_queue), before, strict=True):
        assert torch.equal(queue.rows, rows)
    with torch.no_grad():
        method.after_step(CONTEXT)
    keys = torch.empty(8, 16)
    keys[order] = nn.functional.normalize(outputs[0][1].flatten(2).mean(dim=2), dim=1)
    torch.testing.assert_close(method.dense_queue.rows[:8], keys)
    for queue, rows in zip((method.queue, method.dense_queue), before, strict=True):
        torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(40))
        assert torch.equal(queue.rows[8:], rows[8:])
        assert not torch.equal(queue.rows[:8], rows[:8])
        assert int(queue.oldest) == 8


def test_the_slow_network_gets_no_gradient_and_follows_with_both_heads(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("densecl")
    method.loss(batch_of(method, digits_webdataset))["loss"].backward()
    for module in (method.slow_backbone, method.slow_projector):
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    slow, fast = method.slow_projector.dense[0].weight, method.projector.dense[0].weight
    before = slow.detach().clone()
    with torch.no_grad():
        fast.add_(1.0)
        method.after_step(CONTEXT)
    torch.testing.assert_close(slow.detach(), 0.999 * before + 0.001 * fast.detach())


def test_heads_have_two_layers_with_biases_and_no_norms() -> None:
    heads = DenseHeads(512, 64, hidden_dim=128, out_dim=16)
    assert [type(layer) for layer in heads.whole] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in heads.dense] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert heads.dense[0].kernel_size == heads.dense[2].kernel_size == (1, 1)
    assert heads.dense[0].bias is not None
    assert heads.whole[0].weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.05)  # He's
    assert heads.whole[0].bias.abs().max() == 0
    whole, dense = heads(torch.zeros(3, 512), torch.zeros(3, 64, 7, 7))
    assert (whole.shape, dense.shape) == ((3, 16), (3, 16, 7, 7))


@pytest.mark.parametrize("norm", [True, False])
def test_a_map_s_features_are_the_backbone_s(norm: bool) -> None:
    backbone, dim = build_backbone(replace(RESNET, feature_norm=norm))
    images = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    cells, features = map_and_features(backbone.eval(), images)
    assert cells.shape == (4, dim, 2, 2)
    assert map_channels(backbone) == dim
    assert torch.equal(features, backbone(images))
    assert norm or torch.allclose(features, cells.mean(dim=(2, 3)), atol=1e-6)


@pytest.mark.parametrize(
    ("backbone", "kind"),
    [
        (VIT, "VisionTransformer"),
        (BackboneConfig(name="swin_tiny_patch4_window7_224", options={"embed_dim": 12}), "SwinTransformer"),
    ],
)
def test_a_backbone_without_a_map_is_refused_in_one_line(backbone: BackboneConfig, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"^a {kind} has no feature map \(B, C, H, W\).*ResNet$"):
        build_method("densecl", **TINY["densecl"] | {"backbone": backbone})


def test_imagenet_is_the_authors_run() -> None:
    config = densecl_imagenet()
    assert (config.epochs, config.batch_size, config.schedule.warmup_epochs) == (200, 256, 0)
    model = config.model
    assert (model.temperature, model.momentum, model.queue, model.dense_weight) == (0.2, 0.999, 65536, 0.5)
    assert (model.hidden_dim, model.projection_dim, model.backbone.name) == (2048, 128, "resnet50")
    (group,) = tiny("densecl").parameter_groups()
    assert group.decay_scale == 1.0
    with pytest.raises(ValueError, match=r"DenseCLConfig\.dense_weight must lie in \[0, 1\], got 2"):
        DenseCLConfig(dense_weight=2)
