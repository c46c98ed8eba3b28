"""The loss of hidden tokens against a slow loop, torch, and its known values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from headrace.models.losses import masked_token_loss, next_token_loss, replaced_token_loss


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
    assert masked_token_loss(logits, labels, added=1e-5).item() == pytest.approx(total / (number + 1e-5), rel=1e-12)


def test_gradient_is_that_of_torchs_cross_entropy() -> None:
    logits, labels = some()
    number = int((labels != -100).sum())
    logits.requires_grad_()
    (ours,) = torch.autograd.grad(masked_token_loss(logits, labels, added=1e-5), logits)
    (theirs,) = torch.autograd.grad(F.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits)
    torch.testing.assert_close(ours, theirs * number / (number + 1e-5), rtol=1e-12, atol=0)
    assert not ours[labels == -100].any()


def test_of_equal_logits_it_is_the_logarithm_of_the_vocabulary() -> None:
    labels = torch.arange(1000)
    assert masked_token_loss(torch.zeros(1000, 30_522), labels, added=1e-5).item() == pytest.approx(10.326, abs=1e-3)


def test_of_nothing_to_predict_it_is_nothing() -> None:
    assert masked_token_loss(torch.randn(2, 3, 4), torch.full((2, 3), -100), added=0.0).item() == 0


def test_it_stays_float32_under_autocast() -> None:
    logits, labels = some()
    with torch.autocast("cpu", torch.bfloat16):
        assert masked_token_loss(logits.bfloat16(), labels, added=1e-5).dtype == torch.float32


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 3, 4\) and \(3, 2\)"):
        masked_token_loss(torch.zeros(2, 3, 4), torch.zeros(3, 2, dtype=torch.int64), added=1e-5)


def test_next_tokens_are_named_with_a_normalizer_near_one() -> None:
    logits, labels = some()
    total, number = 0.0, 0
    for row in range(3):
        for place in range(5):
            if labels[row, place] != -100:
                powers = [math.exp(x) for x in logits[row, place].tolist()]
                total -= math.log(powers[int(labels[row, place])] / sum(powers))
                total += 0.1 * math.log(sum(powers)) ** 2
                number += 1
    found = next_token_loss(logits, labels, normalizer_weight=0.1)
    assert found.item() == pytest.approx(total / number, rel=1e-12)
    without = next_token_loss(logits, labels, normalizer_weight=0.0)
    assert without.item() == pytest.approx(F.cross_entropy(logits.flatten(0, 1), labels.flatten()).item(), rel=1e-12)
    assert next_token_loss(logits, torch.full_like(labels, -100), normalizer_weight=0.1) == 0


def test_replaced_tokens_are_told_from_others_on_the_text_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    replaced = torch.rand(3, 6, generator=generator) < 0.3
    attention = torch.arange(6) < torch.tensor([[6], [4], [2]])
    total = 0.0
    for row in range(3):
        for place in range((6, 4, 2)[row]):
            share = 1 / (1 + math.exp(-logits[row, place].item()))
            total -= math.log(share if replaced[row, place] else 1 - share)
    found = replaced_token_loss(logits, replaced, attention, added=1e-6)
    assert found.item() == pytest.approx(total / (12 + 1e-6), rel=1e-12)
    (gradient,) = torch.autograd.grad(found, logits)
    assert not gradient[~attention].any()
    with pytest.raises(ValueError, match=r"needs three \(B, L\), got \(3, 6\), \(3, 6\), \(3, 5\)"):
        replaced_token_loss(logits, replaced, attention[:, :5], added=1e-6)
