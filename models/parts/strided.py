"""Convolutions that halve and double the side of pictures, as DCGAN has them (arXiv 1511.06434)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from headrace.models.checks import require

SLOPE = 0.2
"""Of the leaky ReLUs on the way down."""


def require_halves(config: Any, name: str, halvings: int) -> None:
    """ValueError that names the field unless its pixels can be halved so many times."""
    factor = 2**halvings
    side = getattr(config, name)
    require(side >= factor and side % factor == 0, config, name, f"be a multiple of {factor}, for {halvings} halvings")


def strided_encoder(channels: int, widths: Sequence[int], out: int, *, side: int, bias: bool) -> nn.Sequential:
    """(B, channels, side, side) to (B, out, 1, 1): convolutions of 4 x 4 with stride 2 to each of the widths, leaky
    ReLUs, batch norms but behind the first, and one convolution over all that is left.

    Args:
        side: a multiple of 2 to the number of widths.
        bias: of the first convolution and the last, behind which no norm stands.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1, bias=bias), nn.LeakyReLU(SLOPE, inplace=True)]
    for width, following in pairwise(widths):
        layers += [
            nn.Conv2d(width, following, 4, 2, 1, bias=False),
            nn.BatchNorm2d(following),
            nn.LeakyReLU(SLOPE, inplace=True),
        ]
    layers.append(nn.Conv2d(widths[-1], out, side // 2 ** len(widths), bias=bias))
    return nn.Sequential(*layers)


def strided_decoder(inputs: int, widths: Sequence[int], channels: int, *, side: int, bias: bool) -> nn.Sequential:
    """(B, inputs, 1, 1) to (B, channels, side, side): one transposed convolution over the smallest picture, those of
    4 x 4 with stride 2 to the other widths, batch norms and ReLUs, and one more without them.

    Args:
        side: a multiple of 2 to the number of widths.
        bias: of the last convolution, behind which no norm stands.
    """
    smallest = nn.ConvTranspose2d(inputs, widths[0], side // 2 ** len(widths), bias=False)
    layers: list[nn.Module] = [smallest, nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)]
    for width, following in pairwise(widths):
        layers += [
            nn.ConvTranspose2d(width, following, 4, 2, 1, bias=False),
            nn.BatchNorm2d(following),
            nn.ReLU(inplace=True),
        ]
    layers.append(nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1, bias=bias))
    return nn.Sequential(*layers)


def strided_initialization(*modules: nn.Module) -> None:
    """Convolutions from N(0, 0.02) without bias, gains of batch norms from N(1, 0.02), as pathak22/context-encoder at
    68abd11 draws them (train.lua)."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, mean=1.0, std=0.02)
                nn.init.zeros_(layer.bias)
