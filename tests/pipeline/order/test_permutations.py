from itertools import permutations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from headrace.pipeline import every_permutation, permutation_set


def slowly(tiles: int, count: int) -> np.ndarray:
    """Algorithm 1 of 1603.09246 as it stands there, with a matrix of distances, beginning with the identity."""
    left = np.array(list(permutations(range(tiles))))
    chosen = left[:1]
    left = left[1:]
    while len(chosen) < count:
        distances = np.rint(cdist(chosen, left, "hamming") * tiles).astype(int)
        best = int(distances.sum(axis=0).argmax())
        chosen = np.concatenate([chosen, left[best : best + 1]])
        left = np.delete(left, best, axis=0)
    return chosen


@pytest.mark.parametrize(("tiles", "count"), [(2, 2), (4, 24), (5, 30), (6, 50)])
def test_greedy_choice(tiles: int, count: int) -> None:
    assert np.array_equal(permutation_set(tiles, count), slowly(tiles, count))


def test_jigsaws_set_is_far_apart() -> None:
    chosen = permutation_set(9, 100)
    assert chosen.shape == (100, 9)
    assert np.array_equal(np.sort(chosen, axis=1), np.tile(np.arange(9), (100, 1)))
    distances = cdist(chosen, chosen, "hamming")[~np.eye(100, dtype=bool)] * 9
    assert distances.min() > 1.5  # all different: permutations differ in two places at least
    assert distances.mean() > 8.07  # of 8 for independent ones
    assert np.array_equal(permutation_set(9, 30), chosen[:30])
    assert not chosen.flags.writeable


@pytest.mark.parametrize(("tiles", "count"), [(0, 1), (10, 5), (3, 7), (3, 0)])
def test_what_there_is_not(tiles: int, count: int) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[1, "):
        permutation_set(tiles, count)


def test_every_permutation_is_listed_once_in_alphabetical_order() -> None:
    assert every_permutation(3).tolist() == [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    assert every_permutation(9).shape == (362_880, 9)
    assert len(np.unique(every_permutation(6), axis=0)) == 720
    assert not every_permutation(3).flags.writeable
