"""Ways to read single photographs at random: a batch is so many payloads, copied one after the other."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np

LARGEST = 1 << 24  # bytes of a photograph


def headrace_read(shards: Path, batch_size: int) -> Iterator[range]:
    """Places from the index, bytes from the memory map."""
    from headrace.shards import open_shards

    buffer = ctypes.create_string_buffer(LARGEST)
    random = np.random.default_rng(0)
    with open_shards(shards) as opened:
        while True:
            spans = opened.spans("image", random.integers(0, len(opened), batch_size))
            for address, size in zip(spans.address.tolist(), spans.size.tolist(), strict=True):
                ctypes.memmove(buffer, address, size)
            yield range(batch_size)


def ffcv_read(beton: Path, photographs: int, batch_size: int) -> Iterator[range]:
    """Places from ffcv's tables, bytes from the memory map of its OSCacheManager."""
    from ffcv.memory_managers import OSCacheManager
    from ffcv.reader import Reader

    buffer = ctypes.create_string_buffer(LARGEST)
    random = np.random.default_rng(0)
    reader = Reader(str(beton))
    pointers = reader.metadata[f"f{reader.field_names.index('image')}"]["data_ptr"]
    manager = OSCacheManager(reader)
    with manager.schedule_epoch(np.arange(photographs)[None]) as context:
        read, state = manager.compile_reader(), context.state
        while True:
            for pointer in pointers[random.integers(0, photographs, batch_size)]:
                payload = read(pointer, state)
                ctypes.memmove(buffer, payload.ctypes.data, payload.size)
            yield range(batch_size)
