"""DeepCluster-v2: which clusters of last epoch's embeddings does each of its crops belong to (arXiv 2006.09882)?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import cluster_cross_entropy
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.clusters import spherical_kmeans
from headrace.models.parts.collectives import from_first, gathered, rank
from headrace.models.parts.heads import mlp
from headrace.models.parts.multi_crop import by_resolution
from headrace.models.parts.views import SwAVViews
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, ViewSpec

BANKS = 2
"""Views that are remembered of each sample, the large ones."""
NO_CLUSTER = -100


@dataclass(frozen=True, kw_only=True)
class DeepClusterV2Config(SwAVViews):
    """DeepCluster-v2 with the authors' values for ImageNet in batches of 4,096; its views are SwAV's."""

    hidden_dim: int = 2048
    """Width of the projector's hidden layer."""
    projection_dim: int = 128
    """Its output dimension."""
    clusters: tuple[int, ...] = (3000, 3000, 3000)
    """K of each clustering, at most the samples of an epoch. They are of the first and the second view in turn."""
    iterations: int = 10
    """Of k-means."""
    temperature: float = 0.1
    """Of the predictions."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, self, "temperature", "be above 0")
        require(
            len(self.clusters) >= 1 and min(self.clusters) >= 2, self, "clusters", "be one or more, each at least 2"
        )
        for name in ("hidden_dim", "projection_dim", "iterations"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class DeepClusterV2(Method):
    """Probes see the backbone's output, without projector and centres.

    Followed: facebookresearch/swav at 06b1b7c, main_deepclusterv2.py and src/resnet50.py. Views of one size pass the
    backbone together, and all views the projector. The embeddings of an epoch's large views, as they came up in
    training, are clustered before the next epoch, and the centres are what embeddings are compared with until then.
    Before the first epoch one pass over the set, in training mode, makes them. A sample that the last epoch left out
    has no cluster, and no part in the loss.

    All ranks keep all embeddings, with 128 numbers 1 KB a sample. Rank 0 clusters them, and the others wait for it.
    Before the first clusters a sample's label is its number modulo K, so that a step can be measured.
    """

    config: DeepClusterV2Config
    inputs: ViewSpec
    keeps_samples = True
    assignments: Tensor
    """int64 (heads, N): the cluster of each sample in each clustering, or `NO_CLUSTER`; (heads, 0) at the beginning."""
    fresh: Tensor
    """bool (N,): whether the memory of a sample is of this epoch."""

    def __init__(self, config: DeepClusterV2Config) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.views()
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        dims = (self.feature_dim, config.hidden_dim, config.projection_dim)
        self.projector = mlp(dims, bias=True, last_bias=True, last_norm="none")
        self.centres = nn.ModuleList(
            nn.Linear(config.projection_dim, clusters, bias=False).requires_grad_(False) for clusters in config.clusters
        )
        # (views, N, D). A parameter: buffers are sent from rank 0 to the others at every step.
        self.memory = nn.Parameter(torch.zeros(BANKS, 0, config.projection_dim), requires_grad=False)
        self.register_buffer("assignments", torch.zeros(len(config.clusters), 0, dtype=torch.int64))
        self.register_buffer("fresh", torch.zeros(0, dtype=torch.bool))
        self.new_rows: list[tuple[Tensor, Tensor]] = []  # of the step under way: numbers and embeddings

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the mean over clusterings of `headrace.models.losses.cluster_cross_entropy`; metered,
        `"clusters_used"`: the share of the clusters that have a sample in the whole set."""
        views = batch.normalized()
        z = F.normalize(self.projector(by_resolution(self.backbone, views)), dim=1)
        self.new_rows.append((batch.index, _of_large(z, len(views))))
        losses = [
            cluster_cross_entropy(centres(z), self._labels(head, batch.index), self.config.temperature)
            for head, centres in enumerate(self.centres)
        ]
        return {"loss": torch.stack(losses).mean(), **({"clusters_used": self._used()} if self.metered else {})}

    def _used(self) -> Tensor:
        """Share of the clusters of all heads, 0 before the first ones are found."""
        shares = []
        for clusters, found in zip(self.config.clusters, self.assignments, strict=True):
            used = torch.zeros(1 + clusters, device=found.device)  # the first stands for none
            shares.append(used.index_fill_(0, 1 + found.clamp(min=-1), 1.0)[1:].mean())
        return torch.stack(shares).mean()

    def _labels(self, head: int, index: Tensor) -> Tensor:
        if self.assignments.shape[1] == 0:
            return index % self.config.clusters[head]
        return self.assignments[head, index]

    def cluster_scores(self, batch: Batch) -> Tensor:
        """Of the first of the clusterings."""
        scores: Tensor = self.centres[0](F.normalize(self.projector(self.encode(batch)), dim=1))
        return scores

    def parameter_groups(self) -> list[ParameterGroup]:
        """LARC of the authors adapts and decays everything."""
        return [ParameterGroup(params=[p for p in self.parameters() if p.requires_grad])]

    def on_epoch(self, context: Context) -> None:
        """New clusters, of the embeddings of the last epoch or, before the first, of a pass of its own.

        Raises:
            ValueError: if there are fewer embeddings than clusters, or they are not finite.
        """
        seeds = np.random.SeedSequence((context.seed, context.epoch)).generate_state(len(self.centres) + 1).tolist()
        if self.memory.shape[1] != context.samples:
            with seeded(seeds[-1]):  # of dropped paths
                self._remember_all(context)
        require(max(self.config.clusters) <= int(self.fresh.sum()), self.config, "clusters",
                f"be at most {int(self.fresh.sum())}, the samples of an epoch")  # fmt: skip
        points = self.memory[:, self.fresh]
        if not points.isfinite().all():
            raise ValueError(f"epoch {context.epoch}: embeddings are not finite, and have no clusters")
        self.assignments = self.assignments.new_full((len(self.centres), context.samples), NO_CLUSTER)
        for head, (layer, clusters) in enumerate(zip(self.centres, self.config.clusters, strict=True)):
            centres, found = points.new_empty(clusters, points.shape[2]), self.assignments.new_empty(points.shape[1])
            if rank() == 0:
                centres, found = spherical_kmeans(
                    points[head % BANKS], clusters, iterations=self.config.iterations, seed=seeds[head]
                )
            next(layer.parameters()).copy_(from_first(centres))
            self.assignments[head, self.fresh] = from_first(found)
        self.fresh.zero_()

    def _remember_all(self, context: Context) -> None:
        """Fill the memory by a pass over the set in the mode of training, in which batch norms' statistics move. A
        sample that is alone in the last batch is left out: it has no statistics."""
        assert context.batches is not None
        self.memory.data = self.memory.new_zeros(BANKS, context.samples, self.config.projection_dim)
        self.fresh = self.fresh.new_zeros(context.samples)
        training = self.training
        self.train()
        for batch in context.batches(ViewSpec(self.inputs.views[:BANKS])):
            if len(batch) > 1:
                z = [F.normalize(self.projector(self.backbone(view)), dim=1) for view in batch.normalized()]
                self._remember(batch.index, torch.stack(z, dim=1))
        self.train(training)

    def after_step(self, context: Context) -> None:
        """The step's embeddings of large views take their places in the memory."""
        rows, self.new_rows = self.new_rows, []
        for index, embeddings in rows if self.memory.shape[1] else []:
            self._remember(gathered(index), gathered(embeddings))

    def _remember(self, index: Tensor, embeddings: Tensor) -> None:
        """(B,) and (B, views, D)."""
        self.memory[:, index] = embeddings.transpose(0, 1).to(self.memory.dtype)
        self.fresh[index] = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """The set has as many samples as it had."""
        if (kept := state_dict.get(prefix + "memory")) is not None:
            samples = kept.shape[1]
            self.memory.data = self.memory.new_empty(kept.shape)
            self.fresh = self.fresh.new_empty(samples)
            self.assignments = self.assignments.new_empty(state_dict[prefix + "assignments"].shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _of_large(z: Tensor, views: int) -> Tensor:
    """(B, 2, D), without gradient: the large views' rows out of those of all views, (V * B, D)."""
    return torch.stack(z.detach().chunk(views)[:BANKS], dim=1)
