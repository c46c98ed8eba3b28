"""Keys that appear twice are found by their hashes, in bounded memory."""

import tracemalloc

import numpy as np
import pytest

from headrace.tools import keys as module
from headrace.tools.keys import KeyCheck, Repeated, first_repeated


def parts_of(*parts):
    return [np.array(part, f"S{width}") for width, part in enumerate(parts, 9)]


def found(parts):
    check = KeyCheck()
    for part in parts:
        check.add(part)
    return list(check.repeated(parts.__getitem__))


def test_every_later_sample_of_a_key_is_found_whatever_the_width_of_the_index():
    parts = parts_of([b"a", b"b", b"a"], [b"c", b"b"], [b"d", b"a"])
    assert found(parts) == [Repeated(0, 2, b"a"), Repeated(1, 1, b"b"), Repeated(2, 1, b"a")]
    assert first_repeated(iter(parts), parts.__getitem__) == b"a"


def test_keys_are_not_asked_for_again_where_no_hashes_meet():
    def never(part):
        raise AssertionError("asked for keys again")

    assert first_repeated(parts_of([b"a", b"b"], [b"c"]), never) is None
    assert first_repeated([], never) is None


@pytest.mark.parametrize("bits", [0, 2])
def test_hashes_that_meet_are_no_keys_that_do(monkeypatch, bits):
    few = np.uint64((1 << bits) - 1)
    monkeypatch.setattr(module, "hashes", lambda keys, real=module.hashes: real(keys) & few)
    parts = parts_of([b"%d" % i for i in range(20)], [b"x%d" % i for i in range(20)])
    assert found(parts) == []
    assert found([*parts, parts[0][7:8]]) == [Repeated(2, 0, b"7")]


def test_keys_that_are_known(monkeypatch):
    monkeypatch.setattr(module, "SEARCHED", 2)
    parts = parts_of([b"a", b"b", b"e"], [b"c"], [b"d", b"f"])
    check = KeyCheck()
    for part in parts:
        check.add(part)
    assert check.known(np.array([b"x", b"c", b"a", b"f"]), parts.__getitem__) == {b"a", b"c", b"f"}
    assert check.known(np.array([b"x"]), lambda part: pytest.fail("no hashes meet")) == set()
    assert check.known(np.array([], "S3"), parts.__getitem__) == set()


def test_a_sample_takes_eight_bytes():
    check = KeyCheck()
    count, shards = 2_000, 50
    key = "{:0>190}".format
    tracemalloc.start()
    for shard in range(shards):
        check.add(np.array([key(shard * count + i) for i in range(count)], "S200"))
    kept, _ = tracemalloc.get_traced_memory()
    assert list(check.repeated(lambda part: pytest.fail("no hashes meet"))) == []
    tracemalloc.stop()
    assert kept < 12 * count * shards
