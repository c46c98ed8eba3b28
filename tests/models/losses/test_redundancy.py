"""Barlow Twins', VICReg's and TiCo's losses against slow loops, a peer and known values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses import barlow_twins_loss, second_moment, tico_loss, vicreg_terms


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


def vicreg(z1: Tensor, z2: Tensor) -> Tensor:
    terms = vicreg_terms(z1, z2)
    return 25 * terms.invariance + 25 * terms.variance + terms.covariance


def slow_vicreg(z1: Tensor, z2: Tensor) -> tuple[float, float, float]:
    n, d = z1.shape
    invariance = sum(float((z1[i, j] - z2[i, j]) ** 2) for i in range(n) for j in range(d)) / (n * d)
    variance = covariance = 0.0
    for z in (z1, z2):
        means = [float(z[:, j].mean()) for j in range(d)]
        for i in range(d):
            for j in range(d):
                c = sum(float((z[k, i] - means[i]) * (z[k, j] - means[j])) for k in range(n)) / (n - 1)
                if i == j:
                    variance += max(0.0, 1 - math.sqrt(c + 1e-4)) / d / 2
                else:
                    covariance += c**2 / d
    return invariance, variance, covariance


def test_vicreg_terms_are_the_papers_sums() -> None:
    z1, z2 = 0.7 * draw(7, 4), draw(7, 4, seed=1)
    found = [term.item() for term in vicreg_terms(z1, z2)]
    assert found == pytest.approx(list(slow_vicreg(z1, z2)), rel=1e-10)


@pytest.mark.peer("lightly")
def test_vicreg_is_lightlys_with_its_gradient() -> None:
    from lightly.loss import VICRegLoss

    z1, z2 = draw(16, 6).requires_grad_(), draw(16, 6, seed=1).requires_grad_()
    ours, theirs = vicreg(z1, z2), VICRegLoss()(z1, z2)
    torch.testing.assert_close(ours, theirs)
    for found, expected in zip(torch.autograd.grad(ours, (z1, z2)), torch.autograd.grad(theirs, (z1, z2)), strict=True):
        torch.testing.assert_close(found, expected)


def test_vicreg_of_constant_and_of_independent_branches() -> None:
    """24.75 where all has collapsed: 49.5 would be a variance term that was not halved."""
    constant = torch.ones(8, 6, dtype=torch.float64).requires_grad_()
    loss = vicreg(constant, constant)
    assert loss.item() == pytest.approx(25 * (1 - 0.01))
    (gradient,) = torch.autograd.grad(loss, constant)
    assert gradient.isfinite().all()
    n, d = 512, 64
    found = vicreg(draw(n, d), draw(n, d, seed=1)).item()
    assert found == pytest.approx(25 * 2 + 25 * 0.40 / math.sqrt(2 * (n - 1)) + 2 * (d - 1) / (n - 1), rel=0.02)


def test_a_shift_and_a_rotation_change_what_they_should_of_vicreg() -> None:
    z1, z2 = draw(32, 5), draw(32, 5, seed=1)
    before, shifted = vicreg_terms(z1, z2), vicreg_terms(z1 + draw(5, seed=2), z2)
    assert shifted.invariance != before.invariance
    torch.testing.assert_close(shifted[1:], before[1:])
    turn, _ = torch.linalg.qr(draw(5, 5, seed=3))
    torch.testing.assert_close(vicreg_terms(z1 @ turn, z2 @ turn).invariance, before.invariance)


def slow_tico(z1: Tensor, z2: Tensor, moment: Tensor, rho: float) -> float:
    loss = 0.0
    for a, b in zip(z1, z2, strict=True):
        a, b = a / a.norm(), b / b.norm()
        loss += 1 - float(a @ b) + rho * float(a @ moment @ a)
    return loss / len(z1)


def test_tico_loss_is_the_papers_sum() -> None:
    z1, z2, moment = draw(6, 4), draw(6, 4, seed=1), draw(4, 4, seed=2)
    assert tico_loss(z1, z2, moment, 8.0).item() == pytest.approx(slow_tico(z1, z2, moment, 8.0), rel=1e-10)
    slow = sum(torch.outer(row, row) / row.square().sum() for row in z1) / 6
    torch.testing.assert_close(second_moment(z1), slow)


@pytest.mark.peer("lightly")
def test_three_steps_of_tico_are_lightlys_with_their_gradients() -> None:
    from lightly.loss import TiCoLoss

    theirs, moment = TiCoLoss(beta=0.9, rho=8.0), torch.zeros(4, 4, dtype=torch.float64)
    for step in range(3):
        z1, z2 = draw(6, 4, seed=step).requires_grad_(), draw(6, 4, seed=step + 10)
        moment = 0.9 * moment + 0.1 * second_moment(z1)
        ours, other = tico_loss(z1, z2, moment, 8.0), theirs(z1, z2)
        torch.testing.assert_close(ours, other)
        torch.testing.assert_close(torch.autograd.grad(ours, z1), torch.autograd.grad(other, z1))


def test_tico_of_collapsed_and_of_isotropic_embeddings() -> None:
    """rho (1 - beta^t) where all has collapsed, rho / D where directions are all alike."""
    same = torch.ones(8, 5, dtype=torch.float64)
    moment = torch.zeros(5, 5, dtype=torch.float64)
    for step in range(1, 4):
        moment = 0.9 * moment + 0.1 * second_moment(same)
        assert tico_loss(same, same, moment, 8.0).item() == pytest.approx(8 * (1 - 0.9**step))
        assert moment.trace().item() == pytest.approx(1 - 0.9**step)
        torch.testing.assert_close(moment, moment.T)
    apart = torch.eye(256, dtype=torch.float64)
    assert tico_loss(apart, apart, second_moment(apart), 8.0).item() == pytest.approx(8 / 256)


def test_neither_tico_s_moment_nor_its_slow_side_gets_gradient() -> None:
    z1, z2, moment = draw(4, 3).requires_grad_(), draw(4, 3, seed=1).requires_grad_(), draw(3, 3).requires_grad_()
    tico_loss(z1, z2, moment, 8.0).backward()
    assert z1.grad is not None
    assert z2.grad is None
    assert moment.grad is None
    assert not second_moment(F.normalize(z1, dim=1)).requires_grad
