"""MoCo: a sample's key, from a slow encoder, among the keys of earlier batches (arXiv 1911.05722, 2003.04297)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import queue_info_nce
from headrace.models.losses.precision import widened
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.momentum import follow, slow_copy
from headrace.models.parts.norms import split_batch_norms
from headrace.models.parts.queue import Queue
from headrace.models.parts.shuffling import shuffled, unshuffled
from headrace.models.parts.views import MoCoViews
from headrace.pipeline import Batch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class MoCoV2Config(MoCoViews):
    """MoCo v2 with the authors' values for ImageNet (facebookresearch/moco at 4397a04, README, --aug-plus --mlp)."""

    temperature: float = 0.2
    """Temperature of the loss."""
    momentum: float = 0.999
    """Of the slow encoder, constant."""
    queue: int = 65536
    """Keys of earlier batches, a multiple of the global batch. Much smaller than the data set: on a set of 50,000,
    65,536 keys hold a sample's own."""
    projection_dim: int = 128
    """Output dimension of the projection head, whose hidden layer is as wide as the features."""
    batch_norm_splits: int = 1
    """Parts of a rank's batch that batch norms take statistics of, each by itself. Keys are shuffled over ranks and
    splits, so that a query shares no statistics with its key; with one rank and one split it would. The authors'
    demonstration on CIFAR-10, on one GPU, takes 8."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, self, "temperature", "be above 0")
        require(0 <= self.momentum <= 1, self, "momentum", "lie in [0, 1]")
        for name in ("queue", "projection_dim", "batch_norm_splits"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class MoCoV2(Method):
    """The first view asks, the slow network's key of the second answers. Probes see the backbone's output.

    Followed: facebookresearch/moco at 4397a04, moco/builder.py. The queue is the same on all ranks; running statistics
    of the slow network are its own. A step of theirs moves the slow network before it makes keys, here the step before
    does after the optimiser: the same weights.
    """

    config: MoCoV2Config
    inputs: ViewSpec

    def __init__(self, config: MoCoV2Config) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.views()
        backbone, self.feature_dim = build_backbone(config.backbone)
        self.backbone = split_batch_norms(backbone, config.batch_norm_splits)
        self.projector = nn.Sequential(
            nn.Linear(self.feature_dim, self.feature_dim),
            nn.ReLU(inplace=True),
            nn.Linear(self.feature_dim, config.projection_dim),
        )
        self.slow_backbone, self.slow_projector = slow_copy(self.backbone), slow_copy(self.projector)
        self.queue = Queue(config.queue, config.projection_dim, noise=True)
        self.new_keys: list[Tensor] = []  # of the step under way

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone; see `headrace.models.losses.queue_info_nce`."""
        first, second = batch.normalized()
        query = self.projector(self.backbone(first))
        with torch.no_grad():
            images, order = shuffled(second)
            key = unshuffled(self.slow_projector(self.slow_backbone(images)), order)
            key = F.normalize(widened(key), dim=1)
        self.new_keys.append(key)
        return {"loss": queue_info_nce(query, key, self.queue.rows, self.config.temperature)}

    def parameter_groups(self) -> list[ParameterGroup]:
        """All in one: the authors decay biases and norms as well."""
        return [ParameterGroup(params=[p for p in self.parameters() if p.requires_grad])]

    def after_step(self, context: Context) -> None:
        """The keys of this step enter the queue, and the slow network moves."""
        for keys in self.new_keys:
            self.queue.put(keys)
        self.new_keys = []
        follow(self.slow_backbone, self.backbone, self.config.momentum)
        follow(self.slow_projector, self.projector, self.config.momentum)
