"""PyAV in torch's DataLoader: seek to the key frame before the clip, decode on from there, convert what is wanted.

https://pyav.org; one decoding thread a worker, for the workers are as many as the cores, and frames by their times, as
in constant-rate files, which these are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headrace.benchmarks.peers import Views
from headrace.benchmarks.peers.video_dataset import batches
from headrace.pipeline import ClipSpec


def decode(path: Path, choose: Callable[[int], list[int]]) -> Tensor:
    """See `video_dataset.Decode`."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        numbers = choose(stream.frames)
        assert stream.average_rate is not None
        assert stream.time_base is not None
        ticks = 1 / (stream.average_rate * stream.time_base)
        wanted = dict.fromkeys(numbers)
        found = {}
        container.seek(int(numbers[0] * ticks), stream=stream)
        for frame in container.decode(stream):
            assert frame.pts is not None
            number = round(frame.pts / ticks)
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
            if number >= numbers[-1]:
                break
    return torch.from_numpy(np.stack([found[number] for number in numbers])).permute(0, 3, 1, 2)


def pyav(videos: Sequence[Path], spec: ClipSpec, batch_size: int, workers: int) -> Iterator[Views]:
    """Batches of clips; every worker opens files of its own."""
    return batches(videos, spec, decode, batch_size, workers)
