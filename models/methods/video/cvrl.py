"""CVRL: two clips of a video, rarely far apart, attract, those of other videos repel (arXiv 2008.03800)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import nt_xent
from headrace.models.method import Method
from headrace.models.parts.clip_backbones import ClipBackboneConfig, build_clip_backbone
from headrace.models.parts.heads import mlp
from headrace.pipeline import Batch, Clip, ClipSpec, Normalize, View


@dataclass(frozen=True, kw_only=True)
class CVRLConfig:
    """CVRL with the authors' values for Kinetics-600 (tensorflow/models at 0225b13, official/projects/video_ssl,
    configs/experiments/cvrl_pretrain_k600_200ep.yaml, dataloaders/video_ssl_input.py)."""

    size: int = 224
    """Side of the square frames, in pixels."""
    frames: int = 16
    """Of a clip."""
    stride: int = 2
    """Frames of the video from one frame of a clip to the next."""
    crop_scale: tuple[float, float] = (0.3, 1.0)
    """Area of the random crop, one for all frames of a clip, as a share of the frame."""
    crop_ratio: tuple[float, float] = (0.5, 2.0)
    """Its width over its height."""
    flip: float = 0.5
    """Probability of a horizontal flip, of a clip; 0 turns it off."""
    strength: float = 1.0
    """Factor of the strengths of the colour jitter, one for all frames of a clip: brightness, contrast and saturation
    0.8, hue 0.2; 0 turns it off."""
    grayscale: float = 0.2
    """Probability of dropping the colour, of a clip; 0 turns it off."""
    blur: tuple[float, float] = (1.0, 0.1)
    """Probability of a Gaussian blur of the first and the second clip; 0 turns it off. The paper has 0.5 for both."""
    solarize: tuple[float, float] = (0.0, 0.2)
    """Probability of solarisation, likewise. The paper has none."""
    normalize: Normalize = field(default_factory=lambda: Normalize(mean=(0.0,) * 3, std=(1.0,) * 3))
    """Mean and deviation that frames are normalised with."""
    temperature: float = 0.1
    """Temperature of the loss."""
    hidden_dim: int = 2048
    """Width of the head's three hidden layers."""
    projection_dim: int = 128
    """Output dimension of the head."""
    backbone: ClipBackboneConfig = field(default_factory=ClipBackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        require(self.temperature > 0, self, "temperature", "be above 0")
        require(self.strength >= 0, self, "strength", "not be negative")
        for name in ("hidden_dim", "projection_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class CVRL(Method):
    """Probes see the backbone's output, without the head.

    Followed: tensorflow/models at 0225b13, official/projects/video_ssl: ops/video_ssl_preprocess_ops.py,
    dataloaders/video_ssl_input.py, losses/losses.py, modeling/video_ssl_model.py. When the clips are comes with the
    batch. Both pass the backbone together.
    """

    config: CVRLConfig
    inputs: ClipSpec

    def __init__(self, config: CVRLConfig) -> None:
        super().__init__()
        self.config = config
        s = config.strength
        view = View(
            size=config.size,
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            flip=config.flip,
            jitter=0.8 if s > 0 else 0.0,
            brightness=0.8 * s,
            contrast=0.8 * s,
            saturation=0.8 * s,
            hue=min(0.5, 0.2 * s),
            grayscale=config.grayscale,
            normalize=config.normalize,
        )
        clip = Clip(frames=config.frames, strides=(config.stride,), view=view, short="loop")
        pairs = zip(config.blur, config.solarize, strict=True)
        clips = [replace(clip, view=replace(view, blur=blur, solarize=solarize)) for blur, solarize in pairs]
        self.inputs = ClipSpec(clips, starts="near")
        self.backbone, self.feature_dim = build_clip_backbone(config.backbone)
        dims = (self.feature_dim, *(config.hidden_dim,) * 3, config.projection_dim)
        self.projector = mlp(dims, bias=True, last_bias=True, last_norm="none")

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone: the cross entropies of both directions, added; see `headrace.models.losses.nt_xent`, which is
        their mean."""
        first, second = self.projector(self.backbone(torch.cat(batch.normalized()))).chunk(2)
        return {"loss": 2 * nt_xent(first, second, self.config.temperature)}
