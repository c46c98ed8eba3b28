"""Time-contrastive: frames of a video that are near in time look alike, those far away do not (arXiv 1704.06888)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import time_contrastive_loss
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.frames import OfFrames, each_frame
from headrace.models.parts.heads import two_layers
from headrace.models.parts.precision import widened
from headrace.pipeline import Batch, Clip, ClipSpec, Normalize, View


@dataclass(frozen=True, kw_only=True)
class TimeContrastiveConfig:
    """TCN of a single view with the authors' values (tensorflow/models, research/tcn/configs/tcn_default.yml)."""

    size: int = 299
    """Side of the square frames, in pixels."""
    frames: int = 36
    """Of a video that are compared."""
    stride: int = 1
    """Frames of the video from one of them to the next."""
    crop_scale: tuple[float, float] = (1.0, 1.0)
    """Area of the random crop, one for all frames, as a share of the frame."""
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    """Its width over its height."""
    flip: float = 0.0
    """Probability of a horizontal flip, of all frames; 0 turns it off."""
    brightness: float = 32 / 255
    """Strength of the jitter of brightness, of each frame by itself; 0 turns it off."""
    saturation: float = 0.5
    """Strength of the jitter of saturation, likewise."""
    normalize: Normalize = field(default_factory=lambda: Normalize(mean=(0.5,) * 3, std=(0.5,) * 3))
    """Mean and deviation that frames are normalised with."""
    positive_radius: int = 6
    """Frames of the video that anchor and positive are apart at most."""
    negative_radius: int = 12
    """Frames of the video that anchor and negative are apart more than."""
    margin: float = 0.2
    """Of the triplets."""
    hidden_dim: int = 2048
    """Width of the layer between backbone and embedding."""
    embedding_dim: int = 32
    """D of the embedding, whose length is 1."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept, which sees single frames."""

    def __post_init__(self) -> None:
        require(self.margin > 0, self, "margin", "be above 0")
        require(self.positive_radius >= self.stride, self, "positive_radius", "reach the next frame")
        require(self.negative_radius > self.positive_radius, self, "negative_radius", "be above positive_radius")
        span = (self.frames - 1) * self.stride
        require(self.negative_radius < span, self, "negative_radius", f"be below the clip's {span} frames")
        for name in ("hidden_dim", "embedding_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class TimeContrastive(OfFrames):
    """Negatives are of the same video, so that what stays the same in it does not help. Probes see the backbone's
    output, averaged over the frames of a clip.

    Followed: tensorflow/models at ebafe28, research/tcn/estimators/svtcn_loss.py, svtcn_estimator.py, model.py,
    preprocessing.py and configs.
    """

    config: TimeContrastiveConfig
    inputs: ClipSpec

    def __init__(self, config: TimeContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        view = View(
            size=config.size,
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            flip=config.flip,
            jitter=1.0 if config.brightness or config.saturation else 0.0,
            brightness=config.brightness,
            saturation=config.saturation,
            normalize=config.normalize,
        )
        self.inputs = ClipSpec([Clip(frames=config.frames, strides=(config.stride,), view=view, colours="frame")])
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        self.head = two_layers(self.feature_dim, config.hidden_dim, config.embedding_dim)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone; see `headrace.models.losses.time_contrastive_loss`."""
        (clips,) = batch.normalized()
        z = F.normalize(widened(each_frame(lambda images: self.head(self.backbone(images)), clips)), dim=-1)
        config, times = self.config, batch.drawn.frames[:, 0]
        loss = time_contrastive_loss(z, times, config.positive_radius, config.negative_radius, config.margin)
        return {"loss": loss}
