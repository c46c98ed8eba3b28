"""MSN's views, dropped patches, prototypes, slow network and beginning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models import BackboneConfig, Context, build_method
from headrace.models.losses import masked_siamese_terms
from headrace.models.methods.joint.msn import MSNConfig
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader, RandomMask
from headrace.shards import ShardSet
from headrace.train import OptimConfig
from headrace.train.config import PlayerConfig
from headrace.train.optim import build_optimizer, clip_players
from headrace.train.recipes import msn_imagenet
from tests.models.authors_views import IMAGENET, PIL, in_torchvisions_words
from tests.models.tiny_methods import TINY, tiny

NARROW = {"hidden_dim": 32, "projection_dim": 256}


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


def context(step: int) -> Context:
    return Context(step=step, epoch=step // 2, steps_per_epoch=2, epochs=800, batch_size=8)


def test_it_asks_for_the_authors_views_and_drops_patches_of_the_large_anchor() -> None:
    jitter = (0.8, 0.4, 0.4, 0.4, 0.1)
    large = ((224, 0.3, 1.0), 0.5, jitter, 0.2, (0.5, 0.1, 2.0, 23), 0.0, IMAGENET)
    focal = ((96, 0.05, 0.3), 0.5, jitter, 0.2, (0.5, 0.1, 2.0, PIL), 0.0, IMAGENET)
    shallow = BackboneConfig(name="vit_small_patch16_224", options={"depth": 1})
    method: Any = build_method("msn", backbone=shallow, **NARROW)
    assert in_torchvisions_words(method.inputs.views) == [*[large] * 2, *[focal] * 10]
    (mask,) = method.inputs.masks
    assert isinstance(mask, RandomMask)
    assert (mask.grid, mask.visible) == ((14, 14), 166)


def test_it_begins_as_the_authors_draw_it() -> None:
    shallow = BackboneConfig(name="vit_small_patch16_224", options={"depth": 1})
    method: Any = build_method("msn", backbone=shallow, **NARROW)
    vit, prototypes = method.student, method.prototypes.detach()
    assert prototypes.shape == (1024, 256)
    assert 0.99 / 16 < prototypes.abs().max() <= 1 / 16
    assert prototypes.std().item() == pytest.approx(1 / 16 / 3**0.5, rel=0.02)
    linears = [layer for layer in (*vit.modules(), *method.student_projector) if isinstance(layer, nn.Linear)]
    for values in (vit.pos_embed, vit.cls_token, *(layer.weight for layer in linears)):
        assert values.std().item() == pytest.approx(0.02, rel=0.15)
    assert not any(layer.bias.any() for layer in (*linears, vit.patch_embed.proj))
    assert vit.patch_embed.proj.weight.std().item() == pytest.approx((2 / (3 * 16 * 16)) ** 0.5, rel=0.02)


def test_the_projector_is_theirs() -> None:
    method: Any = tiny("msn")
    names = [type(layer).__name__ for layer in method.student_projector]
    assert names == ["Linear", "BatchNorm1d", "GELU", "Linear", "BatchNorm1d", "GELU", "Linear"]
    assert all(layer.bias is not None for layer in method.student_projector if isinstance(layer, nn.Linear))
    config = MSNConfig()
    assert (config.hidden_dim, config.projection_dim) == (2048, 256)


def test_small_anchors_and_the_target_keep_all_patches(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("msn")
    seen: dict[str, list[tuple[int, ...]]] = {"student": [], "slow": []}
    for name, vit in (("student", method.student), ("slow", method.backbone)):
        vit.blocks[0].register_forward_pre_hook(lambda _, x, name=name: seen[name].append(tuple(x[0].shape[:2])))
    method.loss(batch_of(method, digits_webdataset))
    # A class token and 12 of 16 patches of 8 samples; two small anchors together, with 2 x 2 patches each.
    assert seen == {"student": [(8, 13), (16, 5)], "slow": [(8, 17)]}


def test_what_is_dropped_has_no_effect_and_what_is_kept_has(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("msn").eval()
    batch = batch_of(method, digits_webdataset)
    views = [view.clone().requires_grad_() for view in batch.normalized()]
    (masks,) = batch.masks
    method._without_dropped_patches(batch, views[1]).square().sum().backward()
    gradient = views[1].grad
    assert gradient is not None
    moved = F.max_pool2d(gradient.abs().amax(dim=1, keepdim=True), 4).flatten(1) > 0
    expected = torch.zeros(8, 16, dtype=torch.bool).scatter(1, masks.visible, True)
    assert torch.equal(moved, expected)


def test_the_loss_is_of_all_anchors_and_norms_see_each_size_by_itself(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("msn")
    batch = batch_of(method, digits_webdataset)
    target, anchor, *focal = batch.normalized()
    keep = torch.cat([torch.zeros(8, 1, dtype=torch.int64), batch.masks[0].visible + 1], dim=1)
    with torch.no_grad():
        tokens = method.student._pos_embed(method.student.patch_embed(anchor))
        tokens = tokens.gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[2]))
        first = method.student.norm(method.student.blocks(tokens))[:, 0]
        anchors = [method.student_projector(part) for part in (first, method.student(torch.cat(focal)))]
        targets = method.projector(method.backbone(target))
        terms = masked_siamese_terms(torch.cat(anchors), targets, method.prototypes, 0.1, 0.25, 3)
    torch.testing.assert_close(method.loss(batch)["loss"].detach(), sum(terms))


def test_prototypes_are_trained_and_the_slow_network_is_not(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("msn")
    method.loss(batch_of(method, digits_webdataset))["loss"].backward()
    assert method.prototypes.grad.abs().sum() > 0
    assert all(p.grad is None for module in (method.backbone, method.projector) for p in module.parameters())
    assert all(p.grad is not None for module in (method.student, method.student_projector) for p in module.parameters())


def test_the_slow_network_begins_equal_and_follows_on_a_line_that_a_run_does_not_finish() -> None:
    method: Any = tiny("msn")
    for slow, fast in ((method.backbone, method.student), (method.projector, method.student_projector)):
        assert all(torch.equal(a, b) for a, b in zip(slow.parameters(), fast.parameters(), strict=True))
    for step, momentum in ((0, 0.996), (800, 0.9976), (1599, 0.9992)):
        for slow, fast in ((method.backbone, method.student), (method.projector, method.student_projector)):
            one, other = next(slow.parameters()), next(fast.parameters())
            with torch.no_grad():
                other.copy_(one + 1)
                before = one.clone()
                method.after_step(context(step))
            torch.testing.assert_close(one - before, torch.full_like(one, 1 - momentum), rtol=2e-3, atol=2e-6)


def test_prototypes_do_not_decay_and_are_not_in_the_norm_that_clips() -> None:
    config = msn_imagenet().optim
    assert (config.clip, config.players["prototypes"].clip) == (3.0, 0.0)
    assert config.players["prototypes"].lr == config.lr
    method: Any = tiny("msn")
    own = OptimConfig(clip=3.0, players={"prototypes": PlayerConfig(lr=config.lr)})
    optimizer = build_optimizer(method.parameter_groups(), own, 8)
    (last,) = [group for group in optimizer.param_groups if group["player"]]
    assert last["params"] == [method.prototypes]
    assert (last["decay_scale"], last["weight_decay"]) == (0.0, 0.0)
    others = [p for group in optimizer.param_groups[:-1] for p in group["params"]]
    for p in (*others, method.prototypes):
        p.grad = torch.ones_like(p)
    clip_players(method, optimizer, own)
    norm = torch.stack([p.grad.norm() for p in others]).norm()
    assert norm.item() == pytest.approx(3.0, rel=1e-4)
    assert (method.prototypes.grad == 1).all()
    decayed = {id(p) for group in optimizer.param_groups if group["decay_scale"] for p in group["params"]}
    assert {id(method.student.pos_embed), id(method.student.cls_token)} <= decayed
    assert not decayed & {id(p) for p in others if p.ndim <= 1}


def test_it_works_without_small_anchors_dropped_patches_and_sinkhorn(digits_webdataset: ShardSet) -> None:
    plain: Any = build_method("msn", **{**TINY["msn"], "focal_views": 0, "mask_ratio": 0, "sinkhorn_iterations": 0})
    assert (len(plain.inputs.views), plain.inputs.masks) == (2, ())
    assert plain.loss(batch_of(plain, digits_webdataset))["loss"].isfinite()


def test_the_entropy_gap_counts_by_its_weight(digits_webdataset: ShardSet) -> None:
    found: list[dict[str, Tensor]] = []
    for weight in (0.0, 5.0):
        method: Any = build_method("msn", **{**TINY["msn"], "entropy_weight": weight}).train()
        with seeded(0):
            found.append(method.loss(batch_of(method, digits_webdataset)))
    gap = found[1]["entropy_gap"]
    torch.testing.assert_close(found[1]["loss"] - found[0]["loss"], 5 * gap)


def test_what_cannot_be_is_said() -> None:
    plain = BackboneConfig(name="vit_tiny_patch16_224", options={"class_token": False, "global_pool": "avg"})
    with pytest.raises(
        ValueError, match=r"MSNConfig\.backbone must be a ViT with a class token, vit_tiny_patch16_224 is"
    ):
        build_method("msn", **{**TINY["msn"], "backbone": plain})
    with pytest.raises(ValueError, match=r"do not fit resnet18"):
        build_method("msn", backbone=BackboneConfig(name="resnet18"))
    with pytest.raises(ValueError, match=r"MSNConfig\.mask_ratio must lie in \[0, 1\), got 1"):
        build_method("msn", mask_ratio=1.0)
    with pytest.raises(ValueError, match=r"MSNConfig\.sharpening must be above 0, got 0"):
        build_method("msn", sharpening=0.0)
