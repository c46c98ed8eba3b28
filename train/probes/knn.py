"""Weighted nearest neighbours on frozen features: nothing is fitted, so nothing is tuned."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

_CHUNK = 1024  # test samples at a time: bounds the similarities held at once


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
    """Share of the test samples, 0 to 1, whose class wins the vote of their `k` nearest training samples.

    Nearness is cosine similarity s; a neighbour's vote weighs exp(s / `temperature`).

    Args:
        train_x, test_x: float32 (n, D) and (m, D).
        train_y, test_y: int64 (n,) and (m,).
        k: neighbours; all n where there are fewer.

    Source: arXiv 2104.14294, appendix F.1; k = 20 and temperature 0.07 as facebookresearch/dino's eval_knn.py.
    """
    classes, votes_for = np.unique(train_y, return_inverse=True)
    bank = F.normalize(torch.as_tensor(train_x, dtype=torch.float32, device=device), dim=1)  # (n, D)
    labels = torch.as_tensor(votes_for, device=device)  # (n,)
    correct = 0
    for begin in range(0, len(test_x), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        queries = F.normalize(torch.as_tensor(test_x[part], dtype=torch.float32, device=device), dim=1)
        similarity, neighbour = (queries @ bank.T).topk(min(k, len(bank)))  # (B, k) each
        votes = torch.zeros(len(queries), len(classes), device=device)
        votes.scatter_add_(1, labels[neighbour], (similarity / temperature).exp())
        correct += int((classes[votes.argmax(1).cpu().numpy()] == test_y[part]).sum())
    return correct / len(test_x)
