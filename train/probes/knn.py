"""Weighted nearest neighbours on frozen features: nothing is fitted, so nothing is tuned."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

QUERIES, BANK = 1024, 16384
"""Rows at a time, which bound the similarities held at once."""


def knn_probe(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    k: int = 20,
    temperature: float = 0.07,
    device: torch.device | str = "cpu",
) -> float:
    """Share of the test samples, 0 to 1, that `knn_predictions` classifies rightly."""
    predicted = knn_predictions(train_x, train_y, test_x, k=k, temperature=temperature, device=device)
    return float((predicted == test_y).mean())


def knn_predictions(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    *,
    k: int = 20,
    temperature: float = 0.07,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """int64 (m,): the class that wins the vote of the `k` nearest training samples.

    Nearness is cosine similarity s; a neighbour's vote weighs exp(s / `temperature`).

    Args:
        train_x, test_x: float32 (n, D) and (m, D). The training features are read once, a block at a time, so that they
            may lie in a file (`numpy.memmap`): what is held is the test features and a block of similarities.
        train_y: int64 (n,).
        k: neighbours; all n where there are fewer.

    Source: arXiv 2104.14294, appendix F.1; k = 20 and temperature 0.07 as facebookresearch/dino's eval_knn.py.
    """
    classes, votes_for = np.unique(train_y, return_inverse=True)
    similarity, neighbour = nearest(train_x, test_x, min(k, len(train_x)), device=device)
    predicted = np.empty(len(test_x), np.int64)
    labels = torch.as_tensor(votes_for, device=device)  # (n,)
    for part in _blocks(len(test_x), QUERIES):
        weights = (similarity[part] / temperature).exp()
        votes = torch.zeros(len(weights), len(classes), device=device)
        votes.scatter_add_(1, labels[neighbour[part]], weights)
        predicted[part] = classes[votes.argmax(1).cpu().numpy()]
    return predicted


def nearest(
    bank_x: np.ndarray, queries_x: np.ndarray, k: int, *, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Cosine similarities, float32 (m, k), and places in the bank, int64 (m, k), of the `k` rows of the bank (n, D)
    nearest to each query (m, D), nearest first."""
    queries = _unit(queries_x, device)
    best = torch.full((len(queries), k), -torch.inf, device=device)
    places = torch.zeros((len(queries), k), dtype=torch.int64, device=device)
    for rows in _blocks(len(bank_x), BANK):
        bank = _unit(bank_x[rows], device)
        for part in _blocks(len(queries), QUERIES):
            found, place = (queries[part] @ bank.T).topk(min(k, len(bank)))
            both = torch.cat([best[part], found], dim=1)
            best[part], order = both.topk(k)
            places[part] = torch.cat([places[part], place + rows.start], dim=1).gather(1, order)
    return best, places


def _unit(x: np.ndarray, device: torch.device | str) -> Tensor:
    """Rows of length 1; a copy, so that the caller's stay."""
    return F.normalize(torch.as_tensor(np.array(x, np.float32), device=device), dim=1)


def _blocks(length: int, size: int) -> Iterator[slice]:
    return (slice(begin, min(begin + size, length)) for begin in range(0, length, size))
