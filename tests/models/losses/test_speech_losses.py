"""Losses over frames beside slow loops in float64, and what their authors' code says of edges."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses import (
    cluster_loss,
    frame_info_nce,
    frame_regression,
    future_info_nce,
    normalized_layers,
)

B, N, K, D = 3, 5, 4, 6


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def negatives_of(frames: int, among: int) -> Tensor:
    drawn = torch.randint(0, among - 1, (B, frames, K), generator=torch.Generator().manual_seed(1))
    return drawn + (drawn >= torch.arange(frames)[:, None])


def same_gradients(ours: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_frame_info_nce_is_that_of_a_loop() -> None:
    predictions, targets = random(B, N, D), random(B, N, D, seed=1)
    negatives = negatives_of(N, N)
    same = torch.zeros(B, N, N, dtype=torch.bool)
    same[:, range(N), range(N)] = True
    same[1, 0, 2] = same[1, 2, 0] = True
    total, right, judged = torch.zeros((), dtype=torch.float64), 0, 0
    for b in range(B):
        for n in range(N):
            cosine = [F.cosine_similarity(predictions[b, n], targets[b, m], dim=0) for m in range(N)]
            others = [cosine[m] for m in negatives[b, n].tolist() if not same[b, n, m]]
            scores = torch.stack([cosine[n], *others]) / 0.1
            total = total - scores.log_softmax(0)[0] / (B * N)
            judged += bool(others)
            right += bool(others) and bool(cosine[n] > max(others))
    found = frame_info_nce(predictions, targets, negatives, same, temperature=0.1)
    same_gradients(found["loss"], total, predictions, targets)
    assert found["accuracy"].item() == pytest.approx(right / judged)


def test_frame_info_nce_where_all_are_alike() -> None:
    """All negatives are dropped: the loss is 0, and the accuracy is not 1."""
    predictions, targets = random(B, N, D), torch.ones(B, N, D, dtype=torch.float64, requires_grad=True)
    all_same = torch.ones(B, N, N, dtype=torch.bool)
    found = frame_info_nce(predictions, targets, negatives_of(N, N), all_same, temperature=0.1)
    assert found["loss"].item() == 0
    assert found["accuracy"].item() == 0
    (gradient,) = torch.autograd.grad(found["loss"], predictions)
    assert gradient.isfinite().all()


def test_frame_info_nce_of_chance() -> None:
    """ln(1 + negatives) where all cosines are the same: ln 101 = 4.615 for 100."""
    negatives = torch.randint(0, N - 1, (B, N, 100), generator=torch.Generator().manual_seed(0))
    negatives += negatives >= torch.arange(N)[:, None]
    targets = torch.ones(B, N, D)
    itself = torch.eye(N).bool().expand(B, N, N)
    found = frame_info_nce(torch.randn(B, N, D), targets, negatives, itself, temperature=0.1)
    assert found["loss"].item() == pytest.approx(4.615, abs=1e-3)


@pytest.mark.parametrize("step", [1, 3])
def test_future_info_nce_is_that_of_a_loop(step: int) -> None:
    frames = N + 3
    predictions, encodings = random(B, N, D), random(B, frames, D, seed=1)
    negatives = negatives_of(N, frames)
    total, right = torch.zeros((), dtype=torch.float64), 0
    for b in range(B):
        for n in range(N):
            scores = torch.stack(
                [(predictions[b, n] * encodings[b, m]).mean() for m in [n + step, *negatives[b, n].tolist()]]
            )
            total = total - scores.log_softmax(0)[0] / (B * N)
            right += bool(scores[0] >= scores[1:].max())  # a negative may be the right one
    found = future_info_nce(predictions, encodings, negatives, step=step)
    same_gradients(found["loss"], total, predictions, encodings)
    assert found["accuracy"].item() == pytest.approx(right / (B * N))


def test_future_info_nce_of_a_constant_encoder() -> None:
    """ln(1 + negatives): 4.860 for 128."""
    negatives = torch.randint(0, 7, (B, N, 128), generator=torch.Generator().manual_seed(0))
    found = future_info_nce(torch.randn(B, N, D), torch.ones(B, 8, D), negatives, step=2)
    assert found["loss"].item() == pytest.approx(math.log(129), abs=1e-5)


def test_cluster_loss_is_the_authors() -> None:
    """Theirs has the right vector in front of all, and its copy among them at minus infinity."""
    predictions, clusters = random(B, N, D), random(7, D, seed=1)
    labels = torch.randint(0, 7, (B, N), generator=torch.Generator().manual_seed(2))
    x, own = predictions.flatten(0, 1), clusters[labels.flatten()]
    all_targets = torch.cat([own[None], clusters[:, None].expand(-1, B * N, -1)])
    logits = F.cosine_similarity(x, all_targets, dim=-1) / 0.1
    copies = torch.cat([torch.zeros(1, B * N).bool(), (own == clusters[:, None]).all(-1)])
    logits = logits.masked_fill(copies, float("-inf")).T
    expected = F.cross_entropy(logits, torch.zeros(B * N, dtype=torch.int64))
    found = cluster_loss(predictions, clusters, labels, temperature=0.1)
    same_gradients(found["loss"], expected, predictions, clusters)
    assert found["accuracy"].item() == pytest.approx((logits.argmax(1) == 0).double().mean().item())


def test_cluster_loss_knows_no_order_of_clusters() -> None:
    predictions, clusters = random(B, N, D), random(7, D, seed=1)
    labels = torch.randint(0, 7, (B, N), generator=torch.Generator().manual_seed(2))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    moved = cluster_loss(predictions, clusters[order.argsort()], order[labels], temperature=0.1)
    torch.testing.assert_close(moved["loss"], cluster_loss(predictions, clusters, labels, temperature=0.1)["loss"])


def test_layers_are_normalised_over_time_channel_by_channel() -> None:
    layers = [random(2, 9, 4, seed=seed).detach() for seed in range(3)]
    expected = torch.zeros(2, 9, 4, dtype=torch.float64)
    for layer in layers:
        for b in range(2):
            for d in range(4):
                x = layer[b, :, d]
                expected[b, :, d] += (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() / 3
    torch.testing.assert_close(normalized_layers(layers), expected)
    shifted = [layer + torch.arange(4.0).double() for layer in layers]
    torch.testing.assert_close(normalized_layers(shifted), expected)  # a constant vector changes nothing


def test_frame_regression_is_the_sum_over_the_root_of_the_width() -> None:
    predictions, targets = random(2, 3, 4), random(2, 3, 4, seed=1).detach()
    expected = sum(
        ((predictions[b, n] - targets[b, n]) ** 2).sum() / math.sqrt(4) for b in range(2) for n in range(3)
    ) / torch.tensor(6.0, dtype=torch.float64)
    same_gradients(frame_regression(predictions, targets), expected, predictions)
