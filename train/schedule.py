"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping


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
    return _risen_or(lambda progress: 0.5 * (1 + math.cos(math.pi * progress)), step, total, warmup, final)


def warmup_linear(step: int, *, total: int, warmup: int, final: float = 0.0) -> float:
    """Share of the peak learning rate at `step`: up in a straight line, then down in another; else as `warmup_cosine`.

    Source: `transformers`' get_linear_schedule_with_warmup. BERT's own code (google-research/bert at eedf571,
    optimization.py) counts the way down from step 0, so that it drops a little where the warm-up ends.
    """
    return _risen_or(lambda progress: 1 - progress, step, total, warmup, final)


def _risen_or(fall: Callable[[float], float], step: int, total: int, warmup: int, final: float) -> float:
    """The warm-up, and behind it what `fall` makes of the progress from there, from 0 to 1, towards `final`."""
    if step < warmup:
        return (step + 1) / warmup
    return final + (1 - final) * fall((step - warmup) / max(1, total - warmup))


def dropped(epoch: int, drops: Mapping[int, float]) -> float:
    """The product of the factors in `drops` whose epochs have come: `torch.optim.lr_scheduler.MultiStepLR`.

    Args:
        epoch: of the step, from 0.
        drops: factor of the learning rate by the first epoch, counted from 0, that it holds for.
    """
    return math.prod(factor for first, factor in drops.items() if epoch >= first)


SHAPES: dict[str, Callable[..., float]] = {"cosine": warmup_cosine, "linear": warmup_linear}
"""By the names that `ScheduleConfig.shape` has for them."""
