"""The limit where pixels are stored: every core moves the bytes that must be moved and computes nothing."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

AHEAD = 4  # tasks waiting per thread, so that no thread ever waits for the next
TASK = 8  # samples


def copy_only(shards: Path, view_bytes: int, batch_size: int, threads: int) -> Iterator[range]:
    """Batches of `TASK` pictures from the one .beton of a shard set: their pixels are copied to a buffer that stays in
    the cache, and `view_bytes` a picture are written to a place of a batch of `batch_size`.

    The file is read from end to end in equal steps, which costs less than to find each picture.
    """
    (beton,) = shards.glob("*.beton")
    stored = np.memmap(beton, np.uint8, "r")
    step = TASK * (len(stored) // _samples(shards))
    local = threading.local()

    def copy(number: int) -> range:
        if not hasattr(local, "views"):
            local.pixels = np.empty(step, np.uint8)
            local.views = np.zeros((-(-batch_size // TASK), TASK * view_bytes), np.uint8)
        begin = number * step % (len(stored) - step + 1)
        np.copyto(local.pixels, stored[begin : begin + step])
        local.views[number % len(local.views)] = 0
        return range(TASK)

    number = 0
    running: deque[Future[range]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        while True:
            while len(running) < threads * AHEAD:
                running.append(pool.submit(copy, number))
                number += 1
            yield running.popleft().result()


def _samples(shards: Path) -> int:
    from headrace.shards import open_shards

    with open_shards(shards) as opened:
        return len(opened)
