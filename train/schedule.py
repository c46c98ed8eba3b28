"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, total: int, warmup: int, final: float = 0.0) -> float:
    """Share of the peak learning rate at `step`: up in a straight line, then down half a cosine.

    Step `warmup - 1` (or step 0 without warm-up) is the first at the peak; a step `total`, which no run takes,
    would be at `final`.

    Args:
        step: optimiser step, from 0 to `total` - 1.
        total: steps of the run.
        warmup: steps of the warm-up; 0 for none. More than `total` leaves the run in its warm-up.
        final: share of the peak at the end; 1 keeps the peak.

    Source: SGDR (arXiv 1608.03983) without restarts; the warm-up of arXiv 1706.02677, as in SimCLR's model_util.py.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
