"""Blocks of patches are hidden, or all but blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from headrace.pipeline.checks import check
from headrace.pipeline.compiled import kernel
from headrace.pipeline.masks.drawn import BlockMasks, PatchMasks, PredictedMasks
from headrace.pipeline.masks.grids import ATTEMPTS, STREAM, Grid, check_grid, check_parts, part, patches_of, share_of
from headrace.pipeline.random import key_word, philox, unit


@dataclass(frozen=True, kw_only=True)
class BlockMask:
    """Overlapping rectangles until a count is reached. BEiT (2106.08254), iBOT (2111.07832), DINOv2 (2304.07193).

    As `MaskingGenerator` in microsoft/unilm, beit/masking_generator.py, and the like in the other two: a rectangle's
    area lies between `smallest` and the patches still wanted, and it is less high and less wide than the grid. Where
    ten tries place none, their code stays below the count; here single patches fill it up, as in DINOv3's. DINOv2's
    code masks just half of a batch's views, with shares spread evenly; here each sample draws for itself. With a second
    mask that stands in for the first one (`instead_of`) it is just half of them, too: one of each sample's two views.
    """

    grid: Grid
    """Rows and columns of patches."""
    ratio: tuple[float, float] = (0.4, 0.4)
    """Share that is masked, drawn for each sample; `int(N * ratio)` patches. DINOv2 takes (0.1, 0.5)."""
    probability: float = 1.0
    """Share of the samples that have a mask at all. DINOv2 takes 0.5."""
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    """Height over width of a rectangle, drawn log-uniformly."""
    smallest: int = 4
    """Patches of the smallest rectangle that is tried. BEiT takes 16, iBOT a ninth of the grid."""
    instead_of: int | None = None
    """Number of another mask of the specification, of the same `probability`: a sample has this mask where it does not
    have that one. None draws whether it has this one by itself."""

    def __post_init__(self) -> None:
        check_grid(self, self.grid)
        check(0.0 < self.ratio[0] <= self.ratio[1] <= 1.0, self, "ratio", self.ratio, "0 < low <= high <= 1")
        some = share_of(patches_of(self.grid), self.ratio[0]) >= 1
        check(some, self, "ratio", self.ratio, f"so large that one of {patches_of(self.grid)} patches is masked")
        check(0.0 <= self.probability <= 1.0, self, "probability", self.probability, "in [0, 1]")
        check(0.0 < self.aspect[0] <= self.aspect[1], self, "aspect", self.aspect, "0 < low <= high")
        check(self.smallest >= 1, self, "smallest", self.smallest, "at least 1")
        good = self.instead_of is None or self.instead_of >= 0
        check(good, self, "instead_of", self.instead_of, "the number of another mask, or None")

    @property
    def largest(self) -> int:
        """Patches of the largest mask that can be drawn."""
        return share_of(patches_of(self.grid), self.ratio[1])

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> BlockMasks:
        """See `draw_masks`."""
        gate = number if self.instead_of is None else self.instead_of
        masked = np.zeros((len(sample_ids), *self.grid), np.bool_)
        count = np.empty(len(sample_ids), np.int64)
        low, high = (float(np.log(side)) for side in self.aspect)
        settings = (*map(float, self.ratio), float(self.probability), low, high, float(self.smallest))
        keys = key_word(seed), key_word(epoch), sample_ids, key_word(number)
        _draw_blocks(*keys, key_word(gate), self.instead_of is not None, settings, masked, count)
        return BlockMasks(torch.from_numpy(masked).flatten(1), torch.from_numpy(count))


@dataclass(frozen=True, kw_only=True)
class InverseBlockMask:
    """All but some small blocks, which are what is seen. data2vec 2.0 (2212.07525), which takes 16 for one view.

    As `compute_block_mask_2d` in facebookresearch/fairseq, fairseq/data/data_utils.py, with `inverse_mask`: centres of
    squares are drawn with replacement, squares end at the grid's border, and single patches are taken away or added
    until the count is exact.
    """

    grid: Grid
    """Rows and columns of patches."""
    ratio: float = 0.8
    """Share that is masked; the visible patches are `int(N * (1 - ratio))`."""
    adjust: float = 0.07
    """Added to the visible share, before it is divided by a square's area to get the number of squares."""
    side: int = 3
    """Patches along a square's side."""

    def __post_init__(self) -> None:
        check_grid(self, self.grid)
        check(0.0 < self.ratio < 1.0, self, "ratio", self.ratio, "in (0, 1)")
        check_parts(self, self.grid, self.ratio, self.visible)
        check(self.adjust >= 0.0, self, "adjust", self.adjust, "at least 0")
        check(self.side >= 1, self, "side", self.side, "at least 1")

    @property
    def visible(self) -> int:
        """Patches of a sample that are not masked."""
        return share_of(patches_of(self.grid), 1 - self.ratio)

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> PatchMasks:
        """See `draw_masks`."""
        patches = patches_of(self.grid)
        blocks = share_of(patches, (1 - self.ratio + self.adjust) / self.side**2)
        seen = np.empty((len(sample_ids), self.visible), np.int64)
        masked = np.empty((len(sample_ids), patches - self.visible), np.int64)
        keys = key_word(seed), key_word(epoch), sample_ids, key_word(number)
        _draw_inverse_blocks(*keys, self.grid[0], self.grid[1], blocks, self.side, seen, masked)
        return PatchMasks(torch.from_numpy(seen), torch.from_numpy(masked))


@dataclass(frozen=True, kw_only=True)
class RolledBlockMask:
    """All but one block, which is moved around the borders; a few of the masked patches are to be filled in.

    CAPI (2502.08769). As `InverseBlockMasking` and `collate_data_and_cast` in facebookresearch/capi, data.py: the last
    row of the block is cut to the count, and what a move pushes over a border comes in at the other side.
    """

    grid: Grid
    """Rows and columns of patches."""
    ratio: float = 0.65
    """Share that is masked, `int(N * ratio)` patches."""
    predicted: float = 0.05
    """Share of the masked patches that is to be filled in, in whole patches."""
    aspect: tuple[float, float] = (0.5, 2.0)
    """Height over width of the block, drawn log-uniformly, as far as the grid allows."""
    roll: bool = True
    """Whether the block is moved."""

    def __post_init__(self) -> None:
        check_grid(self, self.grid)
        check(0.0 < self.ratio < 1.0, self, "ratio", self.ratio, "in (0, 1)")
        check_parts(self, self.grid, self.ratio, patches_of(self.grid) - self.masked)
        few = share_of(self.masked, self.predicted)
        check(1 <= few <= self.masked, self, "predicted", self.predicted, f"such that 1 to {self.masked} patches are")
        check(0.0 < self.aspect[0] <= self.aspect[1], self, "aspect", self.aspect, "0 < low <= high")
        low, high = self._log_aspect
        check(low <= high, self, "aspect", self.aspect, f"possible for a block of a grid of {self.grid}")

    @property
    def masked(self) -> int:
        """Patches of a sample that are masked."""
        return share_of(patches_of(self.grid), self.ratio)

    @property
    def _log_aspect(self) -> tuple[float, float]:
        kept = patches_of(self.grid) - self.masked
        limits = kept / self.grid[1] ** 2, self.grid[0] ** 2 / (kept + 1e-5)
        return float(np.log(max(self.aspect[0], limits[0]))), float(np.log(min(self.aspect[1], limits[1])))

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> PredictedMasks:
        """See `draw_masks`."""
        kept = patches_of(self.grid) - self.masked
        sizes = kept, self.masked, share_of(self.masked, self.predicted)
        parts = tuple(np.empty((len(sample_ids), size), np.int64) for size in sizes)
        keys = key_word(seed), key_word(epoch), sample_ids, key_word(number)
        _draw_rolled_block(*keys, self.grid[0], self.grid[1], self._log_aspect, self.roll, *parts)
        return PredictedMasks(*map(torch.from_numpy, parts))


@kernel
def _draw_blocks(seed, epoch, sample_ids, number, gate, inverted, settings, masked, count):
    ratio_low, ratio_high, probability, log_low, log_high, smallest = settings
    rows, columns = masked.shape[1], masked.shape[2]
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        words = philox(seed, STREAM, number, np.uint64(2), sample, epoch)
        ratio = ratio_low + (ratio_high - ratio_low) * unit(words[0])
        gates = philox(seed, STREAM, gate, np.uint64(2), sample, epoch)
        applies = (unit(gates[1]) < probability) != inverted
        wanted = np.int64(np.round(rows * columns * ratio, 6)) if applies else 0
        count[i] = wanted
        grid = masked[i]
        found, block, placed = 0, 0, True
        while found < wanted and placed:
            placed = False
            for _ in range(ATTEMPTS):
                words = philox(seed, STREAM, np.uint64(block) << np.uint64(16) | number, np.uint64(3), sample, epoch)
                block += 1
                left_over = wanted - found
                area = smallest + (left_over - smallest) * unit(words[0])
                aspect = np.exp(log_low + (log_high - log_low) * unit(words[1]))
                height = np.int64(np.rint(np.sqrt(area * aspect)))
                width = np.int64(np.rint(np.sqrt(area / aspect)))
                if not (0 < height < rows and 0 < width < columns):
                    continue
                top = np.int64(unit(words[2]) * (rows - height + 1))
                left = np.int64(unit(words[3]) * (columns - width + 1))
                new = 0
                for row in range(top, top + height):
                    for column in range(left, left + width):
                        new += not grid[row, column]
                if 0 < new <= left_over:
                    grid[top : top + height, left : left + width] = True
                    found += new
                    placed = True
                    break
        while found < wanted:
            words = philox(seed, STREAM, np.uint64(block) << np.uint64(16) | number, np.uint64(3), sample, epoch)
            block += 1
            row, column = np.int64(unit(words[0]) * rows), np.int64(unit(words[1]) * columns)
            if not grid[row, column]:
                grid[row, column] = True
                found += 1


@kernel
def _draw_inverse_blocks(seed, epoch, sample_ids, number, rows, columns, blocks, side, visible, masked):
    patches = rows * columns
    is_visible = np.empty(patches, np.bool_)
    places = np.empty(patches, np.int64)
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        is_visible[:] = False
        for block in range(blocks):
            words = philox(seed, STREAM, np.uint64(block) << np.uint64(16) | number, np.uint64(10), sample, epoch)
            centre = np.int64(unit(words[0]) * patches)
            top, left = centre // columns - side // 2, centre % columns - side // 2
            for row in range(max(top, 0), min(top + side, rows)):
                for column in range(max(left, 0), min(left + side, columns)):
                    is_visible[row * columns + column] = True
        surplus = is_visible.sum() - visible.shape[1]
        candidates = 0
        for place in range(patches):
            if is_visible[place] == (surplus > 0):
                places[candidates] = place
                candidates += 1
        # The first steps of a Fisher-Yates shuffle choose the patches that change.
        for step in range(abs(surplus)):
            words = philox(seed, STREAM, np.uint64(step) << np.uint64(16) | number, np.uint64(11), sample, epoch)
            other = step + np.int64(unit(words[0]) * (candidates - step))
            places[step], places[other] = places[other], places[step]
            is_visible[places[step]] = surplus < 0
        part(is_visible, visible[i], masked[i])


@kernel
def _draw_rolled_block(seed, epoch, sample_ids, number, rows, columns, log_aspect, roll, visible, masked, predicted):
    log_low, log_high = log_aspect
    kept = visible.shape[1]
    is_visible = np.empty(rows * columns, np.bool_)
    is_predicted = np.empty(masked.shape[1], np.bool_)
    places = np.empty(masked.shape[1], np.int64)
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        words = philox(seed, STREAM, number, np.uint64(12), sample, epoch)
        aspect = np.exp(log_low + (log_high - log_low) * unit(words[0]))
        height = min(np.int64(np.ceil(np.sqrt(kept * aspect))), rows)
        width = min(np.int64(np.ceil(np.sqrt(kept / aspect))), columns)
        top = np.int64(unit(words[1]) * (rows - height + 1))
        left = np.int64(unit(words[2]) * (columns - width + 1))
        if roll:
            words = philox(seed, STREAM, number, np.uint64(13), sample, epoch)
            top += np.int64(unit(words[0]) * rows)
            left += np.int64(unit(words[1]) * columns)
        is_visible[:] = False
        for place in range(kept):
            row, column = (top + place // width) % rows, (left + place % width) % columns
            is_visible[row * columns + column] = True
        part(is_visible, visible[i], masked[i])
        is_predicted[:] = False
        for place in range(len(places)):
            places[place] = place
        for step in range(predicted.shape[1]):
            words = philox(seed, STREAM, np.uint64(step) << np.uint64(16) | number, np.uint64(14), sample, epoch)
            other = step + np.int64(unit(words[0]) * (len(places) - step))
            places[step], places[other] = places[other], places[step]
            is_predicted[places[step]] = True
        predicted[i] = masked[i][is_predicted]
