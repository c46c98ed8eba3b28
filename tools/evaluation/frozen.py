"""Protocols that learn from frozen features: nearest neighbours, the regression, a few labels of each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.tools.evaluation.protocol import Outcome, Protocol, Task, accuracies, confusion
from headrace.train.probes.fewshot import few_labels
from headrace.train.probes.intervals import Measured, mean_interval, nested_interval
from headrace.train.probes.knn import knn_predictions
from headrace.train.probes.linear import PENALTIES, linear_predictions


@dataclass(frozen=True, kw_only=True)
class KnnSettings:
    """Of `knn`."""

    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """A neighbour of similarity s has exp(s / temperature) votes."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.temperature <= 0:
            raise ValueError("k must be at least 1 and temperature positive")


def measure_knn(task: Task) -> Outcome:
    settings: KnnSettings = task.settings
    (x, y), (test_x, truth) = task.split()

    def predicted(k: int) -> np.ndarray:
        return knn_predictions(x, y, test_x, k=k, temperature=settings.temperature, device=task.device)

    chosen = predicted(settings.k)
    others = {f"accuracy_k{k}": mean_interval(predicted(k) == truth) for k in (1, 10) if k != settings.k}
    return Outcome(metrics={**accuracies(truth, chosen), **others}, details=confusion(task, truth, chosen))


@dataclass(frozen=True, kw_only=True)
class LinearSettings:
    """Of `linear`."""

    penalties: tuple[float, ...] = PENALTIES
    """Weights of half the squared norm of the classifier, of which a held-out part of the training set chooses."""
    held_out: float = 0.2
    """That part's share."""
    seeds: int = 1
    """Of the held-out part; scores are means over them."""

    def __post_init__(self) -> None:
        if self.seeds < 1 or not self.penalties or not 0 < self.held_out < 1:
            raise ValueError("seeds must be at least 1, penalties not empty and held_out between 0 and 1")


def measure_linear(task: Task) -> Outcome:
    settings: LinearSettings = task.settings
    (x, y), (test_x, truth) = task.split()
    by_seed = [
        linear_predictions(
            x, y, test_x, penalties=settings.penalties, held_out=settings.held_out, seed=seed, device=task.device
        )
        for seed in range(settings.seeds)
    ]
    return Outcome(metrics=accuracies(truth, *by_seed), details=confusion(task, truth, by_seed[0]))


@dataclass(frozen=True, kw_only=True)
class FewshotSettings:
    """Of `fewshot`."""

    shares: tuple[float, ...] = (0.01, 0.1)
    """Of each class's samples, at least one of each."""
    per_class: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Samples of each class."""
    draws: int = 5
    """Lists of samples, by seed; scores are means over them."""
    penalty: float = 1e-3
    """Weight of half the squared norm of the classifier: with so few labels, nothing is held out to choose it."""

    def __post_init__(self) -> None:
        bad = self.draws < 1 or not (self.shares or self.per_class) or any(not 0 < share <= 1 for share in self.shares)
        if bad or any(count < 1 for count in self.per_class):
            raise ValueError("draws and per_class must be at least 1, shares above 0 and at most 1, and one be given")


def measure_fewshot(task: Task) -> Outcome:
    settings: FewshotSettings = task.settings
    (x, y), (test_x, truth) = task.split()

    def predicted(chosen: np.ndarray) -> np.ndarray:
        return linear_predictions(x[chosen], y[chosen], test_x, penalties=(settings.penalty,), device=task.device)

    metrics: dict[str, Measured] = {}
    for share in settings.shares:
        lists = [few_labels(y, share=share, seed=draw) for draw in range(settings.draws)]
        metrics[f"accuracy_{100 * share:g}%"] = nested_interval(np.stack([predicted(few) == truth for few in lists]))
    for count in settings.per_class:
        if count > np.bincount(np.unique(y, return_inverse=True)[1]).max():
            continue  # the whole set, as the count before
        lists = [few_labels(y, per_class=count, seed=draw) for draw in range(settings.draws)]
        metrics[f"accuracy_{count}_per_class"] = nested_interval(np.stack([predicted(few) == truth for few in lists]))
    return Outcome(metrics=metrics)


KNN = Protocol(
    name="knn",
    version=1,
    of_features=True,
    title="k-NN",
    metric="accuracy",
    measure=measure_knn,
    settings=KnnSettings(),
    definition="The class of a test sample is the vote of its k nearest training samples by cosine similarity s, each "
    "with exp(s / temperature) votes. Samples are seen once, without augmentation. Beside k = 20 the scores of k = 1 "
    "and 10 are given; k is not chosen.",
    source="DINO, arXiv 2104.14294, appendix F.1; facebookresearch/dino at 7c446df, eval_knn.py",
    cost="One pass over both sets, and a product of their features. Training features may be larger than the memory.",
    incomparable="Another k, temperature or resolution, another layer's features, features not of length 1, augmented "
    "or stale features of online k-NN, the teacher's in the place of the student's, k chosen by the test set.",
)
LINEAR = Protocol(
    name="linear",
    version=1,
    of_features=True,
    title="linear",
    metric="accuracy",
    measure=measure_linear,
    settings=LinearSettings(),
    definition="Features are standardised by the training set; a multinomial logistic regression is fitted by L-BFGS "
    "for each L2 penalty on four fifths of the training set and chosen on the last; the best is fitted again on the "
    "whole training set. The test set is looked at once.",
    source="The regression of DINOv2's evaluation, arXiv 2304.07193, with the choice on training data as in CAPI, "
    "arXiv 2502.08769",
    cost="One pass over both sets, then seconds to minutes. All features must fit the memory.",
    incomparable="Heads trained by SGD on augmented crops, batch norm in front of the head, several layers "
    "concatenated, the best of many heads or epochs chosen on the test set.",
)
FEWSHOT = Protocol(
    name="fewshot",
    version=1,
    of_features=True,
    title="few labels",
    metric="accuracy_1%",
    measure=measure_fewshot,
    settings=FewshotSettings(),
    definition="The regression of `linear` with one fixed penalty, on 1 % and 10 % of each class and on 1, 2, 4, 8 and "
    "16 samples of each. Lists of samples are a function of the labels and the draw's number, balanced, and nested: a "
    "longer list begins with the shorter. Scores are means over five draws.",
    source="Shares as in SimCLR, arXiv 2002.05709, section 6, but by logistic regression on frozen features as in MSN, "
    "arXiv 2204.07141; its lists are of ImageNet's file names",
    cost="One pass over both sets, then seconds.",
    incomparable="Fine-tuning of the whole network, other lists (at ten samples a class the draw decides), "
    "pre-training on the samples of the test set.",
)
