import pickle
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from headrace.pipeline import PatchPair, Plan, Tiles, View, ViewSpec, permutation_set, plan

SIMCLR = View(
    size=32,
    jitter=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    grayscale=0.2,
    blur=0.5,
    solarize=0.1,
)
SPEC = ViewSpec.repeat(SIMCLR, 2)
DRAWN = ["crop", "flip", "turns", "jitter_order", "jitter_factor", "project", "kept", "noise"]
DRAWN += ["grayscale", "blur_sigma", "solarize", "erase"]
"""Columns of a plan."""


def draw(spec: ViewSpec, ids: np.ndarray, size: tuple[int, int] = (375, 500), seed: int = 3, epoch: int = 1) -> Plan:
    return plan(spec, seed, epoch, ids, np.tile(size, (len(ids), 1)))


def assert_same(a: Plan, b: Plan) -> None:
    for name in (*DRAWN, "arrangement"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


def test_a_sample_gets_the_same_numbers_in_any_batch() -> None:
    whole = draw(SPEC, np.arange(100))
    some = draw(SPEC, np.array([90, 7, 41]))
    for row, sample in enumerate([90, 7, 41]):
        assert_same(some[row : row + 1], whole[sample : sample + 1])


def test_a_view_does_not_depend_on_the_views_after_it() -> None:
    alone = draw(ViewSpec([SIMCLR]), np.arange(50))
    first_of_two = draw(SPEC, np.arange(50))
    for name in DRAWN:
        assert np.array_equal(getattr(alone, name)[:, 0], getattr(first_of_two, name)[:, 0]), name


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 2}])
def test_seeds_and_epochs_change_the_draws(change: dict[str, int]) -> None:
    a, b = draw(SPEC, np.arange(200)), draw(SPEC, np.arange(200), **change)
    assert np.mean(np.all(a.crop == b.crop, axis=-1)) < 0.01


def test_views_of_a_sample_differ() -> None:
    drawn = draw(SPEC, np.arange(500))
    assert np.mean(np.all(drawn.crop[:, 0] == drawn.crop[:, 1], axis=-1)) < 0.01
    assert abs(np.corrcoef(drawn.jitter_factor[:, 0, 0], drawn.jitter_factor[:, 1, 0])[0, 1]) < 0.15


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "operation", ["flip", "grayscale", "solarize", "blur", "jitter", "project", "drop_channels", "erase"]
)
def test_operations_apply_as_often_as_asked(operation: str, probability: float) -> None:
    n = 20_000
    drawn = draw(ViewSpec([replace(SIMCLR, **{operation: probability})]), np.arange(n))
    applied = {
        "flip": drawn.flip,
        "grayscale": drawn.grayscale,
        "solarize": drawn.solarize,
        "blur": drawn.blur_sigma > 0,
        "jitter": (drawn.jitter_order >= 0).any(axis=-1),
        "project": drawn.project,
        "drop_channels": drawn.kept >= 0,
        "erase": drawn.erase[..., 2] > 0,
    }[operation]
    tolerance = 4 * np.sqrt(probability * (1 - probability) / n)
    assert abs(applied.mean() - probability) <= tolerance


def test_jitter_orders_and_factors_are_uniform() -> None:
    drawn = draw(ViewSpec([replace(SIMCLR, jitter=1.0)]), np.arange(24_000))
    orders, counts = np.unique(drawn.jitter_order[:, 0], axis=0, return_counts=True)
    assert len(orders) == 24
    assert chisquare(counts).pvalue > 1e-4
    for code, (low, high) in enumerate([(0.2, 1.8)] * 3 + [(-0.2, 0.2)]):
        factor = drawn.jitter_factor[:, 0, code]
        assert kstest((factor - low) / (high - low), "uniform").pvalue > 1e-4
    assert kstest((drawn.blur_sigma[drawn.blur_sigma > 0] - 0.1) / 1.9, "uniform").pvalue > 1e-4


def test_colour_changes_of_strength_zero_are_left_out() -> None:
    drawn = draw(ViewSpec([replace(SIMCLR, jitter=1.0, hue=0.0, contrast=0.0)]), np.arange(100))
    assert set(drawn.jitter_order.ravel().tolist()) == {-1, 0, 2}
    assert np.all((drawn.jitter_order >= 0).sum(axis=-1) == 2)


def test_crops_follow_torchvisions_distribution() -> None:
    """Same area and aspect law as RandomResizedCrop, compared through a large sample of its own draws."""
    import torch
    from torchvision.transforms.v2 import RandomResizedCrop

    crop = RandomResizedCrop(32, scale=(0.08, 1.0))
    image = torch.empty(3, 375, 500)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([[p[k] for k in ("top", "left", "height", "width")] for p in
                           (crop.make_params([image]) for _ in range(4000))])  # fmt: skip
    ours = draw(ViewSpec([SIMCLR]), np.arange(20_000)).crop[:, 0]
    from scipy.stats import ks_2samp

    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-4
    area = ours[:, 2] * ours[:, 3]
    assert ks_2samp(area, theirs[:, 2] * theirs[:, 3]).pvalue > 1e-4


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 7), (28, 28)])
def test_crops_stay_inside(size: tuple[int, int]) -> None:
    top, left, height, width = np.moveaxis(draw(SPEC, np.arange(300), size).crop, -1, 0)
    assert min(top.min(), left.min()) >= 0
    assert min(height.min(), width.min()) >= 1
    assert (top + height).max() <= size[0]
    assert (left + width).max() <= size[1]


def test_full_scale_and_square_takes_the_centre() -> None:
    view = View(size=32, scale=(1, 1), ratio=(1, 1))
    assert draw(ViewSpec([view]), np.arange(1)).crop.tolist() == [[[0, 62, 375, 375]]]


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="sample 9 has no pixels"):
        plan(SPEC, 0, 0, np.array([8, 9]), np.array([[4, 4], [0, 4]]))
    with pytest.raises(ValueError, match="shape"):
        plan(SPEC, 0, 0, np.array([8, 9]), np.array([[4, 4]]))


FROZEN = {
    "crop": "bc99ea7e90f62afb",
    "flip": "0ee33b386f3d8d36",
    "jitter_order": "a908113f6414116b",
    "jitter_factor": "d4a2bc81b67ef6d4",
    "grayscale": "2a5361b170fb930c",
    "blur_sigma": "60cea88a8e9a4892",
    "solarize": "73fd9208bf280bfd",
}
"""SHA-256 of the draws of 500 samples, as the first version drew them."""


@pytest.mark.parametrize("more", [{}, {"turns": (0, 1, 3), "project": 0.5, "drop_channels": 0.5, "erase": 1.0}])
def test_draws_never_move(more: dict) -> None:
    drawn = draw(ViewSpec.repeat(replace(SIMCLR, **more), 2), np.arange(500))
    assert {name: sha256(getattr(drawn, name).tobytes()).hexdigest()[:16] for name in FROZEN} == FROZEN
    few = plan(SPEC, 3, 1, np.array([0, 1 << 33]), np.array([[375, 500], [32, 32]]))
    assert few.crop.tolist() == [[[27, 56, 323, 369], [92, 74, 260, 246]], [[4, 0, 28, 24], [8, 14, 19, 16]]]
    assert few.describe(1, 0) == {"crop": (4, 0, 28, 24), "blur": 0.979}


EVERYTHING = replace(
    SIMCLR,
    turns=(0, 1, 3),
    project=0.3,
    drop_channels=0.4,
    erase=0.6,
    flip=0.4,
    blur_sigma=(0.3, 1.1),
    ratio=(0.5, 1.7),
)
STILL = View(size=8, flip=0.0)
MANY = {
    "everything": ViewSpec([EVERYTHING, replace(EVERYTHING, size=17, scale=(0.3, 0.4), jitter=1.0, hue=0.0)]),
    "rotations": ViewSpec.rotations(EVERYTHING),
    "shared": ViewSpec([SIMCLR, EVERYTHING, replace(SIMCLR, size=16, erase=1.0)], draws=[0, 1, 0]),
    "tiles": ViewSpec([EVERYTHING, Tiles(view=replace(EVERYTHING, flip=0.0, turns=(0,)), permutations=60)]),
    "pairs": ViewSpec([PatchPair(view=replace(SIMCLR, flip=0.0)), PatchPair(view=STILL, scale=(0.9, 1.0), jitter=0.5)]),
}
FROZEN_PLANS = {
    "everything": "70b0973481de95c3",
    "rotations": "ee44750575a28ff7",
    "shared": "b60df26805a1bcac",
    "tiles": "98eaa2eeea707128",
    "pairs": "3e7fc82c257a0aec",
}
"""SHA-256 of all columns of 300 samples, as they were drawn when each column was an array of its own."""


@pytest.mark.parametrize("spec", MANY)
def test_all_columns_of_many_specifications_stay(spec: str) -> None:
    random = np.random.default_rng(5)
    drawn = plan(MANY[spec], 9, 2, random.integers(0, 1 << 40, 300), random.integers(1, 600, (300, 2)))
    digest = sha256()
    for name in (*DRAWN, "arrangement"):
        digest.update(np.ascontiguousarray(getattr(drawn, name)).tobytes())
    assert digest.hexdigest()[:16] == FROZEN_PLANS[spec]


def test_each_channel_is_kept_as_often_and_each_view_has_its_noise() -> None:
    drawn = draw(ViewSpec([replace(SIMCLR, drop_channels=1.0)] * 2), np.arange(9000))
    for v in range(2):
        assert chisquare(np.bincount(drawn.kept[:, v], minlength=3)).pvalue > 1e-4
    assert len(np.unique(drawn.noise)) == 18_000
    shared = draw(ViewSpec([replace(SIMCLR, drop_channels=0.5)] * 2, draws=[0, 0]), np.arange(50))
    assert np.array_equal(shared.kept[:, 0], shared.kept[:, 1])
    assert np.array_equal(shared.noise[:, 0], shared.noise[:, 1])


def test_turns_are_uniform() -> None:
    drawn = draw(ViewSpec([replace(SIMCLR, turns=(0, 1, 3)), replace(SIMCLR, turns=(2,))]), np.arange(9000))
    turns, counts = np.unique(drawn.turns[:, 0], return_counts=True)
    assert turns.tolist() == [0, 1, 3]
    assert chisquare(counts).pvalue > 1e-4
    assert np.all(drawn.turns[:, 1] == 2)


def test_erased_rectangles_follow_torchvisions_distribution() -> None:
    import torch
    from scipy.stats import ks_2samp
    from torchvision.transforms.v2 import RandomErasing

    erasing = RandomErasing(p=1.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = [erasing.make_params([torch.zeros(3, 32, 32)]) for _ in range(6000)]
    theirs = np.array([[p[k] for k in ("i", "j", "h", "w")] for p in found if p["v"] is not None])
    ours = draw(ViewSpec([replace(SIMCLR, erase=1.0)]), np.arange(20_000)).erase[:, 0]
    assert np.all((ours[:, :2] >= 0) & (ours[:, :2] + ours[:, 2:] <= 32) & (ours[:, 2:] < 32))
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-4
    assert ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-4


def test_nothing_is_erased_where_no_rectangle_fits() -> None:
    drawn = draw(ViewSpec([View(size=1, erase=1.0), View(size=32, erase=1.0, erase_scale=(1.0, 1.0))]), np.arange(50))
    assert not drawn.erase.any()


def test_views_that_share_draws_differ_in_their_settings_alone() -> None:
    small = replace(SIMCLR, size=16, turns=(3,))
    shared = draw(ViewSpec([SIMCLR, SIMCLR, small], draws=[0, 1, 0]), np.arange(60))
    for name in DRAWN:
        column = getattr(shared, name)
        assert np.array_equal(column[:, 1], getattr(draw(SPEC, np.arange(60)), name)[:, 1])
        if name != "turns":
            assert np.array_equal(column[:, 0], column[:, 2]), name
    rotations = draw(ViewSpec.rotations(SIMCLR), np.arange(60))
    assert np.all(rotations.turns == np.arange(4))
    assert np.all(rotations.crop == rotations.crop[:, :1])
    assert np.all(rotations.jitter_factor == rotations.jitter_factor[:, :1])


SIZES = [(1, 1), (2, 3), (7, 5), (1, 500), (32, 32), (256, 341), (375, 500)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "part",
    [
        Tiles(view=STILL),
        Tiles(view=STILL, grid=(2, 4), extent=(0.3, 1.0), jitter=0.3),
        Tiles(view=STILL, tile=1.0, extent=(1.0, 1.0)),
        PatchPair(view=STILL),
        PatchPair(view=STILL, scale=(0.9, 1.0), gap=0.0, jitter=0.5),
    ],
)
def test_arranged_boxes_stay_inside(part: Tiles | PatchPair, size: tuple[int, int]) -> None:
    crop = draw(ViewSpec([part]), np.arange(200), size).crop
    assert crop[..., :2].min() >= 0
    assert np.all(crop[..., 2] == crop[..., 3])
    assert crop[..., 2].min() >= 1
    assert np.all(crop[..., :2] + crop[..., 2:] <= size)


def test_jigsaws_tiles() -> None:
    """In an image of 256 x 341: cells of 75, tiles of 64 anywhere in their cell, in the order of the label."""
    n = 4000
    drawn = draw(ViewSpec([STILL, Tiles(view=STILL, permutations=50)]), np.arange(n), (256, 341))
    label, tiles = drawn.arrangement[:, 0], drawn.crop[:, 1:]
    assert chisquare(np.bincount(label, minlength=50)).pvalue > 1e-4
    assert np.all(tiles[..., 2:] == 64)
    orders = permutation_set(9, 50)
    placed = np.empty((n, 9, 2), np.int64)  # by place
    for sample in range(n):
        placed[sample, orders[label[sample]]] = tiles[sample, :, :2]
    in_cell = placed - 75 * np.stack(np.divmod(np.arange(9), 3), axis=1)
    corner_low, corner_high = in_cell.min(axis=1), in_cell.max(axis=1)
    assert (corner_high - corner_low).max() == 11  # 75 - 64: a tile never leaves its cell
    assert (corner_high - corner_low).mean() > 8
    gaps = np.diff(placed.reshape(n, 3, 3, 2)[..., 1], axis=2) - 64
    assert gaps.min() >= 0
    assert abs(gaps.mean() - 11) < 0.2  # the paper's average gap
    offsets = in_cell[:, :, 0] - in_cell[:, :1, 0]
    assert abs(np.corrcoef(offsets[:, 1], offsets[:, 2] - offsets[:, 1])[0, 1]) < 0.9


def test_tiles_without_jitter_lie_in_the_middle_of_their_cells() -> None:
    spec = ViewSpec([Tiles(view=STILL, grid=(2, 2), extent=(1.0, 1.0), tile=0.5, jitter=0.0, permutations=1)])
    drawn = draw(spec, np.arange(3), (100, 100))
    assert np.all(drawn.arrangement == 0)
    assert drawn.crop[0].tolist() == [[12, 12, 25, 25], [12, 62, 25, 25], [62, 12, 25, 25], [62, 62, 25, 25]]


def test_tiles_come_in_any_order_where_no_set_is_asked_for() -> None:
    part = Tiles(view=STILL, grid=(2, 2), extent=(1.0, 1.0), jitter=0.0, permutations=None)
    drawn = draw(ViewSpec([part]), np.arange(6000), (100, 100))
    assert chisquare(np.bincount(drawn.arrangement[:, 0], minlength=24)).pvalue > 1e-4
    assert part.orders.shape == (24, 4)
    corners = drawn.crop[..., :2] // 50  # row and column of the cell
    assert np.array_equal(2 * corners[..., 0] + corners[..., 1], part.orders[drawn.arrangement[:, 0]])


def test_patch_pairs() -> None:
    """Neighbours lie where their label says, a gap away, give or take both patches' jitter."""
    n = 8000
    drawn = draw(ViewSpec([PatchPair(view=STILL, scale=(0.2, 0.2))]), np.arange(n), (480, 600))
    assert np.all(drawn.crop[..., 2:] == 96)
    label = drawn.arrangement[:, 0]
    assert chisquare(np.bincount(label, minlength=8)).pvalue > 1e-4
    around = np.array([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)])
    stray = drawn.crop[:, 1, :2] - drawn.crop[:, 0, :2] - around[label] * (96 + 48)
    assert stray.min() == -14
    assert stray.max() == 14
    assert abs(stray.mean()) < 0.2
    # The first patch is not always in the middle of the image.
    assert np.ptp(drawn.crop[label == 0, 0, 0]) > 480 - 96 - 48 - 96 - 20


def test_arranged_views_depend_on_their_own_number_alone() -> None:
    pair = PatchPair(view=STILL)
    alone = draw(ViewSpec([STILL, pair]), np.arange(40))
    followed = draw(ViewSpec([STILL, pair, pair, Tiles(view=STILL)]), np.arange(40))
    assert np.array_equal(alone.crop, followed.crop[:, :3])
    assert followed.arrangement.shape == (40, 3)
    assert np.array_equal(alone.arrangement[:, 0], followed.arrangement[:, 0])
    assert not np.array_equal(followed.crop[:, 1:3], followed.crop[:, 3:5])


def test_tiles_that_share_draws_are_the_same_puzzle() -> None:
    small, large = (Tiles(view=replace(STILL, size=size), grid=(2, 2), permutations=9) for size in (8, 16))
    shared = draw(ViewSpec([small, large], draws=[0] * 8), np.arange(40))
    assert np.array_equal(shared.crop[:, :4], shared.crop[:, 4:])
    assert np.array_equal(shared.arrangement[:, 0], shared.arrangement[:, 1])


def test_tiles_are_alike_in_colour_where_asked() -> None:
    tile = replace(SIMCLR, flip=0.0)
    for alike in (True, False):
        drawn = draw(ViewSpec([Tiles(view=tile, grid=(2, 2), alike=alike, permutations=2)]), np.arange(40))
        assert np.all(drawn.jitter_factor == drawn.jitter_factor[:, :1]) == alike
        assert np.all(drawn.grayscale == drawn.grayscale[:, :1]) == alike


def test_describe_names_what_applies() -> None:
    words = draw(ViewSpec([View(size=32, flip=1.0, blur=1.0)]), np.arange(1)).describe(0, 0)
    assert set(words) == {"crop", "flip", "blur"}
    view = View(size=32, flip=0.0, turns=(3,), project=1.0, drop_channels=1.0, erase=1.0)
    drawn = draw(ViewSpec([view]), np.arange(1))
    words = drawn.describe(0, 0)
    assert set(words) == {"crop", "turned", "projection", "only", "erase"}
    assert words["turned"] == "270 degrees"
    assert words["only"] == ("red", "green", "blue")[drawn.kept[0, 0]]
    assert words["erase"] == tuple(drawn.erase[0, 0])


def test_columns_are_the_records_fields_in_place() -> None:
    drawn = draw(SPEC, np.arange(5))
    drawn.crop[3, 1] = 7, 8, 9, 10
    assert drawn.draws[3, 1]["crop"].tolist() == [7, 8, 9, 10]
    second = drawn.view(1)
    assert np.shares_memory(second.draws, drawn.draws)
    assert second.crop.shape == (5, 1, 4)
    other = drawn.with_crops(np.zeros((5, 2, 4), np.int32))
    assert not other.crop.any()
    assert drawn.crop[3, 1, 3] == 10
    assert np.array_equal(other.flip, drawn.flip)
    assert_same(pickle.loads(pickle.dumps(drawn)), drawn)  # as engines in other processes get it
    with pytest.raises(AttributeError, match="'Plan' object has no attribute 'shear'"):
        _ = drawn.shear


def test_the_order_moves_no_draw() -> None:
    view = replace(EVERYTHING, order=EVERYTHING.order[::-1])
    assert_same(draw(ViewSpec([view]), np.arange(40)), draw(ViewSpec([EVERYTHING]), np.arange(40)))
