"""What the rho methods share: clips of a video in the place of views of a picture (arXiv 2104.14558)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

from torch import nn

from headrace.models.checks import require
from headrace.models.parts.clip_backbones import ClipBackboneConfig
from headrace.pipeline import Clip, ClipSpec, Normalize, View


@dataclass(frozen=True, kw_only=True)
class SeveralClipsConfig:
    """Clips as the authors have them for Kinetics-400 (facebookresearch/SlowFast at 287ec00, configs/
    contrastive_ssl)."""

    size: int = 224
    """Side of the square frames, in pixels."""
    clips: int = 2
    """Rho: clips of a video, at least 2, drawn independently, so that they may overlap."""
    frames: int = 8
    """Of a clip."""
    stride: int = 8
    """Frames of the video from one frame of a clip to the next."""
    stills: int = 0
    """How many of the clips are of one frame, so that pictures and their videos agree; 0 for none."""
    crop_scale: tuple[float, float] = (0.2, 0.766)
    """Area of the random crop, one for all frames of a clip, as a share of the frame."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Its width over its height."""
    flip: float = 0.5
    """Probability of a horizontal flip, of a clip; 0 turns it off."""
    strength: float = 1.0
    """Factor of the strengths of the colour jitter, one for all frames of a clip: brightness, contrast and saturation
    0.6, hue 0.15; 0 turns it off."""
    grayscale: float = 0.2
    """Probability of dropping the colour, of a clip; 0 turns it off."""
    blur: float = 0.5
    """Probability of a Gaussian blur, of a clip; 0 turns it off."""
    normalize: Normalize = field(default_factory=lambda: Normalize(mean=(0.45,) * 3, std=(0.225,) * 3))
    """Mean and deviation that frames are normalised with."""
    backbone: ClipBackboneConfig = field(default_factory=ClipBackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        require(self.clips >= 2, self, "clips", "be at least 2")
        require(0 <= self.stills < self.clips, self, "stills", "leave a clip")
        require(self.strength >= 0, self, "strength", "not be negative")
        self.spec()  # its fields' limits are View's and Clip's

    def spec(self) -> ClipSpec:
        """The clips; those of one frame are the last."""
        s = self.strength
        view = View(
            size=self.size,
            scale=self.crop_scale,
            ratio=self.crop_ratio,
            flip=self.flip,
            jitter=0.8 if s > 0 else 0.0,
            brightness=0.6 * s,
            contrast=0.6 * s,
            saturation=0.6 * s,
            hue=min(0.5, 0.15 * s),
            grayscale=self.grayscale,
            blur=self.blur,
            normalize=self.normalize,
        )
        clip = Clip(frames=self.frames, strides=(self.stride,), view=view)
        still = replace(clip, frames=1)
        return ClipSpec([clip] * (self.clips - self.stills) + [still] * self.stills)


def plain_mlp(dims: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with biases and ReLU between them, without norms: (B, dims[0]) to (B, dims[-1]).

    Source: facebookresearch/SlowFast at 287ec00, slowfast/models/head_helper.py, MLPHead without BN_MLP.
    """
    layers: list[nn.Module] = []
    for width, following in pairwise(dims):
        layers += [nn.Linear(width, following), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])
