"""BYOL's, DINO's and iBOT's losses against slow loops, peers and known values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses import (
    centred_targets,
    cosine_regression,
    dino_loss,
    masked_distillation,
    relation_loss,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cosine_regression_is_the_squared_distance_of_unit_vectors() -> None:
    p, z = draw(6, 5), draw(6, 5, seed=1)
    slow = sum(float(((a / a.norm() - b / b.norm()) ** 2).sum()) for a, b in zip(p, z, strict=True)) / 6
    assert cosine_regression(p, z).item() == pytest.approx(slow, rel=1e-12)


@pytest.mark.peer("lightly")
def test_cosine_regression_is_lightlys_with_its_gradient() -> None:
    """lightly's is -cos: 2 - 2 cos has twice its gradient."""
    from lightly.loss import NegativeCosineSimilarity

    p, z = draw(6, 5).requires_grad_(), draw(6, 5, seed=1)
    ours, theirs = cosine_regression(p, z), NegativeCosineSimilarity()(p, z)
    torch.testing.assert_close(ours, 2 + 2 * theirs)
    (found,), (expected,) = torch.autograd.grad(ours, p), torch.autograd.grad(theirs, p)
    torch.testing.assert_close(found, 2 * expected)


def test_cosine_regression_has_its_known_values() -> None:
    p = torch.tensor([[2.0, 0.0]])
    values = {(3.0, 0.0): 0.0, (0.0, 1.0): 2.0, (-1.0, 0.0): 4.0}
    for z, expected in values.items():
        assert cosine_regression(p, torch.tensor([z])).item() == pytest.approx(expected, abs=1e-6)
    assert cosine_regression(torch.zeros(1, 2), p).isfinite()


def test_the_target_gets_no_gradient() -> None:
    p, z = draw(3, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_()
    cosine_regression(p, z).backward()
    assert p.grad is not None
    assert z.grad is None


def slow_dino(student: list[Tensor], teacher: list[Tensor], center: Tensor, ts: float, tt: float) -> float:
    terms = []
    for i, t in enumerate(teacher):
        for j, s in enumerate(student):
            if i == j:
                continue
            for row_t, row_s in zip(t, s, strict=True):
                target = [math.exp(float(x - c) / tt) for x, c in zip(row_t, center, strict=True)]
                logits = [float(x) / ts for x in row_s]
                log_sum = math.log(sum(math.exp(x) for x in logits))
                terms.append(-sum(q / sum(target) * (x - log_sum) for q, x in zip(target, logits, strict=True)))
    return sum(terms) / len(terms)


def test_dino_loss_is_the_papers_sum() -> None:
    student, teacher = list(draw(4, 3, 6)), list(draw(2, 3, 6, seed=1))
    center = draw(6, seed=2)
    found = dino_loss(student, teacher, center, 0.5, 0.3).item()
    assert found == pytest.approx(slow_dino(student, teacher, center, 0.5, 0.3), rel=1e-12)


@pytest.mark.peer("lightly")
def test_dino_loss_is_lightlys_with_its_gradient() -> None:
    from lightly.loss import DINOLoss

    student, teacher, center = draw(10, 3, 6).float().requires_grad_(), draw(2, 3, 6, seed=1).float(), draw(6).float()
    judge = DINOLoss(output_dim=6, student_temp=0.1)
    judge.center.copy_(center)
    theirs = judge(list(teacher), list(student), teacher_temp=0.07)
    ours = dino_loss(list(student), list(teacher), center, 0.1, 0.07)
    torch.testing.assert_close(ours, theirs)
    (found,), (expected,) = torch.autograd.grad(ours, student), torch.autograd.grad(theirs, student)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("views", [2, 10])
def test_dino_loss_at_collapse_is_ln_k(views: int) -> None:
    student, teacher = [torch.zeros(2, 65536)] * views, [torch.zeros(2, 65536)] * 2
    assert dino_loss(student, teacher, torch.zeros(65536), 0.1, 0.04).item() == pytest.approx(11.090, abs=1e-3)


@pytest.mark.parametrize(("views", "terms"), [(2, 2), (10, 18)])
def test_dino_loss_leaves_out_pairs_of_equal_views(views: int, terms: int) -> None:
    """Each pair is weighed alike: a student's view that is not uniform moves the loss by its share of the terms."""
    teacher = [torch.zeros(1, 4, dtype=torch.float64)] * 2
    student = [torch.zeros(1, 4, dtype=torch.float64) for _ in range(views)]
    student[0] = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)  # the teacher's first view is not asked
    own = -F.log_softmax(student[0], dim=1).mean().item()
    expected = (own + (terms - 1) * math.log(4)) / terms
    found = dino_loss(student, teacher, torch.zeros(4, dtype=torch.float64), 1.0, 1.0).item()
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_constant_in_teacher_and_center_changes_nothing() -> None:
    student, teacher, center, constant = list(draw(3, 2, 5)), list(draw(2, 2, 5, seed=1)), draw(5), draw(5, seed=3)
    loss = dino_loss(student, teacher, center, 0.1, 0.07)
    moved = dino_loss(student, [t + constant for t in teacher], center + constant, 0.1, 0.07)
    torch.testing.assert_close(moved, loss)


def test_the_teacher_gets_no_gradient_and_one_view_is_refused() -> None:
    student, teacher = draw(2, 2, 5).requires_grad_(), draw(2, 2, 5, seed=1).requires_grad_()
    dino_loss(list(student), list(teacher), draw(5), 0.1, 0.07).backward()
    assert student.grad is not None
    assert teacher.grad is None
    with pytest.raises(ValueError, match="at least two views, got 1"):
        dino_loss([student[0]], [teacher[0]], draw(5), 0.1, 0.07)


def slow_patches(student: Tensor, targets: Tensor, counted: Tensor, temperature: float) -> float:
    loss = 0.0
    for patches, goals, counts in zip(student, targets, counted, strict=True):
        terms = []
        for row, goal, counts_it in zip(patches, goals, counts, strict=True):
            if counts_it:
                logits = [float(x) / temperature for x in row]
                log_sum = math.log(sum(map(math.exp, logits)))
                terms.append(-sum(float(q) * (x - log_sum) for q, x in zip(goal, logits, strict=True)))
        loss += sum(terms) / max(1, len(terms))
    return loss / len(student)


def some_patches() -> tuple[Tensor, Tensor, Tensor]:
    """Student's and teacher's outputs, and which patches are hidden: some, one and none of a sample."""
    counted = torch.tensor([[True, False, True, True], [False, False, True, False], [False] * 4])
    return draw(3, 4, 5), draw(3, 4, 5, seed=1), counted


def test_masked_distillation_is_the_authors_sum() -> None:
    """Each sample's mean over its own hidden patches, so that one with many weighs no more; without any it is 0."""
    student, teacher, counted = some_patches()
    targets = centred_targets(teacher, draw(5, seed=2), 0.3)
    torch.testing.assert_close(targets, F.softmax((teacher - draw(5, seed=2)) / 0.3, dim=-1))
    found = masked_distillation(student, targets, counted, 0.5).item()
    assert found == pytest.approx(slow_patches(student, targets, counted, 0.5), rel=1e-12)
    assert masked_distillation(student, targets, torch.zeros_like(counted), 0.5).item() == 0.0


def test_patches_that_do_not_count_have_no_effect() -> None:
    student, teacher, counted = some_patches()
    student.requires_grad_()
    targets = centred_targets(teacher, draw(5, seed=2), 0.3)
    loss = masked_distillation(student, targets, counted, 0.5)
    other = torch.where(counted[:, :, None], targets, targets.flip(2))
    assert masked_distillation(student, other, counted, 0.5) == loss
    (gradient,) = torch.autograd.grad(loss, student)
    assert not gradient[~counted].any()
    assert (gradient[counted] != 0).all()


def test_targets_have_no_gradient() -> None:
    student, teacher, counted = some_patches()
    teacher.requires_grad_()
    assert not centred_targets(teacher, draw(5), 0.3).requires_grad
    masked_distillation(student.requires_grad_(), teacher, counted, 0.5).backward()
    assert teacher.grad is None


@pytest.mark.peer("lightly")
def test_masked_distillation_is_lightlys_with_its_gradient() -> None:
    from lightly.loss import IBOTPatchLoss

    student, teacher, counted = some_patches()
    student.requires_grad_()
    judge = IBOTPatchLoss(output_dim=5, student_temp=0.1).double()
    judge.center.center.copy_(draw(1, 5, seed=2))
    theirs = judge(teacher[counted], student[counted], counted.view(3, 2, 2), teacher_temp=0.0625)
    ours = masked_distillation(student, centred_targets(teacher, draw(1, 5, seed=2), 0.0625), counted, 0.1)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)  # their weights are float32
    (found,), (expected,) = torch.autograd.grad(ours, student), torch.autograd.grad(theirs, student)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def slow_relation(q: Tensor, k: Tensor, queue: Tensor, ts: float, tt: float) -> float:
    loss = 0.0
    for a, b in zip(q, k, strict=True):
        ours = [float(a @ row / a.norm()) / ts for row in queue]
        theirs = [float(b @ row / b.norm()) / tt for row in queue]
        norm, whole = math.log(sum(map(math.exp, ours))), sum(map(math.exp, theirs))
        loss -= sum(math.exp(t) / whole * (s - norm) for s, t in zip(ours, theirs, strict=True))
    return loss / len(q)


def test_relation_loss_is_the_papers_sum() -> None:
    q, k, queue = draw(5, 4), draw(5, 4, seed=1), F.normalize(draw(9, 4, seed=2), dim=1)
    found = relation_loss(q, k, queue, 0.1, 0.04).item()
    assert found == pytest.approx(slow_relation(q, k, queue, 0.1, 0.04), rel=1e-10)
    assert found != pytest.approx(relation_loss(q, k, queue, 0.04, 0.1).item(), rel=1e-3)


def test_relation_loss_is_at_least_the_teachers_entropy_and_flat_where_it_reaches_it() -> None:
    q, queue = draw(6, 4).requires_grad_(), F.normalize(draw(20, 4, seed=2), dim=1)
    loss = relation_loss(q, q, queue, 0.1, 0.1)
    p = F.softmax(F.normalize(q.detach(), dim=1) @ queue.T / 0.1, dim=1)
    torch.testing.assert_close(loss, -(p * p.log()).sum(dim=1).mean())
    (gradient,) = torch.autograd.grad(loss, q)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    assert relation_loss(draw(6, 4, seed=3), q, queue, 0.1, 0.1) > loss


def test_relation_loss_of_equal_similarities_is_the_logarithm_of_the_queue() -> None:
    queue = torch.tensor([[0.0, 1.0]]).expand(131072, 2)
    x = torch.tensor([[1.0, 0.0]])
    assert relation_loss(x, x, queue, 0.1, 0.04).item() == pytest.approx(11.784, abs=1e-3)


def test_the_relations_teacher_gets_no_gradient() -> None:
    q, k, queue = (draw(4, 3, seed=seed).requires_grad_() for seed in range(3))
    relation_loss(q, k, queue, 0.1, 0.04).backward()
    assert q.grad is not None
    assert k.grad is None
    assert queue.grad is None
