"""What a protocol of evaluation is, what it is given, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headrace.models import Method
from headrace.shards import ShardSet
from headrace.tools.errors import UserError
from headrace.train.probes import Features, held_out, matched_labels
from headrace.train.probes.intervals import Measured, nested_interval

ENCODERS = {"input": "raw input", "untrained": "untrained encoder", "trained": "trained encoder"}
"""What is measured side by side: the pixels, words or bands themselves, the network with its first weights, and what
training made of it."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One encoder that a protocol is to measure."""

    encoder: str
    """A key of ENCODERS."""
    method: Method
    """In evaluation mode, on `device`; of the raw input, with its first weights."""
    learn: ShardSet
    """What is learned from."""
    test: ShardSet | None
    """What is scored; None holds a fifth of `learn` out."""
    settings: Any
    """An instance of the protocol's `settings`."""
    features: Callable[[ShardSet], Features]
    """Features and labels of the samples of a set that have one, in stored order; computed once for all protocols."""
    device: str
    max_bad: int | None
    """Bad samples to put up with; None ends with the first."""

    def split(self) -> tuple[Features, Features]:
        """What is learned from and what is scored, both with the labels of `learn`."""
        test = None
        if self.test is not None:
            x, labels = self.features(self.test)
            test = x, matched_labels(self.learn, self.test)(labels)
        return held_out(self.features(self.learn), test)

    def classes(self) -> Sequence[str]:
        """Names of the classes of `learn`, or none."""
        return self.learn.fields["label"].classes or ()

    def required_test(self, why: str) -> ShardSet:
        """The test set; UserError where there is none."""
        if self.test is None:
            raise UserError(f"{why} on a test set: name one with --test")
        return self.test


@dataclass(frozen=True, kw_only=True)
class FileTask:
    """A file of predictions that a protocol is to score."""

    path: Path
    shards: ShardSet
    """What it is scored against."""
    settings: Any
    """An instance of the protocol's `settings`."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a protocol found of one encoder, or of a file."""

    metrics: Mapping[str, Measured]
    """By name; the first is the protocol's score."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More, for reports, as JSON holds it."""
    pictures: Sequence[np.ndarray] = ()
    """uint8 (H, W, 3) each, of what was said of the first samples."""

    def to_json(self) -> dict[str, Any]:
        metrics = {name: {**found._asdict()} for name, found in self.metrics.items()}
        return {"metrics": metrics, **({"details": dict(self.details)} if self.details else {})}


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """Of a protocol that has none."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way to measure, in words and as a function."""

    name: str
    version: int
    """Another one for every change that may change a score: two scores are comparable where name, version and settings
    are the same."""
    title: str
    """For tables and pages."""
    metric: str
    """What the score is: a key of `Outcome.metrics`."""
    measure: Callable[[Any], Outcome]
    """Of a `Task`, or of a `FileTask`."""
    settings: Any = field(default_factory=NoSettings)
    """Its default settings, a frozen dataclass whose fields are the keys of the command line."""
    definition: str
    source: str
    cost: str
    incomparable: str
    """What makes two numbers that bear its name differ."""
    encoders: Sequence[str] = tuple(ENCODERS)
    """Those that it can measure."""
    share: bool = True
    """Whether the score is a share of 1, shown in per cent."""
    labels: bool = True
    """Whether it needs a label field."""
    of_features: bool = False
    """Whether it learns from `Task.features` of both sets alone, which all ranks compute together."""
    of_file: bool = False
    """Whether it scores a file of predictions in the place of a run's encoders."""

    def text(self, value: float) -> str:
        """A score as tables show it."""
        return f"{100 * value:.1f} %" if self.share else f"{value:.3g}"


def confusion(task: Task, truth: np.ndarray, predicted: np.ndarray, *, most: int = 100) -> dict[str, Any]:
    """How often each class was taken for each other: `{"labels": [...], "names": [...], "counts": rows of truth}`, for
    `Outcome.details`; empty where there are more classes than a page can show."""
    labels = np.union1d(truth, predicted)
    if len(labels) > most:
        return {}
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (np.searchsorted(labels, truth), np.searchsorted(labels, predicted)), 1)
    named = task.classes()
    names = [named[label] if 0 <= label < len(named) else str(label) for label in labels.tolist()]
    return {"confusion": {"labels": labels.tolist(), "names": names, "counts": counts.tolist()}}


def accuracies(truth: np.ndarray, *by_seed: np.ndarray) -> Mapping[str, Measured]:
    """Share of samples classified rightly, and the mean of that share over classes; means over trainings.

    Args:
        truth: int64 (m,).
        by_seed: what each training predicts, likewise.
    """
    right = np.stack([predicted == truth for predicted in by_seed])  # (S, m)
    _, of_class, sizes = np.unique(truth, return_inverse=True, return_counts=True)
    return {
        "accuracy": nested_interval(right),
        "accuracy_of_classes": nested_interval(right, _mean_over(of_class, len(sizes))),
    }


def _mean_over(groups: np.ndarray, count: int) -> Callable[[np.ndarray, np.ndarray], float]:
    """The mean over groups of the mean of outcomes (m,) in them, with samples counted as often as they are drawn."""

    def statistic(outcomes: np.ndarray, counts: np.ndarray) -> float:
        drawn = np.bincount(groups, counts, count)
        right = np.bincount(groups, counts * outcomes, count)
        return float((right[drawn > 0] / drawn[drawn > 0]).mean())

    return statistic
