"""MoCo v3's slow network, frozen patches, heads and views."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from headrace.models import BackboneConfig, Context, build_method
from headrace.models.methods.joint.moco_v3 import MoCoV3Config
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from headrace.train.optim import peak_lr
from headrace.train.recipes import moco_v3_imagenet
from tests.models.authors_views import byol_pair, in_torchvisions_words
from tests.models.tiny_methods import TINY, VIT, tiny


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


def context(step: int) -> Context:
    return Context(step=step, epoch=step // 4, steps_per_epoch=4, epochs=2, batch_size=8)


def test_it_asks_for_the_authors_views() -> None:
    assert in_torchvisions_words(MoCoV3Config().views().views) == byol_pair(0.2)


def test_heads_are_those_of_resnets_and_of_vits() -> None:
    """Linear layers without bias; a norm without scale and shift behind a projector, and behind a ViT's predictor."""
    config = MoCoV3Config(hidden_dim=12, projection_dim=6, backbone=BackboneConfig(name="resnet18"))
    of_resnet: Any = build_method("moco_v3", config)
    of_vit: Any = tiny("moco_v3")
    for head, widths, normed in (
        (of_resnet.projector, [12, 6], True),
        (of_resnet.predictor, [12, 6], False),
        (of_vit.projector, [32, 32, 16], True),
        (of_vit.predictor, [32, 16], True),
    ):
        linears = [layer for layer in head if isinstance(layer, nn.Linear)]
        assert [layer.out_features for layer in linears] == widths
        assert all(layer.bias is None for layer in linears)
        assert isinstance(head[-1], nn.BatchNorm1d) == normed
        assert not normed or not head[-1].affine


def test_the_slow_network_gets_no_gradient(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("moco_v3")
    method.loss(batch_of(method, digits_webdataset))["loss"].backward()
    for module in (method.slow_backbone, method.slow_projector):
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert all(p.grad is not None for p in method.predictor.parameters())


@pytest.mark.parametrize(("step", "share"), [(0, 0.01 * 0.9619397662556434), (3, 0.005), (7, 0.0)])
def test_it_moves_with_the_momentum_of_the_next_step(step: int, share: float) -> None:
    """The authors' step n moves before its keys, with the momentum of n; the cosine is over 8 steps here."""
    method: Any = tiny("moco_v3")
    slow, fast = next(method.slow_projector.parameters()), next(method.projector.parameters())
    before = slow.detach().clone()
    with torch.no_grad():
        fast.add_(1.0)
        method.after_step(context(step))
    torch.testing.assert_close(slow.detach(), before + share * (fast.detach() - before))


def test_a_frozen_projection_of_patches_is_copied_and_stays(digits_webdataset: ShardSet) -> None:
    backbone = BackboneConfig(name=VIT.name, options={**VIT.options, "dynamic_img_size": False})
    changes = {**TINY["moco_v3"], "size": 16, "backbone": backbone, "frozen_patches": True}
    method: Any = build_method("moco_v3", **changes).train()
    before = {name: p.clone() for name, p in method.backbone.patch_embed.named_parameters()}
    trained = {id(p) for group in method.parameter_groups() for p in group.params}
    assert not trained & {id(p) for p in method.backbone.patch_embed.parameters()}
    method.loss(batch_of(method, digits_webdataset))["loss"].backward()
    with torch.no_grad():
        method.after_step(context(0))
    for embed in (method.backbone.patch_embed, method.slow_backbone.patch_embed):
        assert all(torch.equal(p, before[name]) for name, p in embed.named_parameters())
    with pytest.raises(ValueError, match=r"MoCoV3Config\.frozen_patches is for ViTs, resnet18 is not one"):
        build_method("moco_v3", frozen_patches=True, backbone=BackboneConfig(name="resnet18"))


def test_imagenet_is_the_authors_run() -> None:
    config = moco_v3_imagenet()
    assert peak_lr(config.optim, config.batch_size) == pytest.approx(9.6)
    assert (config.model.temperature, config.model.momentum, config.optim.lr_in_momentum) == (1.0, 0.99, False)
