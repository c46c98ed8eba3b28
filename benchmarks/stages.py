"""Single stages of Headrace's data path as contestants: generators without end, of batches or of their sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np

from headrace.pipeline import Batch, Loader, ViewSpec, WindowOrder, order, plan
from headrace.pipeline.engines import ENGINES
from headrace.shards import ShardSet, Spans, open_shards
from headrace.shards.manifest import read_manifest
from headrace.shards.shard_set import open_shard

SHARD_SAMPLES = 2500
"""Of a simulated shard: ImageNet's pictures in one of 256 MB."""


def batches_of(shards: ShardSet, batch_size: int) -> Iterator[tuple[np.ndarray, Spans, np.ndarray]]:
    """Samples in a random order, where they lie, and their sizes; epoch after epoch."""
    for epoch in count():
        for begin in range(0, len(shards) - batch_size + 1, batch_size):
            ids = order(0, epoch, len(shards))[begin : begin + batch_size]
            spans = shards.spans("image", ids)
            yield ids, spans, spans.shown_sizes()


def ordering(shards: Path, batch_size: int) -> Iterator[Sized]:
    """Which samples come next, and where they lie."""
    with open_shards(shards) as opened:
        for ids, _, _ in batches_of(opened, batch_size):
            yield range(len(ids))


def planning(shards: Path, spec: ViewSpec, batch_size: int) -> Iterator[Sized]:
    """Every random number of their views, and nothing else: what the plan is made of is prepared."""
    with open_shards(shards) as opened:
        prepared = [(ids, sizes) for (ids, _, sizes), _ in zip(batches_of(opened, batch_size), range(64), strict=False)]
        for epoch, (ids, sizes) in enumerate(cycle(prepared)):
            yield range(len(plan(spec, 0, epoch, ids, sizes)))


def rendering(shards: Path, spec: ViewSpec, batch_size: int) -> Iterator[Sized]:
    """Their views by the native engine in one thread, with a plan that is prepared."""
    with open_shards(shards) as opened:
        engine: Any = ENGINES["native"](opened, "image", spec)
        views = [np.empty((batch_size, view.size, view.size, 3), np.float32) for view in spec.views]
        prepared = [
            (ids, spans, plan(spec, 0, 0, ids, sizes))
            for (ids, spans, sizes), _ in zip(batches_of(opened, batch_size), range(64), strict=False)
        ]
        for ids, spans, drawn in cycle(prepared):
            engine.render(ids, spans, drawn, views)
            yield range(len(ids))


def loading(shards: Path, spec: ViewSpec, batch_size: int, threads: int, copies: int) -> Iterator[Batch]:
    """The whole loader on a set in whose index every shard stands `copies` times; the files are there once."""
    manifest = read_manifest(shards)
    opened = [open_shard(shards, manifest, shard) for shard in manifest.shards]
    repeated = ShardSet(shards, manifest, opened * copies)
    with Loader(repeated, spec, batch_size, engine="native", threads=threads, dtype="float32") as loader:
        while True:
            yield from loader


def pixels(shards: Path, spec: ViewSpec, batch_size: int, threads: int) -> Iterator[Sized]:
    """The whole loader; a batch is as long as its views have pixels."""
    each = sum(view.size**2 for view in spec.views)
    for batch in loading(shards, spec, batch_size, threads, copies=1):
        yield range(each * len(batch))


def positions(samples: int, window: bool, batch_size: int) -> Iterator[Sized]:
    """Which samples a global batch has, all over the epoch of a set that need not be there."""
    sizes = np.full(max(1, samples // SHARD_SAMPLES), SHARD_SAMPLES)
    ours = WindowOrder(0, 0, sizes) if window else order(0, 0, samples)
    batch_size = min(batch_size, len(ours))
    for number in count():
        # A step that shares no factor with the set's size comes everywhere.
        begin = number * 7_919 * batch_size % (len(ours) - batch_size + 1)
        yield range(len(ours.share(begin, begin + batch_size, 0, 1)))
