"""Sinkhorn's assignments and SwAV's loss against slow loops, peers and known values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from headrace.models.losses import crossed_views, sinkhorn, swapped_prediction


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def slow_sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> list[list[float]]:
    q = [[math.exp(float(x) / epsilon) for x in row] for row in scores]
    n, k = len(q), len(q[0])
    whole = sum(map(sum, q))
    q = [[x / whole for x in row] for row in q]
    for _ in range(iterations):
        of_prototype = [sum(row[j] for row in q) for j in range(k)]
        q = [[x / s / k for x, s in zip(row, of_prototype, strict=True)] for row in q]
        q = [[x / sum(row) / n for x in row] for row in q]
    return [[x * n for x in row] for row in q]


def test_sinkhorn_is_the_papers_iteration() -> None:
    scores = draw(6, 4)
    expected = torch.tensor(slow_sinkhorn(scores, 0.05, 3), dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(scores, 0.05, 3), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.peer("lightly")
def test_sinkhorn_is_lightlys() -> None:
    from lightly.loss.swav_loss import sinkhorn as judge

    scores = draw(16, 5).float()
    torch.testing.assert_close(sinkhorn(scores, 0.05, 3), judge(scores, iterations=3, epsilon=0.05))


def test_each_sample_is_shared_out_and_prototypes_come_to_the_same() -> None:
    scores = draw(64, 8)
    torch.testing.assert_close(sinkhorn(scores, 0.05, 3).sum(dim=1), torch.ones(64, dtype=torch.float64))
    torch.testing.assert_close(sinkhorn(scores, 0.5, 200).sum(dim=0), torch.full((8,), 8.0, dtype=torch.float64))


def test_equal_scores_are_shared_out_equally() -> None:
    torch.testing.assert_close(sinkhorn(torch.full((5, 4), 0.3), 0.05, 3), torch.full((5, 4), 0.25))


def test_a_constant_a_prototype_changes_nothing_and_one_a_sample_does() -> None:
    scores, constants = draw(6, 4), draw(6, 4, seed=1)
    found = sinkhorn(scores, 0.3, 3)
    torch.testing.assert_close(sinkhorn(scores + constants[:1], 0.3, 3), found)
    assert (sinkhorn(scores + constants[:, :1], 0.3, 3) - found).abs().max() > 1e-3


def test_large_scores_do_not_overflow() -> None:
    """As they would in float32: exp(300 / 0.05)."""
    scores = draw(6, 4).float()
    torch.testing.assert_close(sinkhorn(scores + 300, 0.05, 3), sinkhorn(scores, 0.05, 3), rtol=1e-3, atol=1e-3)
    half = draw(6, 4).half()
    assert sinkhorn(half, 0.05, 3).dtype == torch.float32


def test_assignments_have_no_gradient() -> None:
    assert not sinkhorn(draw(3, 2).requires_grad_(), 0.05, 3).requires_grad


def test_rows_that_do_not_count_have_no_effect() -> None:
    scores = draw(9, 4)
    counted = torch.tensor([True, False, True, True, False, True, True, False, True])
    scores[~counted] = torch.tensor([1e6, -1e6, 3.0, 0.0], dtype=torch.float64)
    found = sinkhorn(scores, 0.05, 3, counted)
    torch.testing.assert_close(found[counted], sinkhorn(scores[counted], 0.05, 3), rtol=1e-12, atol=1e-15)
    assert not found[~counted].any()
    torch.testing.assert_close(sinkhorn(scores, torch.tensor(0.05, dtype=torch.float64), 3, counted), found)


def test_crossed_views_are_the_addends_of_swapped_prediction() -> None:
    scores = list(draw(5, 3, 4))
    targets = [sinkhorn(s, 0.05, 3) for s in scores[:2]]
    large, small = crossed_views(scores, targets, 0.1)
    torch.testing.assert_close(large + small, swapped_prediction(scores, targets, 0.1))
    torch.testing.assert_close(large, swapped_prediction(scores[:2], targets, 0.1) * 2 / 8)
    assert crossed_views(scores[:2], targets, 0.1)[1].item() == 0.0


def test_crossed_views_of_equal_outputs_have_dinov2s_values() -> None:
    """65,536 prototypes, two large and eight small views, whatever the targets."""
    targets = [torch.softmax(draw(2, 65536, seed=seed), dim=1).float() for seed in (1, 2)]
    large, small = crossed_views([torch.zeros(2, 65536)] * 10, targets, 0.1)
    assert large.item() == pytest.approx(1.232, abs=1e-3)
    assert small.item() == pytest.approx(9.858, abs=1e-3)


def slow_swapped(scores: list[Tensor], targets: list[Tensor], temperature: float) -> float:
    of_large = []
    for i, q in enumerate(targets):
        terms = []
        for v, s in enumerate(scores):
            if v == i:
                continue
            rows = []
            for target, row in zip(q, s, strict=True):
                logits = [float(x) / temperature for x in row]
                log_sum = math.log(sum(map(math.exp, logits)))
                rows.append(-sum(float(t) * (x - log_sum) for t, x in zip(target, logits, strict=True)))
            terms.append(sum(rows) / len(rows))
        of_large.append(sum(terms) / len(terms))
    return sum(of_large) / len(of_large)


def test_swapped_prediction_is_the_papers_sum() -> None:
    scores = list(draw(5, 3, 4))
    targets = [sinkhorn(s, 0.05, 3) for s in scores[:2]]
    found = swapped_prediction(scores, targets, 0.1).item()
    assert found == pytest.approx(slow_swapped(scores, targets, 0.1), rel=1e-12)


@pytest.mark.peer("lightly")
def test_swapped_prediction_is_lightlys_with_its_gradient() -> None:
    from lightly.loss import SwaVLoss

    scores = draw(8, 6, 5).float().requires_grad_()
    theirs = SwaVLoss()(list(scores[:2]), list(scores[2:])).squeeze()
    ours = swapped_prediction(list(scores), [sinkhorn(s, 0.05, 3) for s in scores[:2]], 0.1)
    torch.testing.assert_close(ours, theirs)
    (found,), (expected,) = torch.autograd.grad(ours, scores), torch.autograd.grad(theirs, scores)
    torch.testing.assert_close(found, expected)


def test_swapped_prediction_at_collapse_is_ln_k() -> None:
    scores = [torch.zeros(4, 3000)] * 8
    targets = [sinkhorn(s, 0.05, 3) for s in scores[:2]]
    assert swapped_prediction(scores, targets, 0.1).item() == pytest.approx(8.006, abs=1e-3)
