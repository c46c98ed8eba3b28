"""How well batches are mixed, as one figure: 1.0 for a uniform shuffle, more where samples of a kind come together.

In a batch of B samples count the pairs of one class, X = sum of b_c (b_c - 1) / 2 over the classes c. Under a uniform
shuffle of n samples, of which n_c are of class c, its mean is

    E[X] = B (B - 1) / 2 * sum of n_c (n_c - 1) / (n (n - 1)),

for every batch and every part of one, so the ratio of the sums of X and E[X] over any batches has 1.0 for its mean. A
batch of one class alone has the largest ratio, 1 / sum of (n_c / n)^2: the number of classes where all are as large.
Samples of no class, whose label is -1, are counted in n and B and make no pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

NO_LABEL = -1
"""The label of a sample that has none."""

CLUMPED = 1.25
"""The ratio from which on batches are called badly mixed."""
CERTAIN = 6.0
"""Standard deviations that pairs must lie above their mean for that."""
ENOUGH_PAIRS = 30.0
"""Pairs that must have been expected for that: of fewer, chance alone makes multiples."""


class Pairs(NamedTuple):
    """Pairs of samples of one class, in one batch or summed over batches."""

    found: float
    expected: float
    """Under a uniform shuffle."""
    variance: float
    """Likewise; summed over batches a little too much, for samples that came do not come again."""

    @property
    def clumping(self) -> float:
        """`found` over `expected`: 1.0 for a uniform shuffle; NaN where no pair is expected."""
        return self.found / self.expected if self.expected > 0 else math.nan

    @property
    def clumped(self) -> bool:
        """Whether there are many more pairs than chance makes."""
        surplus = self.found - self.expected
        certain = surplus > CERTAIN * math.sqrt(self.variance) and self.expected >= ENOUGH_PAIRS
        return certain and self.clumping > CLUMPED


class Mixing:
    """Counts the pairs of batches.

    Args:
        by: what makes the classes.
        sizes: int (C,), samples of each class in the whole set.
        class_of: sample indices, int64 (B,), to the class of each, any integers (B,); -1 for no class.
        total: samples of the whole set, those of no class counted; None where all have one.
    """

    def __init__(
        self,
        by: Literal["label", "shard"],
        sizes: np.ndarray,
        class_of: Callable[[np.ndarray], np.ndarray],
        total: int | None = None,
    ) -> None:
        self.by = by
        self._class_of = class_of
        sizes = np.asarray(sizes, np.float64)
        n = float(sizes.sum() if total is None else total)
        pairs = falling(sizes, 2)
        # Chances, under a uniform shuffle, that two samples are of one class, that three are, and that two and two are.
        self._pair = float(pairs.sum()) / max(1.0, falling(n, 2))
        self._three = float(falling(sizes, 3).sum()) / max(1.0, falling(n, 3))
        two_pairs = float(falling(sizes, 4).sum() + pairs.sum() ** 2 - (pairs**2).sum())
        self._two_pairs = two_pairs / max(1.0, falling(n, 4))

    @property
    def telling(self) -> bool:
        """Whether any figure can come of it: there are pairs of one class, and pairs of different ones."""
        return 0.0 < self._pair < 1.0

    def pairs(self, samples: np.ndarray) -> Pairs:
        """Of one batch, or a rank's share of it: int64 (B,)."""
        classes = self._class_of(samples)
        counts = np.unique(classes[classes != NO_LABEL], return_counts=True)[1].astype(np.float64)
        batch = float(len(samples))
        expected = falling(batch, 2) / 2.0 * self._pair
        # The mean of the square: each pair with itself, with those that share a sample with it, with the others.
        square = expected + falling(batch, 3) * self._three + falling(batch, 4) / 4.0 * self._two_pairs
        return Pairs(float(falling(counts, 2).sum()) / 2.0, expected, max(0.0, square - expected**2))


def watch_mixing(shard_samples: np.ndarray, labels: np.ndarray | None) -> Mixing | None:
    """Counts pairs of labels, int64 (n,), or without them, or where all are alike or none, of shards, int (S,) samples
    each; None where those are alike too."""
    found = []
    if labels is not None:
        found.append(Mixing("label", class_sizes(labels), lambda samples: labels[samples], len(labels)))
    ends = np.cumsum(shard_samples)
    found.append(Mixing("shard", shard_samples, lambda samples: np.searchsorted(ends, samples, side="right")))
    return next((mixing for mixing in found if mixing.telling), None)


def falling(value: Any, factors: int) -> Any:
    """value (value - 1) (value - 2) ..., of a number or an array: in how many ways to draw so many of them in turn."""
    product = value
    for less in range(1, factors):
        product = product * (value - less)
    return product


def class_sizes(classes: np.ndarray) -> np.ndarray:
    """int64: how many samples each class has, of the class of every sample, int64 (n,), -1 for none."""
    classes = classes[classes != NO_LABEL]
    if len(classes) and classes.min() >= 0 and classes.max() <= 2 * len(classes):
        return np.bincount(classes)
    return np.unique(classes, return_counts=True)[1]
