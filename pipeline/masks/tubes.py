"""Patches of a clip are hidden, the same in every frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from headrace.pipeline.checks import check
from headrace.pipeline.compiled import kernel
from headrace.pipeline.masks.drawn import ContextMasks, PatchMasks
from headrace.pipeline.masks.grids import (
    ATTEMPTS,
    STREAM,
    Grid,
    block_size,
    check_grid,
    check_parts,
    patches_of,
    share_of,
)
from headrace.pipeline.masks.patches import random_masks
from headrace.pipeline.random import key_word, philox, unit


@dataclass(frozen=True, kw_only=True)
class TubeMask:
    """The same patches in every frame of a clip, so that no neighbour in time gives them away.

    VideoMAE (2203.12602).
    """

    grid: Grid
    """Rows and columns of patches in a frame."""
    frames: int
    """Time steps of the encoder: frames over the length of its tubes."""
    ratio: float = 0.9
    """Share of each frame that is masked; `int(N * ratio)` patches as in VideoMAE's code."""

    def __post_init__(self) -> None:
        check(self.frames >= 1, self, "frames", self.frames, "at least 1")
        check_grid(self, self.grid)
        check(0.0 < self.ratio < 1.0, self, "ratio", self.ratio, "in (0, 1)")
        check_parts(self, self.grid, self.ratio, patches_of(self.grid) - share_of(patches_of(self.grid), self.ratio))

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> PatchMasks:
        """See `draw_masks`; indices count through the frames, `frame * N + patch`."""
        patches = patches_of(self.grid)
        visible = patches - share_of(patches, self.ratio)
        frame = random_masks(patches, visible, seed, epoch, sample_ids, number)
        offsets = torch.arange(self.frames)[:, None] * patches
        return PatchMasks(*((part[:, None] + offsets).flatten(1) for part in frame))


@dataclass(frozen=True, kw_only=True)
class TubeBlockMask:
    """Blocks that overlap, the same in every frame of a clip, are the one target, the rest is the context.

    V-JEPA (2404.08471), which uses two such masks: 8 blocks of 0.15 (the default) and 2 blocks of 0.7. As
    `_MaskGenerator` in facebookresearch/jepa, src/masks/multiblock3d.py, which draws the size of the blocks once for a
    batch and cuts all contexts to the smallest in it, all targets likewise; here each sample has its own.
    """

    grid: Grid
    """Rows and columns of patches in a frame."""
    frames: int
    """Time steps of the encoder: frames over the length of its tubes."""
    blocks: int = 8
    """Number of blocks. A sample goes with fewer where ten tries leave no context."""
    scale: float = 0.15
    """Area of each block as a share of the grid, in whole patches."""
    aspect: tuple[float, float] = (0.75, 1.5)
    """Height over width of the blocks, drawn uniformly; one size for all blocks of a sample."""
    longest: float = 1.0
    """Share of the clip's patches that a context has at most. Of a longer one the last are left out, those of the last
    frames, as from the authors' contexts, which have 0.235 and 0.066 of the patches on average; 1 leaves out none."""

    def __post_init__(self) -> None:
        check_grid(self, self.grid)
        check(self.frames >= 1, self, "frames", self.frames, "at least 1")
        check(self.blocks >= 1, self, "blocks", self.blocks, "at least 1")
        check(0.0 < self.scale < 1.0, self, "scale", self.scale, "in (0, 1)")
        check(0.0 < self.aspect[0] <= self.aspect[1], self, "aspect", self.aspect, "0 < low <= high")
        rows, columns = self.grid
        area = share_of(rows * columns, self.scale)
        largest = [block_size(area, aspect, rows, columns) for aspect in self.aspect]
        check((rows, columns) not in largest, self, "scale", self.scale, "so small that a block leaves a context")
        good = 0.0 < self.longest <= 1.0 and share_of(self.frames * patches_of(self.grid), self.longest) >= 1
        check(good, self, "longest", self.longest, "at most 1, and so large that a patch is left")

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> ContextMasks:
        """See `draw_masks`; there is one target, and indices count through the frames, `frame * N + patch`."""
        patches = patches_of(self.grid)
        context = np.full((len(sample_ids), share_of(self.frames * patches, self.longest)), -1, np.int64)
        target = np.full((len(sample_ids), self.frames * patches), -1, np.int64)
        counts = np.empty((2, len(sample_ids)), np.int64)
        floats = (float(share_of(patches, self.scale)), float(self.aspect[0]), float(self.aspect[1]))
        keys = key_word(seed), key_word(epoch), sample_ids, key_word(number)
        _draw_tube_blocks(*keys, self.grid[0], self.grid[1], self.frames, self.blocks, floats, context, target, counts)
        parts = context, counts[0], target[:, None], counts[1][:, None]
        return ContextMasks(*map(torch.from_numpy, parts))


@kernel
def _draw_tube_blocks(
    seed, epoch, sample_ids, number, rows, columns, frames, blocks, settings, context, target, counts
):
    area, aspect_low, aspect_high = settings
    taken = np.empty((rows, columns), np.bool_)
    patches = rows * columns
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        left_over = 0
        attempt = 0
        while left_over == 0:
            words = philox(seed, STREAM, np.uint64(attempt) << np.uint64(16) | number, np.uint64(8), sample, epoch)
            aspect = aspect_low + (aspect_high - aspect_low) * unit(words[0])
            height, width = block_size(area, aspect, rows, columns)
            taken[:] = False
            for block in range(max(1, blocks - attempt // ATTEMPTS)):
                step = np.uint64(attempt * blocks + block)
                words = philox(seed, STREAM, step << np.uint64(16) | number, np.uint64(9), sample, epoch)
                top = np.int64(unit(words[0]) * (rows - height + 1))
                left = np.int64(unit(words[1]) * (columns - width + 1))
                taken[top : top + height, left : left + width] = True
            left_over = patches - taken.sum()
            attempt += 1
        seen, hidden = 0, 0
        for frame in range(frames):
            for row in range(rows):
                for column in range(columns):
                    patch = frame * patches + row * columns + column
                    if taken[row, column]:
                        target[i, hidden] = patch
                        hidden += 1
                    elif seen < context.shape[1]:
                        context[i, seen] = patch
                        seen += 1
        counts[0, i], counts[1, i] = seen, hidden
