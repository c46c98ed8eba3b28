"""Copies of batches to a GPU that is far behind: what arrives is what was delivered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from headrace.pipeline import Batch, Loader, View, ViewSpec
from headrace.pipeline.batch import normalize_images
from headrace.pipeline.images.view import Normalize
from headrace.pipeline.transfer import DeviceBatches
from headrace.shards import ShardSet

SPEC = ViewSpec([View(size=128)] * 2)
BEHIND = 500_000_000
"""Cycles of the GPU, some 0.3 s: the loader goes on by many batches meanwhile."""


def batches(loader: Loader) -> Iterator[Batch]:
    for _ in range(4):
        yield from loader


@pytest.mark.parametrize("way", ["to", "kept", "side stream", "kornia"])
def test_memory_is_not_written_while_it_is_copied(way: str, photos: ShardSet) -> None:
    engine = "kornia" if way == "kornia" else "native"
    with Loader(photos, SPEC, 4, threads=2, prefetch=1) as loader:
        expected = [[view.clone() for view in batch.views] for batch in batches(loader)]
    device = "cuda" if engine == "kornia" else "cpu"
    with Loader(photos, SPEC, 4, threads=2, prefetch=1, engine=engine, device=device) as loader:
        torch.cuda._sleep(BEHIND)
        if way == "side stream":
            moved = DeviceBatches(loader, torch.device("cuda"))
            found = [[view.clone() for view in batch.views] for _ in range(4) for batch in moved]
        elif way == "kept":
            found = [batch.to("cuda").views for batch in batches(loader)]
        else:
            found = []
            for batch in batches(loader):
                batch = batch.to("cuda")
                found.append([view.clone() for view in batch.views])
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.cpu(), other)


def test_normalising_does_not_wait_for_the_device() -> None:
    images = torch.zeros((4, 3, 8, 8), dtype=torch.uint8, device="cuda")
    normalize_images(images, Normalize())
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        normalize_images(images, Normalize())
    finally:
        torch.cuda.set_sync_debug_mode(before)
