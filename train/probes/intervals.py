"""Confidence intervals by the bootstrap: what a score might have been on other samples of the same kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
DRAWS = 1000


class Measured(NamedTuple):
    """A score and its interval of 95 %."""

    value: float
    low: float
    high: float


Statistic = Callable[[np.ndarray], float]
"""A score where sample i counts as often as int64 (n,) says; nan where it is not defined."""


def bootstrap(statistic: Statistic, samples: int, *, draws: int = DRAWS, seed: int = 0) -> Measured:
    """The percentile interval of a score over samples that are drawn anew, with replacement.

    Args:
        statistic: the score where sample i counts as often as int64 (n,) says; nan where it is not defined, which
            leaves the draw out.
        samples: n.
        draws: of n samples each.
        seed: of the draws, which are the same for every encoder that is measured on the same samples.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    value = statistic(np.ones(samples, np.int64))
    generator = np.random.default_rng(seed)
    found = np.empty(draws)
    for draw in range(draws):
        counts = np.bincount(generator.integers(0, samples, samples), minlength=samples)
        found[draw] = statistic(counts)
    return Measured(value, *(float(np.nanquantile(found, share)) for share in _tails()))


def mean_interval(outcomes: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> Measured:
    """`bootstrap` of the mean of outcomes (n,) of samples, such as whether each was classified rightly."""
    outcomes = np.asarray(outcomes, np.float64)
    return bootstrap(lambda counts: float(counts @ outcomes) / len(outcomes), len(outcomes), draws=draws, seed=seed)


def nested_interval(
    outcomes: np.ndarray,
    statistic: Callable[[np.ndarray, np.ndarray], float] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Measured:
    """The interval of a mean over trainings, where trainings as well as samples might have been others.

    Args:
        outcomes: (S, m) of S trainings on m samples.
        statistic: of the mean outcomes (m,) and how often each sample counts, int64 (m,); None is their mean.

    Each draw takes S trainings and m samples, with replacement. With one training, samples alone are drawn.
    """
    outcomes = np.asarray(outcomes, np.float64)
    trainings, samples = outcomes.shape
    score = statistic or (lambda of_samples, counts: float(counts @ of_samples) / samples)
    value = score(outcomes.mean(0), np.ones(samples, np.int64))
    generator = np.random.default_rng(seed)
    found = np.empty(draws)
    for draw in range(draws):
        of_samples = outcomes[generator.integers(0, trainings, trainings)].mean(0)
        found[draw] = score(of_samples, np.bincount(generator.integers(0, samples, samples), minlength=samples))
    return Measured(value, *(float(np.nanquantile(found, share)) for share in _tails()))


def trainings_interval(scores: Sequence[Statistic], samples: int, *, draws: int = DRAWS, seed: int = 0) -> Measured:
    """`nested_interval` of scores that are not of means: each training's is a function of how often each of the samples
    counts, as `bootstrap` has it."""
    value = float(np.mean([score(np.ones(samples, np.int64)) for score in scores]))
    generator = np.random.default_rng(seed)
    found = np.empty(draws)
    for draw in range(draws):
        chosen = generator.integers(0, len(scores), len(scores))
        counts = np.bincount(generator.integers(0, samples, samples), minlength=samples)
        each = {training: scores[training](counts) for training in np.unique(chosen).tolist()}
        found[draw] = np.mean([each[training] for training in chosen.tolist()])
    return Measured(value, *(float(np.nanquantile(found, share)) for share in _tails()))


def jackknife(value: float, without: np.ndarray) -> Measured:
    """The interval of a score that is too dear to draw a thousand times, from what it is without each of g groups of
    samples, (g,): 1.96 standard errors to both sides.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 11.5, the delete-d jackknife, of
    disjoint groups.
    """
    groups = len(without)
    error = np.sqrt((groups - 1) / groups * np.square(without - np.mean(without)).sum())
    return Measured(float(value), *(float(value + sign * 1.96 * error) for sign in (-1, 1)))


def _tails() -> tuple[float, float]:
    return (1 - LEVEL) / 2, (1 + LEVEL) / 2
