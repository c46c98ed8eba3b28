"""Backbones of clips: torchvision's residual networks by name, never downloaded, with narrow forms for small clips."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.video.resnet import (
    BasicBlock,
    BasicStem,
    Conv2Plus1D,
    Conv3DNoTemporal,
    Conv3DSimple,
    R2Plus1dStem,
    VideoResNet,
)

from headrace.models.checks import require

CONVOLUTIONS: dict[str, tuple[type[Any], ...]] = {
    "r3d_18": (Conv3DSimple,) * 4,
    "mc3_18": (Conv3DSimple, *(Conv3DNoTemporal,) * 3),
    "r2plus1d_18": (Conv2Plus1D,) * 4,
}
"""Of the four stages."""
STANDARD_WIDTH = 64


@dataclass(frozen=True, kw_only=True)
class ClipBackboneConfig:
    """Which network of torchvision's turns clips into features (arXiv 1711.11248)."""

    name: Literal["r3d_18", "mc3_18", "r2plus1d_18"] = "r3d_18"
    """r3d_18: kernels over time and space in all stages. mc3_18: in the first one, over space alone in the others.
    r2plus1d_18: over space, then over time."""
    layers: tuple[int, int, int, int] = (2, 2, 2, 2)
    """Residual blocks of each stage."""
    width: int = STANDARD_WIDTH
    """Channels of the first stage; each of the next has twice as many. D is eight times as many."""
    stem: Literal["standard", "small"] = "standard"
    """small: the first kernel covers 3 x 3 pixels instead of 7 x 7; its stride stays at 2."""
    feature_norm: bool = False
    """Batch norm without affine on the features: a narrow network's few features then all weigh alike in a k-NN's
    cosine."""

    def __post_init__(self) -> None:
        require(self.name in CONVOLUTIONS, self, "name", f"be one of {', '.join(CONVOLUTIONS)}")
        require(self.stem in ("standard", "small"), self, "stem", "be 'standard' or 'small'")
        require(len(self.layers) == 4 and min(self.layers) >= 1, self, "layers", "be four positive numbers")
        require(self.width >= 8, self, "width", "be at least 8")


def tiny_clip_resnet(
    name: Literal["r3d_18", "mc3_18", "r2plus1d_18"] = "r3d_18", *, width: int = 16
) -> ClipBackboneConfig:
    """One block a stage and 8 x `width` features, for demos on small clips."""
    return ClipBackboneConfig(name=name, layers=(1, 1, 1, 1), width=width, stem="small", feature_norm=True)


class ClipResNet(VideoResNet):
    """torchvision's network of any width, without its classifier: float32 (B, 3, T, H, W) to (B, 8 * width). Its
    weights have torchvision's names."""

    def __init__(self, config: ClipBackboneConfig) -> None:
        self.width = config.width
        super().__init__(BasicBlock, CONVOLUTIONS[config.name], list(config.layers), _stem(config), num_classes=1)
        self.fc = nn.Identity()

    def _make_layer(
        self, block: type[Any], conv_builder: type[Any], planes: int, blocks: int, stride: int = 1
    ) -> nn.Sequential:
        if planes == STANDARD_WIDTH:  # the first stage: what the stem gives
            self.inplanes = self.width
        return super()._make_layer(block, conv_builder, planes * self.width // STANDARD_WIDTH, blocks, stride)

    def forward(self, clips: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.forward_features(clips)).flatten(1))

    def forward_features(self, clips: Tensor) -> Tensor:
        """(B, D, T', H', W'): what is in front of the pooling.

        On the CPU it leaves autocast aside: in bfloat16 torch's oneDNN gives garbage for the gradient of a kernel of
        three frames that goes over two, which some stage of every clip of 2 to 16 frames does.
        """
        with torch.autocast("cpu", enabled=False) if clips.device.type == "cpu" else nullcontext():
            return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(clips)))))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers as timm counts those of its ResNets."""
        return {"stem": r"^stem", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


def _stem(config: ClipBackboneConfig) -> Callable[[], nn.Module]:
    """torchvision's stem, with its convolutions replaced where they are of another size."""

    def build() -> nn.Module:
        stem: Any = R2Plus1dStem() if config.name == "r2plus1d_18" else BasicStem()
        kernel = 3 if config.stem == "small" else 7
        channels = 3
        for number, layer in enumerate(stem):
            if isinstance(layer, nn.Conv3d):
                wide = layer.kernel_size[1] > 1
                size: Any = (layer.kernel_size[0], kernel, kernel) if wide else layer.kernel_size
                padding: Any = tuple(side // 2 for side in size)
                stride: Any = layer.stride
                out = layer.out_channels * config.width // STANDARD_WIDTH
                stem[number] = nn.Conv3d(channels, out, size, stride=stride, padding=padding, bias=False)
                stem[number + 1] = nn.BatchNorm3d(out)
                channels = out
        return stem

    return build


def build_clip_backbone(config: ClipBackboneConfig) -> tuple[nn.Module, int]:
    """The network with random weights as torchvision draws them, and the dimension D of its output: float32
    (B, 3, T, H, W), clips of any number of frames and of any size, to (B, D).

    torchvision's weights load by name but for those of the classifier, `fc`.

    Source: torchvision/models/video/resnet.py.
    """
    network: nn.Module = ClipResNet(config)
    dim = 8 * config.width
    if config.feature_norm:
        network = nn.Sequential(network, nn.BatchNorm1d(dim, affine=False))
    return network, dim
