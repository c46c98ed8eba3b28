"""BYOL: predict what a slower copy of oneself says of another view, without negatives (arXiv 2006.07733)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import cosine_regression
from headrace.models.method import Context, Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.heads import mlp
from headrace.models.parts.momentum import follow
from headrace.models.parts.schedules import cosine
from headrace.models.parts.views import BYOLViews
from headrace.pipeline import Batch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class BYOLConfig(BYOLViews):
    """BYOL with the authors' values for 1,000 epochs of ImageNet."""

    momentum: float = 0.996
    """Of the slow network at the beginning; it rises to 1 on a cosine. The authors take 0.97 for 40 epochs, 0.99 for
    100 and 300."""
    hidden_dim: int = 4096
    """Width of the hidden layers of projector and predictor."""
    projection_dim: int = 256
    """Their output dimension."""
    slow_start: Literal["own", "copy"] = "own"
    """Weights that the slow network begins with: of its own, as the authors', or those of the other, as in most code
    since then. Runs of a thousand steps end otherwise with them."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum <= 1, self, "momentum", "lie in [0, 1]")
        require(self.hidden_dim >= 1, self, "hidden_dim", "be at least 1")
        require(self.projection_dim >= 1, self, "projection_dim", "be at least 1")
        require(self.slow_start in ("own", "copy"), self, "slow_start", "be 'own' or 'copy'")


class BYOL(Method):
    """Probes see the backbone's output, without projector and predictor.

    Followed: google-deepmind/deepmind-research at f5de0ed, byol/byol_experiment.py. Each view passes alone, so that
    batch norm's statistics are of one view; the slow network, drawn by itself unless it is a copy, runs in training
    mode with statistics of its own. Their linear classifier beside the loss is left out: probes do its work.
    """

    config: BYOLConfig
    inputs: ViewSpec

    def __init__(self, config: BYOLConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.views()
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        self.projector = self._head(self.feature_dim)
        self.predictor = self._head(config.projection_dim)
        self.slow_backbone = build_backbone(config.backbone)[0].requires_grad_(False)
        self.slow_projector = self._head(self.feature_dim).requires_grad_(False)
        if config.slow_start == "copy":
            follow(self.slow_backbone, self.backbone, 0.0)
            follow(self.slow_projector, self.projector, 0.0)

    def _head(self, dim: int) -> nn.Sequential:
        dims = (dim, self.config.hidden_dim, self.config.projection_dim)
        return mlp(dims, bias=True, last_bias=False, last_norm="none")

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone: both directions of `headrace.models.losses.cosine_regression`, added."""
        views = batch.normalized()
        predictions = [self.predictor(self.projector(self.backbone(view))) for view in views]
        with torch.no_grad():
            targets = [self.slow_projector(self.slow_backbone(view)) for view in views]
        first, second = predictions
        return {"loss": cosine_regression(first, targets[1]) + cosine_regression(second, targets[0])}

    def after_step(self, context: Context) -> None:
        """The slow network moves towards the new weights."""
        momentum = cosine(self.config.momentum, 1.0, context.progress)
        follow(self.slow_backbone, self.backbone, momentum)
        follow(self.slow_projector, self.projector, momentum)
