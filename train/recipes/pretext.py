"""Methods that take labels from the data itself, on small pictures."""

from __future__ import annotations

from headrace.models.methods.pretext.rotation import RotationConfig
from headrace.models.parts.backbones import tiny_resnet
from headrace.train.config import OptimConfig, RunConfig
from headrace.train.recipes.small import small_run, small_views


def rotation_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet that sees each picture in all four turns.

    Of digits the task is a poor one: 0, 1 and 8 look the same upside down, and a turned 6 is a 9. It is kept all the
    same; pictures with a sky and a ground teach more.
    """
    model = RotationConfig(**small_views(), backbone=tiny_resnet())
    return small_run("rotation", model, OptimConfig(lr=3e-3), data=data, out=out)
