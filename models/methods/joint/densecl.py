"""DenseCL: MoCo for whole pictures and for their places, each with the place that looks like it (arXiv 2011.09157)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import dense_info_nce, queue_info_nce
from headrace.models.method import ParameterGroup
from headrace.models.parts.backbones import map_and_features, map_channels
from headrace.models.parts.heads import two_layers
from headrace.models.parts.precision import widened
from headrace.models.parts.slow_keys import KeyQueue, SlowKeys, SlowKeysConfig
from headrace.pipeline import Batch


@dataclass(frozen=True, kw_only=True)
class DenseCLConfig(SlowKeysConfig):
    """DenseCL with the authors' values for ImageNet; its views are MoCo v2's, and both queues have `queue` rows."""

    temperature: float = 0.2
    """Temperature of both losses."""
    dense_weight: float = 0.5
    """Share of the places' loss; the pictures' has the rest. 0 turns it off, which leaves MoCo v2."""
    hidden_dim: int = 2048
    """Width of the hidden layers of both heads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, self, "temperature", "be above 0")
        require(0 <= self.dense_weight <= 1, self, "dense_weight", "lie in [0, 1]")
        require(self.hidden_dim >= 1, self, "hidden_dim", "be at least 1")


class DenseHeads(nn.Module):
    """A head for features and one for feature maps, of two layers each, without norms.

    Source: WXinlong/DenseCL at b64bbb6, openselfsup/models/necks.py, DenseCLNeck; densecl.py draws the linear layers by
    He's rule (fan in) and leaves the convolutions as PyTorch does.
    """

    def __init__(self, dim: int, channels: int, *, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.whole = two_layers(dim, hidden_dim, out_dim)
        self.dense = nn.Sequential(
            nn.Conv2d(channels, hidden_dim, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden_dim, out_dim, 1)
        )
        for layer in self.whole:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) and (B, C, H, W) to (B, out_dim) and (B, out_dim, H, W)."""
        return self.whole(features), self.dense(cells)


class DenseCL(SlowKeys):
    """The first view asks, the slow network answers of the second. Probes see the backbone's pooled output.

    Followed: WXinlong/DenseCL at b64bbb6, openselfsup/models/densecl.py, necks.py and
    configs/selfsup/densecl/densecl_imagenet_200ep.py. The queue of places holds the mean over each picture's places.
    """

    config: DenseCLConfig

    def __init__(self, config: DenseCLConfig) -> None:
        super().__init__(config)
        self.dense_queue = KeyQueue(config.queue, config.projection_dim)

    def make_projector(self) -> nn.Module:
        """Both heads."""
        c = self.config
        return DenseHeads(
            self.feature_dim, map_channels(self.backbone), hidden_dim=c.hidden_dim, out_dim=c.projection_dim
        )

    def slow_outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Key, keys of places, and the map that says which places look alike."""
        key_map, features = map_and_features(self.slow_backbone, images)
        return (*self.slow_projector(features, key_map), key_map)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`, and what it is made of: `"whole"`, see `headrace.models.losses.queue_info_nce`, and `"dense"`, see
        `headrace.models.losses.dense_info_nce`."""
        first, second = batch.normalized()
        query_map, features = map_and_features(self.backbone, first)
        query, dense_query = self.projector(features, query_map)
        key, dense_key, key_map = self.slow_keys(second)
        self.queue.put_later(F.normalize(widened(key), dim=1))
        self.dense_queue.put_later(F.normalize(widened(dense_key).mean(dim=(2, 3)), dim=1))
        c = self.config
        whole = queue_info_nce(query, key, self.queue.rows, c.temperature)
        dense = dense_info_nce(dense_query, dense_key, query_map, key_map, self.dense_queue.rows, c.temperature)
        loss = (1 - c.dense_weight) * whole + c.dense_weight * dense
        return {"loss": loss, "whole": whole.detach(), "dense": dense.detach()}

    def parameter_groups(self) -> list[ParameterGroup]:
        """All in one: the authors decay biases and norms as well."""
        return [ParameterGroup(params=[p for p in self.parameters() if p.requires_grad])]
