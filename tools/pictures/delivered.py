"""What a loader brings of the first samples of an epoch, a stream at a time."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.pipeline import Inputs, Loader, Other, Spec, streams_of
from headrace.pipeline.batch import Others
from headrace.pipeline.feeds.base import stream_seed
from headrace.pipeline.streams import spec_of
from headrace.shards import ShardSet
from headrace.tools.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """One stream of n samples."""

    spec: Spec
    part: Any
    """What the batch has of it."""
    index: NDArray[np.int64]
    """n positions in the shard set: whose this is."""
    titles: list[str]
    """n keys of samples; with another's where one is shown in its place or mixed with it."""
    seed: int
    """What the stream's draws come from, together with the epoch and `index`."""
    epoch: int


def delivered(shards: ShardSet, inputs: Inputs, *, count: int, seed: int = 0, epoch: int = 0) -> dict[str, Delivered]:
    """The streams of the first `count` samples of the epoch's order (fewer where the set has fewer), by their names.
    Bad ones are left out, with a warning that names each.

    Raises:
        UserError: if the set has not what a stream shows, or a package that it needs is missing.
        ShardError: if none of them can be decoded.
    """
    try:
        loader = Loader(shards, inputs, min(count, len(shards)), seed=seed, prefetch=1, on_error="skip")
    except (ImportError, ValueError) as error:
        raise UserError(str(error)) from error
    with loader:
        loader.epoch = epoch
        batch = next(iter(loader))
    for reason in loader.bad.values():
        warnings.warn(f"not shown: {reason}", stacklevel=3)
    found: dict[str, Delivered] = {}
    kinds: list[type] = []
    for name, stream in streams_of(inputs).items():
        spec, others = spec_of(stream), batch.others.get(name)
        own = batch.index.numpy()
        found[name] = Delivered(
            spec=spec,
            part=batch[name],
            index=others.index.numpy() if others and isinstance(stream, Other) else own,
            titles=[_title(shards, int(sample), others, row) for row, sample in enumerate(own)],
            seed=stream_seed(seed, kinds.count(type(spec))),
            epoch=epoch,
        )
        kinds.append(type(spec))
    return found


def _title(shards: ShardSet, sample: int, others: Others | None, row: int) -> str:
    if others is None:
        return shards.key(sample)
    own, other, weight = shards.key(sample), shards.key(int(others.index[row])), float(others.weight[row])
    return f"{weight:.2f} {own} + {1 - weight:.2f} {other}" if weight else f"{other} for {own}"
