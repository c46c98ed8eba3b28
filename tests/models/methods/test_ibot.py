"""iBOT's masks, centres and temperatures, and what hidden patches weigh."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.models import Context, build_method
from headrace.models.methods.joint.ibot import IBOTConfig
from headrace.models.parts.backbones import BackboneConfig, tiny_resnet
from headrace.pipeline import Batch, BlockMask, Loader
from headrace.pipeline.masks import BlockMasks
from headrace.shards import ShardSet
from headrace.train.layers import layered
from tests.models.authors_views import BYOL, IMAGENET, PIL, byol_pair, in_torchvisions_words
from tests.models.tiny_methods import TINY, VIT, tiny


@pytest.fixture(scope="module")
def batch(digits_webdataset: ShardSet) -> Batch:
    """Eight samples, some of whose views have hidden patches."""
    with Loader(digits_webdataset, tiny("ibot").inputs, 8, threads=1) as loader:
        return next(iter(loader))


def with_masks(batch: Batch, *masked: Tensor) -> Batch:
    """The batch with these patches hidden, bool (B, L) of each large view."""
    masks = [BlockMasks(each, each.sum(dim=1)) for each in masked]
    return replace(batch, streams={"image": replace(batch.lone, masks=masks)})


def still(**changes: Any) -> Any:
    """The tiny form without drop path."""
    return build_method("ibot", **{**TINY["ibot"], "backbone": VIT, **changes}).train()


def context(step: int) -> Context:
    return Context(step=step, epoch=step // 2, steps_per_epoch=2, epochs=5, batch_size=8)


def test_it_asks_for_the_authors_views_and_masks() -> None:
    inputs: Any = build_method("ibot", backbone=BackboneConfig(name="vit_tiny_patch16_224")).inputs
    small = ((96, 0.05, 0.25), 0.5, BYOL, 0.2, (0.5, 0.1, 2.0, PIL), 0.0, IMAGENET)
    assert in_torchvisions_words(inputs.views) == [*byol_pair(0.25), *[small] * 10]
    assert {view.interpolation for view in inputs.views} == {"bicubic"}
    mask = BlockMask(grid=(14, 14), ratio=(0.1, 0.5), probability=0.5, aspect=(0.3, 1 / 0.3), smallest=16)
    assert inputs.masks == (mask, mask)


def test_defaults_are_those_of_the_authors_command() -> None:
    c = IBOTConfig()
    assert (c.prototypes, c.hidden_dim, c.bottleneck_dim, c.norm_last_layer) == (8192, 2048, 256, False)
    assert (c.warmup_teacher_temperature, c.teacher_temperature, c.warmup_teacher_epochs) == (0.04, 0.07, 30)
    assert (c.warmup_patch_teacher_temperature, c.patch_teacher_temperature) == (0.04, 0.07)
    assert (c.student_temperature, c.momentum, c.center_momentum, c.frozen_epochs) == (0.1, 0.996, 0.9, 1)
    assert c.backbone.name == "vit_small_patch16_224"
    assert c.backbone.options["drop_path_rate"] == 0.1


def test_the_mask_token_begins_at_zero_and_is_the_students_alone() -> None:
    method: Any = tiny("ibot")
    assert not method.student.mask_token.any()
    assert method.student.vit.state_dict().keys() == method.backbone.state_dict().keys()
    assert not [name for name in method.backbone.state_dict() if "mask" in name]
    decayed = {id(p): group.decay_scale for group in method.parameter_groups() for p in group.params}
    assert decayed[id(method.student.mask_token)] == 1.0


def test_the_layer_decay_counts_the_mask_token_to_the_first_layer() -> None:
    method: Any = tiny("ibot")
    groups = layered(method.parameter_groups(), method.layered, 0.5)
    scales = {id(p): group.lr_scale for group in groups for p in group.params}
    names = {name: scales[id(p)] for name, p in method.named_parameters() if p.requires_grad}
    assert names["student.mask_token"] == names["student.vit.patch_embed.proj.weight"] == 0.125
    assert names["student.vit.blocks.0.norm1.weight"] == 0.25
    assert names["student.vit.norm.weight"] == names["student.vit.blocks.1.norm1.weight"] == 0.5
    assert names["student_head.mlp.0.weight"] == 1.0


def test_without_masks_the_patch_loss_is_nothing_and_the_teacher_says_what_the_student_says(batch: Batch) -> None:
    method = still()
    clear = torch.zeros(8, 16, dtype=torch.bool)
    terms = method.loss(with_masks(batch, clear, clear))
    assert terms["patch"].item() == 0.0
    assert terms["loss"].item() == terms["class"].item()
    view = batch.normalized()[0]
    student = method.student_head(method.student(view, clear)[:, 1:])
    assert torch.equal(student, method.head(method.backbone.forward_features(view)[:, 1:]))


def test_uniform_outputs_have_the_known_losses(batch: Batch) -> None:
    method = still(prototypes=8192)
    for head in (method.student_head, method.head):
        torch.nn.init.zeros_(head.last_layer.parametrizations.weight.original0)
    terms = method.loss(batch)
    share = torch.cat([masks.masked.any(dim=1) for masks in batch.masks]).double().mean().item()
    assert 0 < share < 1
    assert terms["class"].item() == pytest.approx(9.011, abs=1e-3)
    assert terms["patch"].item() == pytest.approx(share * math.log(8192), rel=1e-5)


def test_pixels_of_hidden_patches_are_not_seen(batch: Batch) -> None:
    method = still()
    masked = torch.zeros(8, 16, dtype=torch.bool)
    masked[:, 5] = True
    pixels = batch.normalized()[0].clone().requires_grad_()
    method.student_head(method.student(pixels, masked)).square().sum().backward()
    assert pixels.grad is not None
    assert not pixels.grad[:, :, 4:8, 4:8].any()
    assert pixels.grad[:, :, :4].any()


def test_patches_that_are_not_hidden_count_in_the_next_centre_only(batch: Batch) -> None:
    """An addend to the teacher's outputs at patches that no mask hides."""
    found = []
    for addend in (0.0, 1.0):
        method = still()
        with torch.no_grad():
            method.before_step(context(0))
        masked = torch.cat([masks.masked for masks in batch.masks])
        plain = method.head.forward

        def shifted(x: Tensor, plain: Any = plain, addend: float = addend, masked: Tensor = masked) -> Tensor:
            direction = torch.arange(24.0) * addend
            result: Tensor = plain(x)
            return result if x.ndim == 2 else result + (~masked)[:, :, None] * direction

        method.head.forward = shifted
        terms = method.loss(batch)
        with torch.no_grad():
            method.after_step(context(0))
        found.append((terms, method.patch_center.clone(), method.center.clone()))
    (first, patches, classes), (second, moved, same) = found
    assert torch.equal(first["patch"], second["patch"])
    assert torch.equal(first["class"], second["class"])
    assert not torch.equal(patches, moved)
    assert torch.equal(classes, same)


def test_centres_are_moving_means_of_class_tokens_and_of_all_patches(batch: Batch) -> None:
    method = still()
    with torch.no_grad():
        large = torch.cat(batch.normalized()[:2])
        tokens = method.head(method.backbone.forward_features(large))
        method.loss(batch)
        assert not method.patch_center.any()  # until the loss is there
        method.after_step(context(0))
    torch.testing.assert_close(method.center, 0.1 * tokens[:, 0].mean(dim=0)[None], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(method.patch_center, 0.1 * tokens[:, 1:].mean(dim=(0, 1))[None], rtol=1e-4, atol=1e-6)


def test_the_teacher_follows_without_the_mask_token(batch: Batch) -> None:
    method = still(momentum=0.5)
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(1.0)
        before = {name: p.clone() for name, p in method.backbone.named_parameters()}
        method.loss(batch)
        method.after_step(context(0))
    for name, p in method.backbone.named_parameters():
        torch.testing.assert_close(p, before[name] + 0.5)


@pytest.mark.parametrize("epochs", [0, 1, 2, 4])
def test_both_temperatures_warm_up_by_epochs(epochs: int) -> None:
    ends = {"warmup_patch_teacher_temperature": 0.03, "patch_teacher_temperature": 0.06}
    method: Any = build_method("ibot", **{**TINY["ibot"], "warmup_teacher_epochs": epochs, **ends})
    found = []
    for step in range(0, 10, 2):
        with torch.no_grad():
            method.before_step(context(step))
        found.append([float(method.teacher_temperature), float(method.patch_teacher_temperature)])
    expected = [[*np.linspace(low, high, epochs), *[high] * (5 - epochs)] for low, high in ((0.04, 0.07), (0.03, 0.06))]
    np.testing.assert_allclose(np.array(found).T, expected, rtol=1e-6)


def test_it_refuses_what_has_no_patches_and_views_of_parts_of_patches() -> None:
    with pytest.raises(ValueError, match=r"IBOTConfig\.backbone must be a ViT with a class token, resnet18 is not one"):
        build_method("ibot", **{**TINY["ibot"], "backbone": tiny_resnet(width=8)})
    with pytest.raises(ValueError, match=r"IBOTConfig\.size must be a multiple of the patches' 4 pixels, got 18"):
        build_method("ibot", **{**TINY["ibot"], "size": 18})
    with pytest.raises(ValueError, match=r"IBOTConfig\.patch_teacher_temperature must be above 0, got 0\.0"):
        IBOTConfig(patch_teacher_temperature=0.0)
