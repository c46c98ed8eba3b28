"""VICReg: agree, with dimensions that vary and do not tell the same (arXiv 2105.04906)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import vicreg_terms
from headrace.models.method import Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.heads import mlp
from headrace.models.parts.views import BYOLViews
from headrace.pipeline import Batch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class VICRegConfig(BYOLViews):
    """VICReg with the authors' values for ImageNet; its views are BYOL's."""

    hidden_dim: int = 8192
    """Width of the projector's two hidden layers."""
    projection_dim: int = 8192
    """Its output dimension."""
    invariance: float = 25.0
    """Weight of the difference between views."""
    variance: float = 25.0
    """Weight of what is missing to a deviation of 1, which the authors' code halves: the paper's formula has 12.5."""
    covariance: float = 1.0
    """Weight of the covariances."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hidden_dim >= 1, self, "hidden_dim", "be at least 1")
        require(self.projection_dim >= 2, self, "projection_dim", "be at least 2")
        for name in ("invariance", "variance", "covariance"):
            require(getattr(self, name) >= 0, self, name, "not be negative")


class VICReg(Method):
    """Probes see the backbone's output, without the projector.

    Followed: facebookresearch/vicreg at 4e12602, main_vicreg.py. Each view passes alone.
    """

    config: VICRegConfig
    inputs: ViewSpec

    def __init__(self, config: VICRegConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.views()
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        dims = (self.feature_dim, config.hidden_dim, config.hidden_dim, config.projection_dim)
        self.projector = mlp(dims, bias=True, last_bias=False, last_norm="none")

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` is the weighted sum of the other entries, see `headrace.models.losses.vicreg_terms`."""
        z1, z2 = (self.projector(self.backbone(view)) for view in batch.normalized())
        c, terms = self.config, vicreg_terms(z1, z2)
        loss = c.invariance * terms.invariance + c.variance * terms.variance + c.covariance * terms.covariance
        return {"loss": loss, **{name: term.detach() for name, term in terms._asdict().items()}}
