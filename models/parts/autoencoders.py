"""What autoencoders of pixels share: levels from 0 to 1 as vectors, and the layer whose weights are used both ways."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.pipeline import Normalize, View, ViewSpec
from headrace.pipeline.images.colour import LUMA


def whole_picture(size: int) -> View:
    """The largest centred square in levels from 0 to 1; nothing is drawn."""
    levels = Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return View(size=size, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, normalize=levels)


def whole_pictures(size: int) -> ViewSpec:
    """`whole_picture` alone."""
    return ViewSpec([whole_picture(size)])


class Levels(nn.Module):
    """RGB (B, 3, H, W) in levels from 0 to 1 as so many channels: 3 leaves them, 1 is their grey."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W)."""
        if self.channels == 3:
            return images
        red, green, blue = images.split(1, dim=1)
        total = sum(LUMA)  # so that white stays 1
        return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue) / total


class TiedLayer(nn.Module):
    """A logistic layer whose weights, transposed, are those of the way back: (B, ...) of as many numbers as there are
    inputs to (B, hidden).

    Weights are uniform within 4 sqrt(6 / (inputs + hidden)), biases 0.

    Source: lisa-lab/DeepLearningTutorials at 11c4651, code/dA.py.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        bound = 4 * math.sqrt(6 / (inputs + hidden))
        self.weight = nn.Parameter(torch.empty(hidden, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.bias_back = nn.Parameter(torch.zeros(inputs))

    def forward(self, x: Tensor) -> Tensor:
        """The hidden units, in (0, 1)."""
        return self.up(x).sigmoid()

    def up(self, x: Tensor) -> Tensor:
        """(B, hidden), in front of the logistic function."""
        return F.linear(x.flatten(1), self.weight, self.bias)

    def down(self, hidden: Tensor) -> Tensor:
        """(B, inputs), in front of the logistic function."""
        return F.linear(hidden, self.weight.T, self.bias_back)


def as_pictures(levels: Tensor) -> Tensor:
    """Levels (B, 1 or 3, H, W) as pictures for a report, float32 (B, 3, H, W) in [0, 1]."""
    return levels.float().clamp(0, 1).expand(-1, 3, -1, -1)
