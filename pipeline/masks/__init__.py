"""What a masked method hides of an image or clip: one file a kind of mask, and `draw_masks` for all of them."""

from headrace.pipeline.masks.blocks import BlockMask, InverseBlockMask, RolledBlockMask
from headrace.pipeline.masks.cells import RunningCellMask
from headrace.pipeline.masks.contexts import ContextMask
from headrace.pipeline.masks.drawn import (
    BlockMasks,
    ContextMasks,
    Masks,
    PatchMasks,
    PredictedMasks,
    PrefixMasks,
    RegionMasks,
)
from headrace.pipeline.masks.masks import MaskSpec, draw_masks
from headrace.pipeline.masks.patches import PrefixMask, RandomMask
from headrace.pipeline.masks.regions import RegionMask
from headrace.pipeline.masks.tubes import TubeBlockMask, TubeMask

__all__ = [
    "BlockMask",
    "BlockMasks",
    "ContextMask",
    "ContextMasks",
    "InverseBlockMask",
    "MaskSpec",
    "Masks",
    "PatchMasks",
    "PredictedMasks",
    "PrefixMask",
    "PrefixMasks",
    "RandomMask",
    "RegionMask",
    "RegionMasks",
    "RolledBlockMask",
    "RunningCellMask",
    "TubeBlockMask",
    "TubeMask",
    "draw_masks",
]
