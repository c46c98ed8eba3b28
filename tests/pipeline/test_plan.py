from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from headrace.pipeline import Plan, View, ViewSpec, plan

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


def draw(spec: ViewSpec, ids: np.ndarray, size: tuple[int, int] = (375, 500), seed: int = 3, epoch: int = 1) -> Plan:
    return plan(spec, seed, epoch, ids, np.tile(size, (len(ids), 1)))


def assert_same(a: Plan, b: Plan) -> None:
    for f in fields(Plan):
        assert np.array_equal(getattr(a, f.name), getattr(b, f.name)), f.name


def test_a_sample_gets_the_same_numbers_in_any_batch() -> None:
    whole = draw(SPEC, np.arange(100))
    some = draw(SPEC, np.array([90, 7, 41]))
    for row, sample in enumerate([90, 7, 41]):
        assert_same(some[row : row + 1], whole[sample : sample + 1])


def test_a_view_does_not_depend_on_the_views_after_it() -> None:
    alone = draw(ViewSpec([SIMCLR]), np.arange(50))
    first_of_two = draw(SPEC, np.arange(50))
    for f in fields(Plan):
        assert np.array_equal(getattr(alone, f.name)[:, 0], getattr(first_of_two, f.name)[:, 0]), f.name


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 2}])
def test_seeds_and_epochs_change_the_draws(change: dict[str, int]) -> None:
    a, b = draw(SPEC, np.arange(200)), draw(SPEC, np.arange(200), **change)
    assert np.mean(np.all(a.crop == b.crop, axis=-1)) < 0.01


def test_views_of_a_sample_differ() -> None:
    drawn = draw(SPEC, np.arange(500))
    assert np.mean(np.all(drawn.crop[:, 0] == drawn.crop[:, 1], axis=-1)) < 0.01
    assert abs(np.corrcoef(drawn.jitter_factor[:, 0, 0], drawn.jitter_factor[:, 1, 0])[0, 1]) < 0.15


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("operation", ["flip", "grayscale", "solarize", "blur", "jitter"])
def test_operations_apply_as_often_as_asked(operation: str, probability: float) -> None:
    n = 20_000
    drawn = draw(ViewSpec([replace(SIMCLR, **{operation: probability})]), np.arange(n))
    applied = {
        "flip": drawn.flip,
        "grayscale": drawn.grayscale,
        "solarize": drawn.solarize,
        "blur": drawn.blur_sigma > 0,
        "jitter": (drawn.jitter_order >= 0).any(axis=-1),
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


def test_describe_names_what_applies() -> None:
    words = draw(ViewSpec([View(size=32, flip=1.0, blur=1.0)]), np.arange(1)).describe(0, 0)
    assert set(words) == {"crop", "flip", "blur"}
