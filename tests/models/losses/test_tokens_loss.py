"""The loss of hidden tokens against a slow loop, torch, and its known values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from headrace.models.losses import masked_token_loss


def some(n: int = 3, length: int = 5, vocabulary: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, vocabulary, (n, length), generator=generator)
    labels[torch.rand(n, length, generator=generator) < 0.5] = -100
    return torch.randn(n, length, vocabulary, generator=generator, dtype=torch.float64), labels


def test_it_is_the_sum_of_the_authors() -> None:
    logits, labels = some()
    total, number = 0.0, 0
    for row in range(3):
        for place in range(5):
            if labels[row, place] != -100:
                powers = [math.exp(x) for x in logits[row, place].tolist()]
                total -= math.log(powers[int(labels[row, place])] / sum(powers))
                number += 1
    assert 0 < number < 15
    assert masked_token_loss(logits, labels).item() == pytest.approx(total / (number + 1e-5), rel=1e-12)


def test_gradient_is_that_of_torchs_cross_entropy() -> None:
    logits, labels = some()
    number = int((labels != -100).sum())
    logits.requires_grad_()
    (ours,) = torch.autograd.grad(masked_token_loss(logits, labels), logits)
    (theirs,) = torch.autograd.grad(F.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits)
    torch.testing.assert_close(ours, theirs * number / (number + 1e-5), rtol=1e-12, atol=0)
    assert not ours[labels == -100].any()


def test_of_equal_logits_it_is_the_logarithm_of_the_vocabulary() -> None:
    labels = torch.arange(1000)
    assert masked_token_loss(torch.zeros(1000, 30_522), labels).item() == pytest.approx(10.326, abs=1e-3)


def test_of_nothing_to_predict_it_is_nothing() -> None:
    assert masked_token_loss(torch.randn(2, 3, 4), torch.full((2, 3), -100)).item() == 0


def test_it_stays_float32_under_autocast() -> None:
    logits, labels = some()
    with torch.autocast("cpu", torch.bfloat16):
        assert masked_token_loss(logits.bfloat16(), labels).dtype == torch.float32


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 3, 4\) and \(3, 2\)"):
        masked_token_loss(torch.zeros(2, 3, 4), torch.zeros(3, 2, dtype=torch.int64))
