import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from headrace.pipeline import WindowOrder
from headrace.pipeline.order.order import rounds_for
from tests.pipeline.memory import peak_bytes
from tests.pipeline.plain import WORD, philox


def plain_permutation(n: int, rounds: int, seed: int, stream: str, epoch: int, block: int, number: int) -> list[int]:
    """The swap-or-not shuffle, as its paper writes it."""
    result = []
    keys = [philox(seed, stream, i, epoch, block, number)[:2] for i in range(rounds)]
    for x in range(n):
        for pivot, salt in keys:
            partner = (pivot - x) % n
            word = max(x, partner) ^ salt
            word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
            word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
            if (word ^ (word >> 31)) & 1:
                x = partner
        result.append(x)
    return result


def plain_order(seed: int, epoch: int, shard_samples: list[int], window: int, lanes: int) -> list[int]:
    """The epoch as a list, made of lists."""
    n, each = sum(shard_samples), window // lanes
    numbers = iter(range(n))
    shards = [[next(numbers) for _ in range(size)] for size in shard_samples]
    drawn = plain_permutation(len(shards), rounds_for(len(shards)), seed, "shard", epoch, 0, 0)
    stream = [sample for shard in drawn for sample in shards[shard]]
    shift = philox(seed, "shift", 0, epoch, 0, 0)[0] % n
    stream = stream[shift:] + stream[:shift]
    queues = []
    for lane in range(lanes):
        size = n // lanes + (lane < n % lanes)
        rest, stream = stream[:size], stream[size:]
        ahead = lane * max(1, int(0.6180339887498949 * each)) % each
        queue: list[int] = []
        number = 0
        while rest:
            some, rest = rest[: each - ahead], rest[each - ahead :]
            ahead = 0
            order = plain_permutation(len(some), rounds_for(each), seed, "window", epoch, lane, number)
            queue += [some[place] for place in order] if len(some) > 1 else some
            number += 1
        queues.append(queue)
    return [queues[position % lanes][position // lanes] for position in range(n)]


@pytest.mark.parametrize(
    ("shard_samples", "window", "lanes"),
    [([40, 30, 20, 0, 10], 24, 4), ([57], 10, 3), ([3, 2], 64, 64), ([20] * 6, 1000, 1), ([9] * 9, 7, 7)],
)
def test_it_is_the_plain_loops_order(shard_samples: list[int], window: int, lanes: int) -> None:
    for seed, epoch in ((0, 0), (7, 3), (-5, 2**40)):
        ours = WindowOrder(seed, epoch, shard_samples, window, lanes)
        expected = plain_order(seed, epoch, shard_samples, window, lanes)
        assert ours[:].tolist() == expected
        assert ours[np.arange(3)].tolist() == expected[:3]
        assert ours[4] == expected[4]


@given(
    shard_samples=st.lists(st.integers(0, 200), max_size=12),
    seed=st.integers(-(2**63), 2**63),
    epoch=st.integers(0, 2**40),
    window=st.integers(1, 500),
    lanes=st.integers(1, 70),
)
@settings(max_examples=80, deadline=None)
def test_every_epoch_is_a_permutation(shard_samples: list[int], seed: int, epoch: int, window: int, lanes: int) -> None:
    ours = WindowOrder(seed, epoch, shard_samples, max(window, lanes), lanes)
    n = sum(shard_samples)
    assert len(ours) == n
    assert np.array_equal(np.sort(ours[:]), np.arange(n))
    assert np.array_equal(ours.positions(ours[:]), np.arange(n))


@given(
    begin=st.integers(0, 700),
    size=st.integers(0, 300),
    world_size=st.integers(1, 70),
    lanes=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_ranks_share_a_batch_without_overlap_or_gap(begin: int, size: int, world_size: int, lanes: int) -> None:
    ours = WindowOrder(3, 1, [100] * 10, 100, lanes)
    whole = ours.share(begin, begin + size, 0, 1)
    assert sorted(whole.tolist()) == sorted(ours[begin : begin + size].tolist())
    shares = [ours.share(begin, begin + size, rank, world_size) for rank in range(world_size)]
    assert np.array_equal(np.concatenate(shares), whole)
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_a_rank_reads_its_own_lanes_and_no_others() -> None:
    ours = WindowOrder(3, 1, [100] * 40, 320, 16)
    batches = range(0, 4000, 80)
    for rank in range(4):
        mine = np.concatenate([ours.share(begin, begin + 80, rank, 4) for begin in batches])
        assert set(ours.positions(mine) % 16) == set(range(4 * rank, 4 * rank + 4))


def test_seeds_and_epochs_differ_and_repeat() -> None:
    def some(seed: int, epoch: int) -> np.ndarray:
        return WindowOrder(seed, epoch, [50] * 10, 100, 5)[:]

    assert np.array_equal(some(1, 0), some(1, 0))
    assert np.mean(some(1, 0) == some(1, 1)) < 0.05
    assert np.mean(some(1, 0) == some(2, 0)) < 0.05


def test_first_places_are_uniform() -> None:
    """Over seeds, any sample may be the first, and a neighbour in storage may come anywhere in its window."""
    first = [int(WindowOrder(seed, 0, [30, 50, 20], 40, 2)[0]) for seed in range(4000)]
    assert chisquare(np.bincount(first, minlength=100)).pvalue > 1e-4
    distance = []
    for seed in range(3000):
        positions = WindowOrder(seed, 0, [1000], 100, 1).positions(np.array([500, 501]))
        if positions[0] // 100 == positions[1] // 100:
            distance.append(int(positions[1] - positions[0]))
    assert len(distance) > 2500, "neighbours are in one window, but for its border"
    assert abs(np.mean(distance)) < 3
    assert np.mean(np.abs(distance) < 5) < 0.12, "a uniform permutation of 100 has 0.079"


def test_at_any_time_few_places_are_read() -> None:
    """What a stretch of the epoch as long as a window reads lies in two windows of each lane, each a run of
    neighbours, or two where shards meet."""
    shard_samples = [500] * 40
    ours = WindowOrder(11, 2, shard_samples, 400, 8)
    for begin in range(0, len(ours), 400):
        samples = np.sort(ours[begin : begin + 400])
        runs = 1 + int((np.diff(samples) > 100).sum())
        assert runs <= 8 * 2 + 2


def test_lanes_begin_their_windows_at_different_times() -> None:
    """So that a store has the same to do at all times: the first touch of each block of 10 neighbours, in time."""
    ours = WindowOrder(11, 2, [500] * 40, 800, 8)
    _, first = np.unique(ours[:] // 10, return_index=True)
    touched = np.histogram(first[(first > 2000) & (first < 18_000)], bins=80, range=(2000, 18_000))[0]
    assert touched.max() < 2.5 * touched.mean()
    assert touched.min() > 0.3 * touched.mean()


def test_a_billion_samples_on_a_thousand_ranks() -> None:
    """Shares of 1,024 ranks are disjoint and cover the global batch; positions anywhere are found again."""
    shard_samples = np.full(400_000, 2500)
    shard_samples[::7] += 3
    ours = WindowOrder(7, 3, shard_samples, 1 << 18, 1024)
    n = len(ours)
    assert n > 10**9
    batch = 32 * 1024
    for begin in (0, 12_345 * batch, n - n % batch):
        end = min(begin + batch, n)
        shares = [ours.share(begin, end, rank, 1024) for rank in range(1024)]
        together = np.concatenate(shares)
        assert np.array_equal(np.sort(together), np.unique(ours[begin:end]))
        assert len(np.unique(together)) == end - begin
        if end - begin == batch:
            assert {len(share) for share in shares} == {32}
    anywhere = np.random.Generator(np.random.Philox(5)).integers(0, n, 200_000)
    samples = ours[anywhere]
    assert 0 <= samples.min() < samples.max() < n
    assert np.array_equal(ours.positions(samples), anywhere), "one to one"
    assert np.array_equal(ours[ours.positions(anywhere)], anywhere), "and onto"


def test_memory_is_that_of_the_shard_table() -> None:
    """The same for a thousand times as many samples, and what is there is some words a shard."""

    def work(shards: int, samples_each: int) -> dict[str, int]:
        ours = WindowOrder(7, 3, np.full(shards, samples_each), 16384, 64)
        with peak_bytes() as peak:
            ours = WindowOrder(7, 3, np.full(shards, samples_each), 16384, 64)
            for begin in range(0, len(ours) - 4096, len(ours) // 10):
                assert len(ours.share(begin, begin + 4096, 1, 8)) == 512
        return peak

    small, large = work(1000, 1000), work(1000, 1_000_000)
    assert large["python"] < 1.2 * small["python"] + 100_000
    assert large["python"] < 1 << 20
    assert large["process"] < 32 << 20
    assert work(400_000, 2500)["python"] < 400_000 * 100


def test_positions_outside_and_contradictions_are_refused() -> None:
    with pytest.raises(IndexError, match=r"positions must lie in \[0, 10\), got 3 to 10"):
        WindowOrder(0, 0, [5, 5], 4, 2)[np.array([3, 10])]
    with pytest.raises(IndexError, match=r"samples must lie in \[0, 10\), got -1 to -1"):
        WindowOrder(0, 0, [5, 5], 4, 2).positions(np.array([-1]))
    with pytest.raises(ValueError, match="window must be at least 8, the number of lanes, got 4"):
        WindowOrder(0, 0, [5, 5], 4, 8)
