"""Scores to choose settings by, on training samples that probes do not learn from: those for testing stay unseen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from headrace.benchmarks.learning.training import Scores, run_ours, scores_of
from headrace.models import build_method
from headrace.pipeline import Batch
from headrace.shards import open_shards
from headrace.train import RunConfig, load_run
from headrace.train.probes import extract_features

HELD_OUT = 5
"""Of so many training samples one judges, in the order of the set."""


def probe_held_out(encode: Callable[[Batch], Tensor], inputs: Any, data: Path) -> Scores:
    """Scores of frozen features on every fifth training sample, of probes that learn from the others. Where a set has
    near copies, as stamps are of each other, they are higher than on samples for testing; they compare settings."""
    with open_shards(data / "train") as shards:
        features, labels = extract_features(encode, shards, inputs)
    judges = np.arange(len(labels)) % HELD_OUT == HELD_OUT - 1
    return scores_of((features[~judges], labels[~judges]), (features[judges], labels[judges]))


def try_settings(config: RunConfig, data: Path) -> tuple[Scores, Scores]:
    """Of the encoder as it begins, and as a training leaves it."""
    start = build_method(config.method, config.model, seed=config.seed).eval()
    before = probe_held_out(start.encode, start.probe_inputs, data)
    run_ours(config)
    _, method = load_run(config.out)
    return before, probe_held_out(method.encode, method.probe_inputs, data)
