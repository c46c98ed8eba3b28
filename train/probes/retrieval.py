"""Retrieval without training: what is nearest to a query, and how far down the first right answer stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RECALLS = (1, 5, 10)
CELLS = 1 << 22
"""Similarities that are held at once."""
STEPS = 1 << 20
"""Similarities that are the same multiple of one part in so many are ties: rounding in a product of matrices would
tell equal features apart, by their place."""


class Gallery(NamedTuple):
    """Outcomes of n queries, each float64 (n,), nan for a query whose class has no other sample."""

    precision: np.ndarray
    """Average precision over the whole list; its mean is the full mAP."""
    precision_at_r: np.ndarray
    """Likewise over the first R places only, where R is how many others its class has: mAP@R."""
    hits: dict[int, np.ndarray]
    """For each k, whether one of the first k is of its class: recall@k."""


def label_retrieval(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    recalls: Sequence[int] = RECALLS,
    device: torch.device | str = "cpu",
    cells: int = CELLS,
) -> Gallery:
    """Every sample of a set looks for the others of its class among all others, by cosine similarity.

    The query itself is left out. Among equal similarities right answers come last, so that a constant encoder has no
    more than chance.

    Args:
        features: float32 (n, D).
        labels: int64 (n,).
        recalls: k of recall@k.
        cells: similarities held at once.

    Source: mAP@R is equation 4 of arXiv 2003.08505; recall@k as in metric learning, arXiv 1511.06452.
    """
    x = _unit(features, device)
    classes = torch.as_tensor(np.unique(labels, return_inverse=True)[1], device=device)
    others = torch.bincount(classes)[classes] - 1  # (n,): R of each
    n = len(x)
    place = torch.arange(1, n + 1, device=device, dtype=torch.float64)
    precision, at_r = np.full(n, np.nan), np.full(n, np.nan)
    hits = {k: np.full(n, np.nan) for k in recalls}
    for rows in _blocks(n, n, cells):
        similarity = _similarity(x[rows], x)
        relevant = classes[rows, None] == classes
        itself = torch.arange(rows.start, rows.stop, device=device)
        similarity[torch.arange(len(itself), device=device), itself] = -torch.inf
        relevant[torch.arange(len(itself), device=device), itself] = False
        # Wrong answers first, then, without changing that among equals, the nearest first.
        order = relevant.to(torch.uint8).argsort(dim=1, stable=True)
        order = order.gather(1, similarity.gather(1, order).argsort(dim=1, descending=True, stable=True))
        right = relevant.gather(1, order).double()
        wanted = others[rows].double()
        right_precision = right * right.cumsum(dim=1) / place
        known = (wanted > 0).cpu().numpy()
        precision[rows] = np.where(known, (right_precision.sum(dim=1) / wanted).cpu().numpy(), np.nan)
        early = right_precision * (place <= wanted[:, None])
        at_r[rows] = np.where(known, (early.sum(dim=1) / wanted).cpu().numpy(), np.nan)
        for k in recalls:
            hits[k][rows] = np.where(known, right[:, :k].amax(dim=1).cpu().numpy(), np.nan)
    return Gallery(precision, at_r, hits)


class Pairs(NamedTuple):
    """Images and their captions, of which those with one wording are one."""

    captions: list[str]
    """The m different captions, in the order in which they are first seen."""
    belong: np.ndarray
    """bool-like int64 (p, 2): image and caption that belong together, each pair once."""


def grouped(captions: Sequence[Sequence[str]]) -> Pairs:
    """The captions of n images. A caption that two images share belongs to both."""
    numbers: dict[str, int] = {}
    pairs = {
        (image, numbers.setdefault(caption, len(numbers)))
        for image, of_image in enumerate(captions)
        for caption in of_image
    }
    return Pairs(list(numbers), np.array(sorted(pairs), np.int64).reshape(-1, 2))


def first_ranks(
    queries: np.ndarray,
    candidates: np.ndarray,
    belong: np.ndarray,
    *,
    device: torch.device | str = "cpu",
    cells: int = CELLS,
) -> np.ndarray:
    """int64 (q,): the place, from 1, of the nearest candidate that belongs to each query, behind wrong ones as near.

    Recall@k is the share of places that are at most k. Chance is at most (right candidates) k / c.

    Args:
        queries, candidates: float32 (q, D) and (c, D); compared by cosine similarity.
        belong: int64 (p, 2): query and candidate.
        cells: similarities held at once.

    Raises:
        ValueError: for a query to which no candidate belongs.
    """
    ours, theirs = _unit(queries, device), _unit(candidates, device)
    belong = belong[np.argsort(belong[:, 0], kind="stable")]
    begins = np.searchsorted(belong[:, 0], np.arange(len(ours) + 1))
    if (alone := np.flatnonzero(begins[1:] == begins[:-1])).size:
        raise ValueError(f"nothing belongs to {len(alone):,} queries, such as number {alone[0]}")
    found = np.empty(len(ours), np.int64)
    for rows in _blocks(len(ours), len(theirs), cells):
        similarity = _similarity(ours[rows], theirs)
        pairs = torch.as_tensor(belong[begins[rows.start] : begins[rows.stop]], device=device)
        right = torch.zeros(similarity.shape, dtype=torch.bool, device=device)
        right[pairs[:, 0] - rows.start, pairs[:, 1]] = True
        best = similarity.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        found[rows] = (1 + ((similarity >= best) & ~right).sum(dim=1)).cpu().numpy()
    return found


def weighted_median(values: np.ndarray, counts: np.ndarray) -> float:
    """The median where value i counts as often as int64 (n,) says: the mean of the two in the middle."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(counts[order])
    middle = np.searchsorted(reached, [(reached[-1] - 1) // 2, reached[-1] // 2], side="right")
    return float(values[order][middle].mean())


def _similarity(queries: Tensor, candidates: Tensor) -> Tensor:
    """Cosines, float32 (q, c), in steps; see `STEPS`."""
    return (queries @ candidates.T).mul_(STEPS).round_()


def _unit(rows: np.ndarray, device: torch.device | str) -> Tensor:
    return F.normalize(torch.as_tensor(np.array(rows, np.float32), device=device), dim=1)


def _blocks(rows: int, columns: int, cells: int) -> Iterator[slice]:
    size = max(1, cells // max(1, columns))
    return (slice(begin, min(begin + size, rows)) for begin in range(0, rows, size))
