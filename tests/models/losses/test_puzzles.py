"""Places of parts against a slow loop, and their known values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from headrace.models.losses import placement_loss, placements


def random_scores(n: int, parts: int) -> Tensor:
    return torch.randn(n, parts, parts, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slowly(scores: Tensor, places: Tensor, iterations: int, regularizer: float) -> Tensor:
    """The layers of rfsantacruz/deep-perm-net, entry by entry: Softmax, SinkhornNorm by rows and by columns, and
    MultilabelMultinomialLogisticLoss."""
    n, parts, _ = scores.shape
    each = range(parts)
    loss = scores.new_zeros(())
    for sample in range(n):
        whole = sum(torch.exp(scores[sample, i, j]) for i in each for j in each)
        p = [[torch.exp(scores[sample, i, j]) / whole for j in each] for i in each]
        for _ in range(iterations):
            p = [[(p[i][j] + regularizer) / sum(p[i][k] + regularizer for k in each) for j in each] for i in each]
            p = [[(p[i][j] + regularizer) / sum(p[k][j] + regularizer for k in each) for j in each] for i in each]
        loss = loss - sum(torch.log(p[i][int(places[sample, i])]) for i in each) / n
    return loss


@pytest.mark.parametrize(("parts", "iterations"), [(4, 1), (3, 3)])
def test_places_and_their_loss_are_those_of_the_authors_layers(parts: int, iterations: int) -> None:
    scores = random_scores(3, parts).requires_grad_()
    places = torch.stack([torch.randperm(parts, generator=torch.Generator().manual_seed(s)) for s in range(3)])
    expected = slowly(scores, places, iterations, 0.01)
    (gradient,) = torch.autograd.grad(expected, scores)
    found = placement_loss(placements(scores, iterations, 0.01), places)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(found, scores)[0], gradient, rtol=1e-9, atol=1e-12)


def test_columns_add_up_to_1_and_rows_the_better_the_longer() -> None:
    off = []
    for iterations in (1, 5, 40):
        p = placements(2 * random_scores(8, 9), iterations, 1e-3)
        torch.testing.assert_close(p.sum(dim=1), torch.ones(8, 9, dtype=torch.float64))
        off.append((p.sum(dim=2) - 1).abs().max().item())
    assert off[0] > off[1] > off[2]
    assert off[2] < 1e-3


def test_equal_scores_cost_9_ln_9_and_sure_ones_in_their_places_nearly_nothing() -> None:
    places = torch.randperm(9, generator=torch.Generator().manual_seed(0))[None]
    assert 9 * math.log(9) == pytest.approx(19.775, abs=1e-3)
    equal = placements(torch.zeros(1, 9, 9), 1, 1e-3)
    assert placement_loss(equal, places).item() == pytest.approx(9 * math.log(9), rel=1e-6)
    sure = 40.0 * torch.nn.functional.one_hot(places, 9).float()
    assert placement_loss(placements(sure, 1, 1e-6), places).item() < 0.01
    assert placement_loss(placements(sure, 1, 1e-6), places.roll(1, dims=1)).item() > 50
