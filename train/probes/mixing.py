"""Mixup and CutMix of a batch with itself, reversed, as fine-tuning has them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How much of images is mixed with the images of the same batch in reverse order."""

    mixup: float = 0.0
    """Both parameters of the beta distribution of an image's weight; 0 turns mixup off."""
    cutmix: float = 0.0
    """The same of the share of an image that stays beside a rectangle of the other; 0 turns CutMix off."""
    switch: float = 0.5
    """Share of batches that take CutMix where both are on."""

    def __post_init__(self) -> None:
        if self.mixup < 0 or self.cutmix < 0 or not 0 <= self.switch <= 1:
            raise ValueError("mixup and cutmix must not be negative, and switch from 0 to 1")

    def apply(self, images: Tensor, targets: Tensor, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Mixed images (B, C, H, W) and targets (B, K); what they were where both are off.

        Args:
            targets: rows that add up to 1.
            key: non-negative integers; the draws are a function of them.

        Source: arXiv 1710.09412 and 1905.04899, as timm's data/mixup.py does it for whole batches: one weight a batch,
        which of a rectangle that the border cuts is the share that is left.
        """
        if not self.mixup and not self.cutmix:
            return images, targets
        generator = np.random.default_rng(key)
        cut = bool(self.cutmix) and (not self.mixup or generator.random() < self.switch)
        alpha = self.cutmix if cut else self.mixup
        weight = float(generator.beta(alpha, alpha))
        if cut:
            height, width = images.shape[-2:]
            rows, columns = _rectangle(height, width, 1 - weight, generator)
            images = images.clone()
            images[..., rows, columns] = images.flip(0)[..., rows, columns]
            weight = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        else:
            images = torch.lerp(images.flip(0), images, weight)
        return images, torch.lerp(targets.flip(0), targets, weight)


def _rectangle(height: int, width: int, share: float, generator: np.random.Generator) -> tuple[slice, slice]:
    """Of that share of the area and the picture's proportions, around any pixel, cut off at the borders."""
    spans = []
    for side in (height, width):
        length = int(side * math.sqrt(share))
        first = int(generator.integers(side)) - length // 2
        spans.append(slice(max(0, first), min(side, first + length)))
    return spans[0], spans[1]
