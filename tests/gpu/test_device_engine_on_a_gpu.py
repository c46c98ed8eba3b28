"""Engine `cuda` on a GPU: the views of `native`, made without a wait, beside what else the GPU does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from headrace.pipeline import Loader, View, ViewSpec
from headrace.pipeline.transfer import DeviceBatches
from headrace.shards import ShardSet
from tests.pipeline.engines.interpreted import FLOATS, SPECS, drawn

BLURRED = {"blur", "all", "two sizes"}
LARGE = ViewSpec([View(size=224, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur=0.5)] * 2)
BEHIND = 500_000_000
"""Cycles of the GPU, some 0.3 s."""


@contextmanager
def no_waiting() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("name", SPECS)
def test_levels_are_the_native_engines(name: str, photos: ShardSet) -> None:
    """A GPU's compiler may fuse or round a hue or a weight otherwise: a level in a thousand by one, and what operations
    behind make of it."""
    for ours, theirs in zip(
        drawn("native", photos, SPECS[name]), drawn("cuda", photos, SPECS[name], device="cuda"), strict=True
    ):
        difference = np.abs(theirs.astype(int) - ours.astype(int))
        print(f"{name}: largest {difference.max()}, mean {difference.mean():.6f}")
        assert difference.mean() < (0.02 if name in BLURRED else 2e-3)
        assert np.mean(difference > 1) < 1e-3


@pytest.mark.parametrize("name", FLOATS)
def test_floats_are_the_native_engines(name: str, photos: ShardSet) -> None:
    (ours,) = drawn("native", photos, FLOATS[name], "float32")
    (theirs,) = drawn("cuda", photos, FLOATS[name], "float32", device="cuda")
    assert np.mean(np.abs(theirs - ours) > 1e-3 + 1e-4 * np.abs(ours)) < 2e-3


@pytest.mark.parametrize("dtype", ["uint8", "bfloat16"])
def test_batches_are_the_same_beside_a_busy_stream(dtype: str, photos: ShardSet) -> None:
    def found(busy: bool) -> list[list[torch.Tensor]]:
        with Loader(photos, LARGE, 8, engine="cuda", device="cuda", threads=4, dtype=dtype, seed=2) as loader:
            if busy:
                torch.cuda._sleep(BEHIND)
            return [[view.clone() for view in batch.views] for _ in range(3) for batch in DeviceBatches(loader, CUDA)]

    quiet, busy = found(False), found(True)
    assert len(quiet) == len(busy) == 12
    for ours, theirs in zip(quiet, busy, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
        assert all(view.is_contiguous(memory_format=torch.channels_last) for view in ours)


CUDA = torch.device("cuda")


def test_drawing_waits_for_nothing(photos: ShardSet) -> None:
    with Loader(photos, LARGE, 8, engine="cuda", device="cuda", threads=4, dtype="bfloat16") as loader:
        batches = iter(DeviceBatches(loader, CUDA))
        next(batches)  # compiles
        with no_waiting():
            for _ in range(3):
                next(batches)


def test_drawing_goes_on_beside_a_long_kernel(photos: ShardSet) -> None:
    """The views of the next batches are ready before the kernel that the step has queued is."""
    with Loader(photos, LARGE, 8, engine="cuda", device="cuda", threads=4) as loader:
        batches = DeviceBatches(loader, CUDA)
        waiting = iter(batches)
        next(waiting)
        torch.cuda.synchronize()
        torch.cuda._sleep(4 * BEHIND)
        ended = torch.cuda.current_stream().record_event()
        batch = next(waiting)  # was drawn on the side stream
        made = batches._copies._stream.record_event()  # type: ignore[union-attr]
        made.synchronize()
        assert not ended.query()
        torch.cuda.synchronize()
        assert all(view.isfinite().all() for view in batch.normalized())


def test_memory_comes_back(photos: ShardSet) -> None:
    def epoch() -> None:
        with Loader(photos, LARGE, 8, engine="cuda", device="cuda", threads=4) as loader:
            for batch in DeviceBatches(loader, CUDA):
                batch.normalized()

    epoch()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        epoch()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before
