"""Shuffle and learn: are three frames of a video in the order of time (arXiv 1603.08561)?"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.frames import OfFrames, each_frame
from headrace.models.parts.precision import widened
from headrace.pipeline import Batch, Clip, ClipSpec, Normalize, View


@dataclass(frozen=True, kw_only=True)
class FrameOrderConfig:
    """Shuffle and learn with the authors' values for UCF101 (paper, section 3; imisra/shuffle-tuple at 5d27dfa)."""

    size: int = 224
    """Side of the square frames, in pixels."""
    crop_scale: tuple[float, float] = (1.0, 1.0)
    """Area of the random crop, one for the three frames, as a share of the frame."""
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    """Its width over its height."""
    flip: float = 0.0
    """Probability of a horizontal flip, of all three; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that frames are normalised with."""
    strides: tuple[int, ...] = (15, 20, 25, 30)
    """Distances, in frames of the video, of the five frames a b c d e of which three are shown; each is equally likely.
    In order these are b c d, else b a d or b e d."""
    negatives: float = 0.75
    """Share of triples that are not in order."""
    frame_dim: int = 4096
    """Width of the layer that each frame has to itself, behind the backbone."""
    hidden_dim: int = 0
    """Width of a layer that sees the three frames together; 0 for none, as the authors have it."""
    dropout: float = 0.5
    """Share of the outputs of `frame_dim` that is dropped; 0 turns it off."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept, which sees single frames."""

    def __post_init__(self) -> None:
        require(self.frame_dim >= 1, self, "frame_dim", "be at least 1")
        require(self.hidden_dim >= 0, self, "hidden_dim", "not be negative")
        require(0 <= self.dropout < 1, self, "dropout", "lie in [0, 1)")


class FrameOrder(OfFrames):
    """Frames pass the backbone one by one. Probes see the backbone's output, averaged over the frames of a clip.

    Followed: imisra/shuffle-tuple at 5d27dfa, networks/tuple_train.prototxt and tuple_solver.prototxt. Which frames are
    shown, and whether in order, comes with the batch; b and d are shown in any case, so that only the frame in the
    middle tells.
    """

    config: FrameOrderConfig
    inputs: ClipSpec

    def __init__(self, config: FrameOrderConfig) -> None:
        super().__init__()
        self.config = config
        view = View(
            size=config.size,
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            flip=config.flip,
            normalize=config.normalize,
        )
        clip = Clip(
            frames=3,
            strides=config.strides,
            view=view,
            reverse=0.5,
            disorder=config.negatives,
            disorder_by="replacing",
        )
        self.inputs = ClipSpec([clip])
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        self.each = nn.Sequential(
            nn.Linear(self.feature_dim, config.frame_dim),
            nn.BatchNorm1d(config.frame_dim),
            nn.ReLU(),
            nn.Dropout(config.dropout),
        )
        width = 3 * config.frame_dim
        hidden = [nn.Linear(width, config.hidden_dim), nn.ReLU()] if config.hidden_dim else []
        self.classifier = nn.Sequential(*hidden, nn.Linear(config.hidden_dim or width, 2))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the cross entropy of being in order; `"accuracy"`: the share that is right."""
        (clips,) = batch.normalized()
        frames = each_frame(lambda images: self.each(self.backbone(images)), clips)
        logits = widened(self.classifier(frames.flatten(1)))
        ordered = batch.drawn.ordered[:, 0].to(torch.int64)
        return {
            "loss": F.cross_entropy(logits, ordered),
            "accuracy": (logits.detach().argmax(dim=1) == ordered).float().mean(),
        }
