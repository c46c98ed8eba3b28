"""The losses of I-JEPA and data2vec 2.0 against slow loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrace.models.losses import contextual_targets, scaled_regression, target_regression


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


def normalized(numbers: list[float]) -> list[float]:
    mean = sum(numbers) / len(numbers)
    variance = sum((x - mean) ** 2 for x in numbers) / len(numbers)
    return [(x - mean) / (variance + 1e-5) ** 0.5 for x in numbers]


def test_contextual_targets_are_the_mean_of_normalised_layers_normalised() -> None:
    layers = [3 * draw(2, 5, 4) + 1, draw(2, 5, 4, seed=1), draw(2, 5, 4, seed=2) - 7]
    found = contextual_targets(layers)
    for n in range(2):
        channels = [[normalized(layer[n, :, d].tolist()) for d in range(4)] for layer in layers]
        for patch in range(5):
            mean = [sum(layer[d][patch] for layer in channels) / 3 for d in range(4)]
            expected = torch.tensor(normalized(mean), dtype=torch.float64)
            torch.testing.assert_close(found[n, patch], expected, rtol=1e-10, atol=1e-12)


def test_the_scale_and_place_of_a_channel_of_a_layer_change_no_target() -> None:
    layers = [draw(2, 50, 4), draw(2, 50, 4, seed=1)]
    found = contextual_targets(layers)
    changed = layers[1].clone()
    changed[:, :, 2] = 30 * changed[:, :, 2] - 11
    torch.testing.assert_close(contextual_targets([layers[0], changed]), found, rtol=0, atol=1e-4)
    assert not found.requires_grad


def test_a_prediction_of_zero_costs_the_root_of_the_width() -> None:
    target = contextual_targets([1e3 * draw(2, 50, 64)])
    assert scaled_regression(torch.zeros_like(target), target).item() == pytest.approx(64**0.5, rel=1e-4)


def test_scaled_regression_is_the_sum_over_numbers_and_the_mean_over_rows() -> None:
    prediction, target = draw(3, 2, 5).requires_grad_(), draw(3, 2, 5, seed=1).requires_grad_()
    rows = [
        sum((p - t) ** 2 for p, t in zip(prediction[i, j].tolist(), target[i, j].tolist(), strict=True)) / 5**0.5
        for i in range(3)
        for j in range(2)
    ]
    found = scaled_regression(prediction, target)
    assert found.item() == pytest.approx(sum(rows) / 6, rel=1e-12)
    found.backward()
    assert target.grad is None
