"""Clip order: in which order are three clips of a video shown (Xu et al., CVPR 2019)?"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.checks import require
from headrace.models.method import Method
from headrace.models.parts.clip_backbones import ClipBackboneConfig, build_clip_backbone
from headrace.models.parts.orders import Orders, PairwiseHead
from headrace.models.parts.precision import widened
from headrace.pipeline import Batch, Clip, ClipSpec, Normalize, View


@dataclass(frozen=True, kw_only=True)
class ClipOrderConfig:
    """Clip order with the authors' values for UCF101 (xudejing/video-clip-order-prediction at 7a1710d,
    train_vcop.py)."""

    size: int = 112
    """Side of the square frames, in pixels."""
    crop_scale: tuple[float, float] = (112**2 / (128 * 171), 112**2 / (128 * 171))
    """Area of the random crop, another one for each clip, as a share of the frame: 112 of 128 pixels of the height, of
    frames of 4 to 3."""
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    """Its width over its height."""
    flip: float = 0.0
    """Probability of a horizontal flip, of a clip; 0 turns it off."""
    normalize: Normalize = field(default_factory=lambda: Normalize(mean=(0.0,) * 3, std=(1.0,) * 3))
    """Mean and deviation that frames are normalised with."""
    clips: int = 3
    """Of a video, 2 to 5."""
    frames: int = 16
    """Of a clip."""
    stride: int = 1
    """Frames of the video from one frame of a clip to the next."""
    interval: int = 8
    """Frames of the video between two clips."""
    pair_dim: int = 512
    """Width of the layer that sees two clips."""
    dropout: float = 0.5
    """Share of its outputs that is dropped; 0 turns it off."""
    backbone: ClipBackboneConfig = field(default_factory=lambda: ClipBackboneConfig(layers=(1, 1, 1, 1)))
    """The network that is kept."""

    def __post_init__(self) -> None:
        require(2 <= self.clips <= 5, self, "clips", "lie in [2, 5]")
        require(self.pair_dim >= 1, self, "pair_dim", "be at least 1")
        require(0 <= self.dropout < 1, self, "dropout", "lie in [0, 1)")


class ClipOrder(Method):
    """Clips pass the backbone one after the other, and a head compares them two by two. Probes see the backbone's
    output for one clip.

    Followed: xudejing/video-clip-order-prediction at 7a1710d, train_vcop.py, models/vcopn.py and datasets/ucf101.py.
    The order comes with the batch. Batch norms take statistics of the clips in one slot.
    """

    config: ClipOrderConfig
    inputs: ClipSpec

    def __init__(self, config: ClipOrderConfig) -> None:
        super().__init__()
        self.config = config
        view = View(
            size=config.size,
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            flip=config.flip,
            normalize=config.normalize,
        )
        clip = Clip(frames=config.frames, strides=(config.stride,), view=view)
        self.inputs = ClipSpec.repeat(clip, config.clips, starts="row", interval=config.interval)
        self.backbone, self.feature_dim = build_clip_backbone(config.backbone)
        self.orders = Orders(config.clips, reversible=False)
        self.head = PairwiseHead(
            self.feature_dim,
            config.clips,
            self.orders.count,
            hidden_dim=config.pair_dim,
            batch_norm=False,
            dropout=config.dropout,
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the cross entropy of the order's number; `"accuracy"`: the share that is right."""
        features = torch.stack([self.backbone(clips) for clips in batch.normalized()], dim=1)
        logits = widened(self.head(features))
        labels = self.orders(batch.drawn.sequence)
        return {
            "loss": F.cross_entropy(logits, labels),
            "accuracy": (logits.detach().argmax(dim=1) == labels).float().mean(),
        }
