"""Cameras: what a source shows where the target's camera is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.cameras import Intrinsics, Motion, moved, rotation
from tests.models.written_weights import waves

H, W = 8, 12


def camera(fx: float = 9.0, fy: float = 8.0, cx: float = W / 2, cy: float = H / 2, number: int = 2) -> Intrinsics:
    return Intrinsics(*(torch.full((number,), value, dtype=torch.float64) for value in (fx, fy, cx, cy)))


def still() -> Motion:
    return Motion(torch.eye(3).double().expand(2, 3, 3), torch.zeros(2, 3).double())


def shift(x: float, y: float = 0.0, z: float = 0.0) -> Motion:
    return Motion(still().rotation, torch.tensor([[x, y, z]] * 2).double())


def test_without_motion_any_depth_shows_the_source() -> None:
    images, depth = waves(2, 3, H, W), waves(2, 1, H, W) + 2.0
    for outside in ("border", "zeros"):
        torch.testing.assert_close(moved(images, depth, camera(), still(), outside), images, rtol=0, atol=1e-5)  # type: ignore[arg-type]


def test_a_shift_moves_pixels_by_focal_length_times_shift_over_depth() -> None:
    images = waves(2, 3, H, W)
    found = moved(images, torch.full((2, 1, H, W), 3.0).double(), camera(), shift(2 / 3), "zeros")
    torch.testing.assert_close(found[:, :, :, : W - 2], images[:, :, :, 2:], rtol=0, atol=1e-5)
    assert found[:, :, :, W - 1].abs().max() == 0, "beyond the border"
    found = moved(images, torch.full((2, 1, H, W), 4.0).double(), camera(), shift(0.0, 0.5), "border")
    torch.testing.assert_close(found[:, :, : H - 1], images[:, :, 1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[:, :, H - 1], images[:, :, H - 1], rtol=0, atol=1e-5)


def test_depth_and_shift_have_one_scale() -> None:
    images, depth = waves(2, 3, H, W), waves(2, 1, H, W) + 2.0
    found = [moved(images, k * depth, camera(), shift(0.3 * k, -0.1 * k, 0.2 * k), "border") for k in (1.0, 5.0)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)


def test_the_authors_code_moves_alike() -> None:
    """BackprojectDepth, Project3D and `grid_sample` with `align_corners` of monodepth2 at b676244, whose principal
    point counts from the first pixel's middle."""
    turn = rotation(waves(2, 1, 3)[:, 0] * 0.3)
    motion = Motion(turn, waves(2, 1, 6)[:, 0, 3:] * 0.2).inverted()
    depth = 1 / (2 * (waves(2, 1, H, W) * 0.4 + 0.5))
    found = moved(waves(2, 3, H, W) * 0.5 + 0.5, depth, camera(cx=6.5, cy=4.5), motion, "border")
    assert found.mean().item() == pytest.approx(0.5049375282295863, rel=1e-5)
    assert found.std().item() == pytest.approx(0.3068110203053813, rel=1e-5)


def test_turns_are_those_of_the_matrix_exponential() -> None:
    turns = waves(4, 3)
    x, y, z = turns.unbind(1)
    none = torch.zeros_like(x)
    cross = torch.stack([none, -z, y, z, none, -x, -y, x, none], dim=1).view(4, 3, 3)
    torch.testing.assert_close(rotation(turns), torch.linalg.matrix_exp(cross), rtol=0, atol=1e-6)
    assert torch.equal(rotation(torch.zeros(1, 3)), torch.eye(3)[None])


def test_the_way_back_undoes_the_way() -> None:
    there = Motion(rotation(waves(2, 3)), waves(2, 3) + 1.0)
    back, point = there.inverted(), torch.tensor([0.3, -2.0, 4.0]).double()
    for n in range(2):
        went = there.rotation[n] @ point + there.translation[n]
        torch.testing.assert_close(back.rotation[n] @ went + back.translation[n], point, rtol=0, atol=1e-6)


def seen_by(camera: Intrinsics, point: Tensor) -> Tensor:
    """(x, y) in pixels from the corner."""
    x, y, z = point
    return torch.stack([camera.focal_x[0] * x / z + camera.centre_x[0], camera.focal_y[0] * y / z + camera.centre_y[0]])


def test_crops_and_flips_take_the_camera_with_them() -> None:
    whole = camera(fx=50.0, fy=40.0, cx=33.0, cy=21.0, number=1)
    point = torch.tensor([0.2, -0.1, 2.0]).double()
    x, y = seen_by(whole, point)
    crop = torch.tensor([[4, 10, 20, 40]], dtype=torch.int32)  # top, left, height, width
    x, y = (x - 10) * 16 / 40, (y - 4) * 16 / 20
    plain = whole.cropped(crop, torch.tensor([False]), 16)
    torch.testing.assert_close(seen_by(plain, point), torch.stack([x, y]))
    mirrored = whole.cropped(crop, torch.tensor([True]), 16)
    torch.testing.assert_close(seen_by(mirrored, point * torch.tensor([-1.0, 1.0, 1.0])), torch.stack([16 - x, y]))
    torch.testing.assert_close(seen_by(plain.scaled(0.5), point), torch.stack([x, y]) / 2)


def test_without_aligned_corners_it_would_not_hold() -> None:
    """What today's default of `grid_sample` makes of the authors' places."""
    row, column = torch.meshgrid(torch.arange(H).double(), torch.arange(W).double(), indexing="ij")
    places = torch.stack([2 * column / (W - 1) - 1, 2 * row / (H - 1) - 1], dim=2).expand(2, -1, -1, -1)
    images = waves(2, 3, H, W)
    assert (F.grid_sample(images, places, align_corners=False) - images).abs().max() > 0.05
