"""Mixup and CutMix beside timm's, on the same draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from torch import nn

from headrace.models.parts.backbones import build_backbone, tiny_resnet, tiny_vit
from headrace.train import RunError
from headrace.train.probes import mixing as module
from headrace.train.probes.finetune import BEIT_BASE, MAE_BASE, _cross_entropy, drop_paths
from headrace.train.probes.mixing import Mixing

IMAGES = torch.rand(8, 3, 20, 30, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
TARGETS = F.one_hot(LABELS, 4).float()


def test_mixup_is_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed, targets = Mixing(mixup=0.8).apply(IMAGES, TARGETS, (5, 7))
    weight = np.random.default_rng((5, 7)).beta(0.8, 0.8)
    monkeypatch.setattr(np.random, "beta", lambda a, b: weight)
    theirs = Mixup(mixup_alpha=0.8, cutmix_alpha=0.0, label_smoothing=0.0, num_classes=4)
    expected, of_timm = theirs(IMAGES.clone(), LABELS)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(targets, of_timm.float())


@pytest.mark.parametrize("seed", range(6))
def test_cutmix_is_timms(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    rectangle = module._rectangle

    def noted(*arguments: Any) -> tuple[slice, slice]:
        made.append((arguments[2], rectangle(*arguments)))
        return made[-1][1]

    monkeypatch.setattr(module, "_rectangle", noted)
    mixed, targets = Mixing(cutmix=1.0).apply(IMAGES, TARGETS, (seed, 0))
    [(share, (rows, columns))] = made
    centres = iter(_centres(seed))
    monkeypatch.setattr(np.random, "beta", lambda a, b: 1 - share)
    monkeypatch.setattr(np.random, "randint", lambda low, high, size=None: next(centres))
    theirs = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=4)
    expected, of_timm = theirs(IMAGES.clone(), LABELS)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(targets, of_timm.float())
    assert (mixed[0] != IMAGES[0]).any(0).sum() <= (rows.stop - rows.start) * (columns.stop - columns.start)


def _centres(seed: int) -> tuple[int, int]:
    """What `_rectangle` draws behind the weight."""
    generator = np.random.default_rng((seed, 0))
    generator.beta(1.0, 1.0)
    return int(generator.integers(20)), int(generator.integers(30))


def test_both_take_turns_and_off_is_off() -> None:
    both = Mixing(mixup=0.8, cutmix=1.0)
    # A rectangle leaves most pixels as they are, a mixture none.
    cut = [bool((both.apply(IMAGES, TARGETS, (0, step))[0] == IMAGES).any()) for step in range(60)]
    assert 15 < sum(cut) < 45
    assert Mixing().apply(IMAGES, TARGETS, (0, 0)) == (IMAGES, TARGETS)
    again = both.apply(IMAGES, TARGETS, (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(again, both.apply(IMAGES, TARGETS, (1, 2)), strict=True))
    torch.testing.assert_close(again[1].sum(1), torch.ones(8))


def test_the_loss_is_torchs_and_passes_over_what_has_no_label() -> None:
    scores = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    for smoothing in (0.0, 0.1):
        expected = F.cross_entropy(scores, LABELS, label_smoothing=smoothing)
        torch.testing.assert_close(_cross_entropy(scores, TARGETS, smoothing), expected)
        some = TARGETS * (torch.arange(8) < 5)[:, None]
        expected = F.cross_entropy(scores[:5], LABELS[:5], label_smoothing=smoothing)
        torch.testing.assert_close(_cross_entropy(scores, some, smoothing), expected)


def test_paths_are_dropped_more_the_deeper_they_are() -> None:
    backbone: Any = build_backbone(tiny_vit(width=32, depth=3))[0]
    drop_paths(backbone, 0.2)
    rates = [(block.drop_path1.drop_prob, block.drop_path2.drop_prob) for block in backbone.blocks]
    assert rates == [(0.0, 0.0), (0.1, 0.1), (0.2, 0.2)]
    with pytest.raises(RunError, match="a Sequential has no branches to drop; set it to 0"):
        drop_paths(nn.Sequential(nn.Linear(2, 2)), 0.1)
    resnet: Any = build_backbone(tiny_resnet(width=8))[0]
    with pytest.raises(RunError, match="has no branches to drop"):
        drop_paths(resnet, 0.1)


def test_the_papers_values() -> None:
    assert MAE_BASE.lr == pytest.approx(5e-4 * 1024 / 256)
    assert MAE_BASE.lr * MAE_BASE.final_lr == pytest.approx(1e-6)
    assert BEIT_BASE.lr * BEIT_BASE.final_lr == pytest.approx(1e-6)
    assert (MAE_BASE.warmup_epochs, BEIT_BASE.warmup_epochs) == (5, 20)
