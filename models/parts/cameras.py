"""Pinhole cameras: what one sees, out of what another saw, by depth and motion.

Letters: B pictures, H and W rows and columns. Places are (x, y) from the upper left corner, so that the first pixel's
middle is at (0.5, 0.5).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.parts.precision import full_precision


class Intrinsics(NamedTuple):
    """Focal lengths and principal points in pixels, float (B,) each."""

    focal_x: Tensor
    focal_y: Tensor
    centre_x: Tensor
    centre_y: Tensor

    def cropped(self, crop: Tensor, flip: Tensor, size: int) -> Intrinsics:
        """Of squares of `size` pixels that crops, int (B, 4) of top, left, height and width, were resized to, and that
        may be mirrored, bool (B,)."""
        top, left, height, width = crop.to(self.focal_x).unbind(1)
        across, down = size / width, size / height
        centre_x = (self.centre_x - left) * across
        return Intrinsics(
            self.focal_x * across,
            self.focal_y * down,
            torch.where(flip, size - centre_x, centre_x),
            (self.centre_y - top) * down,
        )

    def scaled(self, factor: float) -> Intrinsics:
        """Of pictures of other resolution."""
        return Intrinsics(*(factor * each for each in self))


@full_precision
def rotation(axis_angle: Tensor) -> Tensor:
    """(B, 3, 3) of turns (B, 3) by their length in radians around their direction, by Rodrigues' formula.

    Source: nianticlabs/monodepth2 at b676244, layers.py, rot_from_axisangle.
    """
    angle = axis_angle.norm(dim=1, keepdim=True)
    x, y, z = (axis_angle / (angle + 1e-7)).unbind(1)
    none = torch.zeros_like(x)
    cross = torch.stack([none, -z, y, z, none, -x, -y, x, none], dim=1).unflatten(1, (3, 3))
    axis = torch.stack([x, y, z], dim=1)
    outer = axis[:, :, None] * axis[:, None, :]
    cosine, sine = angle.cos()[:, :, None], angle.sin()[:, :, None]
    one = torch.eye(3, dtype=axis.dtype, device=axis.device)
    return cosine * one + (1 - cosine) * outer + sine * cross


class Motion(NamedTuple):
    """From a camera's coordinates to another's: `rotation @ point + translation`."""

    rotation: Tensor
    """(B, 3, 3)."""
    translation: Tensor
    """(B, 3)."""

    def inverted(self) -> Motion:
        """The way back."""
        back = self.rotation.transpose(1, 2)
        # No matrix product, which autocast would round.
        return Motion(back, -(back * self.translation[:, None]).sum(dim=2))


def moved(
    images: Tensor, depth: Tensor, camera: Intrinsics, motion: Motion, outside: Literal["border", "zeros"]
) -> Tensor:
    """(B, C, H, W): what the target's camera would see, in colours of the sources, between pixels bilinear.

    Args:
        images: (B, C, H, W), of the sources.
        depth: float32 or float64 (B, 1, H, W), of the target's pixels along its axis.
        camera: of both.
        motion: from the target's camera to the source's.
        outside: what is seen beyond the sources: "border", the nearest of their pixels, or "zeros".

    Source: nianticlabs/monodepth2 at b676244, layers.py, BackprojectDepth and Project3D, whose places count from the
    first pixel's middle. What is sampled lies between the middles of corner pixels, as with their torch, whose
    `grid_sample` had `align_corners`.
    """
    h, w = images.shape[2:]
    like: dict[str, Any] = {"dtype": depth.dtype, "device": depth.device}
    row, column = torch.arange(h, **like)[:, None] + 0.5, torch.arange(w, **like) + 0.5
    fx, fy, cx, cy = (each[:, None, None].to(depth) for each in camera)
    z = depth[:, 0]
    x, y = (column - cx) / fx * z, (row - cy) / fy * z
    turn, shift = motion.rotation.to(depth)[:, :, :, None, None], motion.translation.to(depth)[:, :, None, None]
    x, y, z = (turn[:, :, 0] * x[:, None] + turn[:, :, 1] * y[:, None] + turn[:, :, 2] * z[:, None] + shift).unbind(1)
    across, down = fx * x / (z + 1e-7) + cx - 0.5, fy * y / (z + 1e-7) + cy - 0.5
    places = torch.stack([2 * across / (w - 1) - 1, 2 * down / (h - 1) - 1], dim=3)
    return F.grid_sample(images.to(depth), places, mode="bilinear", padding_mode=outside, align_corners=True)
