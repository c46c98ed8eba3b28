"""A capsule's step taken again: is it as bad, and to the same bits?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headrace.models import Method
from headrace.pipeline.transfer import DeviceBatches
from headrace.shards import open_shards
from headrace.train.distributed import join
from headrace.train.errors import RunError
from headrace.train.guard.capsule import Outcome, read_capsule, same_bits, take_again, versions
from headrace.train.loop import attempt
from headrace.train.run import assembled_as_kept, config_of


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What came of a step that was taken again, on this rank."""

    capsule: str
    rank: int
    place: dict[str, Any]
    """Which step it was: `step` (from 1), `kind`, `seed`, `epoch`, `batch`, `samples` of this rank, `world_size`,
    `precision`."""
    terms: dict[str, float]
    """The method's scalars, `grad_norm` and the meters."""
    norms: dict[str, float]
    """Of the gradient of each parameter, in the order of the method's parameters."""
    differs: list[str]
    """What has not the bits that were recorded: `batch`, terms, and `gradient of NAME`."""
    notes: list[str]
    """What may be a reason."""

    @property
    def same(self) -> bool:
        """Whether all has the bits that were recorded."""
        return not self.differs

    @property
    def not_finite(self) -> list[str]:
        """The parameters whose gradients are not, in order."""
        return [name for name, norm in self.norms.items() if not math.isfinite(norm)]


def replay(capsule: str | Path, *, data: str = "", method: Callable[[], Method] | None = None) -> Replay:
    """Take a bad step again from its capsule, with as many ranks as it was taken with. Nothing is written.

    Args:
        capsule: a folder in RUN/capsules.
        data: where the shard set is now; "" for where it was.
        method: makes the method of a run that was trained with one of yours; see `headrace.train.train`.

    Raises:
        RunError: if there is no capsule, it is damaged, of another version, of other data, or of more ranks or another
            device than there are.
        ConfigError: if its weights are of another network.
        ShardError: for data that cannot be read.
    """
    folder = Path(capsule)
    state = read_capsule(folder)
    config = config_of(state, folder)
    if state["device"] == "cuda" and not torch.cuda.is_available():
        raise RunError(f"{folder}: is of a step on a GPU, and there is none here")
    place = data or config.data
    with (
        _threads(state["threads"]),
        join(state["device"], config.distributed.timeout_s) as world,
        open_shards(place) as shards,
    ):
        if world.size != state["world_size"]:
            raise RunError(
                f"{folder}: is of a step on {state['world_size']} ranks, and here is {world.size}: start it by "
                f"torchrun --nproc-per-node {state['world_size']} --no-python headrace replay {folder}"
            )
        kept = state["loader"]
        if len(shards) != (samples := kept.get("documents", kept["samples"])):
            raise RunError(
                f"{folder}: is of a set of {samples} samples, {place} has {len(shards)}; --data says where it is now"
            )
        run = assembled_as_kept(config, method, world, shards, state, folder)
        recorded = state["ranks"][world.rank]
        try:
            batch = next(iter(DeviceBatches(run.loader, world.device)))
            if not torch.equal(batch.index.cpu(), recorded["samples"]):
                raise RunError(f"{folder}: {place} has other samples at that step; these are not the data of that step")
            found = take_again(run, batch, state["step"], attempt)
        finally:
            run.loader.close()
    return Replay(
        capsule=str(folder),
        rank=world.rank,
        place={name: state[name] for name in ("step", "kind", "seed", "epoch", "batch", "world_size")}
        | {"precision": config.precision, "samples": found.samples.tolist()},
        terms={name: float(term) for name, term in found.terms.items()},
        norms=found.norms,
        differs=list(_differences(found, recorded, state["gradients"])),
        notes=[
            f"{name} was {before}, and is {now}"
            for name, now in versions().items()
            if (before := state["versions"].get(name)) != now
        ],
    )


def _differences(found: Outcome, recorded: dict[str, Any], gradients: dict[str, str]) -> Iterator[str]:
    if found.batch != recorded["batch"]:
        yield "batch"
    for name in found.terms | recorded["terms"]:
        one, other = found.terms.get(name), recorded["terms"].get(name)
        if one is None or other is None or not same_bits(one, other):
            yield name
    for name in found.gradients | gradients:
        if found.gradients.get(name) != gradients.get(name):
            yield f"gradient of {name}"


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Of torch, on which bits depend."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
