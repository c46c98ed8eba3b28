"""Headrace itself, delivering what its peers deliver: normalised float32 views."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headrace.benchmarks.peers import Views
from headrace.pipeline import Batch, ClipSpec, Loader, SoundSpec, ViewSpec
from headrace.shards import open_shards


def headrace(
    shards: Path, spec: ViewSpec | ClipSpec, batch_size: int, threads: int, engine: str = "native"
) -> Iterator[Batch]:
    """Batches of one of its engines, on the CPU, from a shard set of either format."""
    with (
        open_shards(shards) as opened,
        Loader(opened, spec, batch_size, engine=engine, threads=threads, dtype="float32") as loader,
    ):
        while True:  # the loader stops at the end of each epoch, and its threads run dry there
            yield from loader


def headrace_sounds(shards: Path, spec: SoundSpec, batch_size: int, threads: int) -> Iterator[Views]:
    """Batches of spectrograms, likewise."""
    with open_shards(shards) as opened, Loader(opened, spec, batch_size, threads=threads) as loader:
        while True:
            for batch in loader:
                yield Views(batch["sound"].mels)
