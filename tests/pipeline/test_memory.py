"""Memory of batches: given out again when nobody reads it. What a GPU's copies do: see tests/gpu."""

from __future__ import annotations

import gc

import pytest
import torch

from headrace.pipeline import Loader, View, ViewSpec, memory
from headrace.pipeline.memory import BufferPool
from headrace.shards import ShardSet


def test_memory_comes_back_with_the_last_tensor_and_no_more_than_is_kept() -> None:
    kind = (4, 3), torch.uint8
    pool = BufferPool(keep=2)
    lent = [pool.lend(pool.take(*kind)) for _ in range(4)]
    places = [tensor.data_ptr() for tensor in lent]
    part = lent[0][2:]
    del lent[0]
    assert not pool.free[kind]
    del part
    assert [buffer.data_ptr() for buffer in pool.free[kind]] == places[:1]
    while lent:
        del lent[0]
    assert [buffer.data_ptr() for buffer in pool.free[kind]] == places[2:]
    assert pool.take(*kind).data_ptr() == places[3]


class Allocator:
    """As torch's for pinned memory: it knows memory by the storage that it gave out, and may give it out again when
    copies from it are complete, of which nothing here tells the loader."""

    def __init__(self) -> None:
        self.places: set[int] = set()
        self.kept: list[torch.Tensor] = []

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.zeros(shape, dtype=dtype)
        self.kept.append(tensor)  # a copy from it is under way for ever
        self.places.add(tensor.data_ptr())
        return tensor


@pytest.mark.parametrize("policy", ["substitute", "skip"])
def test_pinned_memory_is_torchs_to_give_out_again(
    policy: str, photos: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are over its very memory, and nothing is written there after they were delivered."""
    allocator = Allocator()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(memory, "pinned", allocator)
    with Loader(photos, ViewSpec([View(size=16)] * 2), 9, threads=2, prefetch=1, on_error=policy) as loader:  # type: ignore[arg-type]
        found = []
        for _ in range(3):
            for batch in loader:
                assert {view.untyped_storage().data_ptr() for view in batch.views} <= allocator.places
                found += [(view.data_ptr(), view.clone()) for view in batch.views]
                del batch
                gc.collect()
        assert not loader._pool.free
    assert len({place for place, _ in found}) == len(found) == 24
    for place, content in found:
        (kept,) = (tensor for tensor in allocator.kept if tensor.data_ptr() == place)
        assert torch.equal(kept.permute(0, 3, 1, 2), content)
