"""One training of a small recipe, in Headrace's loop or of lightly's parts in a plain loop, and its scores."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headrace.benchmarks.errors import BenchmarkError
from headrace.benchmarks.learning.sets import TOKENIZER, LearningSet
from headrace.benchmarks.peers.lightly_methods import Peer, build_peer
from headrace.models import Context, build_method
from headrace.models.layout import channels_last
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader
from headrace.pipeline.transfer import DeviceBatches
from headrace.shards import ShardSet, open_shards
from headrace.train import RunConfig, load_run, train
from headrace.train.optim import build_optimizer, clip_players, follow_schedule
from headrace.train.probes import Features, extract_features, knn_probe, linear_probe
from headrace.train.recipes import RECIPES

Scores = dict[str, float]
"""Probe to accuracy, 0 to 1."""
PROBES: dict[str, Callable[..., float]] = {"knn": knn_probe, "linear": linear_probe}
SMOKE_BATCH = 32


def small_config(name: str, data: Path, out: Path, *, seed: int, epochs: int, smoke: bool) -> RunConfig:
    """The method's small recipe, for so many epochs, in float32, with little written."""
    changes = [f"seed={seed}", f"epochs={epochs}", "precision=float32", "device=cpu"]
    changes += ["checkpoint.every_steps=0", "log.tensorboard=false"]
    recipe = RECIPES[f"{name}_small"](data=str(data / "train"), out=str(out))
    if "tokenizer" in vars(recipe.model):
        changes.append(f"model.tokenizer={data / TOKENIZER}")
    if smoke:
        changes += [f"batch_size={SMOKE_BATCH}", "log.every_steps=1"]
    return recipe.with_overrides(changes)


def probe(encode: Callable[[Batch], Tensor], inputs: Any, data: Path) -> Scores:
    """Scores of frozen features."""
    with open_shards(data / "train") as learn, open_shards(data / "test") as score:
        return scores_of(extract_features(encode, learn, inputs), extract_features(encode, score, inputs))


def probe_untrained(config: RunConfig, data: Path) -> Scores:
    """Scores of the encoder that a training begins with."""
    start = build_method(config.method, config.model, seed=config.seed).eval()
    return probe(start.encode, start.probe_inputs, data)


def probe_input(data: Path, learning: LearningSet) -> Scores:
    """Scores without any encoder."""
    with open_shards(data / "train") as learn, open_shards(data / "test") as score:
        return scores_of(learning.input_features(learn), learning.input_features(score))


def scores_of(learn: Features, score: Features) -> Scores:
    """Of probes that learn from the first and are scored on the others."""
    return {name: judge(*learn, *score) for name, judge in PROBES.items()}


class Clock:
    """Samples a second from the first time that it is told of a step to the last, so that what is done once, such as
    compiling, does not count."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.times: list[tuple[int, float]] = []

    def tell(self, step: int) -> None:
        self.times.append((step, time.perf_counter()))

    @property
    def samples_per_s(self) -> float:
        (first, began), (last, ended) = self.times[0], self.times[-1]
        return (last - first) * self.batch_size / (ended - began) if last > first else 0.0


def train_ours(config: RunConfig, data: Path) -> Scores:
    """Scores of the method, trained in Headrace's loop."""
    run_ours(config)
    _, method = load_run(config.out)
    return probe(method.encode, method.probe_inputs, data)


def train_peer(config: RunConfig, data: Path) -> Scores:
    """Scores of the method of lightly's parts, trained in a plain loop on the batches that Headrace's loop sees."""
    peer, inputs, _ = run_peer(config)
    return probe(peer.encode, inputs, data)


def run_ours(config: RunConfig) -> float:
    """Samples a second of a training, between its first and its last line of metrics.

    Raises:
        BenchmarkError: if a signal ended it.
    """
    clock = Clock(config.batch_size)
    result = train(config, progress=False, on_step=lambda record: clock.tell(record["step"]))
    if result.step < result.total_steps:
        raise BenchmarkError(f"{config.method}: {result.ending.line}")
    return clock.samples_per_s


def run_peer(config: RunConfig) -> tuple[Peer, Any, float]:
    """The trained peer, what probes show it, and samples a second between the same steps."""
    method = build_method(config.method, config.model, seed=config.seed)
    peer = channels_last(build_peer(config.method, method, seed=config.seed))
    with open_shards(config.data) as shards:
        clock = _plain_loop(peer, method.inputs, config, shards)
    return peer, method.probe_inputs, clock.samples_per_s


def _plain_loop(peer: Peer, inputs: Any, config: RunConfig, shards: ShardSet) -> Clock:
    optimizer = build_optimizer(peer.parameter_groups(), config.optim, config.batch_size)
    clock = Clock(config.batch_size)
    with Loader(shards, inputs, config.batch_size, seed=config.seed) as loader:
        total = config.epochs * len(loader)
        batches = DeviceBatches(loader, torch.device("cpu"))
        step = 0
        while step < total:
            for batch in batches:
                context = Context(
                    step=step,
                    epoch=step // len(loader),
                    steps_per_epoch=len(loader),
                    epochs=config.epochs,
                    batch_size=config.batch_size,
                )
                follow_schedule(optimizer, config, context)
                optimizer.zero_grad(set_to_none=True)
                with seeded(config.seed, step, 0):
                    peer.loss(batch.normalized(), context).backward()
                clip_players(peer, optimizer, config.optim)
                peer.after_backward(context)
                optimizer.step()
                step += 1
                if step % config.log.every_steps == 0 or step == total:
                    clock.tell(step)
                if step == total:
                    break
    return clock
