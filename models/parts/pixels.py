"""Pixels of what networks see: their levels, and those in the middle."""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.pipeline import Normalize


def can_undo(normalize: Normalize) -> bool:
    """Whether `unit_pixels` knows the way back: numbers of Lab, and of views that were normalised by themselves, have
    none or a longer one."""
    return normalize.space == "rgb" and not normalize.per_view


def unit_pixels(images: Tensor, normalize: Normalize) -> Tensor:
    """Normalised RGB (B, 3, ...) as levels from 0 to 1, not clamped."""
    channels = zip(images.unbind(1), normalize.mean, normalize.std, strict=True)
    return torch.stack([channel * std + mean for channel, mean, std in channels], dim=1)


def middle(images: Tensor, side: int) -> Tensor:
    """The `side` x `side` pixels in the middle of images (B, C, H, W), which are no smaller, as torchvision's
    CenterCrop: for networks that are shown larger pictures than they take."""
    top, left = (round((length - side) / 2) for length in images.shape[-2:])
    return images[..., top : top + side, left : left + side]
