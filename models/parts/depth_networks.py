"""Depth of a picture, and the motion between two: monodepth2's networks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.resnet import ResNet
from torch import Tensor, nn

SCALES = 4
"""At which disparities are predicted: the picture's own resolution, a half, a quarter and an eighth of it."""


def resnet_pyramid(resnet: Any, images: Tensor) -> list[Tensor]:
    """Maps of a ResNet of timm's, (B, C, H / 2, W / 2) behind its stem, and behind each of its four stages, the last
    (B, C, H / 32, W / 32)."""
    maps = [resnet.act1(resnet.bn1(resnet.conv1(images)))]
    maps.append(resnet.layer1(resnet.maxpool(maps[0])))
    for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
        maps.append(stage(maps[-1]))
    return maps


def pyramid_channels(resnet: Any) -> list[int]:
    """C of each of `resnet_pyramid`.

    Raises:
        ValueError: if it is no such network, or its maps are no halves of each other.
    """
    if not isinstance(resnet, ResNet):
        raise ValueError(f"depth needs a ResNet of timm's, a {type(resnet).__name__} is not one")
    if isinstance(resnet.maxpool, nn.Identity):
        raise ValueError("depth needs a ResNet with its standard stem, which halves a picture twice")
    maps: Any = resnet.feature_info
    return [int(each["num_chs"]) for each in maps]


class _Convolution(nn.Module):
    """3 x 3, the border reflected."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect"))


class DepthDecoder(nn.Module):
    """Disparities in (0, 1) out of the maps of a ResNet, (B, C, H / 2, W / 2) to (B, C, H / 32, W / 32): at each step
    twice as large, beside the encoder's map of that size.

    Args:
        channels: of the five maps.
        widths: of the decoder at the picture's resolution, a half of it, and so on: five numbers.

    Source: arXiv 1806.01260; nianticlabs/monodepth2 at b676244, networks/depth_decoder.py.
    """

    def __init__(self, channels: list[int], widths: tuple[int, ...]) -> None:
        super().__init__()
        steps = range(len(widths) - 1, -1, -1)
        self.before = nn.ModuleDict(
            {str(i): _Convolution(widths[i + 1] if i + 1 < len(widths) else channels[-1], widths[i]) for i in steps}
        )
        self.behind = nn.ModuleDict(
            {str(i): _Convolution(widths[i] + (channels[i - 1] if i else 0), widths[i]) for i in steps}
        )
        self.disparity = nn.ModuleDict({str(i): _Convolution(widths[i], 1) for i in range(SCALES)})

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """(B, 1, H / 2 ** s, W / 2 ** s) for each scale s, the largest first."""
        x, found = maps[-1], []
        for i in range(len(self.before) - 1, -1, -1):
            x = F.interpolate(F.elu(self.before[str(i)](x)), scale_factor=2, mode="nearest")
            x = torch.cat([x, maps[i - 1]], dim=1) if i else x
            x = F.elu(self.behind[str(i)](x))
            if i < SCALES:
                found.append(self.disparity[str(i)](x).sigmoid())
        return found[::-1]


class PoseDecoder(nn.Module):
    """Turn and shift of a camera, (B, 6), out of the last map of a network that saw both pictures.

    Args:
        channels: of that map.
        width: of the layers.
        poses: that are predicted, of which the first counts: 2 in the authors' code.

    Source: nianticlabs/monodepth2 at b676244, networks/pose_decoder.py.
    """

    def __init__(self, channels: int, *, width: int, poses: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, width, 1)
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 6 * poses, 1),
        )

    def forward(self, last: Tensor) -> Tensor:
        """0.01 times the mean over the picture; three numbers of `headrace.models.parts.cameras.rotation`, and three
        of the shift."""
        return 0.01 * self.layers(F.relu(self.squeeze(last))).mean(dim=(2, 3))[:, :6]


def depth_of(disparity: Tensor, nearest: float, farthest: float) -> Tensor:
    """From `farthest` where the disparity is 0 to `nearest` where it is 1, linear in 1 / depth."""
    return 1 / (1 / farthest + (1 / nearest - 1 / farthest) * disparity)
