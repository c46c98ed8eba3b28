"""Masks: exact counts, the stated shapes, the distributions of the papers' code, and nothing but four integers."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp

from headrace.pipeline import (
    BlockMask,
    ContextMask,
    InverseBlockMask,
    Loader,
    PrefixMask,
    RandomMask,
    RegionMask,
    RolledBlockMask,
    RunningCellMask,
    TubeBlockMask,
    TubeMask,
    View,
    ViewSpec,
)
from headrace.pipeline.masks import MaskSpec, draw_masks
from headrace.shards import ShardSet

GRID = (14, 14)
EVERY_KIND: list[MaskSpec] = [
    RandomMask(grid=GRID),
    TubeMask(grid=GRID, frames=8),
    TubeBlockMask(grid=GRID, frames=8),
    TubeBlockMask(grid=GRID, frames=8, longest=0.2),
    BlockMask(grid=GRID, ratio=(0.1, 0.5), probability=0.5),
    InverseBlockMask(grid=GRID),
    RolledBlockMask(grid=GRID),
    PrefixMask(grid=GRID),
    ContextMask(grid=GRID),
    RegionMask(size=32, place="random", regions=3, scale=(0.02, 0.1), aspect=(0.5, 2.0)),
]


def drawn(spec: MaskSpec, samples: int, epoch: int = 0, seed: int = 7) -> Any:
    (masks,) = draw_masks((spec,), seed, epoch, np.arange(samples))
    return masks


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("spec", EVERY_KIND, ids=lambda spec: type(spec).__name__)
def test_a_row_depends_on_seed_epoch_sample_and_number_alone(spec: MaskSpec) -> None:
    whole = drawn(spec, 40)
    (some,) = draw_masks((spec,), 7, 0, np.array([31, 4, 4]))
    assert same(some, [part[[31, 4, 4]] for part in whole])
    assert not same(whole, drawn(spec, 40, epoch=1))
    assert not same(whole, drawn(spec, 40, seed=8))
    first, second = draw_masks((spec, spec), 7, 0, np.arange(40))
    assert same(first, whole)
    assert not same(second, whole)
    large = draw_masks((spec,), 7, 0, np.array([1 << 40, (1 << 40) + 1]))[0]
    assert not same([part[:1] for part in large], [part[1:] for part in large])


@pytest.mark.parametrize(("grid", "ratio"), [((14, 14), 0.75), ((14, 14), 0.9), ((3, 5), 0.4), ((1, 2), 0.5)])
def test_random_masks_part_the_patches(grid: tuple[int, int], ratio: float) -> None:
    masks = drawn(RandomMask(grid=grid, ratio=ratio), 50)
    patches = grid[0] * grid[1]
    keep = int(round(patches * (1 - ratio), 6))  # MAE: int(L * (1 - mask_ratio))
    assert masks.visible.shape == (50, keep)
    assert masks.masked.shape == (50, patches - keep)
    assert masks.visible.dtype == masks.masked.dtype == torch.int64
    both = torch.cat([masks.visible, masks.masked], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(patches).expand(50, -1))
    for part in masks:
        assert (part.diff(dim=1) > 0).all()


def test_every_set_of_patches_is_equally_likely() -> None:
    """5 choose 2 sets of visible patches."""
    visible = drawn(RandomMask(grid=(1, 5), ratio=0.6), 20_000).visible
    _, counts = np.unique(visible.numpy() @ np.array([10, 1]), return_counts=True)
    assert len(counts) == math.comb(5, 2)
    assert chisquare(counts).pvalue > 1e-3


def test_a_tube_goes_through_all_frames() -> None:
    spec = TubeMask(grid=(14, 14), frames=8, ratio=0.9)
    masks = drawn(spec, 5)
    keep = 196 - int(0.9 * 196)  # VideoMAE: num_masks_per_frame = int(mask_ratio * num_patches_per_frame)
    assert keep == 20
    assert masks.visible.shape == (5, 8 * keep)
    assert masks.masked.shape == (5, 8 * (196 - keep))
    for frame in range(8):
        part = masks.visible[:, frame * keep : (frame + 1) * keep]
        assert torch.equal(part, masks.visible[:, :keep] + frame * 196)


@pytest.mark.parametrize(("blocks", "scale"), [(8, 0.15), (2, 0.7), (1, 0.3)])
def test_blocks_go_through_all_frames_and_leave_the_context(blocks: int, scale: float) -> None:
    masks = drawn(TubeBlockMask(grid=GRID, frames=4, blocks=blocks, scale=scale), 400)
    assert masks.context.shape == (400, 4 * 196)
    assert masks.targets.shape == (400, 1, 4 * 196)
    sizes = set()
    for row in range(400):
        context = masks.context[row, : masks.context_count[row]]
        target = masks.targets[row, 0, : masks.target_count[row, 0]]
        assert (masks.context[row, len(context) :] == -1).all()
        assert (masks.targets[row, 0, len(target) :] == -1).all()
        assert len(context) > 0
        assert torch.equal(torch.cat([context, target]).sort().values, torch.arange(4 * 196))
        hidden = torch.zeros(4 * 196, dtype=torch.bool)
        hidden[target] = True
        grid = hidden.view(4, 14, 14)
        assert (grid == grid[0]).all()
        if blocks == 1:
            size = int(grid[0].any(dim=1).sum()), int(grid[0].any(dim=0).sum())
            sizes.add(size)
            assert grid[0].sum() == size[0] * size[1]
    if blocks == 1:  # sqrt(0.3 * 196 * aspect) rows and sqrt(0.3 * 196 / aspect) columns, aspect 0.75 to 1.5
        assert sizes == {(7, 9), (7, 8), (8, 8), (8, 7), (9, 7), (9, 6)}
    if blocks == 8:  # V-JEPA's share of a frame that short-range masks hide
        assert 0.55 < masks.target_count.float().mean() / (4 * 196) < 0.85


def test_of_long_contexts_the_last_are_left_out() -> None:
    whole, cut = (drawn(TubeBlockMask(grid=GRID, frames=4, longest=share), 50) for share in (1.0, 0.25))
    most = 196  # a quarter of 4 * 196
    assert cut.context.shape == (50, most)
    assert torch.equal(cut.context, whole.context[:, :most])
    assert torch.equal(cut.context_count, whole.context_count.clamp(max=most))
    assert (whole.context_count > most).any()
    assert (whole.context_count < most).any()
    assert same(cut[2:], whole[2:]), "the targets"
    for longest in (0.0, 1.1, 0.001):
        with pytest.raises(ValueError, match=rf"longest must be at most 1, and so large .*, got {longest}"):
            TubeBlockMask(grid=GRID, frames=4, longest=longest)


def cells_of_the_authors(state: int, masked: int, frames: int, rows: int, columns: int) -> list[list[list[int]]]:
    """1 where VideoMAE V2's `RunningCellMaskingGenerator` masks: a row of four, the first of which are ones, is read
    from one place later in every frame, into squares of 2 x 2."""
    row = [1] * masked + [0] * (4 - masked)
    found = []
    for time in range(frames):
        first = state + 1 + time
        square = [row[(first + place) % 4] for place in range(4)]
        found.append([[square[2 * (y % 2) + x % 2] for x in range(columns)] for y in range(rows)])
    return found


@pytest.mark.parametrize(("ratio", "masked"), [(0.25, 1), (0.5, 2), (0.75, 3)])
def test_cells_run_through_their_four_states(ratio: float, masked: int) -> None:
    rows, columns, frames = 4, 6, 5
    masks = drawn(RunningCellMask(grid=(rows, columns), frames=frames, ratio=ratio), 4000)
    known = [torch.tensor(cells_of_the_authors(s, masked, frames, rows, columns)).flatten() for s in range(4)]
    patches = frames * rows * columns
    assert masks.masked.shape == (4000, patches * masked // 4)
    states = []
    for row in range(0, 4000, 10):
        both = torch.cat([masks.visible[row], masks.masked[row]]).sort().values
        assert torch.equal(both, torch.arange(patches))
        hidden = torch.zeros(patches, dtype=torch.int64)
        hidden[masks.masked[row]] = 1
        states += [state for state, each in enumerate(known) if torch.equal(hidden, each)]
    assert len(states) == 400, "one state each"
    assert chisquare(np.bincount(states, minlength=4)).pvalue > 1e-3
    for part in masks:
        assert (part.diff(dim=1) > 0).all()


def test_over_8_frames_each_place_is_kept_four_times() -> None:
    kept = drawn(RunningCellMask(grid=GRID, frames=8), 4).visible
    assert kept.shape == (4, 8 * 98), "half of each frame"
    places = torch.zeros(4, 8 * 196).scatter(1, kept, 1.0).unflatten(1, (8, 196))
    assert (places.sum(dim=2) == 98).all()
    assert (places.sum(dim=1) == 4).all()
    assert (places.unfold(1, 4, 1).sum(dim=-1) == 2).all(), "twice in any four frames"


def test_cells_must_fit() -> None:
    with pytest.raises(ValueError, match=r"RunningCellMask.grid must be an even number of rows and columns"):
        RunningCellMask(grid=(3, 4), frames=2)
    with pytest.raises(ValueError, match=r"RunningCellMask.ratio must be 0.25, 0.5 or 0.75, got 0.6"):
        RunningCellMask(grid=(4, 4), frames=2, ratio=0.6)


def test_many_blocks_in_a_small_grid_leave_something() -> None:
    masks = drawn(TubeBlockMask(grid=(3, 3), frames=1, blocks=40, scale=0.4), 50)
    assert (masks.context_count > 0).all()
    with pytest.raises(ValueError, match="leaves a context"):
        TubeBlockMask(grid=(2, 2), frames=1, scale=0.9)


def test_block_masks_have_exact_counts() -> None:
    masks = drawn(BlockMask(grid=GRID, ratio=(0.1, 0.5), probability=0.5), 4000)
    assert masks.masked.shape == (4000, 196)
    assert torch.equal(masks.masked.sum(dim=1), masks.masked_count)
    some = masks.masked_count[masks.masked_count > 0]
    assert abs(len(some) / 4000 - 0.5) < 0.03
    assert (some.min(), some.max()) == (int(0.1 * 196), int(0.5 * 196) - 1)  # the share never reaches its upper end
    uniform = torch.linspace(0.1, 0.5, 2000, dtype=torch.float64) * 196
    assert ks_2samp(some.numpy(), uniform.long().numpy()).pvalue > 1e-3
    always = drawn(BlockMask(grid=GRID, ratio=(0.4, 0.4)), 300)
    assert (always.masked_count == 78).all()
    assert (always.masked.sum(dim=1) == 78).all()
    full = drawn(BlockMask(grid=(4, 5), ratio=(1.0, 1.0)), 20)
    assert full.masked.all()


class BeitGenerator:
    """MaskingGenerator of BEiT's code (beit/masking_generator.py) and DINOv2's (dinov2/data/masking.py), written down
    again, with DINOv3's (dinov3/data/masking.py) filling up to the count."""

    def __init__(self, height: int, width: int, smallest: int, aspect: float) -> None:
        self.height, self.width, self.smallest = height, width, smallest
        self.log_aspect = (math.log(aspect), math.log(1 / aspect))

    def place(self, mask: np.ndarray, most: int) -> int:
        for _ in range(10):
            area = random.uniform(self.smallest, most)
            aspect = math.exp(random.uniform(*self.log_aspect))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if w < self.width and h < self.height:
                top, left = random.randint(0, self.height - h), random.randint(0, self.width - w)
                already = int(mask[top : top + h, left : left + w].sum())
                if 0 < h * w - already <= most:
                    mask[top : top + h, left : left + w] = True
                    return h * w - already
        return 0

    def __call__(self, wanted: int) -> np.ndarray:
        mask = np.zeros((self.height, self.width), bool)
        while (left := wanted - int(mask.sum())) > 0 and self.place(mask, left):
            pass
        free = np.flatnonzero(~mask).tolist()
        mask.flat[random.sample(free, wanted - int(mask.sum()))] = True
        return mask


def neighbours(mask: np.ndarray) -> int:
    """Pairs of masked patches side by side or one above the other: few where masks are scattered."""
    return int((mask[1:] & mask[:-1]).sum() + (mask[:, 1:] & mask[:, :-1]).sum())


@pytest.mark.parametrize(
    ("side", "smallest", "wanted"),
    [(14, 4, 78), (14, 16, 75), (14, 16, 120), (16, 25, 26), (4, 4, 4), (5, 9, 6)],
    ids=["dinov2", "beit", "data2vec", "ibot", "narrow", "smallest-above-wanted"],
)
def test_block_masks_are_distributed_as_the_authors(side: int, smallest: int, wanted: int) -> None:
    random.seed(5)
    generator = BeitGenerator(side, side, smallest, 0.3)
    theirs = np.array([generator(wanted) for _ in range(1500)])
    spec = BlockMask(grid=(side, side), ratio=(wanted / side**2,) * 2, smallest=smallest)
    ours = drawn(spec, 1500).masked.numpy().reshape(-1, side, side)
    for measure in (neighbours, lambda mask: int(mask.any(axis=0).sum()), lambda mask: int(mask.all(axis=1).sum())):
        assert ks_2samp([measure(mask) for mask in ours], [measure(mask) for mask in theirs]).pvalue > 1e-3
    assert np.abs(np.mean(ours, axis=0) - np.mean(theirs, axis=0)).max() < 0.07


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5])
def test_one_of_two_block_masks_stands_in_for_the_other(probability: float) -> None:
    """Whichever samples are in a batch; and the first is what it is without a second."""
    first = BlockMask(grid=GRID, ratio=(0.1, 0.5), probability=probability)
    specs = first, replace(first, instead_of=0), replace(first, instead_of=None)
    one, other, alone = draw_masks(specs, 3, 1, np.arange(1000))
    assert ((one.masked_count > 0) != (other.masked_count > 0)).all()
    assert abs(float((one.masked_count > 0).double().mean()) - probability) < 0.05
    assert int(other.masked_count[other.masked_count > 0].min()) >= 19
    assert max(int(each.masked_count.max()) for each in (one, other)) <= first.largest == 98
    assert torch.equal(one.masked, draw_masks((first,), 3, 1, np.arange(1000))[0].masked)
    both = (one.masked_count > 0) & (alone.masked_count > 0)
    assert not torch.equal(one.masked[both], alone.masked[both]) or probability == 0
    with pytest.raises(ValueError, match=r"BlockMask\.instead_of must be the number of another mask, or None, got -1"):
        replace(first, instead_of=-1)


def test_block_masks_are_blocks() -> None:
    ours = drawn(BlockMask(grid=GRID, ratio=(0.4, 0.4)), 1500).masked.numpy().reshape(-1, 14, 14)
    scattered = np.zeros((1500, 196), bool)
    scattered[np.arange(1500)[:, None], drawn(RandomMask(grid=GRID, ratio=0.6), 1500).visible.numpy()] = True
    ours_pairs, scattered_pairs = (
        [neighbours(mask) for mask in masks] for masks in (ours, scattered.reshape(-1, 14, 14))
    )
    assert np.mean(ours_pairs) > np.mean(scattered_pairs) + 30
    # Blocks cover the middle of the grid more often than its rim.
    assert np.mean(ours, axis=0)[7, 7] > np.mean(ours, axis=0)[0, 0] + 0.2


def parts_the_patches(masks: Any, patches: int) -> None:
    both = torch.cat([masks.visible, masks.masked], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(patches).expand(len(both), -1))
    for part in masks:
        assert part.dtype == torch.int64
        assert (part.diff(dim=1) > 0).all()


def shown(masks: Any, rows: int, columns: int) -> np.ndarray:
    """bool (B, rows, columns): True where a patch is visible."""
    found = np.zeros((len(masks.visible), rows * columns), bool)
    np.put_along_axis(found, masks.visible.numpy(), True, axis=1)
    return found.reshape(-1, rows, columns)


@pytest.mark.parametrize(
    ("ratio", "adjust", "visible", "blocks"), [(0.8, 0.07, 39, 5), (0.75, 0.1, 49, 7)], ids=["base", "large"]
)
def test_inverse_blocks_have_exact_counts(ratio: float, adjust: float, visible: int, blocks: int) -> None:
    """data2vec 2.0's: int(196 * 0.2) and int(196 * 0.25) patches; int(196 * 0.27 / 9), int(196 * 0.35 / 9) squares."""
    spec = InverseBlockMask(grid=GRID, ratio=ratio, adjust=adjust)
    assert int(196 * ((1 - ratio + adjust) / 9)) == blocks
    masks = drawn(spec, 300)
    assert masks.visible.shape == (300, visible)
    parts_the_patches(masks, 196)


def fairseqs_inverse_block(side: int, ratio: float, adjust: float, length: int) -> np.ndarray:
    """`compute_block_mask_2d` of data2vec 2.0's code, written down again for one sample: what is visible."""
    grid = np.zeros((side, side), bool)
    for _ in range(int(side**2 * ((1 - ratio + adjust) / length**2))):
        row, column = random.randrange(side), random.randrange(side)
        for i in range(length):
            for j in range(length):
                at = row + i - length // 2, column + j - length // 2
                grid[min(max(at[0], 0), side - 1), min(max(at[1], 0), side - 1)] = True
    wanted = int(round(side**2 * (1 - ratio), 6))
    while grid.sum() > wanted:
        grid.flat[random.choice(np.flatnonzero(grid).tolist())] = False
    while grid.sum() < wanted:
        grid.flat[random.choice(np.flatnonzero(~grid).tolist())] = True
    return grid


@pytest.mark.parametrize(("side", "adjust", "length"), [(14, 0.07, 3), (14, 0.3, 3), (6, 0.07, 2)])
def test_inverse_blocks_are_distributed_as_the_authors(side: int, adjust: float, length: int) -> None:
    random.seed(11)
    theirs = np.array([fairseqs_inverse_block(side, 0.8, adjust, length) for _ in range(1500)])
    spec = InverseBlockMask(grid=(side, side), adjust=adjust, side=length)
    ours = shown(drawn(spec, 1500), side, side)
    for measure in (neighbours, lambda mask: int(mask.any(axis=0).sum()), lambda mask: int(mask.any(axis=1).sum())):
        assert ks_2samp([measure(mask) for mask in ours], [measure(mask) for mask in theirs]).pvalue > 1e-3
    assert np.abs(ours.mean(axis=0) - theirs.mean(axis=0)).max() < 0.07


def test_rolled_blocks_have_exact_counts() -> None:
    """CAPI's on its grid: int(256 * 0.65) masked, int(166 * 0.05) of them predicted."""
    masks = drawn(RolledBlockMask(grid=(16, 16)), 300)
    assert (masks.visible.shape, masks.masked.shape, masks.predicted.shape) == ((300, 90), (300, 166), (300, 8))
    parts_the_patches(masks, 256)
    among = (masks.predicted[:, :, None] == masks.masked[:, None]).any(dim=2)
    assert among.all()


def capis_block(rows: int, columns: int, kept: int, roll: bool) -> np.ndarray:
    """`BlockMasking` of CAPI's code, written down again: what is visible."""
    low = max(math.log(0.5), math.log(kept / columns**2))
    high = min(math.log(2.0), math.log(rows**2 / (kept + 1e-5)))
    aspect = math.exp(random.uniform(low, high))
    height, width = math.ceil(math.sqrt(kept * aspect)), math.ceil(math.sqrt(kept / aspect))
    top, left = random.randint(0, rows - height), random.randint(0, columns - width)
    grid = np.zeros((rows, columns), bool)
    grid[top : top + height, left : left + width] = True
    grid.flat[np.flatnonzero(grid)[kept:]] = False
    return np.roll(grid, (random.randrange(rows), random.randrange(columns)), (0, 1)) if roll else grid


@pytest.mark.parametrize("roll", [True, False])
@pytest.mark.parametrize("grid", [(16, 16), (9, 12)])
def test_rolled_blocks_are_distributed_as_the_authors(grid: tuple[int, int], roll: bool) -> None:
    random.seed(12)
    spec = RolledBlockMask(grid=grid, roll=roll)
    kept = grid[0] * grid[1] - int(grid[0] * grid[1] * 0.65)
    theirs = np.array([capis_block(*grid, kept, roll) for _ in range(1500)])
    ours = shown(drawn(spec, 1500), *grid)
    for measure in (neighbours, lambda mask: int(mask.any(axis=0).sum()), lambda mask: int(mask.any(axis=1).sum())):
        assert ks_2samp([measure(mask) for mask in ours], [measure(mask) for mask in theirs]).pvalue > 1e-3
    assert np.abs(ours.mean(axis=0) - theirs.mean(axis=0)).max() < 0.07
    if roll:  # every patch is seen as often
        assert np.abs(ours.mean(axis=0) - kept / ours[0].size).max() < 0.05


def test_each_masked_patch_is_predicted_as_often() -> None:
    masks = drawn(RolledBlockMask(grid=(4, 4), ratio=0.5, predicted=0.4), 20_000)
    assert masks.predicted.shape == (20_000, 3)
    order = (masks.masked[:, None] < masks.predicted[:, :, None]).sum(dim=2)
    _, counts = np.unique(order.numpy() @ np.array([100, 10, 1]), return_counts=True)
    assert len(counts) == math.comb(8, 3)
    assert chisquare(counts).pvalue > 1e-3


def test_every_length_of_a_prefix_is_equally_likely() -> None:
    prefix = drawn(PrefixMask(grid=(3, 4)), 20_000).prefix
    assert prefix.dtype == torch.int64
    counts = np.bincount(prefix.numpy(), minlength=13)
    assert counts[0] == counts[12] == 0
    assert chisquare(counts[1:12]).pvalue > 1e-3


def rectangle(patches: torch.Tensor, columns: int) -> tuple[int, int, int, int] | None:
    """(top, left, height, width) if the patches are a whole rectangle."""
    rows, cols = patches // columns, patches % columns
    top, left = int(rows.min()), int(cols.min())
    height, width = int(rows.max()) - top + 1, int(cols.max()) - left + 1
    return (top, left, height, width) if len(patches) == height * width else None


@pytest.mark.parametrize("grid", [(14, 14), (16, 16), (6, 9)])
def test_targets_are_blocks_and_the_context_is_one_without_them(grid: tuple[int, int]) -> None:
    spec = ContextMask(grid=grid)
    masks = drawn(spec, 400)
    patches = grid[0] * grid[1]
    assert masks.context.shape == (400, patches)
    assert masks.targets.shape == (400, 4, spec.largest_target)
    assert int(masks.target_count.max()) == spec.largest_target, "no room is wasted"
    for i in range(400):
        context = masks.context[i, : masks.context_count[i]]
        assert (masks.context[i, masks.context_count[i] :] == -1).all()
        assert len(context) > 10  # I-JEPA: len(mask) > self.min_keep
        assert (context.diff() > 0).all()
        shapes, found = set(), set()
        for target, count in zip(masks.targets[i], masks.target_count[i], strict=True):
            assert (target[count:] == -1).all()
            place = rectangle(target[:count], grid[1])
            assert place is not None
            _, _, height, width = place
            shapes.add((height, width))
            area = height * width / patches
            slack = (height + width) / 2 / patches + 0.01  # each side is rounded by half a patch at most
            assert 0.15 - slack <= area <= 0.2 + slack
            found |= set(target[:count].tolist())
        assert len(shapes) == 1
        assert not found & set(context.tolist())


def jepa_sizes(grid: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float]) -> set[tuple[int, int]]:
    """`_sample_block_size` of I-JEPA's and V-JEPA's code, with V-JEPA's limit, over all that can be drawn."""
    sizes = set()
    for share in np.linspace(*scale, 200, endpoint=scale[0] == scale[1]):
        for ratio in np.linspace(*aspect, 400):
            keep = int(grid[0] * grid[1] * share)
            sides = round(math.sqrt(keep * ratio)), round(math.sqrt(keep / ratio))
            sizes.add((min(sides[0], grid[0]), min(sides[1], grid[1])))
    return sizes


@pytest.mark.parametrize("grid", [(14, 14), (16, 16), (6, 9)])
def test_block_sizes_round_as_the_authors(grid: tuple[int, int]) -> None:
    masks = drawn(ContextMask(grid=grid), 3000)
    first = [rectangle(target[:count], grid[1]) for target, count in zip(*(p[:, 0] for p in masks[2:]), strict=True)]
    assert {place[2:] for place in first if place} == jepa_sizes(grid, (0.15, 0.2), (0.75, 1.5))
    tubes = drawn(TubeBlockMask(grid=grid, frames=1, blocks=1, scale=0.15), 3000)
    first = [rectangle(row[0, : int(n)], grid[1]) for row, n in zip(tubes.targets, tubes.target_count, strict=True)]
    assert {place[2:] for place in first if place} == jepa_sizes(grid, (0.15, 0.15), (0.75, 1.5))


def test_targets_lie_everywhere() -> None:
    masks = drawn(ContextMask(grid=GRID), 6000)
    tops = np.array([int(row[0, 0]) // 14 for row in masks.targets])
    heights = np.array(
        [int((row[0, : int(n[0])] // 14).max()) for row, n in zip(masks.targets, masks.target_count, strict=True)]
    )
    height = heights - tops + 1
    for h in np.unique(height):
        found = np.bincount(tops[height == h], minlength=15 - h)
        assert chisquare(found).pvalue > 1e-4


def test_a_grid_that_targets_fill_still_ends() -> None:
    spec = ContextMask(grid=(4, 4), targets=8, target_scale=(0.4, 0.6), smallest_context=4)
    masks = drawn(spec, 300)
    assert int(masks.context_count.min()) >= 4
    with pytest.raises(ValueError, match=r"ContextMask\.smallest_context must be 1 to"):
        ContextMask(grid=(4, 4), target_scale=(0.9, 1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomMask(grid=(1, 1)), "RandomMask.grid must be rows and columns of more than one patch"),
        (lambda: RandomMask(grid=GRID, ratio=1.0), r"RandomMask.ratio must be in \(0, 1\), got 1.0"),
        (lambda: RandomMask(grid=(2, 2), ratio=0.8), "such that some of 4 patches are masked, not all, got 0.8"),
        (lambda: RandomMask(grid=(2, 2), ratio=1e-9), "RandomMask.ratio must be such that some of 4 patches are"),
        (lambda: TubeMask(grid=(2, 2), frames=2, ratio=0.2), "TubeMask.ratio must be such that some of 4 patches are"),
        (lambda: TubeMask(grid=(2, 2), frames=2, ratio=1 - 1e-9), "TubeMask.ratio must be such that some of 4"),
        (lambda: BlockMask(grid=(2, 2), ratio=(0.2, 0.5)), "BlockMask.ratio must be so large that one of 4 patches"),
        (lambda: TubeMask(grid=GRID, frames=0), "TubeMask.frames must be at least 1, got 0"),
        (lambda: BlockMask(grid=GRID, ratio=(0.5, 0.1)), "BlockMask.ratio must be 0 < low <= high <= 1"),
        (lambda: BlockMask(grid=GRID, smallest=0), "BlockMask.smallest must be at least 1"),
        (
            lambda: InverseBlockMask(grid=(2, 2), ratio=0.8),
            "InverseBlockMask.ratio must be such that some of 4 patches",
        ),
        (lambda: InverseBlockMask(grid=GRID, side=0), "InverseBlockMask.side must be at least 1, got 0"),
        (lambda: InverseBlockMask(grid=GRID, adjust=-0.1), "InverseBlockMask.adjust must be at least 0"),
        (lambda: RolledBlockMask(grid=GRID, ratio=0.0), r"RolledBlockMask.ratio must be in \(0, 1\), got 0.0"),
        (lambda: RolledBlockMask(grid=(4, 4)), "RolledBlockMask.predicted must be such that 1 to 10 patches are"),
        (lambda: RolledBlockMask(grid=GRID, aspect=(2.0, 0.5)), "RolledBlockMask.aspect must be 0 < low <= high"),
        (lambda: RolledBlockMask(grid=(2, 32)), r"RolledBlockMask.aspect must be possible for a block of a grid of"),
        (lambda: PrefixMask(grid=(1, 1)), "PrefixMask.grid must be rows and columns of more than one patch"),
        (lambda: ContextMask(grid=GRID, targets=0), "ContextMask.targets must be at least 1"),
    ],
)
def test_contradictions_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_loader_delivers_them(photos: ShardSet) -> None:
    spec = ViewSpec([View(size=32)], masks=EVERY_KIND)
    with Loader(photos, spec, 8, seed=3, threads=2) as loader:
        batches = list(loader)
    assert len(batches) == 4
    for batch in batches:
        wanted = draw_masks(spec.masks, 3, 0, batch.index.numpy())
        assert all(same(a, b) for a, b in zip(batch.masks, wanted, strict=True))
        moved = batch.to("meta")
        assert all(part.device.type == "meta" for mask in moved.masks for part in mask)
        assert [type(mask) for mask in moved.masks] == [type(mask) for mask in batch.masks]


def test_the_centre_is_a_region() -> None:
    masks = drawn(RegionMask(size=128), 3)
    assert masks.boxes.tolist() == [[[32, 32, 64, 64]]] * 3
    assert masks.mask.dtype == torch.bool
    assert masks.mask[:, 32:96, 32:96].all()
    assert int(masks.mask.sum()) == 3 * 64 * 64


def union(boxes: torch.Tensor, size: int) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    for top, left, height, width in boxes.tolist():
        assert min(top, left, size - top - height, size - left - width) >= 0
        assert min(height, width) >= 1
        mask[top : top + height, left : left + width] = True
    return mask


@pytest.mark.parametrize("overlap", [True, False])
def test_regions_are_the_union_of_their_boxes(overlap: bool) -> None:
    spec = RegionMask(size=64, place="random", regions=4, scale=(0.03, 0.0625), aspect=(0.5, 2.0), overlap=overlap)
    masks = drawn(spec, 300)
    assert masks.boxes.shape == (300, 4, 4)
    assert masks.boxes.dtype == torch.int64
    for boxes, mask in zip(masks.boxes, masks.mask, strict=True):
        assert torch.equal(union(boxes, 64), mask)
    areas = masks.boxes[..., 2] * masks.boxes[..., 3]
    apart = masks.mask.flatten(1).sum(dim=1) == areas.sum(dim=1)
    share = float(apart.float().mean())
    assert share < 0.8 if overlap else share > 0.97  # ten places may all be taken


def test_regions_follow_their_areas_and_aspects_and_lie_anywhere() -> None:
    size = 200
    spec = RegionMask(size=size, place="random", scale=(0.05, 0.2), aspect=(0.5, 2.0))
    top, left, height, width = drawn(spec, 5000).boxes[:, 0].double().T.numpy()
    area = height * width / size**2
    assert ks_2samp(area, np.random.default_rng(0).uniform(0.05, 0.2, 20_000)).pvalue > 1e-4
    log_aspect = np.log(height / width)
    assert ks_2samp(log_aspect, np.random.default_rng(1).uniform(-np.log(2), np.log(2), 20_000)).pvalue > 1e-4
    for place, side in ((top, height), (left, width)):
        assert ks_2samp(place / (size - side), np.random.default_rng(2).uniform(0, 1, 20_000)).pvalue > 1e-4


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_regions_of_tiny_views(size: int, overlap: bool) -> None:
    spec = RegionMask(size=size, place="random", regions=3, scale=(0.5, 1.0), aspect=(0.2, 5.0), overlap=overlap)
    for boxes in drawn(spec, 50).boxes:
        union(boxes, size)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RegionMask(size=0), "size"),
        (lambda: RegionMask(size=8, place="corner"), "place"),  # type: ignore[arg-type]
        (lambda: RegionMask(size=8, regions=2), "1 in the centre"),
        (lambda: RegionMask(size=8, place="random", regions=0), "regions"),
        (lambda: RegionMask(size=8, scale=(0.5, 0.1)), "scale"),
        (lambda: RegionMask(size=8, aspect=(0.0, 1.0)), "aspect"),
    ],
)
def test_contradictory_regions_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
