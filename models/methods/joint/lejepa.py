"""LeJEPA: agree, with embeddings spread like an isotropic Gaussian, without a teacher (arXiv 2511.08544)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import centre_distance, sigreg
from headrace.models.method import Context, Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.heads import mlp
from headrace.models.parts.multi_crop import by_resolution
from headrace.models.parts.views import BYOLViews
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, ViewSpec

LARGE = 2
"""Views of which the centre is the mean."""


@dataclass(frozen=True, kw_only=True)
class LeJEPAConfig(BYOLViews):
    """LeJEPA with the values of the authors' README (rbalestr-lab/lejepa at eddffdd); colours are BYOL's."""

    crop_scale: tuple[float, float] = (0.3, 1.0)
    """Area of the large crops as a share of the image."""
    blur: tuple[float, float] = (0.5, 0.5)
    """Probability of a Gaussian blur of the two large views; the small ones have the first's."""
    solarize: tuple[float, float] = (0.2, 0.2)
    """Probability of solarisation, likewise."""
    local_views: int = 6
    """Small views."""
    local_size: int = 98
    """Their side, in pixels."""
    local_scale: tuple[float, float] = (0.05, 0.3)
    """Area of their crops."""
    lambd: float = 0.05
    """Weight of the Gaussian, against 1 less this of the agreement; the authors' minimal example takes 0.02."""
    directions: int = 1024
    """Along which the distribution is seen, drawn anew for every step."""
    hidden_dim: int = 2048
    """Width of the projector's two hidden layers."""
    projection_dim: int = 128
    """Its output dimension."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.lambd <= 1, self, "lambd", "lie in [0, 1]")
        require(self.local_views >= 0, self, "local_views", "not be negative")
        for name in ("directions", "hidden_dim", "projection_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")

    def views(self) -> ViewSpec:
        """Two large views and some small ones."""
        large = super().views().views
        small = replace(large[0], size=self.local_size, scale=self.local_scale)
        return ViewSpec([*large, *[small] * self.local_views])


class LeJEPA(Method):
    """Probes see the backbone's output, without the projector.

    Followed: rbalestr-lab/lejepa at eddffdd, README.md and MINIMAL.md. Views of one size pass the backbone together,
    and all of them the projector.
    """

    config: LeJEPAConfig
    inputs: ViewSpec
    directions: Tensor
    """(D, M) of length 1, of this step, the same on all ranks."""

    def __init__(self, config: LeJEPAConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.views()
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        dims = (self.feature_dim, config.hidden_dim, config.hidden_dim, config.projection_dim)
        self.projector = mlp(dims, bias=True, last_bias=True, last_norm="none")
        self.register_buffer("directions", torch.empty(config.projection_dim, config.directions), persistent=False)
        self._draw(0, 0)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` is the weighted sum of `"agreement"`, see `headrace.models.losses.centre_distance`, and
        `"gaussian"`, see `headrace.models.losses.sigreg`."""
        views = batch.normalized()
        z = self.projector(by_resolution(self.backbone, views)).unflatten(0, (len(views), -1))  # (V, B, D)
        agreement, gaussian = centre_distance(z, LARGE), sigreg(z, self.directions)
        loss = (1 - self.config.lambd) * agreement + self.config.lambd * gaussian
        return {"loss": loss, "agreement": agreement.detach(), "gaussian": gaussian.detach()}

    def before_step(self, context: Context) -> None:
        """New directions."""
        self._draw(context.seed, context.step)

    @torch.no_grad()
    def _draw(self, seed: int, step: int) -> None:
        with seeded(seed, step):
            drawn = torch.randn(self.directions.shape)
        self.directions.copy_(F.normalize(drawn, dim=0))
