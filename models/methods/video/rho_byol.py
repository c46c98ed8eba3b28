"""Rho-BYOL: each clip predicts what a slower copy of oneself says of its video's other clips (arXiv 2104.14558)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import cosine_regression
from headrace.models.method import Context, Method
from headrace.models.parts.clip_backbones import build_clip_backbone
from headrace.models.parts.heads import mlp
from headrace.models.parts.momentum import follow, slow_copy
from headrace.models.parts.schedules import cosine
from headrace.models.parts.several_clips import SeveralClipsConfig
from headrace.pipeline import Batch, ClipSpec


@dataclass(frozen=True, kw_only=True)
class RhoBYOLConfig(SeveralClipsConfig):
    """Rho-BYOL with the authors' values for Kinetics-400 (BYOL_SlowR50_8x8.yaml)."""

    momentum: float = 0.996
    """Of the slow network at the beginning; it rises to 1 on a cosine."""
    hidden_dim: int = 4096
    """Width of the hidden layers of projector and predictor."""
    projection_dim: int = 256
    """Their output dimension."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum <= 1, self, "momentum", "lie in [0, 1]")
        for name in ("hidden_dim", "projection_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class RhoBYOL(Method):
    """Probes see the backbone's output for one clip, without projector and predictor.

    Followed: facebookresearch/SlowFast at 287ec00, slowfast/models/contrastive.py and contrastive_forward. Predictions
    pass clip by clip, targets together. The slow network begins as a copy, has running statistics of its own, and moves
    behind the optimiser's step, which is in front of the next step's targets.
    """

    config: RhoBYOLConfig
    inputs: ClipSpec

    def __init__(self, config: RhoBYOLConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.spec()
        self.backbone, self.feature_dim = build_clip_backbone(config.backbone)
        dims = (config.hidden_dim, config.projection_dim)
        self.projector = mlp((self.feature_dim, *dims), bias=False, last_bias=True, last_norm="none")
        self.predictor = mlp((config.projection_dim, *dims), bias=False, last_bias=True, last_norm="none")
        self.slow_backbone, self.slow_projector = slow_copy(self.backbone), slow_copy(self.projector)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone: the sum over clips of the mean over the other clips of
        `headrace.models.losses.cosine_regression`, 2 - 2 cos, as the authors' -cos / 0.5 but for the constant."""
        clips = batch.normalized()
        predictions = [self.predictor(self.projector(self.backbone(each))) for each in clips]
        targets = self._targets(clips)
        terms = [
            torch.stack([cosine_regression(p, target) for j, target in enumerate(targets) if i != j]).mean()
            for i, p in enumerate(predictions)
        ]
        return {"loss": torch.stack(terms).sum()}

    @torch.no_grad()
    def _targets(self, clips: list[Tensor]) -> list[Tensor]:
        """(B, D) of each clip. Clips of one length pass together."""
        found: list[Tensor] = []
        stills = self.config.stills
        for group in (clips[: len(clips) - stills], clips[len(clips) - stills :]):
            if group:
                found += self.slow_projector(self.slow_backbone(torch.cat(group))).chunk(len(group))
        return found

    def after_step(self, context: Context) -> None:
        """The slow network moves towards the new weights."""
        momentum = cosine(self.config.momentum, 1.0, (context.step + 1) / context.total_steps)
        follow(self.slow_backbone, self.backbone, momentum)
        follow(self.slow_projector, self.projector, momentum)
