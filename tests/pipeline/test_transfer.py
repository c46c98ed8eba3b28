"""Batches on their way to a device. The copies here are late ones on the CPU, as a busy GPU would make them."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager, nullcontext
from itertools import islice

import pytest
import torch

from headrace.pipeline import Batch, Loader, RandomMask, View, ViewSpec
from headrace.pipeline.transfer import DeviceBatches
from headrace.shards import ShardSet

SPEC = ViewSpec([View(size=16)] * 2, masks=[RandomMask(grid=(4, 4))])


class LateCopies:
    """Reads a batch's memory at the last moment, when the loader has long gone on."""

    def __init__(self) -> None:
        self.begun: deque[Batch] = deque()
        self.closed = 0

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()

    def begin(self, batch: Batch) -> None:
        self.begun.append(batch)

    def take(self) -> Batch:
        batch = self.begun.popleft()
        return batch._each(torch.clone)

    def close(self) -> None:
        self.begun.clear()
        self.closed += 1


def make(shards: ShardSet) -> Loader:
    return Loader(shards, SPEC, 32, seed=3, threads=2)


def content(batch: Batch) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in batch.tensors()]


@pytest.mark.parametrize("late", [True, False])
def test_the_batches_are_the_loaders_and_the_state_is_behind_the_last(digits_webdataset: ShardSet, late: bool) -> None:
    with make(digits_webdataset) as plain:
        expected = [(content(batch), plain.state_dict()) for _ in range(2) for batch in plain]
    copies = LateCopies() if late else None
    with make(digits_webdataset) as loader:
        batches = DeviceBatches(loader, torch.device("cpu"), copies)
        start = batches.state_dict()
        assert start == make(digits_webdataset).state_dict()
        found = [(content(batch), batches.state_dict()) for _ in range(2) for batch in batches]
    assert len(found) == len(expected) == 12
    for (ours, our_state), (theirs, their_state) in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) > 6  # views, index, labels, masks and draws
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
        assert our_state == their_state
    if copies is not None:
        assert copies.closed == 2


def test_a_run_that_stops_with_a_copy_under_way_goes_on_behind_what_was_used(digits_webdataset: ShardSet) -> None:
    with make(digits_webdataset) as plain:
        expected = [batch.index.tolist() for batch in plain]
    copies = LateCopies()
    with make(digits_webdataset) as loader:
        batches = DeviceBatches(loader, torch.device("cpu"), copies)
        iterator = iter(batches)
        used = [batch.index.tolist() for batch in islice(iterator, 2)]
        iterator.close()  # type: ignore[attr-defined]
        state = batches.state_dict()
        assert copies.closed == 1
        assert used + [batch.index.tolist() for batch in batches] == expected
    with make(digits_webdataset) as again:
        again.load_state_dict(state)
        assert used + [batch.index.tolist() for batch in DeviceBatches(again, torch.device("cpu"))] == expected


@pytest.mark.parametrize("late", [True, False])
def test_it_is_set_back_with_copies_under_way(digits_webdataset: ShardSet, late: bool) -> None:
    """As by a run that takes an earlier batch again, and then goes on behind it."""
    with make(digits_webdataset) as plain:
        expected = [(batch.index.tolist(), plain.state_dict()) for batch in plain]
    with make(digits_webdataset) as loader:
        batches = DeviceBatches(loader, torch.device("cpu"), LateCopies() if late else None)
        first = iter(batches)
        assert [batch.index.tolist() for batch in islice(first, 4)] == [index for index, _ in expected[:4]]
        batches.load_state_dict(expected[0][1])
        again = iter(batches)
        assert next(again).index.tolist() == expected[1][0]
        del again
        batches.load_state_dict(expected[1][1])
        del first
        assert batches.state_dict() == expected[1][1]
        assert [batch.index.tolist() for batch in batches] == [index for index, _ in expected[2:]]
