"""Losses of colours against slow loops, and whose gradient is weighed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses import colour_regression, soft_bin_loss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits (2, 5, 2, 3), three bins of each place, their shares, and weights."""
    nearest = draw(2, 2, 3, 5, seed=1).argsort(dim=-1)[..., :3]
    share = draw(2, 2, 3, 3, seed=2).softmax(dim=-1)
    return draw(2, 5, 2, 3), nearest, share, draw(2, 2, 3, seed=3).exp()


def test_its_value_is_the_plain_mean_of_the_cross_entropies() -> None:
    logits, nearest, share, weight = case()
    total = 0.0
    for n in range(2):
        for y in range(2):
            for x in range(3):
                log_p = logits[n, :, y, x].log_softmax(dim=0)
                for bin, part in zip(nearest[n, y, x].tolist(), share[n, y, x].tolist(), strict=True):
                    total -= part * float(log_p[bin])
    assert soft_bin_loss(logits, nearest, share, weight).item() == pytest.approx(total / 12, rel=1e-12)


def test_its_gradient_is_that_of_the_weighed_mean_by_torchs_cross_entropy() -> None:
    logits, nearest, share, weight = case()
    logits.requires_grad_()
    (found,) = torch.autograd.grad(soft_bin_loss(logits, nearest, share, weight), logits)
    target = torch.zeros(2, 2, 3, 5, dtype=torch.float64).scatter(-1, nearest, share).movedim(-1, 1)
    judge = (weight * F.cross_entropy(logits, target, reduction="none")).mean()
    (expected,) = torch.autograd.grad(judge, logits)
    torch.testing.assert_close(found, expected)


def test_half_the_squared_distance() -> None:
    prediction, target = draw(2, 2, 3, 3), draw(2, 2, 3, 3, seed=1)
    total = sum(float(d) ** 2 for d in (prediction - target).flatten())
    assert colour_regression(prediction, target).item() == pytest.approx(total / 2 / 18, rel=1e-12)


def test_the_regression_is_torchs_mean_square() -> None:
    """Caffe's Euclidean loss over places: half the sum over a and b."""
    prediction, target = draw(2, 2, 3, 3).requires_grad_(), draw(2, 2, 3, 3, seed=1)
    (found,) = torch.autograd.grad(colour_regression(prediction, target), prediction)
    (expected,) = torch.autograd.grad(F.mse_loss(prediction, target), prediction)
    torch.testing.assert_close(found, expected)
