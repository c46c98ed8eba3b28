"""What a masked method hides of an image or clip, drawn from (seed, epoch, sample, number of the mask).

Patches are numbered row by row from the top left; regions are rectangles of pixels. Every count is exact and known
before anything is drawn, or stands beside the indices. Letters: B samples, N patches of a grid, R regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.checks import check
from headrace.pipeline.compiled import kernel
from headrace.pipeline.random import key_word, philox, unit

Grid = tuple[int, int]

_STREAM = key_word(0x6D61736B)  # the word "mask"
_ONE = np.uint64(1)
_ATTEMPTS = 10  # to place one block or region, as in BEiT's and I-JEPA's code


class PatchMasks(NamedTuple):
    """Patches that the encoder sees and patches that it has to fill in."""

    visible: Tensor
    """int64 (B, N - M), ascending."""
    masked: Tensor
    """int64 (B, M), ascending."""


class BlockMasks(NamedTuple):
    """Patches that are replaced by a mask token."""

    masked: Tensor
    """bool (B, N)."""
    masked_count: Tensor
    """int64 (B,): masked patches of each sample; 0 for a sample that goes without."""


class ContextMasks(NamedTuple):
    """The patches of a context and of the targets to predict from it. What lies behind a count is -1."""

    context: Tensor
    """int64 (B, C), ascending; C is the largest that a context can have."""
    context_count: Tensor
    """int64 (B,)."""
    targets: Tensor
    """int64 (B, T, K), ascending; K is the largest that a target can have."""
    target_count: Tensor
    """int64 (B, T)."""


class PredictedMasks(NamedTuple):
    """As `PatchMasks`, of whose masked patches a few are to be filled in."""

    visible: Tensor
    """int64 (B, N - M), ascending."""
    masked: Tensor
    """int64 (B, M), ascending."""
    predicted: Tensor
    """int64 (B, P), ascending: some of `masked`."""


class PrefixMasks(NamedTuple):
    """Patches that are seen from the beginning, before those that are to be foretold one after the other."""

    prefix: Tensor
    """int64 (B,): how many, from 1 to N - 1."""


class RegionMasks(NamedTuple):
    """Rectangles of pixels to fill in. The views stay whole: the method hides what it has the network fill in."""

    boxes: Tensor
    """int64 (B, R, 4): top, left, height, width of each region, in pixels of the view."""
    mask: Tensor
    """bool (B, H, W): True inside any region."""


@dataclass(frozen=True, kw_only=True)
class RandomMask:
    """A fixed share of the patches, each set of them equally likely. MAE (2111.06377), SimMIM (2111.09886)."""

    grid: Grid
    """Rows and columns of patches."""
    ratio: float = 0.75
    """Share that is masked; the visible patches are `int(N * (1 - ratio))` as in MAE's code."""

    def __post_init__(self) -> None:
        _check_grid(self, self.grid)
        check(0.0 < self.ratio < 1.0, self, "ratio", self.ratio, "in (0, 1)")
        _check_parts(self, self.visible)

    @property
    def visible(self) -> int:
        """Patches of a sample that are not masked."""
        return _share(_patches(self.grid), 1 - self.ratio)

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> PatchMasks:
        """See `draw_masks`."""
        return _random_masks(_patches(self.grid), self.visible, seed, epoch, sample_ids, number)


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
        _check_grid(self, self.grid)
        check(0.0 < self.ratio < 1.0, self, "ratio", self.ratio, "in (0, 1)")
        _check_parts(self, _patches(self.grid) - _share(_patches(self.grid), self.ratio))

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> PatchMasks:
        """See `draw_masks`; indices count through the frames, `frame * N + patch`."""
        patches = _patches(self.grid)
        visible = patches - _share(patches, self.ratio)
        frame = _random_masks(patches, visible, seed, epoch, sample_ids, number)
        offsets = torch.arange(self.frames)[:, None] * patches
        return PatchMasks(*((part[:, None] + offsets).flatten(1) for part in frame))


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
        _check_grid(self, self.grid)
        check(0.0 < self.ratio[0] <= self.ratio[1] <= 1.0, self, "ratio", self.ratio, "0 < low <= high <= 1")
        some = _share(_patches(self.grid), self.ratio[0]) >= 1
        check(some, self, "ratio", self.ratio, f"so large that one of {_patches(self.grid)} patches is masked")
        check(0.0 <= self.probability <= 1.0, self, "probability", self.probability, "in [0, 1]")
        check(0.0 < self.aspect[0] <= self.aspect[1], self, "aspect", self.aspect, "0 < low <= high")
        check(self.smallest >= 1, self, "smallest", self.smallest, "at least 1")
        good = self.instead_of is None or self.instead_of >= 0
        check(good, self, "instead_of", self.instead_of, "the number of another mask, or None")

    @property
    def largest(self) -> int:
        """Patches of the largest mask that can be drawn."""
        return _share(_patches(self.grid), self.ratio[1])

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
        _check_grid(self, self.grid)
        check(0.0 < self.ratio < 1.0, self, "ratio", self.ratio, "in (0, 1)")
        _check_parts(self, self.visible)
        check(self.adjust >= 0.0, self, "adjust", self.adjust, "at least 0")
        check(self.side >= 1, self, "side", self.side, "at least 1")

    @property
    def visible(self) -> int:
        """Patches of a sample that are not masked."""
        return _share(_patches(self.grid), 1 - self.ratio)

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> PatchMasks:
        """See `draw_masks`."""
        patches = _patches(self.grid)
        blocks = _share(patches, (1 - self.ratio + self.adjust) / self.side**2)
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
        _check_grid(self, self.grid)
        check(0.0 < self.ratio < 1.0, self, "ratio", self.ratio, "in (0, 1)")
        _check_parts(self, _patches(self.grid) - self.masked)
        few = _share(self.masked, self.predicted)
        check(1 <= few <= self.masked, self, "predicted", self.predicted, f"such that 1 to {self.masked} patches are")
        check(0.0 < self.aspect[0] <= self.aspect[1], self, "aspect", self.aspect, "0 < low <= high")
        low, high = self._log_aspect
        check(low <= high, self, "aspect", self.aspect, f"possible for a block of a grid of {self.grid}")

    @property
    def masked(self) -> int:
        """Patches of a sample that are masked."""
        return _share(_patches(self.grid), self.ratio)

    @property
    def _log_aspect(self) -> tuple[float, float]:
        kept = _patches(self.grid) - self.masked
        limits = kept / self.grid[1] ** 2, self.grid[0] ** 2 / (kept + 1e-5)
        return float(np.log(max(self.aspect[0], limits[0]))), float(np.log(min(self.aspect[1], limits[1])))

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> PredictedMasks:
        """See `draw_masks`."""
        kept = _patches(self.grid) - self.masked
        sizes = kept, self.masked, _share(self.masked, self.predicted)
        parts = tuple(np.empty((len(sample_ids), size), np.int64) for size in sizes)
        keys = key_word(seed), key_word(epoch), sample_ids, key_word(number)
        _draw_rolled_block(*keys, self.grid[0], self.grid[1], self._log_aspect, self.roll, *parts)
        return PredictedMasks(*map(torch.from_numpy, parts))


@dataclass(frozen=True, kw_only=True)
class PrefixMask:
    """How many patches come first and see each other, each number equally likely. AIM (2401.08541), section 3.3."""

    grid: Grid
    """Rows and columns of patches."""

    def __post_init__(self) -> None:
        _check_grid(self, self.grid)

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> PrefixMasks:
        """See `draw_masks`."""
        prefix = np.empty(len(sample_ids), np.int64)
        _draw_prefix(key_word(seed), key_word(epoch), sample_ids, key_word(number), _patches(self.grid), prefix)
        return PrefixMasks(torch.from_numpy(prefix))


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
        _check_grid(self, self.grid)
        check(self.targets >= 1, self, "targets", self.targets, "at least 1")
        for name in ("target_scale", "context_scale"):
            low, high = getattr(self, name)
            check(0.0 < low <= high <= 1.0, self, name, (low, high), "0 < low <= high <= 1")
        check(0.0 < self.target_aspect[0] <= self.target_aspect[1], self, "target_aspect", self.target_aspect, "> 0")
        limit = _patches(self.grid) - self.largest_target
        check(1 <= self.smallest_context <= limit, self, "smallest_context", self.smallest_context, f"1 to {limit}")

    @property
    def largest_target(self) -> int:
        """Patches of the largest target that can be drawn."""
        rows, columns = self.grid
        area = _share(rows * columns, self.target_scale[1])
        low, high = self.target_aspect
        # Between the aspects at which a rounded side changes, both sides stay.
        changes = [*((np.arange(rows) + 0.5) ** 2 / area), *(area / (np.arange(columns) + 0.5) ** 2)]
        aspects = sorted([low, high, *(aspect for aspect in changes if low < aspect < high)])
        between = [(one + other) / 2 for one, other in pairwise(aspects)]
        sides = [_block_size(area, aspect, rows, columns) for aspect in [*aspects, *between]]
        return max(height * width for height, width in sides)

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> ContextMasks:
        """See `draw_masks`."""
        samples = len(sample_ids)
        context = np.full((samples, _patches(self.grid)), -1, np.int64)
        targets = np.full((samples, self.targets, self.largest_target), -1, np.int64)
        context_count = np.empty(samples, np.int64)
        target_count = np.empty((samples, self.targets), np.int64)
        settings = (*self.target_scale, *self.target_aspect, *self.context_scale)
        floats = tuple(float(value) for value in settings)
        outputs = (context, context_count, targets, target_count)
        keys = key_word(seed), key_word(epoch), sample_ids, key_word(number)
        _draw_context(*keys, self.grid[0], self.grid[1], floats, self.smallest_context, *outputs)
        return ContextMasks(*map(torch.from_numpy, outputs))


@dataclass(frozen=True, kw_only=True)
class RegionMask:
    """Regions to inpaint: the centre, or rectangles anywhere. Context encoders (1604.07379).

    By default the paper's centre: half the view high and wide. Its random blocks are smaller ones that may overlap and
    cover up to a quarter together, such as `place="random", regions=4, scale=(0.03, 0.0625)`.
    """

    size: int
    """Side of the view, in pixels."""
    place: Literal["center", "random"] = "center"
    """The centre holds one region."""
    regions: int = 1
    """Rectangles of each sample, all of them at least one pixel and at most the view."""
    scale: tuple[float, float] = (0.25, 0.25)
    """Area of a region as a share of the view, drawn uniformly for each."""
    aspect: tuple[float, float] = (1.0, 1.0)
    """Height over width of a region, drawn log-uniformly for each."""
    overlap: bool = True
    """Whether regions may share pixels. Without, each takes the first of ten places that is free of those before it,
    and the last of the ten where none is."""

    def __post_init__(self) -> None:
        check(self.size >= 1, self, "size", self.size, "at least 1")
        check(self.place in ("center", "random"), self, "place", self.place, "'center' or 'random'")
        check(self.regions >= 1, self, "regions", self.regions, "at least 1")
        if self.place == "center":
            check(self.regions == 1, self, "regions", self.regions, "1 in the centre")
        check(0.0 < self.scale[0] <= self.scale[1] <= 1.0, self, "scale", self.scale, "0 < low <= high <= 1")
        check(0.0 < self.aspect[0] <= self.aspect[1], self, "aspect", self.aspect, "0 < low <= high")

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> RegionMasks:
        """See `draw_masks`."""
        boxes = np.empty((len(sample_ids), self.regions, 4), np.int64)
        mask = np.zeros((len(sample_ids), self.size, self.size), np.bool_)
        low, high = (float(np.log(side)) for side in self.aspect)
        settings = (*map(float, self.scale), low, high)
        rules = self.place == "center", self.overlap
        _draw_regions(key_word(seed), key_word(epoch), sample_ids, key_word(number), settings, rules, boxes, mask)
        return RegionMasks(torch.from_numpy(boxes), torch.from_numpy(mask))


@dataclass(frozen=True, kw_only=True)
class TubeBlockMask:
    """Blocks that overlap, the same in every frame of a clip, are the one target, the rest is the context.

    V-JEPA (2404.08471), which uses two such masks: 8 blocks of 0.15 (the default) and 2 blocks of 0.7. As
    `_MaskGenerator` in facebookresearch/jepa, src/masks/multiblock3d.py, which draws the size of the blocks once for a
    batch and cuts all contexts to the smallest in it; here each sample has its own.
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

    def __post_init__(self) -> None:
        _check_grid(self, self.grid)
        check(self.frames >= 1, self, "frames", self.frames, "at least 1")
        check(self.blocks >= 1, self, "blocks", self.blocks, "at least 1")
        check(0.0 < self.scale < 1.0, self, "scale", self.scale, "in (0, 1)")
        check(0.0 < self.aspect[0] <= self.aspect[1], self, "aspect", self.aspect, "0 < low <= high")
        rows, columns = self.grid
        area = _share(rows * columns, self.scale)
        largest = [_block_size(area, aspect, rows, columns) for aspect in self.aspect]
        check((rows, columns) not in largest, self, "scale", self.scale, "so small that a block leaves a context")

    def draw(self, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> ContextMasks:
        """See `draw_masks`; there is one target, and indices count through the frames, `frame * N + patch`."""
        patches = _patches(self.grid)
        context = np.full((len(sample_ids), self.frames * patches), -1, np.int64)
        target = np.full((len(sample_ids), self.frames * patches), -1, np.int64)
        counts = np.empty((2, len(sample_ids)), np.int64)
        floats = (float(_share(patches, self.scale)), float(self.aspect[0]), float(self.aspect[1]))
        keys = key_word(seed), key_word(epoch), sample_ids, key_word(number)
        _draw_tube_blocks(*keys, self.grid[0], self.grid[1], self.frames, self.blocks, floats, context, target, counts)
        parts = context, counts[0], target[:, None], counts[1][:, None]
        return ContextMasks(*map(torch.from_numpy, parts))


MaskSpec = (
    RandomMask
    | TubeMask
    | TubeBlockMask
    | BlockMask
    | InverseBlockMask
    | RolledBlockMask
    | PrefixMask
    | ContextMask
    | RegionMask
)
Masks = PatchMasks | BlockMasks | PredictedMasks | PrefixMasks | ContextMasks | RegionMasks


def draw_masks(specs: tuple[MaskSpec, ...], seed: int, epoch: int, sample_ids: np.ndarray) -> list[Masks]:
    """One result for each of `specs`, a row for each of `sample_ids` (int64, (B,)).

    A row depends on seed, epoch, its sample and the position in `specs` alone.
    """
    ids = np.ascontiguousarray(sample_ids, np.int64)
    return [spec.draw(seed, epoch, ids, number) for number, spec in enumerate(specs)]


def _check_grid(spec: object, grid: Grid) -> None:
    check(min(grid) >= 1 and _patches(grid) > 1, spec, "grid", grid, "rows and columns of more than one patch")


def _check_parts(spec: RandomMask | TubeMask | InverseBlockMask | RolledBlockMask, visible: int) -> None:
    """ValueError where nothing would be masked, or nothing visible."""
    patches = _patches(spec.grid)
    check(0 < visible < patches, spec, "ratio", spec.ratio, f"such that some of {patches} patches are masked, not all")


def _patches(grid: Grid) -> int:
    return grid[0] * grid[1]


def _share(patches: int, ratio: float) -> int:
    """`int(patches * ratio)`, but that a ratio which binary makes a little smaller, such as 1 - 0.9, costs no patch."""
    return int(round(patches * ratio, 6))


def _random_masks(patches: int, visible: int, seed: int, epoch: int, sample_ids: np.ndarray, number: int) -> PatchMasks:
    seen = np.empty((len(sample_ids), visible), np.int64)
    masked = np.empty((len(sample_ids), patches - visible), np.int64)
    _draw_random(key_word(seed), key_word(epoch), sample_ids, key_word(number), seen, masked)
    return PatchMasks(torch.from_numpy(seen), torch.from_numpy(masked))


@kernel
def _draw_random(seed, epoch, sample_ids, number, visible, masked):
    patches = visible.shape[1] + masked.shape[1]
    places = np.empty(patches, np.int64)
    is_visible = np.empty(patches, np.bool_)
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        for place in range(patches):
            places[place] = place
        is_visible[:] = False
        # The first steps of a Fisher-Yates shuffle choose the visible patches.
        for step in range(visible.shape[1]):
            words = philox(seed, _STREAM, np.uint64(step) << np.uint64(16) | number, _ONE, sample, epoch)
            other = step + np.int64(unit(words[0]) * (patches - step))
            places[step], places[other] = places[other], places[step]
            is_visible[places[step]] = True
        _part(is_visible, visible[i], masked[i])


@kernel
def _part(is_visible, visible, masked):
    """The numbers of places that are visible, and of the others."""
    v, m = 0, 0
    for place in range(len(is_visible)):
        if is_visible[place]:
            visible[v] = place
            v += 1
        else:
            masked[m] = place
            m += 1


@kernel
def _draw_inverse_blocks(seed, epoch, sample_ids, number, rows, columns, blocks, side, visible, masked):
    patches = rows * columns
    is_visible = np.empty(patches, np.bool_)
    places = np.empty(patches, np.int64)
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        is_visible[:] = False
        for block in range(blocks):
            words = philox(seed, _STREAM, np.uint64(block) << np.uint64(16) | number, np.uint64(10), sample, epoch)
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
            words = philox(seed, _STREAM, np.uint64(step) << np.uint64(16) | number, np.uint64(11), sample, epoch)
            other = step + np.int64(unit(words[0]) * (candidates - step))
            places[step], places[other] = places[other], places[step]
            is_visible[places[step]] = surplus < 0
        _part(is_visible, visible[i], masked[i])


@kernel
def _draw_rolled_block(seed, epoch, sample_ids, number, rows, columns, log_aspect, roll, visible, masked, predicted):
    log_low, log_high = log_aspect
    kept = visible.shape[1]
    is_visible = np.empty(rows * columns, np.bool_)
    is_predicted = np.empty(masked.shape[1], np.bool_)
    places = np.empty(masked.shape[1], np.int64)
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        words = philox(seed, _STREAM, number, np.uint64(12), sample, epoch)
        aspect = np.exp(log_low + (log_high - log_low) * unit(words[0]))
        height = min(np.int64(np.ceil(np.sqrt(kept * aspect))), rows)
        width = min(np.int64(np.ceil(np.sqrt(kept / aspect))), columns)
        top = np.int64(unit(words[1]) * (rows - height + 1))
        left = np.int64(unit(words[2]) * (columns - width + 1))
        if roll:
            words = philox(seed, _STREAM, number, np.uint64(13), sample, epoch)
            top += np.int64(unit(words[0]) * rows)
            left += np.int64(unit(words[1]) * columns)
        is_visible[:] = False
        for place in range(kept):
            row, column = (top + place // width) % rows, (left + place % width) % columns
            is_visible[row * columns + column] = True
        _part(is_visible, visible[i], masked[i])
        is_predicted[:] = False
        for place in range(len(places)):
            places[place] = place
        for step in range(predicted.shape[1]):
            words = philox(seed, _STREAM, np.uint64(step) << np.uint64(16) | number, np.uint64(14), sample, epoch)
            other = step + np.int64(unit(words[0]) * (len(places) - step))
            places[step], places[other] = places[other], places[step]
            is_predicted[places[step]] = True
        predicted[i] = masked[i][is_predicted]


@kernel
def _draw_prefix(seed, epoch, sample_ids, number, patches, prefix):
    for i in range(len(sample_ids)):
        words = philox(seed, _STREAM, number, np.uint64(15), np.uint64(sample_ids[i]), epoch)
        prefix[i] = 1 + np.int64(unit(words[0]) * (patches - 1))


@kernel
def _draw_blocks(seed, epoch, sample_ids, number, gate, inverted, settings, masked, count):
    ratio_low, ratio_high, probability, log_low, log_high, smallest = settings
    rows, columns = masked.shape[1], masked.shape[2]
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        words = philox(seed, _STREAM, number, np.uint64(2), sample, epoch)
        ratio = ratio_low + (ratio_high - ratio_low) * unit(words[0])
        gates = philox(seed, _STREAM, gate, np.uint64(2), sample, epoch)
        applies = (unit(gates[1]) < probability) != inverted
        wanted = np.int64(np.round(rows * columns * ratio, 6)) if applies else 0
        count[i] = wanted
        grid = masked[i]
        found, block, placed = 0, 0, True
        while found < wanted and placed:
            placed = False
            for _ in range(_ATTEMPTS):
                words = philox(seed, _STREAM, np.uint64(block) << np.uint64(16) | number, np.uint64(3), sample, epoch)
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
            words = philox(seed, _STREAM, np.uint64(block) << np.uint64(16) | number, np.uint64(3), sample, epoch)
            block += 1
            row, column = np.int64(unit(words[0]) * rows), np.int64(unit(words[1]) * columns)
            if not grid[row, column]:
                grid[row, column] = True
                found += 1


@kernel
def _block_size(area, aspect, rows, columns):
    """Rows and columns of a block, at least one and at most the grid's."""
    height = min(max(np.int64(np.rint(np.sqrt(area * aspect))), 1), rows)
    width = min(max(np.int64(np.rint(np.sqrt(area / aspect))), 1), columns)
    return height, width


@kernel
def _draw_context(
    seed, epoch, sample_ids, number, rows, columns, settings, smallest, context, context_count, targets, target_count
):
    target_low, target_high, aspect_low, aspect_high, context_low, context_high = settings
    taken = np.empty((rows, columns), np.bool_)
    patches = np.float64(rows * columns)
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        words = philox(seed, _STREAM, number, np.uint64(4), sample, epoch)
        aspect = aspect_low + (aspect_high - aspect_low) * unit(words[1])
        area = np.floor(np.round(patches * (target_low + (target_high - target_low) * unit(words[0])), 6))
        height, width = _block_size(area, aspect, rows, columns)
        area = np.floor(np.round(patches * (context_low + (context_high - context_low) * unit(words[2])), 6))
        context_height, context_width = _block_size(area, 1.0, rows, columns)
        draw = 0
        free_targets = targets.shape[1]
        while True:
            taken[:] = False
            for target in range(targets.shape[1]):
                if target < free_targets:
                    words = philox(
                        seed, _STREAM, np.uint64(draw) << np.uint64(16) | number, np.uint64(5), sample, epoch
                    )
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
            words = philox(seed, _STREAM, np.uint64(draw) << np.uint64(16) | number, np.uint64(5), sample, epoch)
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
            if draw > _ATTEMPTS * (targets.shape[1] + 1):
                # A grid that these targets nearly fill: let them coincide, one more each time.
                free_targets = max(1, free_targets - 1)
                context_height, context_width = rows, columns
        context_count[i] = found


@kernel
def _draw_regions(seed, epoch, sample_ids, number, settings, rules, boxes, mask):
    scale_low, scale_high, log_low, log_high = settings
    centred, overlap = rules
    size = mask.shape[1]
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        for region in range(boxes.shape[1]):
            counter = np.uint64(region) << np.uint64(16) | number
            words = philox(seed, _STREAM, counter, np.uint64(6), sample, epoch)
            area = size * size * (scale_low + (scale_high - scale_low) * unit(words[0]))
            aspect = np.exp(log_low + (log_high - log_low) * unit(words[1]))
            height, width = _block_size(area, aspect, size, size)
            top, left = (size - height) // 2, (size - width) // 2
            if not centred:
                top = np.int64(unit(words[2]) * (size - height + 1))
                left = np.int64(unit(words[3]) * (size - width + 1))
                tries = 1 if overlap else _ATTEMPTS
                for attempt in range(1, tries):
                    if not mask[i, top : top + height, left : left + width].any():
                        break
                    counter = np.uint64(region * _ATTEMPTS + attempt) << np.uint64(16) | number
                    words = philox(seed, _STREAM, counter, np.uint64(7), sample, epoch)
                    top = np.int64(unit(words[0]) * (size - height + 1))
                    left = np.int64(unit(words[1]) * (size - width + 1))
            boxes[i, region, 0] = top
            boxes[i, region, 1] = left
            boxes[i, region, 2] = height
            boxes[i, region, 3] = width
            mask[i, top : top + height, left : left + width] = True


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
            words = philox(seed, _STREAM, np.uint64(attempt) << np.uint64(16) | number, np.uint64(8), sample, epoch)
            aspect = aspect_low + (aspect_high - aspect_low) * unit(words[0])
            height, width = _block_size(area, aspect, rows, columns)
            taken[:] = False
            for block in range(max(1, blocks - attempt // _ATTEMPTS)):
                step = np.uint64(attempt * blocks + block)
                words = philox(seed, _STREAM, step << np.uint64(16) | number, np.uint64(9), sample, epoch)
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
                    else:
                        context[i, seen] = patch
                        seen += 1
        counts[0, i], counts[1, i] = seen, hidden
