"""SwAV: each view predicts which prototypes another view is assigned to (arXiv 2006.09882)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import sinkhorn, swapped_prediction
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.collectives import rank, world_size
from headrace.models.parts.heads import mlp
from headrace.models.parts.meters import share_used, target_entropies
from headrace.models.parts.multi_crop import by_resolution
from headrace.models.parts.queue import Queue
from headrace.models.parts.views import SwAVViews
from headrace.pipeline import Batch, ViewSpec


@dataclass(frozen=True, kw_only=True)
class SwAVConfig(SwAVViews):
    """SwAV with the authors' values for ImageNet in batches of 4,096."""

    hidden_dim: int = 2048
    """Width of the projector's hidden layer."""
    projection_dim: int = 128
    """Its output dimension."""
    prototypes: int = 3000
    """K."""
    frozen_epochs: int = 1
    """Epochs at the beginning in which the prototypes are not trained."""
    temperature: float = 0.1
    """Of the predictions."""
    epsilon: float = 0.05
    """Sharpness of the assignments; smaller is sharper."""
    sinkhorn_iterations: int = 3
    """Of the assignments."""
    queue: int = 0
    """Earlier embeddings of each large view that take part in the assignments, over all ranks; 0 for none. The authors
    take 3,840 for batches of 256, much smaller than K. A multiple of the global batch."""
    queue_epoch: int = 15
    """Epoch, from 0, at which the queue begins to fill."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("temperature", "epsilon"):
            require(getattr(self, name) > 0, self, name, "be above 0")
        for name in ("hidden_dim", "projection_dim", "prototypes", "sinkhorn_iterations"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        for name in ("queue", "queue_epoch", "frozen_epochs"):
            require(getattr(self, name) >= 0, self, name, "not be negative")


class SwAV(Method):
    """Probes see the backbone's output, without projector and prototypes.

    Followed: facebookresearch/swav at 06b1b7c, main_swav.py and src/resnet50.py. Views of one size pass the backbone
    together, and all views the projector. A queue takes part in the assignments once it is full. It is kept on all
    ranks, and each rank puts its own part of it before its batch.
    """

    config: SwAVConfig
    inputs: ViewSpec

    def __init__(self, config: SwAVConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.views()
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        dims = (self.feature_dim, config.hidden_dim, config.projection_dim)
        self.projector = mlp(dims, bias=True, last_bias=True, last_norm="none")
        self.prototypes = nn.Linear(config.projection_dim, config.prototypes, bias=False)
        queues = 2 if config.queue else 0
        self.queues = nn.ModuleList(Queue(config.queue, config.projection_dim, noise=False) for _ in range(queues))
        self.queue_is_full = False
        self.new_rows: list[list[Tensor]] = []  # of the step under way: embeddings of the large views

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`, see `headrace.models.losses.swapped_prediction`; metered, the entropies of the assignments and
        `"prototypes_used"`, the share that some large view is nearest to (`headrace.models.parts.meters`)."""
        views = batch.normalized()
        z = F.normalize(self.projector(by_resolution(self.backbone, views)), dim=1)
        scores = self.prototypes(z).chunk(len(views))  # V tensors (B, K)
        large = z.detach().chunk(len(views))[:2]
        targets = [self._assignments(score, view) for view, score in enumerate(scores[:2])]
        self.new_rows.append(list(large))
        meters = {}
        if self.metered:
            used = share_used(torch.cat(scores[:2]).detach())
            meters = {**target_entropies(torch.cat(targets)), "prototypes_used": used}
        return {"loss": swapped_prediction(scores, targets, self.config.temperature), **meters}

    def cluster_scores(self, batch: Batch) -> Tensor:
        """Of the prototypes."""
        z = F.normalize(self.projector(self.encode(batch)), dim=1)
        return F.linear(z, F.normalize(self.prototypes.weight, dim=1))

    @torch.no_grad()
    def _assignments(self, scores: Tensor, view: int) -> Tensor:
        """(B, K): soft assignments of the batch, to which the queue's rows add their weight."""
        earlier = self._queued(view, len(scores))
        joint = torch.cat([F.linear(earlier, self.prototypes.weight).to(scores.dtype), scores])
        return sinkhorn(joint, self.config.epsilon, self.config.sinkhorn_iterations, slack=0.0)[-len(scores) :]

    def _queued(self, view: int, samples: int) -> Tensor:
        """(Q, D): this rank's rows of a full queue; none before it is full."""
        if not self.queue_is_full:
            return self.prototypes.weight.new_zeros(0, self.config.projection_dim)
        rows = self._queue(view).rows.view(-1, world_size(), samples, self.config.projection_dim)
        return rows[:, rank()].flatten(0, 1)

    def _queue(self, view: int) -> Queue:
        queue = self.queues[view]
        assert isinstance(queue, Queue)
        return queue

    def parameter_groups(self) -> list[ParameterGroup]:
        """The prototypes wait for their first epochs to pass; LARC of the authors adapts and decays everything."""
        prototypes = list(self.prototypes.parameters())
        others = [p for name, p in self.named_parameters() if not name.startswith("prototypes.")]
        return [
            ParameterGroup(params=others),
            ParameterGroup(params=prototypes, frozen_epochs=self.config.frozen_epochs),
        ]

    def before_step(self, context: Context) -> None:
        """Prototypes have length 1."""
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
        steps = context.step - self.config.queue_epoch * context.steps_per_epoch
        self.queue_is_full = 0 < self.config.queue <= steps * context.batch_size

    def after_step(self, context: Context) -> None:
        """The large views' embeddings enter the queues."""
        if self.queues and context.epoch >= self.config.queue_epoch:
            for rows in self.new_rows:
                for view, of_view in enumerate(rows):
                    self._queue(view).put(of_view)
        self.new_rows = []
