"""Who competes in the loader benchmark's works on video."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace.benchmarks.command import Options
from headrace.benchmarks.forms import read_through
from headrace.benchmarks.peers.headrace import headrace
from headrace.benchmarks.peers.pyav import pyav
from headrace.benchmarks.peers.torchcodec import torchcodec
from headrace.benchmarks.peers.video_decoding import decode_clips_only
from headrace.benchmarks.runner import Contestant
from headrace.benchmarks.videos import training_videos
from headrace.pipeline import ClipSpec

VIDEOS = 24
SMOKE_VIDEOS = 3
SHARE = 8
"""A batch has this share of an image batch's samples: one clip of 16 frames at 224 is 9.6 MB of float32."""


TORCHCODEC, PYAV = "TorchCodec", "PyAV"


@dataclass(frozen=True, kw_only=True)
class ClipWork:
    """What every contestant has to deliver for one video."""

    title: str
    clips: ClipSpec
    targets: Mapping[str, float] = field(default_factory=dict)
    """Contestant to the ratio that Headrace is to reach."""


def clip_contestants(work: ClipWork, options: Options) -> list[Contestant]:
    """Headrace first and the limit last; makes the files that they read."""
    spec = work.clips
    videos = training_videos(SMOKE_VIDEOS if options.smoke else VIDEOS)
    shards = video_shards(videos)
    read_through(videos[0].parent)
    read_through(shards)
    batch_size, threads = max(1, options.batch_size // SHARE), options.threads
    files = {"videos": videos, "spec": spec}
    return [
        Contestant(
            name="Headrace",
            batches=headrace,
            arguments={"shards": shards, "spec": spec, "batch_size": batch_size, "threads": threads},
            requires={"av": "pip install headrace[video]"},
            note="native engine on webdataset tars, PyAV decoding without frames that nothing needs",
        ),
        Contestant(
            name=TORCHCODEC,
            batches=torchcodec,
            arguments={**files, "batch_size": batch_size, "workers": threads},
            requires={"torchcodec.decoders": "pip install torchcodec, and FFmpeg's libraries: apt install ffmpeg"},
            note="VideoDecoder.get_frames_at with approximate seeks, v2 transforms, torch's DataLoader",
        ),
        Contestant(
            name=PYAV,
            batches=pyav,
            arguments={**files, "batch_size": batch_size, "workers": threads},
            requires={"av": "pip install av"},
            note="seek, decode, convert the clip's frames, v2 transforms, torch's DataLoader",
        ),
        Contestant(
            name="decoding only",
            batches=decode_clips_only,
            arguments={**files, "threads": threads},
            requires={"av": "pip install av"},
            limit=True,
            note="PyAV on every core, all frames from the key frame to the clip's last, pictures dropped",
        ),
    ]


def video_shards(videos: Sequence[Path]) -> Path:
    """A Headrace shard set of tars that hold the files as they are, beside their folder."""
    from headrace.shards import Field, write_shards

    folder = videos[0].parent
    target = folder.with_name(f"{folder.name}-shards")
    if not target.exists():
        with tempfile.TemporaryDirectory(prefix=".shards.", dir=folder.parent) as temporary:
            samples = ({"__key__": path.stem, "video": path.read_bytes()} for path in videos)
            fields = {"video": Field(kind="video", encoding="mp4")}
            write_shards(Path(temporary) / "set", samples, fields, shard_size=1 << 24)
            (Path(temporary) / "set").rename(target)
    return target
