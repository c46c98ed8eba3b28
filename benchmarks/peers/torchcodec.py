"""TorchCodec in torch's DataLoader: `VideoDecoder.get_frames_at`.

https://github.com/meta-pytorch/torchcodec; seek_mode "approximate", which its documentation gives as the faster one and
which is exact where the rate is constant, as here; one FFmpeg thread a worker, its default and its advice for several
decoders at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from headrace.benchmarks.peers import Views
from headrace.benchmarks.peers.video_dataset import batches
from headrace.pipeline import ClipSpec


def decode(path: Path, choose: Callable[[int], list[int]]) -> Tensor:
    """See `video_dataset.Decode`."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, seek_mode="approximate", num_ffmpeg_threads=1)
    length = decoder.metadata.num_frames
    assert length is not None
    return decoder.get_frames_at(choose(length)).data


def torchcodec(videos: Sequence[Path], spec: ClipSpec, batch_size: int, workers: int) -> Iterator[Views]:
    """Batches of clips; every worker opens files of its own."""
    return batches(videos, spec, decode, batch_size, workers)
