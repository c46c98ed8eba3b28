"""Headrace itself, delivering what its peers deliver: normalised float32 views."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headrace.benchmarks.peers import Views
from headrace.pipeline import Batch, ClipSpec, Loader, PackedTextSpec, SoundSpec, TokenMask, ViewSpec
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


def headrace_packed(
    shards: Path, tokenizer: Path, length: int, ratio: float, batch_size: int, threads: int
) -> Iterator[Batch]:
    """Batches of packed texts with masks, epoch after epoch."""
    spec = PackedTextSpec(tokenizer=tokenizer, length=length, masks=(TokenMask(ratio=ratio),))
    with open_shards(shards) as opened, Loader(opened, spec, batch_size, threads=threads, epochs=1 << 30) as loader:
        while True:
            yield from loader
