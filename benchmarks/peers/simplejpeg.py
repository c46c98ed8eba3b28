"""The limit: every core decodes whole photographs with libjpeg-turbo and does nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

AHEAD = 4  # tasks waiting per thread, so that no thread ever waits for the next
TASK = 8  # photographs


def decode_only(photographs: Sequence[Path], threads: int) -> Iterator[range]:
    """Batches of `TASK` photographs decoded to RGB from memory; the pixels are dropped at once."""
    import simplejpeg

    jpegs = [path.read_bytes() for path in photographs]

    def decode(first: int) -> range:
        for number in range(first, first + TASK):
            simplejpeg.decode_jpeg(jpegs[number % len(jpegs)], colorspace="RGB")
        return range(TASK)

    first = 0
    running: deque[Future[range]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        while True:
            while len(running) < threads * AHEAD:
                running.append(pool.submit(decode, first))
                first += TASK
            yield running.popleft().result()
