"""The limit: every core decodes the frames of random clips, from the key frame before, and does nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from headrace.benchmarks.peers.video_dataset import chosen
from headrace.pipeline import ClipSpec

AHEAD = 4  # tasks waiting per thread, so that no thread ever waits for the next


def decode_clips_only(videos: Sequence[Path], spec: ClipSpec, threads: int) -> Iterator[range]:
    """Batches of one clip: every frame from the key frame to the clip's last is decoded by PyAV and dropped."""
    import av

    (clip,) = spec.clips

    def decode(path: Path) -> range:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            numbers = chosen(clip, stream.frames)
            assert stream.average_rate is not None
            assert stream.time_base is not None
            ticks = 1 / (stream.average_rate * stream.time_base)
            container.seek(int(numbers[0] * ticks), stream=stream)
            for frame in container.decode(stream):
                assert frame.pts is not None
                if round(frame.pts / ticks) >= numbers[-1]:
                    break
        return range(1)

    number = 0
    running: deque[Future[range]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        while True:
            while len(running) < threads * AHEAD:
                running.append(pool.submit(decode, videos[number % len(videos)]))
                number += 1
            yield running.popleft().result()
