"""A context of patches, and blocks that are to be predicted from it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from headrace.pipeline.checks import check
from headrace.pipeline.compiled import kernel
from headrace.pipeline.masks.drawn import ContextMasks
from headrace.pipeline.masks.grids import ATTEMPTS, STREAM, Grid, block_size, check_grid, patches_of, share_of
from headrace.pipeline.random import key_word, philox, unit


@dataclass(frozen=True, kw_only=True)
class ContextMask:
    """One large block as context, without the targets, which are smaller blocks. I-JEPA (2301.08243).

    As `MaskCollator` in facebookresearch/ijepa, src/masks/multiblock.py, with what its authors changed for V-JEPA: area
    and aspect of a block are drawn for themselves, not by one number; a block may be as high or wide as the grid, and
    reach its last row and column. Its code draws the sizes of blocks once for a batch and cuts all contexts to the
    smallest one in it; here each sample has sizes of its own, so that they do not depend on who else is in the batch,
    and nothing is cut. Where no context is left, its code lets it overlap with targets; here targets coincide.
    """

    grid: Grid
    """Rows and columns of patches."""
    targets: int = 4
    """Number of targets."""
    target_scale: tuple[float, float] = (0.15, 0.2)
    """Area of a target as a share of the grid, in whole patches; one size for all targets of a sample."""
    target_aspect: tuple[float, float] = (0.75, 1.5)
    """Height over width of a target, drawn uniformly."""
    context_scale: tuple[float, float] = (0.85, 1.0)
    """Area of the context before the targets are taken out; it is as high as wide."""
    smallest_context: int = 11
    """Patches that are left in a context at least, "more than 10" in the code; after ten tries without, targets begin
    to coincide."""

    def __post_init__(self) -> None:
        check_grid(self, self.grid)
        check(self.targets >= 1, self, "targets", self.targets, "at least 1")
        for name in ("target_scale", "context_scale"):
            low, high = getattr(self, name)
            check(0.0 < low <= high <= 1.0, self, name, (low, high), "0 < low <= high <= 1")
        check(0.0 < self.target_aspect[0] <= self.target_aspect[1], self, "target_aspect", self.target_aspect, "> 0")
        limit = patches_of(self.grid) - self.largest_target
        check(1 <= self.smallest_context <= limit, self, "smallest_context", self.smallest_context, f"1 to {limit}")

    @property
    def largest_target(self) -> int:
        """Patches of the largest target that can be drawn."""
        rows, columns = self.grid
        area = share_of(rows * columns, self.target_scale[1])
        low, high = self.target_aspect
        # Between the aspects at which a rounded side changes, both sides stay.
        changes = [*((np.arange(rows) + 0.5) ** 2 / area), *(area / (np.arange(columns) + 0.5) ** 2)]
        aspects = sorted([low, high, *(aspect for aspect in changes if low < aspect < high)])
        between = [(one + other) / 2 for one, other in pairwise(aspects)]
        sides = [block_size(area, aspect, rows, columns) for aspect in [*aspects, *between]]
        return max(height * width for height, width in sides)

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> ContextMasks:
        """See `draw_masks`."""
        samples = len(sample_ids)
        context = np.full((samples, patches_of(self.grid)), -1, np.int64)
        targets = np.full((samples, self.targets, self.largest_target), -1, np.int64)
        context_count = np.empty(samples, np.int64)
        target_count = np.empty((samples, self.targets), np.int64)
        settings = (*self.target_scale, *self.target_aspect, *self.context_scale)
        floats = tuple(float(value) for value in settings)
        outputs = (context, context_count, targets, target_count)
        keys = key_word(seed), key_word(epoch), sample_ids, key_word(number)
        _draw_context(*keys, self.grid[0], self.grid[1], floats, self.smallest_context, *outputs)
        return ContextMasks(*map(torch.from_numpy, outputs))


@kernel
def _draw_context(
    seed, epoch, sample_ids, number, rows, columns, settings, smallest, context, context_count, targets, target_count
):
    target_low, target_high, aspect_low, aspect_high, context_low, context_high = settings
    taken = np.empty((rows, columns), np.bool_)
    patches = np.float64(rows * columns)
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        words = philox(seed, STREAM, number, np.uint64(4), sample, epoch)
        aspect = aspect_low + (aspect_high - aspect_low) * unit(words[1])
        area = np.floor(np.round(patches * (target_low + (target_high - target_low) * unit(words[0])), 6))
        height, width = block_size(area, aspect, rows, columns)
        area = np.floor(np.round(patches * (context_low + (context_high - context_low) * unit(words[2])), 6))
        context_height, context_width = block_size(area, 1.0, rows, columns)
        draw = 0
        free_targets = targets.shape[1]
        while True:
            taken[:] = False
            for target in range(targets.shape[1]):
                if target < free_targets:
                    words = philox(seed, STREAM, np.uint64(draw) << np.uint64(16) | number, np.uint64(5), sample, epoch)
                    draw += 1
                    top = np.int64(unit(words[0]) * (rows - height + 1))
                    left = np.int64(unit(words[1]) * (columns - width + 1))
                place = 0
                for row in range(top, top + height):
                    for column in range(left, left + width):
                        taken[row, column] = True
                        targets[i, target, place] = row * columns + column
                        place += 1
                target_count[i, target] = place
            words = philox(seed, STREAM, np.uint64(draw) << np.uint64(16) | number, np.uint64(5), sample, epoch)
            draw += 1
            top = np.int64(unit(words[0]) * (rows - context_height + 1))
            left = np.int64(unit(words[1]) * (columns - context_width + 1))
            found = 0
            for row in range(top, top + context_height):
                for column in range(left, left + context_width):
                    if not taken[row, column]:
                        context[i, found] = row * columns + column
                        found += 1
            if found >= smallest:
                break
            context[i] = -1
            if draw > ATTEMPTS * (targets.shape[1] + 1):
                # A grid that these targets nearly fill: let them coincide, one more each time.
                free_targets = max(1, free_targets - 1)
                context_height, context_width = rows, columns
        context_count[i] = found
