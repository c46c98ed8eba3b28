"""Every mask of patches, pixels or frames, drawn from (seed, epoch, sample, number of the mask).

Every count is exact and known before anything is drawn, or stands beside the indices. Letters: B samples.
"""

from __future__ import annotations

import numpy as np

from headrace.pipeline.masks.blocks import BlockMask, InverseBlockMask, RolledBlockMask
from headrace.pipeline.masks.cells import RunningCellMask
from headrace.pipeline.masks.contexts import ContextMask
from headrace.pipeline.masks.drawn import Masks
from headrace.pipeline.masks.patches import PrefixMask, RandomMask
from headrace.pipeline.masks.regions import RegionMask
from headrace.pipeline.masks.spans import FrameSpanMask, NegativeFrameDraw
from headrace.pipeline.masks.tubes import TubeBlockMask, TubeMask

MaskSpec = (
    RandomMask
    | TubeMask
    | TubeBlockMask
    | RunningCellMask
    | BlockMask
    | InverseBlockMask
    | RolledBlockMask
    | PrefixMask
    | ContextMask
    | RegionMask
    | FrameSpanMask
    | NegativeFrameDraw
)


def draw_masks(specs: tuple[MaskSpec, ...], seed: int, epoch: int, sample_ids: np.ndarray) -> list[Masks]:
    """One result for each of `specs`, a row for each of `sample_ids` (int64, (B,)).

    A row depends on seed, epoch, its sample and the position in `specs` alone.
    """
    ids = np.ascontiguousarray(sample_ids, np.int64)
    return [spec.draw(seed, epoch, ids, number) for number, spec in enumerate(specs)]
