"""Features of every sample of a set as rows of one file, computed by one process or by all ranks of torchrun."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline import Batch, Loader
from headrace.shards import ShardError, ShardSet
from headrace.tools.progress import sample_bar
from headrace.train import RunError
from headrace.train.distributed import World
from headrace.train.encoders import Encoder
from headrace.train.errors import NotFiniteError


def make_rows(path: Path, samples: int, features: int) -> None:
    """A .npy file of float32 (samples, features), of zeros, which takes no room before it is filled."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(samples, features)).flush()


@torch.no_grad()
def fill_rows(
    encoder: Encoder,
    shards: ShardSet,
    rows: Path,
    world: World,
    *,
    batch_size: int = 256,
    threads: int | None = None,
) -> dict[int, str]:
    """Write this rank's share of the features into the file that rank 0 made, and wait for the others.

    Args:
        encoder: on the rank's device, in evaluation mode.
        rows: see `make_rows`; in a folder that all ranks share.
        batch_size: of each rank. Ranks compute whole batches, which are those that one process computes; on a CPU
            features may differ in their last bits with it.
        threads: of each rank, that decode; None takes all cores.

    Returns:
        Why, by the number of each bad sample of any rank, whose row is not filled.

    Raises:
        RunError: if the set lacks what is shown, or ranks do not see one folder.
        NotFiniteError: if a feature is not finite.
        ShardError: for a bad sample, unless the encoder's run puts up with as many (`Encoder.max_bad`).
    """
    trouble, bad = "", {}
    try:
        bad = dict(_share(encoder, shards, rows, world, batch_size, threads))
    except (RunError, ShardError, OSError) as error:
        if world.size == 1:
            raise
        trouble = str(error)
    everyone = world.each((bad, trouble))
    if reasons := [trouble for _, trouble in everyone if trouble]:
        raise RunError(reasons[0])
    return {i: why for bad, _ in everyone for i, why in bad.items()}


def _share(
    encoder: Encoder, shards: ShardSet, rows: Path, world: World, batch_size: int, threads: int | None
) -> Iterator[tuple[int, str]]:
    """The bad samples of this rank's batches, after the others' features were written."""
    batches = -(-len(shards) // batch_size)
    first, last = (batches * rank // world.size for rank in (world.rank, world.rank + 1))
    if first == last:
        return
    # A substitute leaves the batch as large as it was; its row is dropped.
    policy: dict[str, Any] = {"on_error": "error"}
    if encoder.max_bad is not None:
        policy = {"on_error": "substitute", "max_bad": encoder.max_bad}
    try:
        loader = Loader(shards, encoder.inputs, batch_size, shuffle=False, drop_last=False, threads=threads, **policy)
    except ValueError as error:
        raise RunError(str(error)) from None
    loader.load_state_dict({**loader.state_dict(), "position": first * batch_size})
    if not rows.exists():
        raise RunError(f"{rows.parent.parent}: ranks see different folders; it must be shared by all of them")
    features = np.load(rows, mmap_mode="r+")
    place = first * batch_size
    total = min(last * batch_size, len(shards)) - place
    shown = sample_bar(f"features of {shards.path}", total) if world.rank == 0 else nullcontext(lambda done: None)
    with loader, shown as bar:
        for batch in islice(loader, last - first):
            wanted = np.arange(place, place + len(batch))
            good = batch.index.numpy() == wanted
            found = features_of(encoder, batch, shards)
            features[wanted[good]] = found[good]
            yield from ((int(i), loader.bad[int(i)]) for i in wanted[~good])
            place += len(batch)
            bar(place - first * batch_size)
    features.flush()


def features_of(encoder: Encoder, batch: Batch, shards: ShardSet) -> np.ndarray:
    """float32 (B, D) of a batch of `shards`; NotFiniteError names a sample whose features are not finite."""
    device = next((x.device for x in encoder.module.state_dict().values() if isinstance(x, Tensor)), "cpu")
    found: np.ndarray = encoder.encode(batch.to(device)).float().cpu().numpy()
    if not np.isfinite(found).all():
        bad = int(batch.index[int(np.argmin(np.isfinite(found).all(axis=1)))])
        raise NotFiniteError(f"{shards.path}: features of the sample {shards.key(bad)} are not finite")
    return found
