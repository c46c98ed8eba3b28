"""Barlow Twins' loss against a slow loop, a peer and known values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrace.models.losses import barlow_twins_loss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_barlow(z1: Tensor, z2: Tensor, lambd: float) -> float:
    n, d = z1.shape
    loss = 0.0
    for i in range(d):
        for j in range(d):
            a, b = z1[:, i], z2[:, j]
            a = (a - a.mean()) / (a.var(correction=0) + 1e-5).sqrt()
            b = (b - b.mean()) / (b.var(correction=0) + 1e-5).sqrt()
            c = float(sum(x * y for x, y in zip(a, b, strict=True))) / n
            loss += (c - 1) ** 2 if i == j else lambd * c**2
    return loss


def test_barlow_twins_loss_is_the_papers_sum() -> None:
    z1, z2 = draw(7, 4), draw(7, 4, seed=1)
    found = barlow_twins_loss(z1, z2, 0.3, over_ranks="exact").item()
    assert found == pytest.approx(slow_barlow(z1, z2, 0.3), rel=1e-10)


@pytest.mark.peer("lightly")
def test_barlow_twins_loss_is_lightlys_with_its_gradient() -> None:
    from lightly.loss import BarlowTwinsLoss

    z1, z2 = draw(16, 6).requires_grad_(), draw(16, 6, seed=1).requires_grad_()
    ours, theirs = barlow_twins_loss(z1, z2, 0.0051, over_ranks="exact"), BarlowTwinsLoss(0.0051)(z1, z2)
    torch.testing.assert_close(ours, theirs)
    for found, expected in zip(torch.autograd.grad(ours, (z1, z2)), torch.autograd.grad(theirs, (z1, z2)), strict=True):
        torch.testing.assert_close(found, expected)


def test_scale_shift_and_order_of_columns_change_nothing() -> None:
    x = draw(64, 5)
    loss = barlow_twins_loss(x, x, 0.1, over_ranks="exact", eps=0)
    a, b = draw(5, seed=1).abs() + 0.1, draw(5, seed=2)
    torch.testing.assert_close(barlow_twins_loss(x, a * x + b, 0.1, over_ranks="exact", eps=0), loss)
    y, order = draw(64, 5, seed=3), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(
        barlow_twins_loss(x[:, order], y[:, order], 0.1, over_ranks="exact"),
        barlow_twins_loss(x, y, 0.1, over_ranks="exact"),
    )


def test_constant_embeddings_cost_d_and_decorrelated_ones_nothing() -> None:
    constant = torch.ones(8, 6, dtype=torch.float64)
    assert barlow_twins_loss(constant, constant, 0.0051, over_ranks="exact").item() == pytest.approx(6)
    plane = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    assert barlow_twins_loss(plane, plane, 1.0, over_ranks="exact").item() == pytest.approx(0, abs=1e-9)


def test_independent_noise_costs_what_it_is_expected_to() -> None:
    n, d, lambd = 512, 64, 0.0051
    found = barlow_twins_loss(draw(n, d), draw(n, d, seed=1), lambd, over_ranks="exact").item()
    assert found == pytest.approx(d * (1 + 1 / n) + lambd * d * (d - 1) / n, rel=0.05)
