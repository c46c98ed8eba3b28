"""Barlow Twins: the cross-correlation of two views' projections is the identity (arXiv 2103.03230)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import barlow_twins_loss
from headrace.models.method import Method, ParameterGroup, kernels_and_vectors
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.heads import mlp
from headrace.models.parts.views import BYOLViews
from headrace.pipeline import Batch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class BarlowTwinsConfig(BYOLViews):
    """Barlow Twins with the authors' values for ImageNet; its views are BYOL's."""

    hidden_dim: int = 8192
    """Width of the projector's two hidden layers."""
    projection_dim: int = 8192
    """Its output dimension."""
    lambd: float = 0.0051
    """Weight of the terms off the diagonal."""
    scale: float = 1.0
    """Factor of the loss; LARS notices it in biases and norms, and where it clips its rate."""
    vector_lr: float = 0.024
    """Learning rate of biases and norms, as a factor of that of the weights: 0.0048 of 0.2 in the authors' command."""
    over_ranks: Literal["exact", "local_gradient"] = "local_gradient"
    """"local_gradient" is the authors' all-reduce, whose gradient is divided by the number of ranks; see
    `headrace.models.losses.barlow_twins_loss`."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.scale > 0, self, "scale", "be above 0")
        require(self.hidden_dim >= 1, self, "hidden_dim", "be at least 1")
        require(self.projection_dim >= 2, self, "projection_dim", "be at least 2")


class BarlowTwins(Method):
    """Probes see the backbone's output, without the projector.

    Followed: facebookresearch/barlowtwins at 8e8d284, main.py. The batch norm without weights in front of the
    correlation is in the loss, and keeps no running statistics, which nothing would use.
    """

    config: BarlowTwinsConfig
    inputs: ViewSpec

    def __init__(self, config: BarlowTwinsConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.views()
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        dims = (self.feature_dim, config.hidden_dim, config.hidden_dim, config.projection_dim)
        self.projector = mlp(dims, bias=False, last_bias=False, last_norm="none")

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone; see `headrace.models.losses.barlow_twins_loss`. Each view passes alone."""
        z1, z2 = (self.projector(self.backbone(view)) for view in batch.normalized())
        loss = barlow_twins_loss(z1, z2, self.config.lambd, over_ranks=self.config.over_ranks)
        return {"loss": self.config.scale * loss}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Biases and norms, which LARS leaves alone, have a learning rate of their own."""
        kernels, *vectors = kernels_and_vectors(self)
        for group in vectors:
            group.lr_scale = self.config.vector_lr
        return [kernels, *vectors]
