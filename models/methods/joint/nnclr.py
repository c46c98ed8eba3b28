"""NNCLR: the partner of a view is the nearest of earlier samples, not the other view (arXiv 2104.14548)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import in_batch_info_nce
from headrace.models.method import Context, Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.heads import mlp
from headrace.models.parts.precision import widened
from headrace.models.parts.queue import Queue
from headrace.models.parts.views import BYOLViews
from headrace.pipeline import Batch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class NNCLRConfig(BYOLViews):
    """NNCLR with the values of the paper for ImageNet, as far as they are known; its views are BYOL's."""

    temperature: float = 0.1
    """Temperature of the loss."""
    queue: int = 98304
    """Projections of earlier batches, several batches at least."""
    hidden_dim: int = 2048
    """Width of the projector's two hidden layers."""
    predictor_dim: int = 4096
    """Width of the predictor's hidden layer."""
    projection_dim: int = 256
    """Output dimension of projector and predictor."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, self, "temperature", "be above 0")
        for name in ("queue", "hidden_dim", "predictor_dim", "projection_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class NNCLR(Method):
    """Probes see the backbone's output, without projector and predictor.

    No authors' code is known. Followed: the paper, with the heads of lightly-ai/lightly at e8d317f
    (models/modules/heads.py) and the queue of solo-learn at 9187ea3 (methods/nnclr.py), which one view enters behind
    the loss. Each view passes alone.
    """

    config: NNCLRConfig
    inputs: ViewSpec

    def __init__(self, config: NNCLRConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.views()
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        hidden = (config.hidden_dim, config.hidden_dim)
        self.projector = mlp(
            (self.feature_dim, *hidden, config.projection_dim), bias=False, last_bias=False, last_norm="full"
        )
        dims = (config.projection_dim, config.predictor_dim, config.projection_dim)
        self.predictor = mlp(dims, bias=False, last_bias=True, last_norm="none")
        self.queue = Queue(config.queue, config.projection_dim, noise=True)
        self.new_rows: list[Tensor] = []  # of the step under way

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone: the mean of both directions of `headrace.models.losses.in_batch_info_nce`, neighbours of one
        view among the predictions of the other."""
        z1, z2 = (self.projector(self.backbone(view)) for view in batch.normalized())
        p1, p2 = self.predictor(z1), self.predictor(z2)
        self.new_rows.append(F.normalize(widened(z1.detach()), dim=1))
        both = [
            in_batch_info_nce(self.nearest(z), p, self.config.temperature, key_gradient=True)
            for z, p in ((z1, p2), (z2, p1))
        ]
        return {"loss": torch.stack(both).mean()}

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """(N, D): the row of the queue with the largest cosine for each projection (N, D)."""
        rows = self.queue.rows
        cosines = F.normalize(widened(z), dim=1).to(rows.dtype) @ rows.T
        return rows[cosines.argmax(dim=1)]

    def after_step(self, context: Context) -> None:
        """The first view's projections of this step enter the queue."""
        for rows in self.new_rows:
            self.queue.put(rows)
        self.new_rows = []
