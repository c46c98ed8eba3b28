"""The limit: every core decodes whole sounds, and does nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

GROUP = 16  # files of a task, which are short
AHEAD = 4  # tasks waiting per thread, so that no thread ever waits for the next


def decode_sounds_only(files: Sequence[Path], threads: int) -> Iterator[range]:
    """Batches of GROUP sounds: each file is read and decoded by soundfile, and its wave is dropped."""
    import soundfile

    def decode(group: list[Path]) -> range:
        for path in group:
            soundfile.read(path, dtype="float32")
        return range(len(group))

    number = 0
    running: deque[Future[range]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        while True:
            while len(running) < threads * AHEAD:
                running.append(pool.submit(decode, [files[(number + k) % len(files)] for k in range(GROUP)]))
                number += GROUP
            yield running.popleft().result()
