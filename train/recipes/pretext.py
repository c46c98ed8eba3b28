"""Methods that take labels from the data itself, on small pictures."""

from __future__ import annotations

from typing import Any

from headrace.models.methods.pretext.block_order import BlockOrderConfig
from headrace.models.methods.pretext.context_prediction import ContextPredictionConfig
from headrace.models.methods.pretext.jigsaw import JigsawConfig
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


def context_prediction_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet that keeps the pixels of patches of a third of the picture, ten of a digit's, with a gap of two.
    Colours and resolution are left as they are: strokes are grey and came through no lens."""
    model = ContextPredictionConfig(
        size=10,
        scale=(0.32, 0.36),
        gap=0.25,
        jitter=0.12,
        drop_channels=0.0,
        lose_resolution=0.0,
        patch_dim=128,
        hidden_dim=256,
        probe_size=28,
        backbone=tiny_resnet(stem_stride=1),
    )
    return small_run("context_prediction", model, OptimConfig(lr=3e-3), data=data, out=out)


def jigsaw_small(*, data: str = "", out: str = "") -> RunConfig:
    """A tiny ResNet that keeps the pixels of tiles of a ninth of the picture, eight of a digit's in cells of nine, and
    64 orders. Colours are left as they are."""
    model = JigsawConfig(
        **_small_puzzle(), tile_dim=64, hidden_dim=256, permutations=64, shift=0, grayscale=0.0, project=0.0
    )
    return small_run("jigsaw", model, OptimConfig(lr=3e-3), data=data, out=out)


def block_order_small(*, data: str = "", out: str = "") -> RunConfig:
    """Jigsaw's tiles, in any order."""
    model = BlockOrderConfig(**_small_puzzle(), tile_dim=64, hidden_dim=256)
    return small_run("block_order", model, OptimConfig(lr=3e-3), data=data, out=out)


def _small_puzzle() -> dict[str, Any]:
    """Fields of PuzzleConfig."""
    return {
        "size": 8,
        "extent": (1.0, 1.0),
        "tile": 8 / 9,
        "normalize": small_views()["normalize"],
        "dropout": 0.0,
        "probe_size": 28,
        "backbone": tiny_resnet(stem_stride=1),
    }
