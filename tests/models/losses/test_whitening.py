"""W-MSE's whitening and loss against slow loops, a peer and known values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses import w_mse_loss, whitened


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orders(partitions: int, samples: int, seed: int = 5) -> Tensor:
    return draw(partitions, samples, seed=seed).argsort(dim=1)


def slow_whitened(x: Tensor) -> Tensor:
    """Element by element: Cholesky's decomposition and forward substitution."""
    n, d = x.shape
    means = [float(x[:, j].mean()) for j in range(d)]
    rows = [[float(x[k, j]) - means[j] for j in range(d)] for k in range(n)]
    c = [[sum(row[i] * row[j] for row in rows) / (n - 1) for j in range(d)] for i in range(d)]
    factor = [[0.0] * d for _ in range(d)]
    for i in range(d):
        for j in range(i + 1):
            rest = c[i][j] - sum(factor[i][k] * factor[j][k] for k in range(j))
            factor[i][j] = rest**0.5 if i == j else rest / factor[j][j]
    out = []
    for row in rows:
        z: list[float] = []
        for i in range(d):
            z.append((row[i] - sum(factor[i][k] * z[k] for k in range(i))) / factor[i][i])
        out.append(z)
    return torch.tensor(out, dtype=torch.float64)


def slow_w_mse(z: Tensor, partitions: Tensor, size: int) -> float:
    losses = []
    for order in partitions:
        views = torch.empty_like(z)
        for first in range(0, len(order), size):
            group = order[first : first + size]
            for v in range(z.shape[1]):
                views[group, v] = slow_whitened(z[group, v])
        for i in range(z.shape[1]):
            for j in range(i + 1, z.shape[1]):
                for a, b in zip(views[:, i], views[:, j], strict=True):
                    losses.append(2 - 2 * float(a @ b / (a.norm() * b.norm())))
    return sum(losses) / len(losses)


def test_whitening_is_the_slow_one() -> None:
    x = draw(9, 4)
    torch.testing.assert_close(whitened(x, eps=0.0), slow_whitened(x))


def test_every_group_has_mean_0_and_the_identity_as_covariance() -> None:
    x = (draw(3, 2, 40, 6) @ draw(6, 6, seed=1) + draw(6, seed=2)).float()
    z = whitened(x, eps=0.0)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.mean(dim=2), torch.zeros(3, 2, 6), atol=1e-5, rtol=0)
    for group in z.flatten(0, 1):
        torch.testing.assert_close(group.T.cov(), torch.eye(6), atol=1e-4, rtol=0)


@pytest.mark.parametrize("views", [2, 4])
def test_w_mse_loss_is_the_papers_sum(views: int) -> None:
    z, partitions = draw(12, views, 3), orders(2, 12)
    found = w_mse_loss(z, partitions, 6, eps=0.0).item()
    assert found == pytest.approx(slow_w_mse(z, partitions, 6), rel=1e-10)


@pytest.mark.peer("lightly")
@pytest.mark.parametrize("views", [2, 3])
def test_w_mse_loss_is_lightlys_with_its_gradient(views: int) -> None:
    from lightly.loss.wmse_loss import WMSELoss

    z = draw(16, views, 4).requires_grad_()
    theirs_of = WMSELoss(embedding_dim=4, w_size=8, w_iter=3, num_samples=views, eps=0.1).double()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        theirs = theirs_of(z.transpose(0, 1).flatten(0, 1))
        torch.manual_seed(7)
        partitions = torch.stack([torch.randperm(16) for _ in range(3)])
    ours = w_mse_loss(z, partitions, 8, eps=0.1)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z))


def test_gradients_through_the_statistics_are_those_of_finite_differences() -> None:
    z = draw(10, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: w_mse_loss(z, orders(1, 10), 5, eps=0.0), z)


def test_both_views_receive_gradient() -> None:
    z = draw(12, 2, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(w_mse_loss(z, orders(1, 12), 6, eps=0.0), z)
    first, second = gradient.abs().sum(dim=(0, 2))
    assert first > 0.01
    assert second > 0.01
    # No gradient along what the whitening takes out: a shift of a whole group.
    torch.testing.assert_close(gradient[orders(1, 12)[0, :6]].sum(dim=0), torch.zeros(2, 3).double())


def test_a_lower_triangular_map_of_one_view_changes_nothing_and_another_map_does() -> None:
    """Which whitening it is: with others than Cholesky's other maps would be free."""
    z, partitions = draw(24, 2, 4), orders(1, 24)
    before = w_mse_loss(z, partitions, 12, eps=0.0)

    def of_first(matrix: Tensor, shift: Tensor) -> Tensor:
        return w_mse_loss(torch.stack([z[:, 0] @ matrix.T + shift, z[:, 1]], dim=1), partitions, 12, eps=0.0)

    general, shift = draw(4, 4, seed=2), draw(4, seed=3)
    scales = torch.diag(draw(4, seed=4).abs() + 0.1)
    lower = general.tril(-1) + scales
    torch.testing.assert_close(of_first(scales, shift), before)
    torch.testing.assert_close(of_first(lower, shift), before)
    assert (of_first(lower.T, shift) - before).abs() > 0.01
    assert (of_first(general, shift) - before).abs() > 0.01


def test_equal_views_cost_nothing_and_independent_ones_two() -> None:
    z = draw(512, 1, 8)
    assert w_mse_loss(z.expand(-1, 2, -1), orders(1, 512), 128, eps=0.0).item() == pytest.approx(0, abs=1e-9)
    independent = w_mse_loss(torch.cat([z, draw(512, 1, 8, seed=1)], dim=1), orders(1, 512), 128, eps=0.0)
    assert independent.item() == pytest.approx(2.0, abs=0.1)


def test_views_share_their_groups() -> None:
    """With groups of their own equal views would cost something."""
    z = draw(24, 1, 4).expand(-1, 2, -1).contiguous()
    assert w_mse_loss(z, orders(4, 24), 8, eps=0.0).abs() < 1e-9
    other = z.clone()
    other[:, 1] = other[orders(1, 24)[0], 1]
    assert w_mse_loss(other, orders(4, 24), 8, eps=0.0) > 0.5


def test_what_cannot_be_whitened_is_nan_or_refused() -> None:
    """Collapsed projections, as many samples as dimensions, and a batch that its groups do not fill."""
    same = torch.ones(8, 2, 3, requires_grad=True)
    loss = w_mse_loss(same, orders(1, 8), 8, eps=0.0)
    assert loss.isnan()
    loss.backward()
    assert w_mse_loss(draw(8, 2, 3), orders(1, 8), 8, eps=0.01).isfinite()
    with pytest.raises(ValueError, match="4 samples have no covariance of 4 dimensions that can be inverted"):
        whitened(draw(4, 4), eps=0.0)
    with pytest.raises(ValueError, match="a batch of 12 cannot be put into groups of 8"):
        w_mse_loss(draw(12, 2, 3), orders(1, 12), 8, eps=0.0)
    with pytest.raises(ValueError, match=r"needs \(N, V, D\) and \(P, M\), got \(12, 3\) and \(1, 12\)"):
        w_mse_loss(draw(12, 3), orders(1, 12), 4, eps=0.0)


def test_it_stays_float32_under_autocast() -> None:
    z = draw(16, 2, 3).float()
    expected = w_mse_loss(z, orders(1, 16), 8, eps=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = w_mse_loss(z, orders(1, 16), 8, eps=0.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(F.normalize(whitened(z[:, 0], eps=0.0), dim=1).norm(dim=1), torch.ones(16))
