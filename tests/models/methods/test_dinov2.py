"""DINOv2's masks, losses, centres, and which parameters move how."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.models import Context, build_method
from headrace.models.losses import centred_targets, sinkhorn
from headrace.models.methods.joint.dinov2 import DINOv2Config
from headrace.models.parts.backbones import BackboneConfig, tiny_resnet
from headrace.pipeline import Batch, BlockMask, Loader
from headrace.shards import ShardSet
from headrace.train.layers import layered
from headrace.train.optim import clip_gradients
from tests.models.authors_views import BYOL, IMAGENET, in_torchvisions_words
from tests.models.tiny_methods import TINY, VIT, tiny


@pytest.fixture(scope="module")
def batch(digits_webdataset: ShardSet) -> Batch:
    with Loader(digits_webdataset, tiny("dinov2").inputs, 8, threads=1) as loader:
        return next(iter(loader))


def still(**changes: Any) -> Any:
    """The tiny form without drop path."""
    return build_method("dinov2", **{**TINY["dinov2"], "drop_path": 0.0, **changes}).train()


def context(step: int) -> Context:
    return Context(step=step, epoch=step // 2, steps_per_epoch=2, epochs=5, batch_size=8)


def hidden(batch: Batch) -> Tensor:
    """bool (2B, L)."""
    return torch.cat([masks.masked for masks in batch.masks])


def test_it_asks_for_the_authors_views_with_the_blur_of_their_code() -> None:
    inputs: Any = build_method("dinov2", backbone=BackboneConfig(name="vit_tiny_patch16_224")).inputs
    crop, small = (224, 0.32, 1.0), (96, 0.05, 0.32)
    assert in_torchvisions_words(inputs.views) == [
        (crop, 0.5, BYOL, 0.2, (), 0.0, IMAGENET),
        (crop, 0.5, BYOL, 0.2, (0.9, 0.1, 2.0, 9), 0.2, IMAGENET),
        *[(small, 0.5, BYOL, 0.2, (0.5, 0.1, 2.0, 9), 0.0, IMAGENET)] * 8,
    ]
    assert {view.interpolation for view in inputs.views} == {"bicubic"}
    mask = BlockMask(grid=(14, 14), ratio=(0.1, 0.5), probability=0.5, aspect=(0.3, 1 / 0.3), smallest=4)
    assert inputs.masks == (mask, replace(mask, instead_of=0))


def test_defaults_are_those_of_the_authors_short_run() -> None:
    c = DINOv2Config()
    assert (c.prototypes, c.hidden_dim, c.bottleneck_dim, c.patch_prototypes) == (65536, 2048, 256, 0)
    assert (c.warmup_teacher_temperature, c.teacher_temperature, c.warmup_teacher_epochs) == (0.04, 0.07, 30)
    assert (c.student_temperature, c.momentum, c.center_momentum, c.frozen_epochs) == (0.1, 0.992, 0.9, 1)
    assert (c.koleo_weight, c.patch_weight, c.assignment, c.koleo_over_ranks) == (0.1, 1.0, "center", False)
    assert (c.drop_path, c.patch_embed_lr, c.backbone.options["init_values"]) == (0.3, 0.2, 1e-5)
    assert c.backbone.name == "vit_large_patch16_224"


def test_exactly_half_of_the_large_views_have_hidden_patches(digits_webdataset: ShardSet) -> None:
    with Loader(digits_webdataset, tiny("dinov2").inputs, 10, threads=1) as loader:
        for batch in loader:
            counts = hidden(batch).sum(dim=1)
            assert (counts > 0).sum() == len(batch)
            assert counts.max() <= 8  # of sixteen


def test_weights_at_the_start() -> None:
    method: Any = tiny("dinov2")
    assert not method.student.mask_token.any()
    assert 0 < method.student.vit.cls_token.abs().max() < 1e-5
    assert all((block.ls1.gamma == 0.5).all() for block in method.student.vit.blocks)
    for student, teacher in (
        (method.student.vit, method.backbone),
        (method.student_head, method.head),
        (method.student_patch_head, method.patch_head),
    ):
        assert all(torch.equal(x, teacher.state_dict()[name]) for name, x in student.state_dict().items())
        assert not any(p.requires_grad for p in teacher.parameters())
    lengths = method.student_head.last_layer.parametrizations.weight.original0
    assert lengths.requires_grad
    assert (lengths == 1).all()


def test_drop_path_is_the_same_in_all_blocks_and_the_students_alone() -> None:
    method: Any = tiny("dinov2")
    rates = [(block.drop_path1.drop_prob, block.drop_path2.drop_prob) for block in method.student.vit.blocks]
    assert rates == [(0.1, 0.1)] * 2
    assert not [m for m in method.backbone.modules() if type(m).__name__ == "DropPath"]
    assert not [m for m in still().modules() if type(m).__name__ == "DropPath"]


@pytest.mark.parametrize("assignment", ["center", "sinkhorn"])
def test_equal_outputs_have_the_known_losses(batch: Batch, assignment: str) -> None:
    """Whatever the targets: a student whose outputs are all the same."""
    method = still(prototypes=65536, patch_prototypes=0, assignment=assignment, koleo_weight=0.0)
    nn.init.zeros_(method.student_head.last_layer.parametrizations.weight.original0)
    terms = method.loss(batch)
    pairs = 2 + 2 * 2  # two large views, two small ones; the authors' 2 + 16 are in the test of `crossed_views`
    assert terms["large"].item() == pytest.approx(math.log(65536) * 2 / pairs, rel=1e-5)
    assert terms["small"].item() == pytest.approx(math.log(65536) * 4 / pairs, rel=1e-5)
    assert terms["patch"].item() == pytest.approx(5.545, abs=1e-3)
    assert terms["loss"].item() == pytest.approx(1.5 * math.log(65536), rel=1e-5)


@pytest.mark.parametrize("assignment", ["center", "sinkhorn"])
@pytest.mark.parametrize("shared", [True, False])
def test_the_patch_loss_is_that_of_hidden_patches_alone(batch: Batch, assignment: str, shared: bool) -> None:
    """Written down again view by view, with no patches that fill up."""
    method = still(assignment=assignment, patch_prototypes=0 if shared else 20)
    with torch.no_grad():
        method.before_step(context(0))
        method.patch_center.copy_(torch.linspace(0, 0.1, method.patch_center.shape[1])[None])
        large, masked = torch.cat(batch.normalized()[:2]), hidden(batch)
        student, head = method.student_patch_head or method.student_head, method.patch_head or method.head
        teacher = head(method.backbone.forward_features(large)[:, 1:][masked])
        if assignment == "center":
            targets = centred_targets(teacher, method.patch_center, 0.04)
        else:
            targets = sinkhorn(teacher, 0.04, 3, slack=0.0)
        logs = (student(method.student(large, masked)[:, 1:][masked]) / 0.1).log_softmax(dim=-1)
        weights = (1 / masked.sum(dim=1).clamp(min=1))[:, None].expand_as(masked)[masked]
        expected = -((targets * logs).sum(dim=-1) * weights).sum() / len(large)
        found = method.loss(batch)["patch"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_pixels_of_hidden_patches_move_no_output_of_the_student(batch: Batch) -> None:
    method = still()
    pixels, masked = batch.normalized()[0].clone().requires_grad_(), batch.masks[0].masked
    tokens = method.student(pixels, masked)
    (
        method.student_head(tokens[:, 0]).square().sum() + method.student_patch_head(tokens[:, 1:]).square().sum()
    ).backward()
    assert pixels.grad is not None
    patches = pixels.grad.unfold(2, 4, 4).unfold(3, 4, 4).abs().sum(dim=(1, 4, 5)).flatten(1)
    assert not patches[masked].any()
    assert (patches[~masked] > 0).all()


def test_koleo_is_of_the_students_class_tokens_of_each_large_view(batch: Batch) -> None:
    method = still(koleo_weight=0.1)
    tokens = method.student(torch.cat(batch.normalized()[:2]), hidden(batch))[:, 0]
    expected = 0.0
    for each in tokens.chunk(2):
        x = nn.functional.normalize(each, dim=1)
        distances = torch.cdist(x, x).fill_diagonal_(9.0)
        expected -= 0.1 * float(distances.detach().min(dim=1).values.log().mean())
    assert method.loss(batch)["koleo"].item() == pytest.approx(expected, rel=1e-3)
    assert "koleo" not in still(koleo_weight=0.0).loss(batch)


def test_centres_are_of_class_tokens_and_of_hidden_patches(batch: Batch) -> None:
    method = still(assignment="center")
    with torch.no_grad():
        tokens = method.backbone.forward_features(torch.cat(batch.normalized()[:2]))
        method.loss(batch)
        assert not method.center.any()  # until the loss is there
        method.after_step(context(0))
    classes, patches = method.head(tokens[:, 0]), method.patch_head(tokens[:, 1:][hidden(batch)])
    torch.testing.assert_close(method.center, 0.1 * classes.mean(dim=0)[None], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(method.patch_center, 0.1 * patches.mean(dim=0)[None], rtol=1e-4, atol=1e-6)


def test_sinkhorn_keeps_no_centre(batch: Batch) -> None:
    method = still(assignment="sinkhorn")
    with torch.no_grad():
        method.loss(batch)
        method.after_step(context(0))
    assert not method.center.any()
    assert not method.patch_center.any()


def test_the_teachers_temperature_warms_up_by_steps() -> None:
    method = still(warmup_teacher_epochs=3)
    found = []
    for step in range(10):
        with torch.no_grad():
            method.before_step(context(step))
        found.append(float(method.teacher_temperature))
    assert found == pytest.approx([*np.linspace(0.04, 0.07, 6), *[0.07] * 4])


def test_rates_and_decays_are_the_authors() -> None:
    """dinov2/utils/param_groups.py: names with bias, norm or gamma are not decayed, the patches' projection moves at a
    fifth, the mask token belongs to the first layer."""
    method: Any = tiny("dinov2")
    names = {id(p): name for name, p in method.named_parameters()}
    groups = layered(method.parameter_groups(), method.layered, 0.9)
    found = {names[id(p)]: group for group in groups for p in group.params}
    for name, group in found.items():
        undecayed = name.endswith(".bias") or "norm" in name or "gamma" in name
        assert group.decay_scale == (0.0 if undecayed else 1.0), name
        assert group.frozen_epochs == ("last_layer" in name), name
        layer = 3
        if name.startswith("student."):
            first = any(part in name for part in ("pos_embed", "patch_embed", "mask_token", "cls_token"))
            layer = 0 if first else int(name.split(".")[3]) + 1 if ".blocks." in name else 2  # theirs: 3 for the norm
        assert group.lr_scale == pytest.approx(0.9 ** (3 - layer) * (0.2 if "patch_embed" in name else 1.0)), name
    assert sum("last_layer" in name for name in found) == 4


def test_the_heads_gradient_does_not_change_the_backbones_clipped_one(batch: Batch) -> None:
    found = []
    for factor in (1.0, 100.0):
        method = still()
        method.loss(batch)["loss"].backward()
        for p in (*method.student_head.parameters(), *method.student_patch_head.parameters()):
            p.grad *= factor
        clip_gradients(method, 1e-3, "module")
        found.append({name: p.grad for name, p in method.student.named_parameters()})
    assert "mask_token" in found[0]
    assert all(torch.equal(found[0][name], gradient) for name, gradient in found[1].items())
    whole = torch.cat([gradient.flatten() for gradient in found[0].values()])
    assert whole.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_the_teacher_follows_all_of_the_student(batch: Batch) -> None:
    method = still(momentum=0.5)
    slow = nn.ModuleList([method.backbone, method.head, method.patch_head])
    with torch.no_grad():
        for part in (method.student, method.student_head, method.student_patch_head):
            for p in part.parameters():
                p.add_(1.0)
        before = [p.clone() for p in slow.parameters()]
        method.loss(batch)
        method.after_step(context(0))
    for p, old in zip(slow.parameters(), before, strict=True):
        torch.testing.assert_close(p, old + 0.5)


def test_it_works_without_small_views(batch: Batch) -> None:
    method = still(local_views=0)
    terms = method.loss(
        replace(batch, streams={"image": replace(batch.lone, views=batch.views[:2], normalize=batch.normalize[:2])})
    )
    assert terms["small"].item() == 0.0
    assert terms["loss"].isfinite()


def test_it_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match=r"DINOv2Config\.backbone must be a ViT with a class token, resnet18 is not"):
        build_method("dinov2", **{**TINY["dinov2"], "backbone": tiny_resnet(width=8)})
    tokenless = BackboneConfig(name=VIT.name, options={**VIT.options, "class_token": False, "global_pool": "avg"})
    with pytest.raises(ValueError, match="must be a ViT with a class token"):
        build_method("dinov2", **{**TINY["dinov2"], "backbone": tokenless})
    with pytest.raises(ValueError, match=r"DINOv2Config\.assignment must be 'center' or 'sinkhorn', got centre"):
        DINOv2Config(assignment="centre")  # type: ignore[arg-type]
