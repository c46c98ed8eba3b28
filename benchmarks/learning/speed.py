"""Samples a second of trainings, ours and the peer's in turn, round by round."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from headrace.benchmarks.learning.training import run_ours, run_peer
from headrace.benchmarks.machine import machine_cpu_s
from headrace.train import RunConfig

EPOCHS = 3
"""Of a short training. The first one is not timed: in it kernels are compiled and memory is taken."""
ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Of one method's training, on the first set. Rates are samples a second of whole steps, by round."""

    digest: str
    """See `headrace.benchmarks.learning.records`."""
    sources: str
    """The same."""
    commit: str
    """Of the sources that were measured."""
    data: str
    method: str
    ours: list[float]
    peer: list[float]
    """Empty where there is none."""
    foreign_cores: float
    """The most that other processes used during a training, in cores; near 0 on a quiet machine."""


def measure_speed(
    config: RunConfig,
    samples: int,
    out: Path,
    *,
    peer: bool,
    rounds: int,
    digest: str,
    sources: str,
    commit: str,
    data: str,
) -> Speed:
    """Short trainings of `config` in turn, ours first.

    Args:
        config: of the short training; its `out` is not used.
        samples: in the training set.
        out: a folder for the runs of Headrace's loop, one each.
    """
    epoch = samples // config.batch_size
    config = config.with_overrides([f"log.every_steps={epoch}"])  # timed from the end of the first epoch
    ours: list[float] = []
    theirs: list[float] = []
    foreign = [0.0]
    for number in range(rounds):
        run = replace(config, out=str(out / str(number)))
        ours.append(_watched(foreign, run_ours, run))
        if peer:
            theirs.append(_watched(foreign, peer_speed, run))
    return Speed(
        digest=digest,
        sources=sources,
        commit=commit,
        data=data,
        method=config.method,
        ours=ours,
        peer=theirs,
        foreign_cores=round(max(foreign), 3),
    )


def peer_speed(config: RunConfig) -> float:
    _, _, rate = run_peer(config)
    return rate


def _watched(foreign: list[float], work: Callable[[RunConfig], float], config: RunConfig) -> float:
    """What `work` returns; adds how many cores other processes used meanwhile."""
    everything, own, began = machine_cpu_s(), sum(os.times()[:4]), time.perf_counter()
    result = work(config)
    seconds = time.perf_counter() - began
    foreign.append(max(0.0, machine_cpu_s() - everything - (sum(os.times()[:4]) - own)) / seconds)
    return result
