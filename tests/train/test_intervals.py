"""Intervals cover what they should, and are the same twice."""

from __future__ import annotations

import numpy as np

from headrace.train.probes.intervals import bootstrap, jackknife, mean_interval


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        found = mean_interval(generator.random(300) < 0.7, draws=300, seed=trial)
        assert found.low <= found.value <= found.high
        covered += found.low <= 0.7 <= found.high
    assert 180 <= covered <= 199


def test_its_width_is_that_of_the_normal_approximation() -> None:
    outcomes = np.arange(1000) % 4 == 0
    found = mean_interval(outcomes)
    half = 1.96 * np.sqrt(0.25 * 0.75 / 1000)
    assert found.value == 0.25
    assert abs((found.high - found.low) / (2 * half) - 1) < 0.1
    assert found == mean_interval(outcomes)


def test_draws_in_which_a_score_is_not_defined_are_left_out() -> None:
    rare = np.arange(10) == 0  # a third of the draws has no such sample

    def among_the_rare(counts: np.ndarray) -> float:
        return float((counts * rare).sum() / counts[rare].sum()) if counts[rare].sum() else float("nan")

    found = bootstrap(among_the_rare, 10)
    assert found == (1.0, 1.0, 1.0)


def test_the_jackknife_of_a_mean_has_the_width_of_the_normal_approximation() -> None:
    random = np.random.default_rng(0)
    widths = []
    for _ in range(50):
        values = random.normal(size=1000)
        without = np.array([np.delete(values, np.arange(group, 1000, 10)).mean() for group in range(10)])
        found = jackknife(values.mean(), without)
        assert found.value == values.mean()
        widths.append((found.high - found.low) / 2)
    assert abs(np.mean(widths) / (1.96 / np.sqrt(1000)) - 1) < 0.1
