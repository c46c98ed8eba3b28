"""Gram anchoring's anchor: what it sees, when it changes, and how a stage begins behind DINOv2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from headrace.models import Context, build_method
from headrace.models.losses import gram_loss
from headrace.models.methods.joint.dinov2_gram import DINOv2GramConfig
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from headrace.train import ConfigError
from headrace.train.weights.initialize import initialize
from tests.models.tiny_methods import TINY, tiny


@pytest.fixture(scope="module")
def batch(digits_webdataset: ShardSet) -> Batch:
    with Loader(digits_webdataset, tiny("dinov2_gram").inputs, 8, threads=1) as loader:
        return next(iter(loader))


def changed(**changes: Any) -> Any:
    return build_method("dinov2_gram", **{**TINY["dinov2_gram"], **changes}).train()


def dinov2(seed: int = 0) -> Any:
    """DINOv2 with the backbone and the heads of the stage's tiny form."""
    own = {"anchor_size", "anchor_every", "anchor_updates"}
    fields = {name: value for name, value in TINY["dinov2_gram"].items() if name not in own}
    return build_method("dinov2", seed=seed, **fields).train()


def context(step: int) -> Context:
    return Context(step=step, epoch=step // 5, steps_per_epoch=5, epochs=4, batch_size=8)


def test_defaults_are_those_of_the_authors_largest_network() -> None:
    c = DINOv2GramConfig()
    assert (c.gram_weight, c.anchor_every, c.anchor_updates, c.local_weight) == (2.0, 10_000, 3, 0.5)
    assert (c.momentum, c.assignment, c.anchor_size / c.size) == (0.999, "sinkhorn", 2.0)


def test_the_anchor_sees_the_same_crops_larger_and_undistorted(digits_webdataset: ShardSet) -> None:
    colourless: dict[str, Any] = {"strength": 0.0, "grayscale": 0.0, "blur": (0.0, 0.0), "solarize": (0.0, 0.0)}
    inputs: Any = changed().inputs
    assert len(inputs.views) == 2 + 2 + 2
    assert all(not view.operations and view.size == 32 for view in inputs.views[-2:])
    with Loader(digits_webdataset, changed(**colourless).inputs, 8, threads=1) as loader:
        views = next(iter(loader)).normalized()
    for crop, larger in zip(views[:2], views[-2:], strict=True):
        small = F.interpolate(larger, size=16, mode="area")
        assert (small - crop).abs().mean() < 0.15 * crop.std()
    assert (views[0] - views[1]).abs().mean() > 0.3 * views[0].std()


def test_the_loss_is_dinov2s_and_the_weighted_gram_loss(batch: Batch) -> None:
    method, plain = changed(gram_weight=0.7, local_weight=0.5), dinov2()
    views = batch.normalized()
    terms = method.loss(batch)
    student = method.student(torch.cat(views[:2]), torch.cat([masks.masked for masks in batch.masks]))[:, 1:]
    tokens = method.anchor.forward_features(torch.cat(views[-2:]))[:, 1:]
    grid = tokens.transpose(1, 2).reshape(16, -1, 8, 8)
    anchors = F.interpolate(grid, size=(4, 4), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(terms["gram"], 0.7 * gram_loss(student, anchors).detach(), rtol=1e-4, atol=1e-8)
    assert terms["gram"] > 0
    of_dinov2 = plain.student_step(views[:-2], batch.masks).terms
    for name, term in of_dinov2.items():
        torch.testing.assert_close(terms[name], term.detach() * (0.5 if name == "small" else 1.0))
    torch.testing.assert_close(terms["loss"].detach(), sum(term for name, term in terms.items() if name != "loss"))


def test_without_weight_it_is_dinov2_to_the_bit(batch: Batch) -> None:
    method, plain = changed(gram_weight=0.0, local_weight=1.0), dinov2()
    method.loss(batch)["loss"].backward()
    short = replace(batch.lone, views=batch.views[:-2], normalize=batch.normalize[:-2])
    plain.loss(replace(batch, streams={"image": short}))["loss"].backward()
    expected = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    found = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_the_anchor_gets_no_gradient_and_is_no_parameter_of_the_optimiser(batch: Batch) -> None:
    method = changed()
    method.loss(batch)["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in method.anchor.parameters())
    grouped = {id(p) for group in method.parameter_groups() for p in group.params}
    assert not grouped & {id(p) for p in method.anchor.parameters()}


def test_patches_of_one_size_are_not_resized(batch: Batch) -> None:
    method = changed(anchor_size=16)
    images = batch.normalized()[0]
    found = method.anchor_patches(images, 4)
    torch.testing.assert_close(found, method.anchor.forward_features(images)[:, 1:])


@pytest.mark.parametrize(("every", "updates", "renewed"), [(3, 2, [2, 5]), (3, 0, []), (0, 5, []), (4, 9, [3, 7])])
def test_the_anchor_becomes_the_teacher_now_and_then(
    batch: Batch, every: int, updates: int, renewed: list[int]
) -> None:
    method = changed(anchor_every=every, anchor_updates=updates, momentum=0.5)
    found = []
    for step in range(10):
        with torch.no_grad():
            for p in method.student.parameters():
                p.add_(0.1)
            before = [p.clone() for p in method.anchor.parameters()]
            method.loss(batch)
            method.after_step(context(step))
        if any(not torch.equal(p, old) for p, old in zip(method.anchor.parameters(), before, strict=True)):
            found.append(step)
            assert all(map(torch.equal, method.anchor.parameters(), method.backbone.parameters()))
    assert found == renewed


def test_the_teachers_momentum_is_constant() -> None:
    method = changed(momentum=0.9)
    assert {method.momentum(context(step)) for step in (0, 10, 19)} == {0.9}


def test_a_stage_starts_from_a_run_of_dinov2(tmp_path: Path) -> None:
    """Student, teacher and anchor from its teacher, the heads from the teacher's; the mask token is the student's."""
    before, method = dinov2(seed=1), changed()
    with torch.no_grad(), seeded(3):
        for p in before.parameters():
            p.add_(torch.randn_like(p))
        before.center.add_(1.0)
    save_file({name: x.clone() for name, x in before.state_dict().items()}, tmp_path / "run.safetensors")
    line = initialize(method, tmp_path / "run.safetensors")
    assert "also given to: anchor, student.vit" in line
    assert "taken beside it: head.last_layer" in line
    for there, parts in (("backbone", ("backbone", "anchor", "student.vit")), ("head", ("head", "student_head"))):
        for part in parts:
            found, expected = method.get_submodule(part).state_dict(), before.get_submodule(there).state_dict()
            assert all(torch.equal(found[name], x) for name, x in expected.items()), part
    assert torch.equal(method.student.mask_token, before.student.mask_token)
    assert not method.center.any()


def test_a_stage_starts_from_a_file_of_a_backbone_too_and_from_no_other_heads(tmp_path: Path) -> None:
    before, method = dinov2(seed=1), changed()
    heads = {name: x.clone() for name, x in method.head.state_dict().items()}
    timms = {**before.backbone.state_dict(), "head.weight": torch.zeros(3, 24), "head.bias": torch.zeros(3)}
    save_file({name: x.clone() for name, x in timms.items()}, tmp_path / "vit.safetensors")
    assert "beside" not in initialize(method, tmp_path / "vit.safetensors")
    assert all(torch.equal(x, heads[name]) for name, x in method.head.state_dict().items())
    other = build_method("dinov2", **{**TINY["dinov2"], "prototypes": 30})
    save_file({name: x.clone() for name, x in other.state_dict().items()}, tmp_path / "run.safetensors")
    with pytest.raises(ConfigError, match=r"head\.last_layer\S+ has the shape \(30, 1\), and \(24, 1\) in the method$"):
        initialize(method, tmp_path / "run.safetensors")
    assert all(torch.equal(x, heads[name]) for name, x in method.head.state_dict().items())


def test_it_refuses_parts_of_patches() -> None:
    with pytest.raises(ValueError, match=r"DINOv2GramConfig\.anchor_size must be a multiple of the patches' 4 pixels"):
        changed(anchor_size=30)
