"""Rotation: by how many quarter turns is it turned (arXiv 1803.07728)?"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.method import Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.precision import widened
from headrace.pipeline import Batch, Normalize, View, ViewSpec

TURNS = 4


@dataclass(frozen=True, kw_only=True)
class RotationConfig:
    """RotNet with the authors' views for ImageNet (gidariss/FeatureLearningRotNet, dataloader.py). Their AlexNet is not
    among timm's networks; the default here is a ResNet-50."""

    size: int = 224
    """Side of the square views, in pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop as a share of the image."""
    flip: float = 0.5
    """Probability of a horizontal flip, before the turn; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""


class Rotation(Method):
    """Every image in all four turns, in one batch. Probes see the backbone's output.

    Followed: gidariss/FeatureLearningRotNet, dataloader.py, algorithms/ClassificationModel.py and
    config/ImageNet_RotNet_AlexNet.py.
    """

    config: RotationConfig
    inputs: ViewSpec

    def __init__(self, config: RotationConfig) -> None:
        super().__init__()
        self.config = config
        view = View(size=config.size, scale=config.crop_scale, flip=config.flip, normalize=config.normalize)
        self.inputs = ViewSpec.rotations(view)
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        self.classifier = nn.Linear(self.feature_dim, TURNS)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the cross entropy of the number of turns; `"accuracy"`: the share that is right."""
        views = batch.normalized()
        logits = widened(self.classifier(self.backbone(torch.cat(views))))
        assert batch.drawn is not None
        turns = batch.drawn.turns.T.flatten()
        return {
            "loss": F.cross_entropy(logits, turns),
            "accuracy": (logits.detach().argmax(dim=1) == turns).float().mean(),
        }
