"""Probes that leave the encoder as it is: all of them on the same features, held out alike while training and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from headrace.pipeline import order
from headrace.train.probes.features import Features
from headrace.train.probes.knn import knn_probe
from headrace.train.probes.linear import linear_probe

FROZEN_PROBES: Mapping[str, Callable[..., float]] = {"knn": knn_probe, "linear": linear_probe}
HELD_OUT = 0.2
"""Share of the samples that scores, where there is no test set."""


def frozen_scores(
    probes: Sequence[str], learn: Features, test: Features | None, *, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Accuracy, 0 to 1, of each of `probes`, which are keys of FROZEN_PROBES.

    Args:
        learn: what they learn from.
        test: what scores them; None holds a fifth of `learn` out for that, always the same.
        device: where they compute.
    """
    (x, y), scored = held_out(learn, test)
    return {probe: FROZEN_PROBES[probe](x, y, *scored, device=device) for probe in probes}


def held_out(learn: Features, test: Features | None) -> tuple[Features, Features]:
    """What probes learn from and what scores them: without a test set, a fifth of `learn`, always the same."""
    if test is not None:
        return learn, test
    x, y = learn
    mixed = order(0, 0, len(y))[:]
    held = round(len(y) * HELD_OUT)
    return (x[mixed[held:]], y[mixed[held:]]), (x[mixed[:held]], y[mixed[:held]])
