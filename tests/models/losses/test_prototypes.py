"""Sinkhorn's assignments and the losses of SwAV, CAPI, MSN and DeepCluster-v2 against slow loops, peers and facts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses import (
    assignment_loss,
    cluster_cross_entropy,
    crossed_views,
    masked_siamese_terms,
    sinkhorn,
    swapped_prediction,
)


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
    torch.testing.assert_close(sinkhorn(scores, 0.05, 3, slack=0.0), expected, rtol=1e-10, atol=1e-14)


def test_what_stands_in_front_is_shared_out_by_itself() -> None:
    scores = draw(5, 6, 4)
    found = sinkhorn(scores, 0.06, 3, slack=0.0)
    torch.testing.assert_close(found, torch.stack([sinkhorn(place, 0.06, 3, slack=0.0) for place in scores]))


def capis_sinkhorn(scores: Tensor, iterations: int) -> Tensor:
    """`sinkhorn_knopp` of CAPI's code, written down again: with a share of 1e-8 in each sum."""
    m = (scores + 50 - scores.amax(dim=-2, keepdim=True)).exp()
    for _ in range(iterations):
        m = m / (m.sum(dim=-2, keepdim=True) + 1e-8)
        m = m / (m.sum(dim=-1, keepdim=True) + 1e-8)
    return m


def test_sinkhorn_is_capis() -> None:
    """Whose first sums of prototypes are so large that its 1e-8 adds nothing to them; here they are at least 1."""
    scores = draw(3, 20, 8)
    found = sinkhorn(scores, 0.06, 3, slack=1e-8)
    torch.testing.assert_close(found, capis_sinkhorn(scores / 0.06, 3), rtol=1e-7, atol=1e-15)


def test_slack_takes_from_samples_that_are_far_from_all_prototypes() -> None:
    """Each round leaves it its sum over 1e-8, until it is whole."""
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-3.0, -3.0]], dtype=torch.float64)
    whole, slack = (sinkhorn(scores, 0.06, 3, slack=each) for each in (0.0, 1e-8))
    torch.testing.assert_close(whole.sum(dim=1), torch.ones(3, dtype=torch.float64))
    left = 2 * math.exp(-4 / 0.06) / 1e-8**3
    assert slack[2].sum().item() == pytest.approx(left, rel=1e-2)
    torch.testing.assert_close(slack[:2].sum(dim=1), torch.ones(2, dtype=torch.float64))
    assert sinkhorn(2 * scores.float(), 0.06, 3, slack=1e-8).isfinite().all()  # where 0 / 0 would be none


@pytest.mark.peer("lightly")
def test_sinkhorn_is_lightlys() -> None:
    from lightly.loss.swav_loss import sinkhorn as judge

    scores = draw(16, 5).float()
    torch.testing.assert_close(sinkhorn(scores, 0.05, 3, slack=0.0), judge(scores, iterations=3, epsilon=0.05))


def test_each_sample_is_shared_out_and_prototypes_come_to_the_same() -> None:
    scores = draw(64, 8)
    torch.testing.assert_close(sinkhorn(scores, 0.05, 3, slack=0.0).sum(dim=1), torch.ones(64, dtype=torch.float64))
    torch.testing.assert_close(
        sinkhorn(scores, 0.5, 200, slack=0.0).sum(dim=0), torch.full((8,), 8.0, dtype=torch.float64)
    )


def test_equal_scores_are_shared_out_equally() -> None:
    torch.testing.assert_close(sinkhorn(torch.full((5, 4), 0.3), 0.05, 3, slack=0.0), torch.full((5, 4), 0.25))


def test_a_constant_a_prototype_changes_nothing_and_one_a_sample_does() -> None:
    scores, constants = draw(6, 4), draw(6, 4, seed=1)
    found = sinkhorn(scores, 0.3, 3, slack=0.0)
    torch.testing.assert_close(sinkhorn(scores + constants[:1], 0.3, 3, slack=0.0), found)
    assert (sinkhorn(scores + constants[:, :1], 0.3, 3, slack=0.0) - found).abs().max() > 1e-3


def test_large_scores_do_not_overflow() -> None:
    """As they would in float32: exp(300 / 0.05)."""
    scores = draw(6, 4).float()
    torch.testing.assert_close(
        sinkhorn(scores + 300, 0.05, 3, slack=0.0), sinkhorn(scores, 0.05, 3, slack=0.0), rtol=1e-3, atol=1e-3
    )
    half = draw(6, 4).half()
    assert sinkhorn(half, 0.05, 3, slack=0.0).dtype == torch.float32


def test_assignments_have_no_gradient() -> None:
    assert not sinkhorn(draw(3, 2).requires_grad_(), 0.05, 3, slack=0.0).requires_grad


def test_rows_that_do_not_count_have_no_effect() -> None:
    scores = draw(9, 4)
    counted = torch.tensor([True, False, True, True, False, True, True, False, True])
    scores[~counted] = torch.tensor([1e6, -1e6, 3.0, 0.0], dtype=torch.float64)
    found = sinkhorn(scores, 0.05, 3, counted, slack=0.0)
    torch.testing.assert_close(found[counted], sinkhorn(scores[counted], 0.05, 3, slack=0.0), rtol=1e-12, atol=1e-15)
    assert not found[~counted].any()
    torch.testing.assert_close(sinkhorn(scores, torch.tensor(0.05, dtype=torch.float64), 3, counted, slack=0.0), found)


def test_crossed_views_are_the_addends_of_swapped_prediction() -> None:
    scores = list(draw(5, 3, 4))
    targets = [sinkhorn(s, 0.05, 3, slack=0.0) for s in scores[:2]]
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
    targets = [sinkhorn(s, 0.05, 3, slack=0.0) for s in scores[:2]]
    found = swapped_prediction(scores, targets, 0.1).item()
    assert found == pytest.approx(slow_swapped(scores, targets, 0.1), rel=1e-12)


@pytest.mark.peer("lightly")
def test_swapped_prediction_is_lightlys_with_its_gradient() -> None:
    from lightly.loss import SwaVLoss

    scores = draw(8, 6, 5).float().requires_grad_()
    theirs = SwaVLoss()(list(scores[:2]), list(scores[2:])).squeeze()
    ours = swapped_prediction(list(scores), [sinkhorn(s, 0.05, 3, slack=0.0) for s in scores[:2]], 0.1)
    torch.testing.assert_close(ours, theirs)
    (found,), (expected,) = torch.autograd.grad(ours, scores), torch.autograd.grad(theirs, scores)
    torch.testing.assert_close(found, expected)


def test_swapped_prediction_at_collapse_is_ln_k() -> None:
    scores = [torch.zeros(4, 3000)] * 8
    targets = [sinkhorn(s, 0.05, 3, slack=0.0) for s in scores[:2]]
    assert swapped_prediction(scores, targets, 0.1).item() == pytest.approx(8.006, abs=1e-3)


def test_assignment_loss_is_the_mean_cross_entropy() -> None:
    scores, assigned = (
        draw(3, 2, 5).requires_grad_(),
        sinkhorn(draw(3, 2, 5, seed=1), 0.3, 3, slack=0.0).requires_grad_(),
    )
    rows = []
    for row, shares in zip(scores.flatten(0, 1).tolist(), assigned.flatten(0, 1).tolist(), strict=True):
        log_sum = math.log(sum(math.exp(s / 0.12) for s in row))
        rows.append(-sum(q * (s / 0.12 - log_sum) for q, s in zip(shares, row, strict=True)))
    found = assignment_loss(scores, assigned, 0.12)
    assert found.item() == pytest.approx(sum(rows) / 6, rel=1e-12)
    torch.testing.assert_close(
        found, torch.nn.functional.cross_entropy(scores.flatten(0, 1) / 0.12, assigned.flatten(0, 1))
    )
    found.backward()
    assert assigned.grad is None


def slow_siamese(anchors: Tensor, targets: Tensor, prototypes: Tensor, sharpening: float) -> tuple[float, float]:
    """In the authors' words: powers of probabilities, and Sinkhorn's iteration on them."""

    def assigned(z: Tensor) -> list[float]:
        cosines = [float(z @ p) / float(z.norm() * p.norm()) for p in prototypes]
        powers = [math.exp(c / 0.1) for c in cosines]
        return [power / sum(powers) for power in powers]

    sharp = [[p ** (1 / sharpening) for p in assigned(z)] for z in targets]
    sharp = [[p / sum(row) for p in row] for row in sharp]
    logs = torch.tensor(sharp, dtype=torch.float64).log()
    shares = slow_sinkhorn(logs, 1.0, 3)
    rows = [assigned(z) for z in anchors]
    entropies = [
        sum(math.log(p ** (-q)) for p, q in zip(row, shares[i % len(shares)], strict=True))
        for i, row in enumerate(rows)
    ]
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    gap = math.log(len(means)) - sum(math.log(m ** (-m)) for m in means)
    return sum(entropies) / len(entropies), gap


def test_masked_siamese_terms_are_the_authors_sums() -> None:
    anchors, targets, prototypes = draw(15, 4), draw(5, 4, seed=1), draw(6, 4, seed=2)
    found = masked_siamese_terms(anchors, targets, prototypes, 0.1, 0.25, 3)
    assert [x.item() for x in found] == pytest.approx(slow_siamese(anchors, targets, prototypes, 0.25), rel=1e-10)


@pytest.mark.peer("lightly")
def test_masked_siamese_terms_are_lightlys_with_their_gradients() -> None:
    from lightly.loss import MSNLoss

    anchors, targets, prototypes = draw(15, 4), draw(5, 4, seed=1), draw(6, 4, seed=2)
    given = [anchors.requires_grad_(), targets.requires_grad_(), prototypes.requires_grad_()]
    theirs = MSNLoss(regularization_weight=0.7)(anchors, targets, prototypes)
    cross_entropy, gap = masked_siamese_terms(anchors, targets, prototypes, 0.1, 0.25, 3)
    ours = cross_entropy + 0.7 * gap
    torch.testing.assert_close(ours, theirs)
    found, expected = (torch.autograd.grad(x, given, allow_unused=True) for x in (ours, theirs))
    assert found[1] is None  # nothing to targets
    assert expected[1] is None
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[2], expected[2])  # to prototypes through anchors alone


def test_targets_are_sharpened_before_they_are_shared_out() -> None:
    """(0.8, 0.2) becomes (0.9961, 0.0039)."""

    def at(log_ratio: float) -> Tensor:
        """A point whose two assignments have this ratio at temperature 1."""
        angle = math.acos(log_ratio / 2**0.5) - math.pi / 4
        return torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)

    p = 1 / (1 + math.exp(-1))  # of the anchor
    found, _ = masked_siamese_terms(at(1.0), at(math.log(4)), torch.eye(2).double(), 1.0, 0.25, 0)
    q = (found.item() + math.log(1 - p)) / (math.log(1 - p) - math.log(p))
    assert q == pytest.approx(0.9961, abs=5e-5)


def test_the_entropy_gap_is_zero_of_an_even_mean_and_ln_k_of_a_single_prototype() -> None:
    points = torch.eye(1024)
    _, gap = masked_siamese_terms(points, points, points, 0.01, 0.25, 3)
    assert gap.item() == pytest.approx(0, abs=1e-4)
    _, gap = masked_siamese_terms(points[:1], points[:1], points, 0.01, 0.25, 3)
    assert gap.item() == pytest.approx(6.931, abs=1e-3)


def test_probabilities_that_vanish_leave_everything_finite() -> None:
    anchors = draw(6, 4).float().requires_grad_()
    terms = masked_siamese_terms(anchors, -anchors.detach(), draw(5, 4, seed=2).float(), 1e-3, 0.25, 3)
    (gradient,) = torch.autograd.grad(sum(terms), anchors)
    assert all(x.isfinite() for x in terms)
    assert gradient.isfinite().all()


def test_cluster_cross_entropy_is_torchs_over_what_has_a_cluster() -> None:
    scores, labels = draw(12, 5).requires_grad_(), torch.tensor([3, -1, 0, 4, -100, 2])
    known = labels.repeat(2) >= 0
    expected = F.cross_entropy(scores[known] / 0.1, labels.repeat(2)[known])
    found = cluster_cross_entropy(scores, labels, 0.1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, scores)[0] for x in (found, expected)))
    assert cluster_cross_entropy(scores, torch.full((6,), -1), 0.1).item() == 0
