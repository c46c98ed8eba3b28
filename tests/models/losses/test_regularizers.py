"""KoLeo's and Gram anchoring's losses against slow loops, peers and known values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses import gram_loss, koleo_loss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int) -> Tensor:
    return torch.linalg.qr(draw(size, size, seed=9)).Q


def test_koleo_is_minus_the_logarithm_of_the_distance_to_the_nearest() -> None:
    x = draw(7, 5)
    rows = [row / row.norm() for row in x]
    nearest = [min(float((a - b).norm()) for b in rows if b is not a) for a in rows]
    found = koleo_loss(x, over_ranks=False).item()
    assert found == pytest.approx(-sum(map(math.log, nearest)) / 7, rel=1e-6)


@pytest.mark.peer("lightly")
def test_koleo_is_lightlys_with_its_gradient() -> None:
    from lightly.loss import KoLeoLoss

    x = draw(8, 6).requires_grad_()
    ours, theirs = koleo_loss(x, over_ranks=False), KoLeoLoss()(x)
    torch.testing.assert_close(ours, theirs)
    (found,), (expected,) = torch.autograd.grad(ours, x), torch.autograd.grad(theirs, x)
    torch.testing.assert_close(found, expected)


def test_koleo_has_its_known_values() -> None:
    assert koleo_loss(torch.eye(2), over_ranks=False).item() == pytest.approx(-math.log(2) / 2, abs=1e-4)  # -0.3466
    same = torch.ones(2, 384, requires_grad=True)
    loss = koleo_loss(same, over_ranks=False)
    loss.backward()
    assert loss.item() == pytest.approx(15.40, abs=0.01)
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_koleo_does_not_see_rotations_and_lengths() -> None:
    x = draw(6, 5)
    loss = koleo_loss(x, over_ranks=False)
    torch.testing.assert_close(koleo_loss(x @ rotation(5), over_ranks=False), loss)
    torch.testing.assert_close(koleo_loss(x * torch.arange(1, 7)[:, None], over_ranks=False), loss)


def test_koleo_of_half_precision_is_calculated_in_full() -> None:
    x = draw(6, 5).bfloat16()
    found = koleo_loss(x, over_ranks=False)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, koleo_loss(x.float(), over_ranks=False))


def test_koleo_refuses_a_lone_sample() -> None:
    with pytest.raises(ValueError, match="at least two samples, got 1"):
        koleo_loss(draw(1, 4), over_ranks=False)


def slow_gram(student: Tensor, anchor: Tensor) -> float:
    terms = []
    for ours, theirs in zip(student, anchor, strict=True):
        for i in range(len(ours)):
            for j in range(len(ours)):
                cosines = [float(F.cosine_similarity(x[i], x[j], dim=0)) for x in (ours, theirs)]
                terms.append((cosines[0] - cosines[1]) ** 2)
    return sum(terms) / len(terms)


def test_gram_loss_is_the_papers_sum_of_each_image() -> None:
    student, anchor = draw(3, 4, 6), draw(3, 4, 5, seed=1)
    assert gram_loss(student, anchor).item() == pytest.approx(slow_gram(student, anchor), rel=1e-10)


def test_gram_loss_sees_neither_rotations_nor_lengths_of_patches_but_their_order() -> None:
    anchor = draw(3, 4, 6)
    assert gram_loss(anchor @ rotation(6), anchor).item() == pytest.approx(0.0, abs=1e-25)
    assert gram_loss(anchor * (1 + draw(3, 4, 1).abs()), anchor).item() == pytest.approx(0.0, abs=1e-25)
    assert gram_loss(anchor.roll(1, dims=1), anchor).item() > 1e-2


@pytest.mark.parametrize("patches", [4, 16])
def test_gram_loss_of_equal_patches_under_orthonormal_ones(patches: int) -> None:
    student, anchor = torch.ones(2, patches, 3), torch.eye(patches).expand(2, -1, -1)
    assert gram_loss(student, anchor).item() == pytest.approx(1 - 1 / patches, rel=1e-6)


def test_the_anchor_gets_no_gradient() -> None:
    student, anchor = draw(2, 3, 4).requires_grad_(), draw(2, 3, 4, seed=1).requires_grad_()
    gram_loss(student, anchor).backward()
    assert student.grad is not None
    assert anchor.grad is None
