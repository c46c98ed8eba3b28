"""I-JEPA's loss against a slow loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrace.models.losses import target_regression


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_target_regression_is_the_mean_over_a_samples_patches_and_then_over_samples() -> None:
    prediction, target = 2 * draw(3, 2, 5, 4), draw(3, 2, 5, 4, seed=1)
    count = torch.tensor([[1, 2], [5, 5], [3, 1]])
    samples = []
    for n in range(3):
        found = []
        for t in range(2):
            for patch in range(int(count[n, t])):
                for p, z in zip(prediction[n, t, patch].tolist(), target[n, t, patch].tolist(), strict=True):
                    distance = abs(p - z)
                    found.append(0.5 * distance**2 if distance < 1 else distance - 0.5)
        samples.append(sum(found) / len(found))
    assert target_regression(prediction, target, count).item() == pytest.approx(sum(samples) / 3, rel=1e-12)


def test_where_all_counts_are_equal_it_is_torchs() -> None:
    prediction, target = draw(3, 2, 5, 4), draw(3, 2, 5, 4, seed=1)
    whole = torch.nn.functional.smooth_l1_loss(prediction, target)
    torch.testing.assert_close(target_regression(prediction, target, torch.full((3, 2), 5)), whole)


def test_padding_and_targets_get_no_gradient() -> None:
    prediction, target = draw(2, 1, 4, 3).requires_grad_(), draw(2, 1, 4, 3, seed=1).requires_grad_()
    prediction.data[0, 0, 2:] = 100.0  # whatever stands there
    target_regression(prediction, target, torch.tensor([[2], [4]])).backward()
    assert target.grad is None
    assert prediction.grad is not None
    assert (prediction.grad[0, 0, 2:] == 0).all()
    assert (prediction.grad[0, 0, :2] != 0).all()
    assert (prediction.grad[1] != 0).all()
