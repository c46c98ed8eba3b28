"""The loss of time-contrastive networks against a slow loop, the authors' code and known values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from headrace.models.losses import time_contrastive_loss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def line(videos: int, frames: int) -> Tensor:
    return torch.arange(frames).expand(videos, -1)


def slow(embeddings: Tensor, times: Tensor, near: int, far: int, margin: float) -> float:
    of_videos = []
    for z, t in zip(embeddings.tolist(), times.tolist(), strict=True):
        costs = []
        for a in range(len(t)):
            distance = [sum((x - y) ** 2 for x, y in zip(z[a], other, strict=True)) for other in z]
            negatives = [distance[n] for n in range(len(t)) if abs(t[n] - t[a]) > far]
            for p in range(len(t)):
                if p == a or abs(t[p] - t[a]) > near:
                    continue
                farther = [d for d in negatives if d > distance[p]]
                negative = min(farther) if farther else max(negatives, default=0.0)
                costs.append(max(0.0, margin + distance[p] - negative))
        of_videos.append(sum(costs) / len(costs))
    return sum(of_videos) / len(of_videos)


@pytest.mark.parametrize("frames", [8, 5])
def test_it_is_the_slow_loop(frames: int) -> None:
    """Of eight frames every one has negatives, of five the middle one has none."""
    z, times = 0.5 * draw(3, frames, 4), line(3, frames) * 2
    for margin in (0.2, 1.0, 5.0):
        found = time_contrastive_loss(z, times, 2, 5, margin)
        assert found.dtype == torch.float64
        assert found.item() == pytest.approx(slow(z, times, 2, 5, margin), rel=1e-12)


@pytest.mark.parametrize(
    ("frames", "near", "far", "margin", "expected"),
    [
        (10, 2, 6, 0.2, 0.1321265651573591),
        (10, 2, 6, 2.0, 1.8231491456860125),
        (7, 4, 5, 1.0, 0.9497563173882746),
        (5, 2, 5, 1.0, 1.2129139219520755),  # the frame in the middle has no negative
    ],
)
def test_it_is_what_the_authors_code_gives(frames: int, near: int, far: int, margin: float, expected: float) -> None:
    """singleview_tcn_loss of tensorflow/models at ebafe28, run with numpy's functions in the place of TensorFlow's."""
    t = torch.arange(frames)
    z = (t[:, None].double() * torch.arange(1.0, 4.0, dtype=torch.float64)).sin() / 2
    found = time_contrastive_loss(z[None], 2 * t[None], near, far, margin)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_gradients_are_those_of_differences() -> None:
    z = (0.5 * draw(2, 6, 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: time_contrastive_loss(x, line(2, 6), 1, 3, 0.7), (z,))


def test_equal_embeddings_cost_the_margin() -> None:
    same = draw(1, 1, 4).expand(2, 9, -1)
    assert time_contrastive_loss(same, line(2, 9), 2, 3, 0.2).item() == pytest.approx(0.2, abs=1e-12)


def test_one_positive_and_one_far_negative() -> None:
    """Anchor 0 and its positive 1, and 6, which is far from both and has no positive."""
    z = torch.tensor([[[0.0], [0.3], [1.0]]], dtype=torch.float64)
    times = torch.tensor([[0, 1, 6]])
    near = 0.3**2
    expected = (max(0.0, 2 + near - 1.0) + max(0.0, 2 + near - 0.7**2)) / 2
    assert time_contrastive_loss(z, times, 1, 2, 2.0).item() == pytest.approx(expected, rel=1e-12)
    assert time_contrastive_loss(z, times, 1, 2, 0.2).item() == 0.0


def test_frames_between_the_radii_take_no_part() -> None:
    """No negative is nearer in time than the radius says."""
    z, times = draw(1, 7, 3), torch.tensor([[0, 1, 3, 3, 4, 9, 10]])
    found = time_contrastive_loss(z, times, 1, 4, 1.0)
    moved = z.clone()
    moved[:, 2:4] += 100.0  # 3 is within 4 of 0, 1 and 4, and more than 4 from 9 and 10
    slow_found = slow(moved, times, 1, 4, 1.0)
    assert time_contrastive_loss(moved, times, 1, 4, 1.0).item() == pytest.approx(slow_found, rel=1e-9)
    alone, early = z[:, :2], times[:, :2]
    assert time_contrastive_loss(alone, early, 1, 4, 1.0).item() == pytest.approx(
        1.0 + (z[0, 0] - z[0, 1]).square().sum().item(), rel=1e-12
    )
    assert found.isfinite()


def test_it_refuses_what_makes_no_triplets() -> None:
    with pytest.raises(ValueError, match="needs 0 < 3 < 3"):
        time_contrastive_loss(draw(1, 5, 2), line(1, 5), 3, 3, 0.2)
    with pytest.raises(ValueError, match=r"needs \(N, T, D\) and \(N, T\)"):
        time_contrastive_loss(draw(5, 2), line(1, 5), 1, 3, 0.2)
    assert math.isfinite(time_contrastive_loss(draw(1, 5, 2), line(1, 5), 1, 3, 0.2).item())
