"""Agree with a slower copy of oneself: BYOL, DINO, iBOT, ReSSL."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.precision import full_precision


@full_precision
def cosine_regression(prediction: Tensor, target: Tensor) -> Tensor:
    """`|p / |p| - z / |z||^2 = 2 - 2 cos(p, z)`, mean over N: one direction of BYOL's loss, from 0 to 4.

    BYOL adds both directions and does not halve them. The target gets no gradient.

    Args:
        prediction, target: (N, D), not normalised yet.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2006.07733, equation 2; authors' code google-deepmind/deepmind-research at f5de0ed,
    byol/utils/helpers.py, regression_loss, whose norm is bounded from below by the root of 1e-12.
    """
    p, z = (x * x.square().sum(dim=1, keepdim=True).clamp(min=1e-12).rsqrt() for x in (prediction, target.detach()))
    return (p - z).square().sum(dim=1).mean()


@full_precision
def dino_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    center: Tensor,
    student_temperature: float,
    teacher_temperature: float | Tensor,
) -> Tensor:
    """Cross entropy of a student's view under a teacher's, over all pairs of different views.

    The mean, over the pairs with different numbers and over samples, of
    `-sum softmax((t - c) / t_t) log softmax(s / t_s)`. The teacher gets no gradient.

    Args:
        student: V tensors (N, K), one a view; the first are the views that the teacher sees, in its order.
        teacher: tensors (N, K), at most V.
        center: (K,) or (1, K): c, taken off the teacher's outputs.
        student_temperature, teacher_temperature: t_s and t_t, above 0; a scalar tensor may change between steps of a
            compiled loss.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2104.14294, algorithm 1; authors' code facebookresearch/dino at 7c446df, main_dino.py, DINOLoss.
    """
    if len(student) < 2:
        raise ValueError(f"dino_loss needs at least two views, got {len(student)}")
    targets = [F.softmax((t.detach() - center) / teacher_temperature, dim=-1) for t in teacher]
    predictions = [F.log_softmax(s / student_temperature, dim=-1) for s in student]
    pairs = [
        -(target * prediction).sum(dim=-1).mean()
        for i, target in enumerate(targets)
        for j, prediction in enumerate(predictions)
        if i != j
    ]
    return torch.stack(pairs).mean()


@torch.no_grad()
@full_precision
def centred_targets(teacher: Tensor, center: Tensor, temperature: float | Tensor) -> Tensor:
    """`softmax((t - c) / t_t)` over the last dimension: what a student's outputs are compared with. Without gradient.

    Args:
        teacher: t, (..., K).
        center: (K,) or (1, K).
        temperature: t_t, above 0; a scalar tensor may change between steps of a compiled loss.

    Returns:
        (..., K), float32 (float64 for float64).

    Source: as `dino_loss`.
    """
    return F.softmax((teacher - center) / temperature, dim=-1)


@full_precision
def masked_distillation(student: Tensor, targets: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """Cross entropy of a student's patches under their targets, where they were hidden.

    `-sum q log softmax(s / t_s)`, the mean over the patches of a sample that count, then over samples. A sample of
    which none counts adds 0.

    Args:
        student: s, (N, L, K).
        targets: q, (N, L, K), rows that add up to 1; they get no gradient.
        counted: bool (N, L), the patches that count.
        temperature: t_s, above 0.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2111.07832, equation 2; authors' code bytedance/ibot at da316d8, main_ibot.py, iBOTLoss.
    """
    entropy = -(targets.detach() * F.log_softmax(student / temperature, dim=-1)).sum(dim=-1)
    of_sample = (entropy * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    return of_sample.mean()


@full_precision
def relation_loss(
    student: Tensor, teacher: Tensor, queue: Tensor, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """ReSSL's loss: to others, a student's view is as similar as a teacher's.

    `-sum_j softmax_j(k.queue / t_t) log softmax_j(q.queue / t_s)`, mean over N. The teacher and the queue get no
    gradient.

    Args:
        student, teacher: q and k, (N, D), not normalised yet.
        queue: (K, D), rows of length 1; the samples themselves are not among them.
        student_temperature, teacher_temperature: t_s and t_t, above 0; 0.1 and 0.04 in the paper.

    Returns:
        float32 scalar (float64 for float64).

    Source: arXiv 2107.09282, equation 5; authors' code KyleZheng1997/ReSSL at 4d67daa, models/ressl.py.
    """
    queue = queue.detach().to(student.dtype)
    targets = F.softmax(F.normalize(teacher.detach(), dim=1) @ queue.T / teacher_temperature, dim=1)
    predictions = F.log_softmax(F.normalize(student, dim=1) @ queue.T / student_temperature, dim=1)
    return -(targets * predictions).sum(dim=1).mean()
