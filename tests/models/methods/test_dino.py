"""DINO's teacher, centre, last layer and clipping."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from headrace.models import Context, build_method
from headrace.models.methods.joint.dino import DINOConfig
from headrace.models.parts.heads import DINOHead
from headrace.pipeline import Batch, Loader
from headrace.shards import ShardSet
from headrace.train import OptimConfig
from headrace.train.optim import build_optimizer, clip_gradients, drop_frozen
from tests.conftest import require_peer
from tests.models.authors_views import BYOL, IMAGENET, PIL, byol_pair, in_torchvisions_words
from tests.models.tiny_methods import TINY, tiny


def batch_of(method: Any, shards: ShardSet) -> Batch:
    with Loader(shards, method.inputs, 8, threads=1) as loader:
        return next(iter(loader))


def context(step: int) -> Context:
    return Context(step=step, epoch=step // 2, steps_per_epoch=2, epochs=5, batch_size=8)


def test_it_asks_for_the_authors_views() -> None:
    views = DINOConfig().views().views
    small = ((96, 0.05, 0.4), 0.5, BYOL, 0.2, (0.5, 0.1, 2.0, PIL), 0.0, IMAGENET)
    assert in_torchvisions_words(views) == [*byol_pair(0.4), *[small] * 8]
    assert {view.interpolation for view in views} == {"bicubic"}


def test_the_teacher_begins_as_the_student_without_its_drop_path() -> None:
    method: Any = tiny("dino")
    for student, teacher in ((method.student, method.backbone), (method.student_head, method.head)):
        own, other = student.state_dict(), teacher.state_dict()
        assert own.keys() == other.keys()
        assert all(torch.equal(own[key], other[key]) for key in own)
        assert not any(p.requires_grad for p in teacher.parameters())
    dropping = [type(m).__name__ for m in method.student.modules() if type(m).__name__ == "DropPath"]
    assert dropping
    assert not [m for m in method.backbone.modules() if type(m).__name__ == "DropPath"]


def test_the_centre_is_a_moving_mean_of_the_teachers_outputs(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("dino")
    batch = batch_of(method, digits_webdataset)
    with torch.no_grad():
        method.before_step(context(0))
        method.loss(batch)
        outputs = torch.cat([method.head(method.backbone(view)) for view in batch.normalized()[:2]])
        assert (method.center == 0).all()  # until the loss is there
        method.after_step(context(0))
    torch.testing.assert_close(method.center, 0.1 * outputs.mean(dim=0, keepdim=True), rtol=1e-4, atol=1e-6)


def test_the_last_layer_waits_for_the_first_epoch_and_its_rows_keep_their_length(digits_webdataset: ShardSet) -> None:
    method: Any = tiny("dino")
    optimizer = build_optimizer(method.parameter_groups(), OptimConfig(lr=0.01, weight_decay=0.1), 256)
    batch, direction = (
        batch_of(method, digits_webdataset),
        method.student_head.last_layer.parametrizations.weight.original1,
    )
    first = direction.detach().clone()
    for step in range(3):
        with torch.no_grad():
            method.before_step(context(step))
        optimizer.zero_grad()
        method.loss(batch)["loss"].backward()
        drop_frozen(optimizer, context(step).epoch)
        optimizer.step()
        with torch.no_grad():
            method.after_step(context(step))
        assert torch.equal(direction.detach(), first) == (step < 2)
        torch.testing.assert_close(method.student_head.last_layer.weight.norm(dim=1), torch.ones(24))


def test_lengths_of_prototypes_are_learnt_where_they_are_not_kept() -> None:
    sizes = {"hidden_dim": 8, "bottleneck_dim": 4}
    for kept in (True, False):
        head = DINOHead(6, 5, norm_last_layer=kept, batch_norm=False, **sizes)  # type: ignore[arg-type]
        assert head.last_layer.parametrizations.weight.original0.requires_grad != kept
        assert head(torch.randn(3, 6)).shape == (3, 5)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_head_with_batch_norms_is_lightlys_with_the_biases_of_the_authors() -> None:
    require_peer("lightly")
    from lightly.models.modules.heads import DINOProjectionHead

    ours = DINOHead(6, 5, hidden_dim=8, bottleneck_dim=4, norm_last_layer=True, batch_norm=True).double()
    theirs = DINOProjectionHead(6, 8, 4, 5, batch_norm=True).double()
    with torch.no_grad():
        for mine, other in zip(ours.mlp, theirs.layers[: len(ours.mlp)], strict=True):
            if isinstance(mine, nn.Linear):
                other.weight.copy_(mine.weight)
                if other.bias is None:  # a batch norm takes it away again
                    mine.bias.normal_()
        theirs.last_layer.weight_v.copy_(ours.last_layer.parametrizations.weight.original1)
    x = torch.randn(7, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x.flatten(0, 1)).view(7, 3, 5))


def test_each_tensor_is_clipped_by_its_own_norm() -> None:
    module = nn.ParameterDict({"large": nn.Parameter(torch.zeros(4)), "small": nn.Parameter(torch.zeros(4))})
    module["large"].grad, module["small"].grad = torch.full((4,), 15.0), torch.full((4,), 0.5)
    clip_gradients(module, 3.0, "tensor")
    assert module["large"].grad.norm().item() == pytest.approx(3.0, rel=1e-5)
    assert module["small"].grad.norm().item() == pytest.approx(1.0, rel=1e-5)


def test_clipping_over_all_and_over_parts() -> None:
    torch.manual_seed(0)
    module = nn.ModuleDict({"body": nn.Linear(3, 3), "head": nn.Linear(3, 2)})
    given = {name: torch.randn_like(p) for name, p in module.named_parameters()}

    def clipped(by: Any) -> dict[str, torch.Tensor]:
        for name, p in module.named_parameters():
            p.grad = given[name].clone()
        clip_gradients(module, 0.5, by)
        return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}

    def norm(gradients: dict[str, torch.Tensor], part: str = "") -> float:
        return float(torch.cat([g.flatten() for name, g in gradients.items() if name.startswith(part)]).norm())

    assert norm(clipped("all")) == pytest.approx(0.5, rel=1e-4)
    parts = clipped("module")
    assert [norm(parts, part) for part in ("body", "head")] == pytest.approx([0.5, 0.5], rel=1e-4)
    for name, gradient in clipped("all").items():
        torch.testing.assert_close(gradient, given[name] * 0.5 / norm(given), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("epochs", [0, 1, 2, 4])
def test_the_teachers_temperature_warms_up_by_epochs(epochs: int) -> None:
    """The authors' line is numpy's: its last epoch has the final temperature."""
    method: Any = build_method("dino", **{**TINY["dino"], "warmup_teacher_epochs": epochs})
    found = []
    for step in range(0, 10, 2):
        with torch.no_grad():
            method.before_step(context(step))
        found.append(float(method.teacher_temperature))
    assert found == pytest.approx([*np.linspace(0.04, 0.07, epochs), *[0.07] * (5 - epochs)])
