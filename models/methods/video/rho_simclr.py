"""Rho-SimCLR: clips of a video attract, those of other videos repel (arXiv 2104.14558)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import nt_xent
from headrace.models.method import Method
from headrace.models.parts.clip_backbones import build_clip_backbone
from headrace.models.parts.several_clips import SeveralClipsConfig, plain_mlp
from headrace.pipeline import Batch, ClipSpec


@dataclass(frozen=True, kw_only=True)
class RhoSimCLRConfig(SeveralClipsConfig):
    """Rho-SimCLR with the authors' values for Kinetics-400 (SimCLR_SlowR50_8x8.yaml)."""

    clips: int = 4
    """Rho: clips of a video, at least 2, drawn independently, so that they may overlap."""
    temperature: float = 0.1
    """Temperature of the loss."""
    hidden_dim: int = 2048
    """Width of the projector's two hidden layers."""
    projection_dim: int = 128
    """Its output dimension."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, self, "temperature", "be above 0")
        for name in ("hidden_dim", "projection_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class RhoSimCLR(Method):
    """Probes see the backbone's output for one clip, without the projector.

    Followed: facebookresearch/SlowFast at 287ec00, slowfast/models/contrastive.py and contrastive_forward: each clip is
    compared with the next one, and passes alone, so that batch norm's statistics are of one clip of each video.
    """

    config: RhoSimCLRConfig
    inputs: ClipSpec

    def __init__(self, config: RhoSimCLRConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.spec()
        self.backbone, self.feature_dim = build_clip_backbone(config.backbone)
        self.projector = plain_mlp((self.feature_dim, config.hidden_dim, config.hidden_dim, config.projection_dim))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone: the sum over successive clips of `headrace.models.losses.nt_xent`."""
        projections = [self.projector(self.backbone(clips)) for clips in batch.normalized()]
        terms = [nt_xent(one, other, self.config.temperature) for one, other in pairwise(projections)]
        return {"loss": torch.stack(terms).sum()}
