"""How pictures are compared for depth: slow loops, and figures of monodepth2's code at b676244."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from headrace.models.losses.depth import (
    curvature,
    edge_aware_smoothness,
    least_error,
    photometric_error,
    structural_dissimilarity,
)
from tests.models.written_weights import waves

FIRST = waves(2, 3, 8, 12) * 0.5 + 0.5
SECOND = waves(2, 3, 12, 8).transpose(2, 3) * 0.5 + 0.5
DISPARITY = waves(2, 1, 8, 12) * 0.4 + 0.5


def reflected(place: int, length: int) -> int:
    """-1 is 1, and `length` is `length - 2`."""
    return length - 1 - abs(length - 1 - abs(place))


def test_similarity_is_that_of_a_slow_loop_and_of_the_authors() -> None:
    found = structural_dissimilarity(FIRST, SECOND)
    assert found.mean().item() == pytest.approx(0.4983528941845667, rel=1e-12)
    n, c = 1, 2
    for row, column in ((0, 0), (3, 11), (7, 5), (4, 4)):
        pairs = [
            (FIRST[n, c, reflected(row + i, 8), reflected(column + j, 12)].item(),
             SECOND[n, c, reflected(row + i, 8), reflected(column + j, 12)].item())
            for i in (-1, 0, 1) for j in (-1, 0, 1)
        ]  # fmt: skip
        mx, my = (sum(pair[k] for pair in pairs) / 9 for k in (0, 1))
        vx, vy = (sum(pair[k] ** 2 for pair in pairs) / 9 - (mx, my)[k] ** 2 for k in (0, 1))
        covariance = sum(x * y for x, y in pairs) / 9 - mx * my
        similar = (2 * mx * my + 1e-4) * (2 * covariance + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
        assert found[n, c, row, column].item() == pytest.approx(min(max((1 - similar) / 2, 0), 1), rel=1e-9)


def test_a_picture_has_no_error_against_itself() -> None:
    for similarity in (0.85, 0.0):
        assert photometric_error(FIRST, FIRST, similarity).abs().max() < 1e-12


def test_the_photometric_error_is_the_weighted_mean_over_channels() -> None:
    expected = 0.85 * structural_dissimilarity(FIRST, SECOND).mean(1) + 0.15 * (FIRST - SECOND).abs().mean(1)
    torch.testing.assert_close(photometric_error(FIRST, SECOND, 0.85), expected)
    assert torch.equal(photometric_error(FIRST, SECOND, 0.0), (FIRST - SECOND).abs().mean(1))


def test_each_pixel_takes_the_least_error_of_all_sources() -> None:
    moved, still = (each.square()[:, :2] + 0.1 for each in (FIRST, SECOND))
    torch.manual_seed(0)
    least, share = least_error(moved, still)
    total, won = 0.0, 0
    for n in range(2):
        for row in range(8):
            for column in range(12):
                errors = [*still[n, :, row, column].tolist(), *moved[n, :, row, column].tolist()]
                total += min(errors)
                won += errors.index(min(errors)) >= 2
    assert least.item() == pytest.approx(total / 192, abs=1e-5)
    assert share.item() == pytest.approx(won / 192, abs=0.02), "but for ties"
    assert 0.2 < share < 0.8


def test_where_nothing_moves_no_source_that_was_moved_wins() -> None:
    """A static camera: the auto-mask covers all, and depth gets no gradient."""
    still = photometric_error(FIRST, FIRST, 0.85)[:, None].expand(-1, 2, -1, -1)
    moved = photometric_error(FIRST.roll(1, dims=3), FIRST, 0.85)[:, None].expand(-1, 2, -1, -1).clone()
    moved.requires_grad_()
    least, share = least_error(moved, still)
    least.backward()
    assert share <= 0.01
    assert (moved.grad != 0).float().mean() <= 0.01  # type: ignore[union-attr]


def test_ties_are_broken_by_the_default_generator() -> None:
    same = torch.full((1, 2, 16, 16), 0.3)
    torch.manual_seed(3)
    first, share = least_error(same, same)
    torch.manual_seed(3)
    assert torch.equal(least_error(same, same)[0], first)
    assert not torch.equal(least_error(same, same)[0], first)
    assert 0.1 < share < 0.5, "each of two sources as it is lies above where its noise is positive"


def test_smoothness_is_that_of_a_slow_loop_and_of_the_authors() -> None:
    found = edge_aware_smoothness(DISPARITY, FIRST)
    assert found.item() == pytest.approx(0.6425361009652213, rel=1e-12)
    total = 0.0
    for axis, count in ((0, 7 * 12), (1, 8 * 11)):
        for n in range(2):
            normal = DISPARITY[n, 0] / (DISPARITY[n, 0].mean() + 1e-7)
            for row in range(8 - (axis == 0)):
                for column in range(12 - (axis == 1)):
                    there = (row + (axis == 0), column + (axis == 1))
                    edge = sum(abs(FIRST[n, c, row, column] - FIRST[n, c][there]).item() for c in range(3)) / 3
                    change = abs(normal[row, column] - normal[there]).item()
                    total += change * torch.tensor(-edge).exp().item() / (2 * count)
    assert found.item() == pytest.approx(total, rel=1e-6)
    torch.testing.assert_close(edge_aware_smoothness(3 * DISPARITY, FIRST), found, rtol=1e-6, atol=0)


def test_curvature_is_the_sum_of_four_means() -> None:
    d = DISPARITY[:, 0]
    columns, rows = d[:, :, 1:] - d[:, :, :-1], d[:, 1:] - d[:, :-1]
    expected = sum(
        each.abs().mean()
        for each in (
            columns[:, :, 1:] - columns[:, :, :-1], columns[:, 1:] - columns[:, :-1],
            rows[:, :, 1:] - rows[:, :, :-1], rows[:, 1:] - rows[:, :-1],
        )
    )  # fmt: skip
    torch.testing.assert_close(curvature(DISPARITY), expected)
    ramp = torch.arange(12.0).expand(1, 1, 8, 12)
    assert curvature(ramp) == 0


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: photometric_error(x, SECOND.to(x.dtype), 0.85).mean(),
        lambda x: edge_aware_smoothness(x[:, :1] + 0.1, SECOND.to(x.dtype)),
        lambda x: curvature(x[:, :1]),
    ],
)
def test_everything_is_in_float32_at_least(loss: Callable[[Tensor], Tensor]) -> None:
    assert loss(FIRST).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(FIRST.bfloat16()).dtype == torch.float32
