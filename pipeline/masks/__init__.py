"""What a masked method hides of an image, clip or sound: one file a kind of mask, and `draw_masks` for all of them."""

from headrace.pipeline.masks.blocks import BlockMask, InverseBlockMask, RolledBlockMask
from headrace.pipeline.masks.cells import RunningCellMask
from headrace.pipeline.masks.contexts import ContextMask
from headrace.pipeline.masks.drawn import (
    BlockMasks,
    ContextMasks,
    FrameMasks,
    Masks,
    NegativeFrames,
    PatchMasks,
    PredictedMasks,
    PrefixMasks,
    RegionMasks,
)
from headrace.pipeline.masks.masks import MaskSpec, draw_masks
from headrace.pipeline.masks.patches import PrefixMask, RandomMask
from headrace.pipeline.masks.regions import RegionMask
from headrace.pipeline.masks.spans import FrameSpanMask, NegativeFrameDraw
from headrace.pipeline.masks.tubes import TubeBlockMask, TubeMask

__all__ = [
    "BlockMask",
    "BlockMasks",
    "ContextMask",
    "ContextMasks",
    "FrameMasks",
    "FrameSpanMask",
    "InverseBlockMask",
    "MaskSpec",
    "Masks",
    "NegativeFrameDraw",
    "NegativeFrames",
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
