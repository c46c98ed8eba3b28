"""When a run stops early, on sequences of scores that are easy to see through."""

from __future__ import annotations

import math

import pytest

from headrace.train import ConfigError, RunConfig, StopConfig
from headrace.train.config import Score
from headrace.train.early_stop import Best, EarlyStop

INF, NAN = math.inf, math.nan


def stops_after(values: list[float], on: Score = "knn", **settings: float) -> int:
    """The epoch after which a run with one evaluation an epoch stops, 0 for none."""
    stop = EarlyStop(StopConfig(on=on, **settings))  # type: ignore[arg-type]
    for epoch, value in enumerate(values, start=1):
        stop.best.note(value, epoch=epoch, step=10 * epoch)
        if stop.due(epoch):
            return epoch
    return 0


@pytest.mark.parametrize("patience", [1, 2, 5])
@pytest.mark.parametrize("best", [1, 3, 7])
@pytest.mark.parametrize("on", ["loss", "knn", "linear"])
def test_a_plateau_ends_patience_evaluations_after_the_best(on: Score, best: int, patience: int) -> None:
    way = -1 if on == "loss" else 1
    rising = [0.5 + 0.01 * way * epoch for epoch in range(1, best + 1)]
    assert stops_after(rising + [rising[-1]] * 20, on, patience=patience) == best + patience
    assert stops_after([0.5 + 0.01 * way * epoch for epoch in range(40)], on, patience=patience) == 0


def test_a_better_score_begins_the_wait_anew() -> None:
    assert stops_after([0.5, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5, 0.9], patience=3) == 7


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("on", ["loss", "knn"])
def test_what_is_not_finite_is_no_improvement(on: Score, bad: float) -> None:
    assert stops_after([0.5, bad, bad, 0.1], on, patience=2) == 3
    assert stops_after([bad] * 9, on, patience=4) == 4
    assert stops_after([bad, bad, 0.5, bad, bad, bad], on, patience=3) == 6


def test_small_changes_do_not_count() -> None:
    creeping = [0.5 + 0.0625 * epoch for epoch in range(8)]  # exact in binary
    assert stops_after(creeping, patience=2, min_change=0.0625) == 0
    # Every other value is an eighth above the best that counted.
    assert stops_after(creeping, patience=2, min_change=0.125) == 0
    assert stops_after(creeping, patience=1, min_change=0.125) == 2
    assert stops_after(creeping, patience=2, min_change=0.25) == 3


def test_it_waits_for_the_first_epochs() -> None:
    assert stops_after([0.5] * 20, patience=2, min_epochs=9) == 9
    assert stops_after([0.5] * 20, patience=2, min_epochs=2) == 3


@pytest.mark.parametrize("cut", range(7))
def test_it_goes_on_from_its_state(cut: int) -> None:
    values = [0.2, 0.5, 0.4, 0.4, 0.4, 0.9, 0.9]
    whole, first, second = (EarlyStop(StopConfig(on="knn", patience=3)) for _ in range(3))
    for epoch, value in enumerate(values, start=1):
        if epoch == cut:
            second.best.load_state_dict(first.best.state_dict())
        for stop in (whole, first if epoch < cut else second):
            stop.best.note(value, epoch=epoch, step=epoch)
        assert (first if epoch < cut else second).due(epoch) == whole.due(epoch)
    assert second.best.state_dict() == whole.best.state_dict()


def test_the_state_of_another_score_is_none_of_its() -> None:
    loss, knn = Best("loss"), Best("knn")
    loss.note(0.1, epoch=1, step=1)
    knn.load_state_dict(loss.state_dict())
    knn.load_state_dict({})
    assert knn.value is None
    assert knn.note(0.01, epoch=2, step=2)


@pytest.mark.parametrize(
    ("settings", "values", "line"),
    [
        (
            {"on": "knn", "patience": 5, "min_change": 0.001},
            [0.5] * 12 + [0.712] + [0.7121] * 5,
            "stopped after epoch 18 of 50: knn has not risen by 0.1 % in 5 evaluations (best 71.2 % at epoch 13)",
        ),
        (
            {"on": "loss", "patience": 2},
            [3.25, 3.125, 3.5, 3.25],
            "stopped after epoch 4 of 50: held-out loss has not fallen in 2 evaluations (best 3.125 at epoch 2)",
        ),
        (
            {"on": "linear", "patience": 2},
            [NAN, NAN],
            "stopped after epoch 2 of 50: linear has not risen in 2 evaluations (no finite value yet)",
        ),
    ],
)
def test_the_reason_in_words(settings: dict[str, float], values: list[float], line: str) -> None:
    stop = EarlyStop(StopConfig(**settings))  # type: ignore[arg-type]
    for epoch, value in enumerate(values, start=1):
        stop.best.note(value, epoch=epoch, step=epoch)
    assert stop.due(len(values))
    assert stop.line(len(values), 50) == line


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stop.on=knn"], r"stop\.on: must be null where probe\.every is 0, got 'knn'"),
        (["checkpoint.best=loss"], r"checkpoint\.best: must be null where probe\.every is 0, got 'loss'"),
        (["stop.on=loss", "probe.every=1"], r"stop\.on: must be knn, linear or null without a validation set"),
        (["stop.on=linear", "probe.every=1"], r"stop\.on: must be among probe\.protocols, got 'linear'"),
        (["validation=somewhere"], r"validation: is looked at every probe\.every epochs, which is 0"),
        (["stop.on=accuracy"], r"stop\.on: must be one of loss, knn, linear, got 'accuracy'"),
        (["stop.patience=0"], r"stop\.patience: must be at least 1, got 0"),
        (["stop.min_change=-1"], r"stop\.min_change: must be at least 0, got -1"),
        (["stop.min_epochs=-1"], r"stop\.min_epochs: must be at least 0, got -1"),
        (["stop.hours=0"], r"stop\.hours: must be above 0 or null, got 0"),
        (["probe.every=-1"], r"probe\.every: must be at least 0, got -1"),
        (["probe.samples=1"], r"probe\.samples: must be above 1 or null, got 1"),
        (["probe.protocols=[knn,knn]"], r"probe\.protocols: must be different ones"),
        (["probe.protocols=[svm]"], r"probe\.protocols.*: must be one of knn, linear, got 'svm'"),
    ],
)
def test_what_cannot_be_watched_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig().with_overrides(overrides)
