"""Intervals cover what they should, and are the same twice."""

from __future__ import annotations

import numpy as np

from headrace.train.probes.intervals import (
    bootstrap,
    jackknife,
    mean_interval,
    nested_interval,
    trainings_interval,
)


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


def test_trainings_widen_an_interval_by_their_spread() -> None:
    random = np.random.default_rng(0)
    one = random.random((1, 400)) < 0.8
    same = np.repeat(one, 5, axis=0)
    assert nested_interval(one).value == mean_interval(one[0]).value
    alone, together = mean_interval(one[0]), nested_interval(same)
    assert abs((together.high - together.low) / (alone.high - alone.low) - 1) < 0.15, "five that are alike add nothing"
    unlike = np.stack([random.random(400) < rate for rate in (0.5, 0.6, 0.7, 0.8, 0.9)])
    wide = nested_interval(unlike)
    # The mean of five draws of rates that deviate by 0.14, beside samples' own 0.02.
    assert 0.2 < wide.high - wide.low < 0.3
    assert abs(wide.value - 0.7) < 0.03


def test_scores_that_are_no_means_of_several_trainings() -> None:
    random = np.random.default_rng(0)
    outcomes = random.random((3, 200)) < np.array([[0.5], [0.7], [0.9]])
    scores = [lambda counts, of=of: float(counts @ of) / 200 for of in outcomes]
    found, expected = trainings_interval(scores, 200), nested_interval(outcomes)
    assert abs(found.value - expected.value) < 1e-12
    assert max(abs(found.low - expected.low), abs(found.high - expected.high)) < 0.02
    assert trainings_interval(scores[:1], 200).value == float(outcomes[0].mean())
