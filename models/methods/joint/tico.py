"""TiCo: agree with a slow copy, away from where embeddings have been so far (arXiv 2206.10698)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import second_moment, tico_loss
from headrace.models.method import Context, Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.heads import mlp
from headrace.models.parts.momentum import follow, slow_copy
from headrace.models.parts.schedules import cosine
from headrace.models.parts.views import BYOLViews
from headrace.pipeline import Batch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class TiCoConfig(BYOLViews):
    """TiCo with lightly's values for ImageNet; its views are BYOL's."""

    rho: float = 8.0
    """Weight of the second term."""
    beta: float = 0.9
    """Of the running second moment: what a step keeps of the steps before."""
    momentum: float = 0.99
    """Of the slow network at the beginning; it rises to 1 on a cosine."""
    hidden_dim: int = 4096
    """Width of the projector's hidden layer."""
    projection_dim: int = 256
    """Its output dimension."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rho >= 0, self, "rho", "not be negative")
        for name in ("beta", "momentum"):
            require(0 <= getattr(self, name) <= 1, self, name, "lie in [0, 1]")
        for name in ("hidden_dim", "projection_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class TiCo(Method):
    """Probes see the backbone's output, without the projector.

    No authors' code is known. Followed: lightly-ai/lightly at e8d317f, loss/tico_loss.py and
    benchmarks/imagenet/resnet50/tico.py. The first view is the one that is trained on.
    """

    config: TiCoConfig
    inputs: ViewSpec
    moment: Tensor
    """(D, D): running mean of `headrace.models.losses.second_moment`, from zero."""

    def __init__(self, config: TiCoConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.views()
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        dims = (self.feature_dim, config.hidden_dim, config.projection_dim)
        self.projector = mlp(dims, bias=False, last_bias=True, last_norm="none")
        self.slow_backbone, self.slow_projector = slow_copy(self.backbone), slow_copy(self.projector)
        self.register_buffer("moment", torch.zeros(config.projection_dim, config.projection_dim))
        self.new_moments: list[Tensor] = []  # of the step under way

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone; see `headrace.models.losses.tico_loss`."""
        first, second = batch.normalized()
        z1 = self.projector(self.backbone(first))
        with torch.no_grad():
            z2 = self.slow_projector(self.slow_backbone(second))
            moment = torch.lerp(second_moment(z1).to(self.moment.dtype), self.moment, self.config.beta)
            self.new_moments.append(moment)
        return {"loss": tico_loss(z1, z2, moment, self.config.rho)}

    def after_step(self, context: Context) -> None:
        """The second moment is kept, and the slow network moves."""
        self.moment.copy_(torch.stack(self.new_moments).mean(dim=0))
        self.new_moments = []
        momentum = cosine(self.config.momentum, 1.0, context.progress)
        follow(self.slow_backbone, self.backbone, momentum)
        follow(self.slow_projector, self.projector, momentum)
