"""SimCLR: two views of a sample attract, those of all other samples repel (arXiv 2002.05709)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from headrace.models.losses import nt_xent
from headrace.models.method import Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.heads import projection_mlp
from headrace.pipeline import Batch, Normalize, View, ViewSpec


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig:
    """SimCLR with the authors' values for ImageNet (section 2, appendix A; google-research/simclr, data_util.py)."""

    size: int = 224
    """Side of the square views, in pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop as a share of the image."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect (width / height) of the random crop."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """Of the resize. The authors' code takes bicubic, lightly and solo-learn take bilinear."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    jitter: float = 0.8
    """Probability of the colour jitter; 0 turns it off."""
    strength: float = 1.0
    """Strength s of the colour jitter: brightness, contrast and saturation 0.8 s, hue 0.2 s. The paper takes 0.5 for
    CIFAR-10; 0 turns it off."""
    grayscale: float = 0.2
    """Probability of dropping the colour; 0 turns it off."""
    blur: float = 0.5
    """Probability of a Gaussian blur with a kernel of a tenth of `size`; 0 turns it off, as the paper does for
    CIFAR-10."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with; ImageNet's by default. The authors' code does not
    normalise; lightly and solo-learn do."""
    temperature: float = 0.1
    """Temperature of the loss."""
    projection_hidden: int = 2048
    """Width of the projection head's hidden layer; the paper takes the backbone's feature dimension."""
    projection_dim: int = 128
    """Output dimension of the projection head."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"SimCLRConfig.temperature must be above 0, got {self.temperature}")
        if self.strength < 0:
            raise ValueError(f"SimCLRConfig.strength must not be negative, got {self.strength}")
        for name in ("projection_hidden", "projection_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"SimCLRConfig.{name} must be at least 1, got {getattr(self, name)}")
        simclr_views(self)  # its fields' limits are View's


def simclr_views(config: SimCLRConfig) -> ViewSpec:
    """Two draws of the paper's augmentation. google-research/simclr, data_util.py."""
    s = config.strength
    view = View(
        size=config.size,
        scale=config.crop_scale,
        ratio=config.crop_ratio,
        interpolation=config.interpolation,
        flip=config.flip,
        jitter=config.jitter if s > 0 else 0.0,
        brightness=0.8 * s,
        contrast=0.8 * s,
        saturation=0.8 * s,
        hue=0.2 * s,
        grayscale=config.grayscale,
        blur=config.blur,
        normalize=config.normalize,
    )
    return ViewSpec.repeat(view, 2)


class SimCLR(Method):
    """Backbone, projection head, NT-Xent. Probes see the backbone's output, without the head."""

    config: SimCLRConfig
    inputs: ViewSpec

    def __init__(self, config: SimCLRConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = simclr_views(config)
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        self.projector = projection_mlp(self.feature_dim, config.projection_hidden, config.projection_dim)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone; see `headrace.models.losses.nt_xent`."""
        images = torch.cat(batch.normalized())  # (2B, 3, H, W): one pass, so one set of batch statistics
        z1, z2 = self.projector(self.backbone(images)).chunk(2)  # (B, projection_dim) each
        return {"loss": nt_xent(z1, z2, self.config.temperature)}
