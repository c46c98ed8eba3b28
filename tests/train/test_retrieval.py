"""Retrieval beside slow loops and scikit-learn, and what a constant encoder, ties and equal captions score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from headrace.train.probes.retrieval import first_ranks, grouped, label_retrieval, weighted_median


def clusters(n: int = 60, d: int = 6, classes: int = 4, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, n)
    features = random.normal(size=(classes, d))[labels] + noise * random.normal(size=(n, d))
    return features.astype(np.float32), labels


def ranked(similarity: np.ndarray, right: np.ndarray) -> list[bool]:
    """Whether each candidate is right, from the nearest on; right ones last among equals."""
    order = sorted(range(len(similarity)), key=lambda place: (-similarity[place], right[place]))
    return [bool(right[place]) for place in order]


def slow_scores(features: np.ndarray, labels: np.ndarray, query: int) -> dict[str, float]:
    unit = np.float64(features) / np.linalg.norm(features, axis=1, keepdims=True)
    others = [place for place in range(len(labels)) if place != query]
    right = ranked(unit[others] @ unit[query], labels[others] == labels[query])
    r = sum(right)
    precisions = [sum(right[: place + 1]) / (place + 1) for place in range(len(right))]
    scores = {f"recall@{k}": float(any(right[:k])) for k in (1, 5, 10)}
    scores["mAP"] = sum(p for p, hit in zip(precisions, right, strict=True) if hit) / r
    scores["mAP@R"] = sum(p for p, hit in zip(precisions[:r], right[:r], strict=True) if hit) / r
    return scores


@pytest.mark.parametrize("cells", [1 << 22, 130])
def test_labels_are_looked_for_as_in_a_slow_loop(cells: int) -> None:
    features, labels = clusters()
    found = label_retrieval(features, labels, cells=cells)
    for query in range(len(labels)):
        slow = slow_scores(features, labels, query)
        assert found.precision[query] == pytest.approx(slow["mAP"])
        assert found.precision_at_r[query] == pytest.approx(slow["mAP@R"])
        assert {f"recall@{k}": hits[query] for k, hits in found.hits.items()}.items() <= slow.items()


def test_average_precision_is_scikit_learns() -> None:
    features, labels = clusters()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    found = label_retrieval(features, labels)
    for query in range(0, len(labels), 7):
        others = np.arange(len(labels)) != query
        judge = average_precision_score(labels[others] == labels[query], unit[others] @ unit[query])
        assert found.precision[query] == pytest.approx(judge, abs=1e-9)


def test_the_length_of_features_does_not_matter() -> None:
    features, labels = clusters()
    lengths = np.random.default_rng(1).uniform(0.5, 2, (len(labels), 1)).astype(np.float32)
    for one, other in zip(
        label_retrieval(features, labels)[:2], label_retrieval(features * lengths, labels)[:2], strict=True
    ):
        np.testing.assert_allclose(one, other)


def test_a_sample_does_not_find_itself() -> None:
    features = np.eye(4, dtype=np.float32)
    found = label_retrieval(features, np.array([0, 0, 1, 1]))
    assert found.hits[1].sum() == 0
    alone = label_retrieval(features, np.array([0, 1, 2, 2]))
    assert np.isnan(alone.precision).tolist() == [True, True, False, False]
    assert np.isnan(alone.hits[5]).tolist() == [True, True, False, False]


def test_a_constant_encoder_has_no_more_than_chance() -> None:
    """Whether samples are sorted by class or not."""
    row = np.random.default_rng(0).normal(size=37)
    labels = np.sort(np.arange(40) % 4)
    found = label_retrieval(np.tile(row, (40, 1)).astype(np.float32), labels)
    assert found.hits[1].mean() == 0
    assert found.precision_at_r.mean() == 0
    assert found.precision.mean() < 0.25
    images = np.tile(row, (40, 1)).astype(np.float32)
    own = np.stack([np.arange(40), np.arange(40)], axis=1)
    assert (first_ranks(images, images, own) == 40).all()


def test_random_features_have_the_frequency_of_the_class() -> None:
    random = np.random.default_rng(0)
    found = label_retrieval(random.normal(size=(400, 64)).astype(np.float32), np.arange(400) % 4)
    assert found.precision.mean() == pytest.approx(0.25, abs=0.02)
    assert found.hits[1].mean() == pytest.approx(0.25, abs=0.06)


def paired(n: int = 30, each: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of images, of some captions each, and which belong together."""
    random = np.random.default_rng(3)
    images = random.normal(size=(n, 5)).astype(np.float32)
    owner = np.repeat(np.arange(n), each)
    texts = images[owner] + random.normal(size=(n * each, 5)).astype(np.float32)
    return images, texts, np.stack([owner, np.arange(n * each)], axis=1)


def slow_ranks(queries: np.ndarray, candidates: np.ndarray, belong: Sequence[Sequence[int]]) -> list[int]:
    ours, theirs = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in map(np.float64, (queries, candidates))
    )
    pairs = {tuple(pair) for pair in belong}
    return [
        1 + ranked(theirs @ ours[query], np.array([(query, c) in pairs for c in range(len(theirs))])).index(True)
        for query in range(len(ours))
    ]


@pytest.mark.parametrize("cells", [1 << 22, 200])
def test_towers_find_each_other_as_in_a_slow_loop(cells: int) -> None:
    images, texts, belong = paired()
    there = first_ranks(images, texts, belong, cells=cells)
    back = first_ranks(texts, images, belong[:, ::-1], cells=cells)
    assert there.tolist() == slow_ranks(images, texts, belong)
    assert back.tolist() == slow_ranks(texts, images, belong[:, ::-1])
    assert 1 < there.mean() < back.mean()  # any of several captions will do


def test_a_right_answer_that_is_as_near_as_wrong_ones_stands_behind_them() -> None:
    candidates = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    ranks = first_ranks(np.array([[1, 0], [1, 0]], np.float32), candidates, np.array([[0, 0], [1, 2]]))
    assert ranks.tolist() == [2, 3]


def test_an_equal_caption_of_another_image_is_right() -> None:
    captions = [["a dog", "a cat"], ["a cat", "a cat"], ["a bird"]]
    pairs = grouped(captions)
    assert pairs.captions == ["a dog", "a cat", "a bird"]
    assert pairs.belong.tolist() == [[0, 0], [0, 1], [1, 1], [2, 2]]
    rows = np.eye(3, dtype=np.float32)
    images = np.array([[0.1, 1, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    assert first_ranks(images, rows, pairs.belong).tolist() == [1, 1, 1]
    # Both images that "a cat" belongs to are nearer to it than the third.
    assert first_ranks(rows, images, pairs.belong[:, ::-1]).tolist() == [1, 1, 1]


def test_what_belongs_to_nothing_is_refused() -> None:
    rows = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match="nothing belongs to 1 queries, such as number 1"):
        first_ranks(rows, rows, np.array([[0, 0], [2, 1]]))


def test_the_weighted_median() -> None:
    values, random = np.array([5.0, 1.0, 9.0, 4.0]), np.random.default_rng(0)
    for _ in range(20):
        counts = random.integers(0, 4, 4)
        if counts.sum():
            assert weighted_median(values, counts) == np.median(np.repeat(values, counts))
