"""Arrow of time: does a clip run forwards or backwards (Wei et al., CVPR 2018)?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.method import Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone, map_and_features, map_channels
from headrace.models.parts.precision import widened
from headrace.pipeline import Batch, Clip, ClipSpec, Normalize, View


@dataclass(frozen=True, kw_only=True)
class ArrowOfTimeConfig:
    """T-CAM with the authors' values (donglaiw/AoT_TCAM, models/vggbn_tcam_pair2_cudnn.lua, opts.lua), but for what the
    network is shown."""

    size: int = 224
    """Side of the square frames, in pixels."""
    crop_scale: tuple[float, float] = (0.5, 1.0)
    """Area of the random crop, one for all frames, as a share of the frame."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Its width over its height."""
    flip: float = 0.5
    """Probability of a horizontal flip, of all frames; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that frames are normalised with."""
    segments: int = 2
    """Parts of a clip that pass the backbone by themselves, one behind the other in time."""
    length: int = 10
    """Pictures of a segment, which are the channels of the backbone, three for each."""
    shown: Literal["differences", "frames"] = "differences"
    """What the pictures are: differences of frames and those before them, or frames."""
    stride: int = 1
    """Frames of the video from one frame to the next."""
    hidden_dim: int = 1024
    """Channels of the two convolutions that see all segments."""
    dropout: float = 0.5
    """Share of their outputs that is dropped; 0 turns it off."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept: one of images with a feature map in front of a pooling."""

    def __post_init__(self) -> None:
        for name in ("segments", "length", "hidden_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.shown in ("differences", "frames"), self, "shown", "be 'differences' or 'frames'")
        require(0 <= self.dropout < 1, self, "dropout", "lie in [0, 1)")


class ArrowOfTime(Method):
    """Every clip in both directions, in one batch. Probes see the backbone's outputs for the segments of a clip, one
    behind the other.

    Followed: donglaiw/AoT_TCAM, models/vggbn_tcam_pair2_cudnn.lua.
    """

    config: ArrowOfTimeConfig
    inputs: ClipSpec

    def __init__(self, config: ArrowOfTimeConfig) -> None:
        super().__init__()
        self.config = config
        view = View(
            size=config.size,
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            flip=config.flip,
            normalize=config.normalize,
        )
        frames = config.segments * config.length + (config.shown == "differences")
        self.inputs = ClipSpec([Clip(frames=frames, strides=(config.stride,), view=view)])
        options = {**config.backbone.options, "in_chans": 3 * config.length}
        self.backbone, width = build_backbone(replace(config.backbone, options=options))
        self.feature_dim = config.segments * width
        channels = config.segments * map_channels(self.backbone)
        layers: list[nn.Module] = []
        for inner in (channels, config.hidden_dim):
            layers += [
                nn.Conv2d(inner, config.hidden_dim, 3, padding=1),
                nn.ReLU(),
                nn.BatchNorm2d(config.hidden_dim),
                nn.Dropout(config.dropout),
            ]
        self.head = nn.Sequential(*layers)
        self.classifier = nn.Linear(config.hidden_dim, 1)

    def encode(self, batch: Batch) -> Tensor:
        """(B, S * D) of S segments."""
        (clips,) = batch.normalized()
        return self.backbone(self._segments(clips)).unflatten(0, (len(clips), -1)).flatten(1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the cross entropy of running forwards; `"accuracy"`: the share that is right."""
        (clips,) = batch.normalized()
        both = torch.cat([clips, clips.flip(2)])
        cells, _ = map_and_features(self.backbone, self._segments(both))
        joined = cells.unflatten(0, (len(both), -1)).flatten(1, 2)  # (2B, S * C, h, w)
        logits = widened(self.classifier(self.head(joined).mean(dim=(2, 3))))[:, 0]
        labels = torch.cat([logits.new_ones(len(clips)), logits.new_zeros(len(clips))])
        return {
            "loss": F.binary_cross_entropy_with_logits(logits, labels),
            "accuracy": ((logits.detach() > 0) == (labels > 0)).float().mean(),
        }

    def _segments(self, clips: Tensor) -> Tensor:
        """(B * S, 3 L, H, W) of clips (B, 3, T, H, W): the segments of a clip in the order of time."""
        pictures = clips.diff(dim=2) if self.config.shown == "differences" else clips
        parts = pictures.unflatten(2, (self.config.segments, -1))  # (B, 3, S, L, H, W)
        return parts.transpose(1, 2).flatten(0, 1).flatten(1, 2)
