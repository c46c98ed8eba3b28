import math
from itertools import combinations, permutations

import numpy as np
import pytest

from headrace.pipeline import Loader, WindowOrder, center_view, order
from headrace.pipeline.loader import LoaderStats
from headrace.pipeline.order.mixing import Mixing, Pairs, class_sizes, watch_mixing
from headrace.shards import ShardSet


def by_label(labels: np.ndarray) -> Mixing:
    return Mixing("label", class_sizes(labels), lambda samples: labels[samples], len(labels))


def total(mixing: Mixing, batches: list[np.ndarray]) -> Pairs:
    return Pairs(*(sum(figures) for figures in zip(*(mixing.pairs(batch) for batch in batches), strict=True)))


def test_a_batchs_pairs_are_counted() -> None:
    """Samples whose label is -1 have none, and make no pairs."""
    labels = np.array([3, 3, -1, 3, 8, -1, 10**12, -2, -2])
    for batch in ([0, 1, 2, 3], [0, 2, 4, 6], [2, 5], [1], [], [7, 8, 2, 5], range(9)):
        chosen = labels[np.array(batch, int)]
        assert by_label(labels).pairs(np.array(batch, int)).found == sum(
            a == b != -1 for a, b in combinations(chosen, 2)
        )


@pytest.mark.parametrize(
    "labels",
    [[0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 1], [0, 0, 0, 1, -1, -1], [0, 0, 1, 1, -1, -1]],
)
def test_the_expected_pairs_are_the_mean_over_all_permutations(labels: list[int]) -> None:
    """And so is their variance."""
    mixing = by_label(np.array(labels))
    for size in (2, 3, 5):
        pairs = [mixing.pairs(np.array(each[:size])) for each in permutations(range(6))]
        assert pairs[0].expected == pytest.approx(np.mean([each.found for each in pairs]))
        assert pairs[0].variance == pytest.approx(np.var([each.found for each in pairs]))


SETS = {
    "ten classes": np.repeat(np.arange(10), 200),
    "many small classes": np.repeat(np.arange(1000), 5),
    "a long tail": np.repeat(np.arange(60), np.maximum(1, 3000 // np.arange(1, 61) ** 2)),
    "two classes": np.repeat([0, 1], [1900, 100]),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("batch_size", [2, 32, 256])
def test_a_shuffled_set_never_warns(name: str, batch_size: int) -> None:
    """Over 200 seeds, after every batch of an epoch; the mean is 1."""
    labels = SETS[name]
    mixing = by_label(labels)
    whole = Pairs(0.0, 0.0, 0.0)
    for seed in range(200):
        found = Pairs(0.0, 0.0, 0.0)
        samples = order(seed, 0, len(labels))[:]
        for begin in range(0, min(len(labels), 20 * batch_size), batch_size):
            found = total_of(found, mixing.pairs(samples[begin : begin + batch_size]))
            assert not found.clumped
        whole = total_of(whole, found)
    assert abs(whole.found - whole.expected) < 5 * math.sqrt(whole.variance)


def total_of(a: Pairs, b: Pairs) -> Pairs:
    return Pairs(*(x + y for x, y in zip(a, b, strict=True)))


@pytest.mark.parametrize("name", ["ten classes", "many small classes", "a long tail"])
def test_a_set_stored_class_by_class_warns_with_a_small_window(name: str) -> None:
    """It does not with a large one, and neither does a set that was stored shuffled, with any."""
    labels = SETS[name]
    n = len(labels)
    shuffled = labels[order(99, 0, n)[:]]
    for seed in range(20):
        for stored, window, lanes, warns in (
            (labels, 64, 2, True),
            (labels, n, 1, False),
            (shuffled, 64, 2, False),
            (shuffled, 64, 64, False),
        ):
            ours = WindowOrder(seed, 0, [n // 10] * 10 + [n % 10], window, lanes)
            batches = [ours.share(begin, begin + 32, 0, 1) for begin in range(0, n - 32, 32)]
            found = total(by_label(stored), batches)
            assert found.clumped is warns, (seed, window, found)


def test_one_class_a_batch_gives_the_number_of_classes() -> None:
    labels = np.repeat(np.arange(10), 1000)
    found = total(by_label(labels), [np.arange(begin, begin + 50) for begin in range(0, 10_000, 50)])
    assert found.clumping == pytest.approx(10, rel=0.01)


def test_what_tells() -> None:
    shards = np.array([30, 30, 40])

    def by(labels: np.ndarray | None, shard_samples: np.ndarray = shards) -> str | None:
        mixing = watch_mixing(shard_samples, labels)
        return mixing.by if mixing else None

    assert by(np.arange(100) % 7) == "label"
    assert by(None) == "shard"
    assert by(np.zeros(100, int)) == "shard", "labels that are all the same say nothing"
    assert by(np.arange(100)) == "shard", "nor do labels that are all different"
    assert by(np.full(100, -1)) == "shard", "nor does -1, which is no label"
    assert by(np.where(np.arange(100) < 50, -1, 4)) == "label", "but who has one and who has none does"
    assert by(None, np.array([100])) is None
    mixing = watch_mixing(shards, None)
    assert mixing is not None
    assert mixing.pairs(np.array([0, 29, 30, 99])).found == 1
    assert math.isnan(LoaderStats().mixing().clumping)
    assert not LoaderStats().mixing().clumped


def test_the_loader_counts(digits_webdataset: ShardSet) -> None:
    with Loader(digits_webdataset, center_view(8), 40, threads=1) as loader:
        assert loader.mixed_by == "label"
        before, found = LoaderStats(), Pairs(0.0, 0.0, 0.0)
        mixing = by_label(digits_webdataset.ints())
        for batch in loader:
            found = total_of(found, mixing.pairs(batch.index.numpy()))
        assert loader.stats.mixing() == pytest.approx(found)
        assert loader.stats.mixing(before) == loader.stats.mixing()
        assert 0.8 < found.clumping < 1.2
