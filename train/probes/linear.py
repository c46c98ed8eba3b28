"""A linear classifier on frozen features: how much of the classes lies in straight lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Classifier = tuple[Tensor, Tensor]
"""Weights (classes, D) and biases (classes,)."""
PENALTIES = (1.0, 0.1, 0.01, 1e-3, 1e-4)


@dataclass(frozen=True)
class LinearHead:
    """A fitted regression, with the standardisation of the features that it was fitted on."""

    classes: np.ndarray
    """int64 (classes,): the labels, ascending."""
    mean: Tensor
    """(D,)."""
    deviation: Tensor
    """(D,)."""
    classifier: Classifier

    def scores(self, features: np.ndarray) -> np.ndarray:
        """float32 (m, classes), logits of features (m, D)."""
        x = torch.as_tensor(features, dtype=torch.float32, device=self.mean.device)
        scores: np.ndarray = F.linear((x - self.mean) / self.deviation, *self.classifier).cpu().numpy()
        return scores

    def predict(self, features: np.ndarray) -> np.ndarray:
        """int64 (m,), labels of features (m, D)."""
        labels: np.ndarray = self.classes[self.scores(features).argmax(1)]
        return labels


def fit_linear(
    train_x: np.ndarray,
    train_y: np.ndarray,
    *,
    penalties: Sequence[float] = PENALTIES,
    held_out: float = 0.2,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> LinearHead:
    """A multinomial logistic regression.

    Protocol: features are standardised with the training set's mean and deviation; the regression is fitted by
    L-BFGS for each L2 penalty on a part of the training set and judged on the held-out rest; the best penalty (the
    larger of equals) is fitted again on the whole training set.

    Args:
        train_x: float32 (n, D).
        train_y: int64 (n,).
        penalties: weights of half the squared norm of the classifier's weights, beside the mean cross entropy.
        held_out: share of the training set that chooses the penalty; a single penalty holds nothing out.
        seed: of the split.
        device: where to fit; all features must fit there.
    """
    classes, targets = np.unique(train_y, return_inverse=True)
    x = torch.as_tensor(train_x, dtype=torch.float32, device=device)
    mean, deviation = x.mean(0), x.std(0, correction=0)
    deviation[deviation == 0] = 1.0  # a constant feature says nothing, and stays at 0
    x = (x - mean) / deviation
    y = torch.as_tensor(targets, device=device)
    descending = sorted(penalties, reverse=True)
    penalty = descending[0]
    if len(descending) > 1:
        order = np.random.default_rng(seed).permutation(len(x))
        kept = max(1, round(len(x) * (1 - held_out)))
        fit, judge = (torch.as_tensor(part, device=device) for part in (order[:kept], order[kept:]))
        start: Classifier | None = None
        best = -1.0
        for candidate in descending:  # each starts from the one before, which is near
            start = _fit(x[fit], y[fit], len(classes), candidate, start)
            accuracy = (F.linear(x[judge], *start).argmax(1) == y[judge]).float().mean().item()
            if accuracy > best:
                penalty, best = candidate, accuracy
    return LinearHead(classes, mean, deviation, _fit(x, y, len(classes), penalty, None))


def linear_predictions(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, **options: Any) -> np.ndarray:
    """int64 (m,): classes of the test samples by `fit_linear`.

    Args:
        train_x, test_x: float32 (n, D) and (m, D).
        train_y: int64 (n,).
        options: of `fit_linear`.
    """
    return fit_linear(train_x, train_y, **options).predict(test_x)


def linear_probe(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, **options: Any
) -> float:
    """Share of the test samples, 0 to 1, that `linear_predictions` classifies rightly."""
    return float((linear_predictions(train_x, train_y, test_x, **options) == test_y).mean())


def _fit(x: Tensor, y: Tensor, classes: int, penalty: float, start: Classifier | None) -> Classifier:
    """The penalised regression on x (n, D) and y (n,)."""
    # (classes, D) and not its transpose: the gradient's product is several times faster this way round.
    weight, bias = start or (torch.zeros(classes, x.shape[1], device=x.device), torch.zeros(classes, device=x.device))
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, tolerance_change=1e-6, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), y) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    return weight.detach(), bias.detach()
