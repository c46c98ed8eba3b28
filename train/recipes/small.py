"""What the recipes for small pictures share: some thousands of samples, minutes on two cores."""

from __future__ import annotations

from typing import Any, TypedDict

from headrace.pipeline import Normalize
from headrace.train.config import CheckpointConfig, LogConfig, OptimConfig, RunConfig, ScheduleConfig

EPOCHS = 36
BATCH_SIZE = 128


class SmallViews(TypedDict):
    """Fields that the configs of several methods have in common."""

    size: int
    crop_scale: tuple[float, float]
    flip: float
    normalize: Normalize


def small_views(*, smallest_crop: float = 0.5) -> SmallViews:
    """Views of 24 pixels that take at least half of the picture and do not mirror it: digits and signs have a left and
    a right. The mean and deviation are those of light strokes on black.

    Args:
        smallest_crop: share of the picture.
    """
    return {
        "size": 24,
        "crop_scale": (smallest_crop, 1.0),
        "flip": 0.0,
        "normalize": Normalize(mean=(0.13, 0.13, 0.13), std=(0.31, 0.31, 0.31)),
    }


def small_run(
    method: str, model: Any, optim: OptimConfig, *, data: str, out: str, batch_size: int = BATCH_SIZE
) -> RunConfig:
    """36 epochs, two of them of warm-up."""
    return RunConfig(
        method=method,
        model=model,
        data=data,
        out=out,
        epochs=EPOCHS,
        batch_size=batch_size,
        optim=optim,
        schedule=ScheduleConfig(warmup_epochs=2),
        checkpoint=CheckpointConfig(every_steps=200),
        log=LogConfig(every_steps=10),
    )
