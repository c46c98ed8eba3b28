"""Odd one out: which of several clips of a video has its frames in disorder, O3N (arXiv 1611.06646)?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.checks import require
from headrace.models.method import Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.heads import two_layers
from headrace.models.parts.precision import widened
from headrace.pipeline import Batch, Clip, ClipSpec, Normalize, View


@dataclass(frozen=True, kw_only=True)
class OddOneOutConfig:
    """O3N with the paper's values for UCF101, as far as they are known: there is no authors' code."""

    size: int = 224
    """Side of the square frames, in pixels."""
    crop_scale: tuple[float, float] = (0.5, 1.0)
    """Area of the random crop, another one for each clip, as a share of the frame."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Its width over its height."""
    flip: float = 0.5
    """Probability of a horizontal flip, of a clip; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that frames are normalised with."""
    clips: int = 6
    """Of a question."""
    frames: int = 6
    """Of a clip, at least 3; the network is given their differences, one fewer."""
    strides: tuple[int, ...] = (1,)
    """Distances from a frame to the next, in frames of the video; each is equally likely for each clip."""
    hidden_dim: int = 4096
    """Width of the layer that compares each clip with the others."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept: one of images, whose channels are the differences of a clip."""

    def __post_init__(self) -> None:
        require(self.clips >= 2, self, "clips", "be at least 2")
        require(self.frames >= 3, self, "frames", "be at least 3")
        require(self.hidden_dim >= 1, self, "hidden_dim", "be at least 1")


class OddOneOut(Method):
    """The network sees how grey levels change from frame to frame, as channels. Each clip's score comes of how its
    features differ from those of the others. Probes see the backbone's output for one clip in order.

    Followed: the paper, sections 3 and 4. Which clip is odd, and how its frames lie, comes with the batch.
    """

    config: OddOneOutConfig
    inputs: ClipSpec

    def __init__(self, config: OddOneOutConfig) -> None:
        super().__init__()
        self.config = config
        view = View(
            size=config.size,
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            flip=config.flip,
            normalize=config.normalize,
        )
        clip = Clip(frames=config.frames, strides=config.strides, view=view)
        self.inputs = ClipSpec.repeat(clip, config.clips, odd=True)
        options = {**config.backbone.options, "in_chans": config.frames - 1}
        self.backbone, self.feature_dim = build_backbone(replace(config.backbone, options=options))
        self.score = two_layers(self.feature_dim, config.hidden_dim, 1)

    def encode(self, batch: Batch) -> Tensor:
        """(B, D)."""
        (clips,) = batch.normalized()
        features: Tensor = self.backbone(grey_differences(clips))
        return features

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the cross entropy of which clip it is; `"accuracy"`: the share that is right."""
        clips = batch.normalized()
        features = self.backbone(torch.cat([grey_differences(each) for each in clips]))
        logits = widened(self._scores(features.unflatten(0, (len(clips), -1)).transpose(0, 1)))
        odd = batch.drawn.odd
        return {
            "loss": F.cross_entropy(logits, odd),
            "accuracy": (logits.detach().argmax(dim=1) == odd).float().mean(),
        }

    def _scores(self, features: Tensor) -> Tensor:
        """(B, K) of K clips' features (B, K, D): of the sum of each one's differences from the others."""
        scores: Tensor = self.score(len(features[0]) * features - features.sum(dim=1, keepdim=True))
        return scores[:, :, 0]


def grey_differences(clips: Tensor) -> Tensor:
    """(B, T - 1, H, W): how the mean of the colours of clips (B, 3, T, H, W) changes from frame to frame."""
    return clips.mean(dim=1).diff(dim=1)
