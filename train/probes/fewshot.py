"""Which few samples of a labelled set keep their labels."""

from __future__ import annotations

import numpy as np


def few_labels(
    labels: np.ndarray, *, share: float | None = None, per_class: int | None = None, seed: int
) -> np.ndarray:
    """Places, int64 and ascending, of samples that keep their labels: as many of each class, or that share of each.

    Lists of one seed are nested: a longer one holds the shorter. A class's samples are drawn independently of the other
    classes. A share is rounded to the nearest whole number and takes at least one; a class of fewer than `per_class`
    samples gives all.

    Args:
        labels: int64 (n,).
        share: above 0 and at most 1; or
        per_class: at least 1.
    """
    if (share is None) == (per_class is None):
        raise ValueError("few_labels takes a share or a number per class")
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        mixed = np.random.default_rng((seed, int(label))).permutation(members)
        count = per_class if share is None else max(1, round(share * len(members)))
        chosen.append(mixed[:count])
    return np.sort(np.concatenate(chosen))
