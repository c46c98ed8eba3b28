"""Lab and its bins beside known colours, a slow loop and the authors' numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.models.parts.lab import annealed_mean, colour_bins, lab_to_rgb, rarity_weights, soft_bins, spread
from headrace.pipeline.batch import rgb_to_lab
from tests.pipeline.colour import lab_of


def test_known_colours_come_back() -> None:
    """White, mid-grey, and the primaries by Lindbloom's calculator."""
    lab = torch.tensor(
        [[100, 0, 0], [53.585, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86]]
    )
    rgb = torch.tensor([[255, 255, 255], [128, 128, 128], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    found = lab_to_rgb(lab.T[:, :, None])[:, :, 0].T * 255
    torch.testing.assert_close(found, rgb.float(), rtol=0, atol=0.6)


def test_it_undoes_what_turned_levels_into_lab() -> None:
    levels = torch.from_numpy(np.random.Generator(np.random.Philox(0)).integers(0, 256, (2, 3, 32, 32), np.uint8))
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(levels)) * 255, levels.float(), rtol=0, atol=0.01)
    slow = torch.from_numpy(lab_of(levels.movedim(1, -1).numpy())).movedim(-1, 1)
    torch.testing.assert_close(lab_to_rgb(slow) * 255, levels.float(), rtol=0, atol=0.01)


def test_colours_beyond_srgb_are_cut() -> None:
    found = lab_to_rgb(torch.tensor([50.0, -110.0, 110.0]).view(3, 1, 1))
    assert found.isfinite().all()
    assert found.min() == 0
    assert found.max() <= 1


def test_the_bins_are_the_authors_313() -> None:
    bins = colour_bins()
    assert bins.shape == (313, 2)
    assert len({tuple(each) for each in bins.tolist()}) == 313
    assert (bins % 10 == 0).all()
    assert (bins.amin(dim=0).tolist(), bins.amax(dim=0).tolist()) == ([-90, -110], [100, 100])
    of_a = {a: sorted(b for x, b in bins.tolist() if x == a) for a in bins[:, 0].unique().tolist()}
    counts = [5, 8, 10, 12, 14, 15, 16, 16, 17, 18, 18, 18, 19, 20, 19, 20, 20, 19, 19, 10]
    assert [len(found) for found in of_a.values()] == counts
    for found in of_a.values():  # no gaps
        assert found == list(range(int(found[0]), int(found[-1]) + 1, 10))
    assert bins[0].tolist() == [-90, 50]
    assert bins[-1].tolist() == [100, 0]
    # Both greys and their neighbours are among them; the outline is not that of sRGB, which has 262 bins.
    assert [0, 0] in bins.tolist()
    steps = torch.arange(0, 256, 5, dtype=torch.uint8)
    gamut = rgb_to_lab(torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")).flatten(2))[1:]
    rounded = {tuple(each) for each in (gamut.flatten(1).T / 10).round().mul(10).tolist()}
    assert len(rounded) < 280


def test_soft_targets_add_up_to_one_over_ten_bins_as_a_slow_loop_has_them() -> None:
    bins = colour_bins()
    ab = 60 * torch.randn(6, 7, 2, generator=torch.Generator().manual_seed(0))
    soft = soft_bins(ab, bins, neighbours=10, deviation=5.0)
    whole = spread(soft, 313)
    torch.testing.assert_close(whole.sum(dim=-1), torch.ones(6, 7))
    assert ((whole > 0).sum(dim=-1) <= 10).all()
    for y in range(6):
        for x in range(7):
            distance = (bins.double() - ab[y, x].double()).norm(dim=1)
            nearest = distance.argsort()[:10]
            share = torch.exp(-(distance[nearest] ** 2) / (2 * 5**2))
            expected = torch.zeros(313, dtype=torch.float64)
            expected[nearest] = share / share.sum()
            torch.testing.assert_close(whole[y, x].double(), expected, rtol=1e-3, atol=1e-5)
            assert soft.nearest[y, x, 0] == distance.argmin()
    on_a_bin = soft_bins(bins[:, :], bins, neighbours=10, deviation=5.0)
    assert torch.equal(on_a_bin.nearest[:, 0], torch.arange(313))


def test_rare_colours_weigh_more_and_the_mean_weight_is_one() -> None:
    prior = torch.tensor([0.7, 0.2, 0.1, 0.0])
    weights = rarity_weights(prior, uniform=0.5, power=1.0)
    assert (prior * weights).sum().item() == pytest.approx(1)
    mixed = 0.5 * prior[:3] + 0.5 / 3  # the uniform part is of bins that occur
    torch.testing.assert_close(weights[:3] / weights[0], mixed[0] / mixed)
    assert weights[3] == weights[2]
    torch.testing.assert_close(rarity_weights(prior, uniform=0.5, power=0.0), torch.ones(4))
    torch.testing.assert_close(rarity_weights(prior, uniform=1.0, power=1.0), torch.ones(4))
    torch.testing.assert_close(rarity_weights(prior[:3], uniform=0.0, power=1.0), 1 / (3 * prior[:3]))


def test_the_annealed_mean_is_the_mean_at_one_and_the_mode_near_zero() -> None:
    bins = colour_bins()
    logits = 3 * torch.randn(2, 313, 3, 4, generator=torch.Generator().manual_seed(0))
    mean = (logits.softmax(dim=1)[:, :, None] * bins[None, :, :, None, None]).sum(dim=1)
    torch.testing.assert_close(annealed_mean(logits, bins, 1.0), mean, rtol=1e-4, atol=1e-3)
    mode = bins[logits.argmax(dim=1)].movedim(-1, 1)
    torch.testing.assert_close(annealed_mean(logits, bins, 1e-4), mode, rtol=0, atol=1e-2)
    between = annealed_mean(logits, bins, 0.38)
    torch.testing.assert_close(between, annealed_mean(logits * 2.606, bins, 0.99028), rtol=1e-2, atol=1e-1)
