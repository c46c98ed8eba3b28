"""Rho-SwAV: each clip predicts which prototypes another clip of its video is assigned to (arXiv 2104.14558)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import sinkhorn, swapped_prediction
from headrace.models.method import Context, Method, ParameterGroup, kernels_and_vectors
from headrace.models.parts.clip_backbones import build_clip_backbone
from headrace.models.parts.several_clips import SeveralClipsConfig, plain_mlp
from headrace.pipeline import Batch, ClipSpec


@dataclass(frozen=True, kw_only=True)
class RhoSwAVConfig(SeveralClipsConfig):
    """Rho-SwAV with what facebookresearch/SlowFast at 287ec00, slowfast/models/contrastive.py, has as constants; its
    file of settings is not published, so that the projector is that of rho-SimCLR."""

    temperature: float = 0.1
    """Of the predictions."""
    epsilon: float = 0.05
    """Sharpness of the assignments; smaller is sharper."""
    sinkhorn_iterations: int = 3
    """Of the assignments."""
    prototypes: int = 1000
    """K."""
    frozen_epochs: int = 1
    """Epochs at the beginning in which the prototypes are not trained."""
    hidden_dim: int = 2048
    """Width of the projector's two hidden layers."""
    projection_dim: int = 128
    """Its output dimension."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("temperature", "epsilon"):
            require(getattr(self, name) > 0, self, name, "be above 0")
        for name in ("hidden_dim", "projection_dim", "prototypes", "sinkhorn_iterations"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.frozen_epochs >= 0, self, "frozen_epochs", "not be negative")


class RhoSwAV(Method):
    """Probes see the backbone's output for one clip, without projector and prototypes.

    Followed: facebookresearch/SlowFast at 287ec00, slowfast/models/contrastive.py and contrastive_forward: each clip is
    compared with the next one, and passes alone.
    """

    config: RhoSwAVConfig
    inputs: ClipSpec

    def __init__(self, config: RhoSwAVConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.spec()
        self.backbone, self.feature_dim = build_clip_backbone(config.backbone)
        self.projector = plain_mlp((self.feature_dim, config.hidden_dim, config.hidden_dim, config.projection_dim))
        self.prototypes = nn.Linear(config.projection_dim, config.prototypes, bias=False)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone: the sum over successive clips of `headrace.models.losses.swapped_prediction`."""
        config = self.config
        projections = [self.projector(self.backbone(clips)) for clips in batch.normalized()]
        scores = [self.prototypes(F.normalize(z, dim=1)) for z in projections]
        targets = [sinkhorn(each, config.epsilon, config.sinkhorn_iterations, slack=0.0) for each in scores]
        terms = [
            swapped_prediction(pair, assigned, config.temperature)
            for pair, assigned in zip(pairwise(scores), pairwise(targets), strict=True)
        ]
        return {"loss": torch.stack(terms).sum()}

    def cluster_scores(self, batch: Batch) -> Tensor:
        """Of the prototypes."""
        z = F.normalize(self.projector(self.encode(batch)), dim=1)
        return F.linear(z, F.normalize(self.prototypes.weight, dim=1))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Biases and norms are not decayed; the prototypes wait for their first epochs to pass."""
        others = kernels_and_vectors(self.backbone, self.projector)
        mine = list(self.prototypes.parameters())
        return [*others, ParameterGroup(params=mine, frozen_epochs=self.config.frozen_epochs)]

    def before_step(self, context: Context) -> None:
        """Prototypes have length 1."""
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
