from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, spearmanr

from headrace.pipeline.order.order import epoch_batches, order, rank_share
from tests.pipeline.memory import peak_bytes


@given(seed=st.integers(-(2**63), 2**63), epoch=st.integers(0, 2**40), n=st.integers(0, 3000))
@settings(max_examples=60, deadline=None)
def test_every_epoch_is_a_permutation(seed: int, epoch: int, n: int) -> None:
    assert np.array_equal(np.sort(order(seed, epoch, n)[:]), np.arange(n))


def test_all_orders_of_a_small_set_are_equally_likely() -> None:
    seen = Counter(tuple(order(seed, 0, 4)[:].tolist()) for seed in range(24_000))
    assert len(seen) == 24
    assert chisquare(list(seen.values())).pvalue > 1e-4


def test_places_are_uniform_and_neighbours_unrelated() -> None:
    n = 1009
    shuffled = np.stack([order(seed, 3, n)[:] for seed in range(40)])
    histogram = np.histogram(shuffled[:, :100], bins=10, range=(0, n))[0]
    assert chisquare(histogram, np.full(10, histogram.mean())).pvalue > 1e-4
    assert abs(np.mean([spearmanr(row[:-1], row[1:]).statistic for row in shuffled])) < 0.02


def test_seeds_and_epochs_differ_and_repeat() -> None:
    first = order(1, 0, 500)[:]
    assert np.array_equal(first, order(1, 0, 500)[:])
    assert not np.array_equal(first, order(1, 1, 500)[:])
    assert not np.array_equal(first, order(2, 0, 500)[:])


def test_a_position_can_be_asked_alone() -> None:
    """No stored array: a few positions of a set of a trillion samples cost nothing."""
    n = 10**12
    some = order(7, 2, n)[10**11 : 10**11 + 1000]
    assert len(np.unique(some)) == 1000
    assert 0 <= some.min() < some.max() < n
    assert order(7, 2, n)[10**11 + 5] == some[5]


def test_no_shuffle_keeps_the_stored_order() -> None:
    assert np.array_equal(order(7, 2, 10, shuffle=False)[2:5], [2, 3, 4])


def test_positions_outside_are_refused() -> None:
    with pytest.raises(IndexError, match=r"\[0, 10\)"):
        order(0, 0, 10)[np.array([3, 10])]


@given(st.integers(0, 10_000), st.integers(0, 600), st.integers(1, 1024))
def test_ranks_share_a_batch_without_overlap_or_gap(begin: int, size: int, world_size: int) -> None:
    shares = [rank_share(begin, begin + size, rank, world_size) for rank in range(world_size)]
    assert shares[0][0] == begin
    assert shares[-1][1] == begin + size
    assert all(left[1] == right[0] for left, right in pairwise(shares))
    lengths = [last - first for first, last in shares]
    assert max(lengths) - min(lengths) <= 1


def test_epoch_batches() -> None:
    assert epoch_batches(10, 4, drop_last=True) == 2
    assert epoch_batches(10, 4, drop_last=False) == 3
    assert epoch_batches(8, 4, drop_last=False) == 2


@given(seed=st.integers(-(2**63), 2**63), epoch=st.integers(0, 2**40), n=st.integers(1, 3000))
@settings(max_examples=30, deadline=None)
def test_a_sample_is_found_where_it_comes(seed: int, epoch: int, n: int) -> None:
    ours = order(seed, epoch, n)
    assert np.array_equal(ours.positions(ours[:]), np.arange(n))
    assert np.array_equal(order(seed, epoch, n, shuffle=False).positions(np.arange(n)), np.arange(n))


def test_a_billion_samples_on_a_thousand_ranks() -> None:
    """Shares of 1,024 ranks are disjoint and cover the global batch; positions anywhere are found again."""
    n, batch = 10**9 + 7, 32 * 1024
    ours = order(7, 2, n)
    for begin in (0, 12_345 * batch, n - n % batch):
        end = min(begin + batch, n)
        shares = [ours.share(begin, end, rank, 1024) for rank in range(1024)]
        assert np.array_equal(np.concatenate(shares), ours[begin:end])
        assert len(np.unique(ours[begin:end])) == end - begin
    anywhere = np.random.Generator(np.random.Philox(5)).integers(0, n, 200_000)
    assert np.array_equal(ours.positions(ours[anywhere]), anywhere), "one to one"
    assert np.array_equal(ours[ours.positions(anywhere)], anywhere), "and onto"
    assert len(np.unique(ours[400_000_000:400_500_000])) == 500_000


def test_memory_does_not_grow_with_the_set() -> None:
    def work(n: int) -> dict[str, int]:
        order(7, 2, n)[:10]
        with peak_bytes() as peak:
            for begin in range(0, n - 4096, n // 10):
                order(7, 2, n).share(begin, begin + 4096, 1, 8)
        return peak

    small, large = work(10**6), work(10**9)
    assert large["python"] < 1.2 * small["python"] + 10_000
    assert large["python"] < 200_000
    assert large["process"] < 32 << 20
