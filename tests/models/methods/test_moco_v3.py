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
from headrace.train.recipes import moco_v3_imagenet, moco_v3_vit_imagenet
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


def test_a_vit_begins_as_the_authors_draw_it() -> None:
    backbone = BackboneConfig(name="vit_small_patch16_224", options={"depth": 2, "num_heads": 12})
    method: Any = build_method("moco_v3", hidden_dim=8, projection_dim=4, backbone=backbone)
    vit = method.backbone
    d = vit.embed_dim
    omega = 1 / 10000 ** (torch.arange(d // 4, dtype=torch.float64) / (d // 4))
    for row, column in ((0, 0), (0, 3), (5, 0), (13, 2)):
        expected = torch.cat([f(place * omega) for place in (row, column) for f in (torch.sin, torch.cos)])
        torch.testing.assert_close(vit.pos_embed[0, 1 + 14 * row + column].double(), expected, rtol=0, atol=1e-6)
    assert not vit.pos_embed[0, 0].any()
    assert not vit.pos_embed.requires_grad
    assert torch.equal(method.slow_backbone.pos_embed, vit.pos_embed)
    assert 1e-7 < vit.cls_token.std() < 2e-6
    for block in vit.blocks:
        for layer, sides in (
            (block.attn.qkv, d + d), (block.attn.proj, d + d), (block.mlp.fc1, d + 4 * d), (block.mlp.fc2, d + 4 * d)
        ):  # fmt: skip
            bound = (6 / sides) ** 0.5
            assert 0.99 * bound < layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
            assert not layer.bias.any()
    bound = (6 / (3 * 16 * 16 + d)) ** 0.5
    assert 0.99 * bound < vit.patch_embed.proj.weight.abs().max() <= bound
    assert not vit.patch_embed.proj.bias.any()


def test_all_of_a_vit_decays_and_vectors_of_a_resnet_do_not() -> None:
    backbone = BackboneConfig(name=VIT.name, options=VIT.options)
    of_vit = build_method("moco_v3", **{**TINY["moco_v3"], "size": 16, "backbone": backbone})
    assert [group.decay_scale for group in of_vit.parameter_groups()] == [1.0]
    assert [group.decay_scale for group in tiny("moco_v3").parameter_groups()] == [1.0, 0.0]


def test_the_vits_run_is_the_authors() -> None:
    config = moco_v3_vit_imagenet()
    model, optim = config.model, config.optim
    assert peak_lr(optim, config.batch_size) == pytest.approx(2.4e-3)
    assert (optim.name, optim.weight_decay, optim.clip) == ("adamw", 0.1, 0.0)
    assert (config.epochs, config.schedule.warmup_epochs) == (300, 40)
    assert (model.temperature, model.crop_scale, model.momentum) == (0.2, (0.08, 1.0), 0.99)
    assert (model.projector_layers, model.predictor_norm, model.frozen_patches) == (3, True, True)
    assert model.backbone.options == {"num_heads": 12}


def test_imagenet_is_the_authors_run() -> None:
    config = moco_v3_imagenet()
    assert peak_lr(config.optim, config.batch_size) == pytest.approx(9.6)
    assert (config.model.temperature, config.model.momentum, config.optim.lr_in_momentum) == (1.0, 0.99, False)
