"""Who competes in the loader benchmark's works on sounds."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace.benchmarks.command import Options
from headrace.benchmarks.forms import read_through
from headrace.benchmarks.peers.headrace import headrace_sounds
from headrace.benchmarks.peers.librosa import librosa
from headrace.benchmarks.peers.sound_decoding import decode_sounds_only
from headrace.benchmarks.peers.torch_stft import torch_stft
from headrace.benchmarks.photographs import cache_folder
from headrace.benchmarks.prompts import prompts
from headrace.benchmarks.runner import Contestant
from headrace.pipeline import SoundSpec

SMOKE_SOUNDS = 64

TORCH_STFT, LIBROSA = "torch.stft", "librosa"


@dataclass(frozen=True, kw_only=True)
class SoundWork:
    """What every contestant has to deliver for one sound."""

    title: str
    sounds: SoundSpec
    """One crop of one sound, in librosa's definition."""
    targets: Mapping[str, float] = field(default_factory=dict)
    """Contestant to the ratio that Headrace is to reach."""


def sound_contestants(work: SoundWork, options: Options) -> list[Contestant]:
    """Headrace first and the limit last; makes the files that they read."""
    found = [prompt.path for prompt in prompts()]
    files = found[:: max(1, len(found) // SMOKE_SOUNDS)] if options.smoke else found
    shards = sound_shards(files, "smoke" if options.smoke else "all")
    for path in {path.parent for path in files}:
        read_through(path)
    read_through(shards)
    soundfile = {"soundfile": "pip install headrace[sound]"}
    peer = {
        "files": files, "spec": work.sounds, "batch_size": options.batch_size, "workers": options.threads,
    }  # fmt: skip
    return [
        Contestant(
            name="Headrace",
            batches=headrace_sounds,
            arguments={
                "shards": shards,
                "spec": work.sounds,
                "batch_size": options.batch_size,
                "threads": options.threads,
            },
            requires=soundfile,
            note="WAV files as they are in webdataset tars, only the crop decoded",
        ),
        Contestant(
            name=TORCH_STFT,
            batches=torch_stft,
            arguments=peer,
            requires=soundfile,
            note="soundfile reads the crop, torch.stft and a matrix of bands, torch's DataLoader",
        ),
        Contestant(
            name=LIBROSA,
            batches=librosa,
            arguments=peer,
            requires={"librosa": "pip install librosa", **soundfile},
            note="soundfile reads the crop, librosa.feature.melspectrogram, torch's DataLoader",
        ),
        Contestant(
            name="decoding only",
            batches=decode_sounds_only,
            arguments={"files": files, "threads": options.threads},
            requires=soundfile,
            limit=True,
            note="soundfile on every core, whole files, waves dropped",
        ),
    ]


def sound_shards(files: Sequence[Path], name: str) -> Path:
    """A Headrace shard set of tars that hold the files as they are, in the cache folder."""
    from headrace.shards import Field, write_shards

    target = cache_folder() / "forms" / f"sounds-{name}-{len(files)}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".sounds.", dir=target.parent) as temporary:
            samples = ({"__key__": f"{i:05d}", "audio": path.read_bytes()} for i, path in enumerate(files))
            fields = {"audio": Field(kind="audio", encoding="wav")}
            write_shards(Path(temporary) / "set", samples, fields, shard_size=1 << 24)
            (Path(temporary) / "set").rename(target)
    return target
