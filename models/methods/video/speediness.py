"""SpeedNet: is a clip shown at its normal speed or twice as fast (arXiv 2004.06130)?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.method import Method
from headrace.models.parts.clip_backbones import ClipBackboneConfig, build_clip_backbone
from headrace.models.parts.precision import widened
from headrace.pipeline import Batch, Clip, ClipSpec, Normalize, View


@dataclass(frozen=True, kw_only=True)
class SpeedinessConfig:
    """SpeedNet with the paper's values for Kinetics, as far as they are known: there is no authors' code."""

    size: int = 224
    """Side of the square frames, in pixels."""
    crop_scale: tuple[float, float] = (0.33, 0.75)
    """Area of the random crop, another one for each clip, as a share of the frame."""
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    """Its width over its height."""
    flip: float = 0.5
    """Probability of a horizontal flip, of a clip; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that frames are normalised with."""
    frames: int = 16
    """Of a clip."""
    stride: int = 1
    """Frames of the video from one frame of a clip of normal speed to the next, where `normal` is 1."""
    normal: tuple[float, float] = (1.0, 1.2)
    """Factor of the stride at normal speed, drawn uniformly."""
    sped_up: tuple[float, float] = (1.7, 2.2)
    """Factor of the stride of what is sped up, likewise."""
    backbone: ClipBackboneConfig = field(default_factory=ClipBackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        require(self.normal[1] < self.sped_up[0], self, "normal", "lie below sped_up")
        require(self.frames >= 2, self, "frames", "be at least 2")


class Speediness(Method):
    """Of every video the same moment at both speeds. Features have their largest value over space and their mean over
    time in front of the classifier; probes see the backbone's output, which is a mean over both.

    Followed: the paper, section 3. Which frames are shown comes with the batch.
    """

    config: SpeedinessConfig
    inputs: ClipSpec

    def __init__(self, config: SpeedinessConfig) -> None:
        super().__init__()
        self.config = config
        view = View(
            size=config.size,
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            flip=config.flip,
            normalize=config.normalize,
        )
        clips = [
            Clip(frames=config.frames, strides=(config.stride,), rate=rate, view=view)
            for rate in (config.normal, config.sped_up)
        ]
        self.inputs = ClipSpec(clips, starts="together")
        self.backbone, self.feature_dim = build_clip_backbone(config.backbone)
        self.classifier = nn.Linear(self.feature_dim, 1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the cross entropy of being sped up; `"accuracy"`: the share that is right."""
        normal, sped_up = batch.normalized()
        pooled = largest_in_space(self.backbone, torch.cat([normal, sped_up]))
        logits = widened(self.classifier(pooled))[:, 0]
        labels = torch.cat([logits.new_zeros(len(normal)), logits.new_ones(len(sped_up))])
        return {
            "loss": F.binary_cross_entropy_with_logits(logits, labels),
            "accuracy": ((logits.detach() > 0) == (labels > 0)).float().mean(),
        }


def largest_in_space(backbone: nn.Module, clips: Tensor) -> Tensor:
    """(B, D): what a network from `build_clip_backbone` has in front of its pooling, the largest value over space, and
    its mean over time. The norm of `feature_norm` learns its statistics by the way."""
    network: Any = backbone[0] if isinstance(backbone, nn.Sequential) else backbone
    cells: Tensor = network.forward_features(clips)
    if network is not backbone:
        backbone[1](cells.mean(dim=(2, 3, 4)))  # type: ignore[index]
    return cells.amax(dim=(3, 4)).mean(dim=2)
