"""data2vec's target and loss against slow loops, and what must not change them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrace.models.losses import averaged_layers, feature_loss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normalized(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    variance = sum((x - mean) ** 2 for x in row) / len(row)
    return [(x - mean) / (variance + 1e-5) ** 0.5 for x in row]


def test_the_target_is_the_slow_loop() -> None:
    layers = [draw(2, 3, 8, seed=seed) * (seed + 1) + seed for seed in range(3)]
    found = averaged_layers(layers)
    for i in range(2):
        for j in range(3):
            rows = [normalized(layer[i, j].tolist()) for layer in layers]
            mean = [sum(numbers) / 3 for numbers in zip(*rows, strict=True)]
            assert found[i, j].tolist() == pytest.approx(normalized(mean), rel=1e-9)


def test_a_layer_that_is_larger_or_shifted_leaves_the_target_as_it_is() -> None:
    layers = [draw(2, 5, 64, seed=seed) for seed in range(3)]
    changed = [layers[0], 3 * layers[1] + 7, layers[2]]
    torch.testing.assert_close(averaged_layers(changed), averaged_layers(layers), rtol=0, atol=1e-4)
    assert (sum(changed) - sum(layers)).abs().max() > 1  # type: ignore[union-attr]


def test_a_target_has_mean_zero_and_variance_one_and_no_gradient() -> None:
    layers = [draw(2, 5, 64, seed=seed).requires_grad_() for seed in range(3)]
    found = averaged_layers(layers)
    assert not found.requires_grad
    torch.testing.assert_close(found.mean(dim=2), torch.zeros(2, 5, dtype=torch.float64))
    torch.testing.assert_close(found.var(dim=2, correction=0), torch.ones(2, 5, dtype=torch.float64), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("difference", "loss"), [(2.0, 1.0), (-2.0, 1.0), (1.0, 0.25), (5.0, 4.0)])
def test_the_loss_of_a_difference(difference: float, loss: float) -> None:
    """At beta 2, half of the square by beta, and from there on a line."""
    target = draw(3, 4)
    assert feature_loss(target + difference, target, 2.0).item() == pytest.approx(loss)


def test_the_loss_is_a_mean_and_the_target_gets_no_gradient() -> None:
    prediction, target = draw(2, 3, 4).requires_grad_(), draw(2, 3, 4, seed=1).requires_grad_()
    found = feature_loss(prediction, target, 0.5)
    differences = (prediction - target).detach().flatten().tolist()
    expected = [d * d if abs(d) < 0.5 else abs(d) - 0.25 for d in differences]
    assert found.item() == pytest.approx(sum(expected) / 24, rel=1e-12)
    found.backward()
    assert prediction.grad is not None
    assert target.grad is None
