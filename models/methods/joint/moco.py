"""MoCo v2: a sample's key among those of earlier batches, by more layers and stronger views than v1 (arXiv 2003.04297).

What v1 and v2 share is here, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import queue_info_nce
from headrace.models.method import ParameterGroup
from headrace.models.parts.heads import two_layers
from headrace.models.parts.precision import widened
from headrace.models.parts.slow_keys import SlowKeys, SlowKeysConfig
from headrace.pipeline import Batch


@dataclass(frozen=True, kw_only=True)
class MoCoConfig(SlowKeysConfig):
    """What both versions have."""

    temperature: float
    """Temperature of the loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, self, "temperature", "be above 0")


class MoCo(SlowKeys):
    """The first view asks, the slow network's key of the second answers. Probes see the backbone's output."""

    config: MoCoConfig

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone; see `headrace.models.losses.queue_info_nce`."""
        first, second = batch.normalized()
        query = self.projector(self.backbone(first))
        (key,) = self.slow_keys(second)
        key = F.normalize(widened(key), dim=1)
        self.queue.put_later(key)
        return {"loss": queue_info_nce(query, key, self.queue.rows, self.config.temperature)}

    def parameter_groups(self) -> list[ParameterGroup]:
        """All in one: the authors decay biases and norms as well."""
        return [ParameterGroup(params=[p for p in self.parameters() if p.requires_grad])]


@dataclass(frozen=True, kw_only=True)
class MoCoV2Config(MoCoConfig):
    """MoCo v2 with the authors' values for ImageNet (facebookresearch/moco at 4397a04, README, --aug-plus --mlp)."""

    temperature: float = 0.2
    """Temperature of the loss."""


class MoCoV2(MoCo):
    """MoCo with a projector of two layers, whose hidden one is as wide as the features.

    Followed: facebookresearch/moco at 4397a04, moco/builder.py.
    """

    config: MoCoV2Config

    def make_projector(self) -> nn.Module:
        """Two layers, without norms."""
        return two_layers(self.feature_dim, self.feature_dim, self.config.projection_dim)
