"""SimSiam: predict what oneself says of another view, whose side gets no gradient (arXiv 2011.10566)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import cosine_regression
from headrace.models.method import Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.heads import mlp
from headrace.models.parts.precision import widened
from headrace.models.parts.views import MoCoViews
from headrace.pipeline import Batch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class SimSiamConfig(MoCoViews):
    """SimSiam with the authors' values for ImageNet; its views are MoCo v2's."""

    hidden_dim: int = 2048
    """Width of the projector's two hidden layers, as wide as the features of the authors' ResNet-50."""
    projection_dim: int = 2048
    """Output dimension of projector and predictor."""
    predictor_dim: int = 512
    """Width of the predictor's hidden layer."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("hidden_dim", "projection_dim", "predictor_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class SimSiam(Method):
    """Probes see the backbone's output, without projector and predictor.

    Followed: facebookresearch/simsiam at a7bc177, simsiam/builder.py and main_simsiam.py. Each view passes alone.
    """

    config: SimSiamConfig
    inputs: ViewSpec

    def __init__(self, config: SimSiamConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.views()
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        hidden = (config.hidden_dim, config.hidden_dim)
        self.projector = mlp(
            (self.feature_dim, *hidden, config.projection_dim), bias=False, last_bias=False, last_norm="plain"
        )
        dims = (config.projection_dim, config.predictor_dim, config.projection_dim)
        self.predictor = mlp(dims, bias=False, last_bias=True, last_norm="none")

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: minus the mean cosine of both directions, from -1 to 1. `"spread"`: the mean deviation of the
        projections' dimensions, their rows at length 1: the root of 1 / `projection_dim` where they are spread evenly,
        0 where they have collapsed, which the loss does not tell."""
        z1, z2 = (self.projector(self.backbone(view)) for view in batch.normalized())
        both = cosine_regression(self.predictor(z1), z2) + cosine_regression(self.predictor(z2), z1)
        spread = F.normalize(widened(z1.detach()), dim=1).std(dim=0, correction=0).mean()
        return {"loss": both / 4 - 1, "spread": spread}

    def parameter_groups(self) -> list[ParameterGroup]:
        """All decay, biases and norms as well; the predictor keeps the peak learning rate."""
        predictor = list(self.predictor.parameters())
        own = {id(p) for p in predictor}
        others = [p for p in self.parameters() if p.requires_grad and id(p) not in own]
        return [ParameterGroup(params=others), ParameterGroup(params=predictor, constant_lr=True)]
