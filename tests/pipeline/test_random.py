import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.random import key_word, philox, unit

words = st.integers(0, 2**64 - 1)


@given(st.tuples(words, words), st.tuples(words, words, words, words))
def test_philox_is_numpys(key: tuple[int, ...], counter: tuple[int, ...]) -> None:
    ours = philox(*(key_word(k) for k in key), *(key_word(c) for c in counter))
    # numpy steps its 256-bit counter before it draws.
    before = (sum(c << (64 * i) for i, c in enumerate(counter)) - 1) % 2**256
    words_before = np.array([before >> (64 * i) & (2**64 - 1) for i in range(4)], np.uint64)
    theirs = np.random.Philox(counter=words_before, key=np.array(key, np.uint64)).random_raw(4)
    assert [int(word) for word in ours] == [int(word) for word in theirs]


def test_unit_covers_the_half_open_interval() -> None:
    assert unit(np.uint64(0)) == 0.0
    assert unit(np.uint64(2**64 - 1)) == 1.0 - 2.0**-53
