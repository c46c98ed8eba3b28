"""LeJEPA's terms against a slow loop, a peer and known values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses import centre_distance, sigreg


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(d: int, m: int) -> Tensor:
    return F.normalize(draw(d, m, seed=9), dim=0)


def slow_sigreg(z: Tensor, along: Tensor) -> float:
    views, n, _ = z.shape
    total = 0.0
    for v in range(views):
        for m in range(along.shape[1]):
            y = [float(row @ along[:, m]) for row in z[v]]
            for k in range(17):
                t = 3 * k / 16
                phi = math.exp(-t * t / 2)
                weight = (1 if k in (0, 16) else 2) * 3 / 16 * phi
                cosine, sine = sum(math.cos(t * x) for x in y) / n, sum(math.sin(t * x) for x in y) / n
                total += n * weight * ((cosine - phi) ** 2 + sine**2)
    return total / views / along.shape[1]


def test_sigreg_is_the_papers_sum() -> None:
    z, along = draw(2, 5, 3), directions(3, 4)
    assert sigreg(z, along).item() == pytest.approx(slow_sigreg(z, along), rel=1e-10)


@pytest.mark.peer("lightly")
def test_sigreg_is_lightlys_with_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightly.loss.lejepa_loss import SIGReg

    along = directions(6, 32)
    theirs = SIGReg(num_vectors=32).double()
    monkeypatch.setattr(theirs, "_generate_unit_vectors", lambda *_, **__: along)
    theirs.phi.copy_(torch.exp(-theirs.t.square() / 2))  # its numbers were made in float32
    theirs.weights.copy_(2 * 3 / 16 * theirs.phi)
    theirs.weights[[0, -1]] /= 2
    z = draw(3, 20, 6).requires_grad_()
    ours, other = sigreg(z, along), theirs(z)
    torch.testing.assert_close(ours, other, rtol=1e-10, atol=0)
    torch.testing.assert_close(torch.autograd.grad(ours, z), torch.autograd.grad(other, z))


def test_sigreg_has_its_known_values() -> None:
    """Of 17 knots: 1.052 for a standard normal whatever N and D are, and what grows with N elsewhere."""
    for n, d in ((64, 8), (512, 32)):
        means = [sigreg(draw(1, n, d, seed=seed), directions(d, 256)).item() for seed in range(12)]
        assert sum(means) / len(means) == pytest.approx(1.052, rel=0.12)
    n = 4096
    assert sigreg(torch.zeros(1, n, 4, dtype=torch.float64), directions(4, 16)).item() == pytest.approx(
        0.4020 * n, rel=1e-3
    )
    ones = torch.ones(1, n, 1, dtype=torch.float64)
    assert sigreg(ones, torch.ones(1, 1, dtype=torch.float64)).item() == pytest.approx(1.186 * n, rel=1e-3)
    assert sigreg(2 * draw(1, n, 8), directions(8, 64)).item() == pytest.approx(0.236 * n, rel=0.05)
    assert sigreg(draw(1, n, 8) / 2, directions(8, 64)).item() == pytest.approx(0.151 * n, rel=0.05)


def test_the_centre_is_that_of_the_large_views() -> None:
    z = draw(4, 5, 3)
    slow = sum(
        float((z[v, i, j] - (z[0, i, j] + z[1, i, j]) / 2) ** 2) for v in range(4) for i in range(5) for j in range(3)
    )
    assert centre_distance(z, 2).item() == pytest.approx(slow / 60, rel=1e-12)
    assert centre_distance(z[:1].expand(4, -1, -1), 2).item() == pytest.approx(0, abs=1e-30)


@pytest.mark.peer("lightly")
def test_the_centre_distance_is_lightlys() -> None:
    from lightly.loss.lejepa_loss import lejepa_invariance_loss

    z = draw(5, 6, 4)
    torch.testing.assert_close(centre_distance(z, 2), lejepa_invariance_loss(all_proj=z, global_proj=z[:2]))
