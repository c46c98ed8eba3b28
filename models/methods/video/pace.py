"""Playback pace: how many frames of the video lie between two of a clip (arXiv 2008.05861)?"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.method import Method
from headrace.models.parts.clip_backbones import ClipBackboneConfig, build_clip_backbone
from headrace.models.parts.precision import widened
from headrace.pipeline import Batch, Clip, ClipSpec, Normalize, View


def shallow_r2plus1d() -> ClipBackboneConfig:
    """R(2+1)D with one block a stage, as the authors' is."""
    return ClipBackboneConfig(name="r2plus1d_18", layers=(1, 1, 1, 1))


@dataclass(frozen=True, kw_only=True)
class PaceConfig:
    """Pace prediction with the authors' values for UCF101 (laura-wang/video-pace at cc1e561, train.py, README.md)."""

    size: int = 112
    """Side of the square frames, in pixels."""
    crop_scale: tuple[float, float] = (112**2 / (128 * 171), 112**2 / (128 * 171))
    """Area of the random crop, one for all frames, as a share of the frame: 112 of 128 pixels of the height, of frames
    of 4 to 3."""
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    """Its width over its height."""
    flip: float = 0.5
    """Probability of a horizontal flip, of all frames; 0 turns it off."""
    jitter: float = 0.8
    """Probability of the colour jitter, of each frame by itself, so that frames cannot be compared by their colours; 0
    turns it off."""
    strength: float = 1.0
    """Factor of its strengths: brightness, contrast and saturation 0.8, hue 0.2."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that frames are normalised with."""
    frames: int = 16
    """Of a clip."""
    strides: tuple[int, ...] = (1, 2, 3, 4)
    """The paces: frames of the video from one frame of a clip to the next; each is equally likely."""
    backbone: ClipBackboneConfig = field(default_factory=shallow_r2plus1d)
    """The network that is kept."""

    def __post_init__(self) -> None:
        require(len(set(self.strides)) == len(self.strides) >= 2, self, "strides", "be two or more different numbers")
        require(self.frames >= 2, self, "frames", "be at least 2")
        require(self.strength > 0, self, "strength", "be above 0; jitter 0 turns it off")


class Pace(Method):
    """One layer behind the backbone says which pace. Probes see the backbone's output.

    Followed: laura-wang/video-pace at cc1e561, train.py and datasets/ucf101.py, which are the paper's classification of
    paces; what contrasts clips is not published. The pace comes with the batch.
    """

    config: PaceConfig
    inputs: ClipSpec

    def __init__(self, config: PaceConfig) -> None:
        super().__init__()
        self.config = config
        s = config.strength
        view = View(
            size=config.size,
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            flip=config.flip,
            jitter=config.jitter,
            brightness=0.8 * s,
            contrast=0.8 * s,
            saturation=0.8 * s,
            hue=min(0.5, 0.2 * s),
            normalize=config.normalize,
        )
        clip = Clip(frames=config.frames, strides=config.strides, view=view, colours="frame", short="loop")
        self.inputs = ClipSpec([clip])
        self.backbone, self.feature_dim = build_clip_backbone(config.backbone)
        self.classifier = nn.Linear(self.feature_dim, len(config.strides))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the cross entropy of the pace; `"accuracy"`: the share that is right."""
        (clips,) = batch.normalized()
        logits = widened(self.classifier(self.backbone(clips)))
        paces = batch.drawn.pace[:, 0]
        return {
            "loss": F.cross_entropy(logits, paces),
            "accuracy": (logits.detach().argmax(dim=1) == paces).float().mean(),
        }
