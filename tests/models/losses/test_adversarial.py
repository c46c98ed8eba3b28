"""The players' losses are torch's binary cross entropies, with their gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses import discriminator_loss, generator_loss


def draw(seed: int) -> Tensor:
    return torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def test_both_are_cross_entropies_of_probabilities() -> None:
    true, drawn = draw(0), draw(1)
    ones, zeros = torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    ours = discriminator_loss(true, drawn), generator_loss(drawn)
    judges = (
        F.binary_cross_entropy(true.sigmoid(), ones) + F.binary_cross_entropy(drawn.sigmoid(), zeros),
        F.binary_cross_entropy(drawn.sigmoid(), ones),
    )
    for found, judge in zip(ours, judges, strict=True):
        torch.testing.assert_close(found, judge)
        (gradient,) = torch.autograd.grad(found, drawn, retain_graph=True)
        (expected,) = torch.autograd.grad(judge, drawn, retain_graph=True)
        torch.testing.assert_close(gradient, expected)


def test_logits_of_nothing_cost_ln_2_a_term() -> None:
    nothing = torch.zeros(4, 1)
    assert discriminator_loss(nothing, nothing).item() == pytest.approx(2 * math.log(2))
    assert generator_loss(nothing).item() == pytest.approx(math.log(2))
