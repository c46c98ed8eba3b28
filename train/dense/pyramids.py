"""Pyramids of feature maps of a method's backbone, as torchvision's detectors want them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from headrace.models.parts.feature_maps import without_tail
from headrace.models.parts.rope_vit import RopeEncoderPredictor
from headrace.train.errors import RunError

WIDTH = 256
STAGES = 4


class Pyramid(nn.Module):
    """Four maps and one more, each of half the resolution of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = WIDTH


class StagePyramid(Pyramid):
    """The last four stages of a convolutional network under a feature pyramid (arXiv 1612.03144)."""

    def __init__(self, front: nn.Module, network: Any, widths: list[int]) -> None:
        super().__init__()
        self.front, self.network = front, network
        self.pyramid = FeaturePyramidNetwork(widths, WIDTH, extra_blocks=LastLevelMaxPool())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        stages = self.network.forward_intermediates(
            self.front(images), indices=STAGES, intermediates_only=True, output_fmt="NCHW"
        )
        levels: dict[str, Tensor] = self.pyramid(OrderedDict((str(level), each) for level, each in enumerate(stages)))
        return levels


class SimplePyramid(Pyramid):
    """The last map of a ViT, enlarged and shrunk: 4, 2, 1 and 1/2 times its resolution.

    Source: arXiv 2203.16527; detectron2 at 02b5c4e2, modeling/backbone/vit.py, SimpleFeaturePyramid. There blocks look
    at windows, but for four; here all look at the whole picture.
    """

    def __init__(self, front: nn.Module, network: Any, width: int) -> None:
        super().__init__()
        self.front, self.network = front, network
        half, quarter = width // 2, width // 4
        scales: list[tuple[nn.Module, int]] = [
            (
                nn.Sequential(
                    nn.ConvTranspose2d(width, half, 2, stride=2),
                    LayerNorm2d(half),
                    nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, stride=2),
                ),
                quarter,
            ),
            (nn.ConvTranspose2d(width, half, 2, stride=2), half),
            (nn.Identity(), width),
            (nn.MaxPool2d(2), width),
        ]
        self.scales = nn.ModuleList(
            nn.Sequential(
                scale,
                nn.Conv2d(channels, WIDTH, 1, bias=False),
                LayerNorm2d(WIDTH),
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
                LayerNorm2d(WIDTH),
            )
            for scale, channels in scales
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        (cells,) = self.network.forward_intermediates(
            self.front(images), indices=1, norm=True, intermediates_only=True, output_fmt="NCHW"
        )
        levels = OrderedDict((str(level), scale(cells)) for level, scale in enumerate(self.scales))
        levels["pool"] = F.max_pool2d(levels[str(len(self.scales) - 1)], 1, stride=2)
        return levels


def patch_side(backbone: nn.Module) -> int | None:
    """Pixels of a side of a ViT's patch; None for a convolutional network.

    Raises:
        RunError: in one line, for a network of neither kind.
    """
    try:
        network = without_tail(backbone)[1]
    except ValueError as error:
        raise RunError(f"detection: {error}") from None
    if isinstance(network, RopeEncoderPredictor):
        raise RunError("detection: a RopeEncoderPredictor takes pictures of one size only")
    if hasattr(network, "set_input_size") and hasattr(network, "blocks"):
        return int(network.patch_embed.patch_size[0])
    if not hasattr(network, "feature_info") or len(network.feature_info) < STAGES:
        raise RunError(f"detection: a {type(network).__name__} has no {STAGES} stages and is no ViT")
    return None


def build_pyramid(backbone: nn.Module, size: int) -> Pyramid:
    """The pyramid of a backbone, which becomes part of it: a ViT's for square pictures of `size` pixels, that of a
    convolutional network for any. All of it is trained, also what the backbone kept fixed."""
    front, network = without_tail(backbone)
    if patch_side(backbone) is not None:
        network.set_input_size(img_size=(size, size))
        pyramid: Pyramid = SimplePyramid(front, network, int(network.embed_dim))
    else:
        with torch.no_grad():
            network.eval()
            probe = front(torch.zeros(1, 3, 64, 64, device=next(network.parameters()).device))
            stages = network.forward_intermediates(probe, indices=STAGES, intermediates_only=True)
        pyramid = StagePyramid(front, network, [each.shape[1] for each in stages])
    return pyramid.requires_grad_(True)
