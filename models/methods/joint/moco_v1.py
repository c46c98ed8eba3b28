"""MoCo v1: a sample's key, from a slow encoder, among the keys of earlier batches (arXiv 1911.05722)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from headrace.models.methods.joint.moco import MoCo, MoCoConfig
from headrace.pipeline import View

ORDER = ("grayscale", "jitter", "blur")
"""Of the operations on pixels: without colour there is nothing left of saturation and hue to jitter."""


@dataclass(frozen=True, kw_only=True)
class MoCoV1Config(MoCoConfig):
    """MoCo v1 with the authors' values for ImageNet (facebookresearch/moco at 4397a04, main_moco.py)."""

    strength: float = 1.0
    """Factor of the colour jitter's strengths (brightness, contrast, saturation and hue 0.4), at most 1.25. It is drawn
    for every view, behind the grey; 0 turns it off."""
    blur: float = 0.0
    """Probability of a Gaussian blur; 0 turns it off."""
    temperature: float = 0.07
    """Temperature of the loss."""

    def view(self) -> View:
        """InstDisc's augmentation."""
        view = replace(super().view(), order=ORDER)
        return replace(view, jitter=1.0, hue=0.4 * self.strength) if self.strength > 0 else view


class MoCoV1(MoCo):
    """MoCo with one linear layer as projector.

    Followed: facebookresearch/moco at 4397a04, moco/builder.py and main_moco.py.
    """

    config: MoCoV1Config

    def make_projector(self) -> nn.Module:
        """One linear layer, with a bias."""
        return nn.Linear(self.feature_dim, self.config.projection_dim)
