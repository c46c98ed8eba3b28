"""DeepCluster: to which cluster of last epoch's features does it belong (arXiv 1807.05520)?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.clusters import kmeans, unit_whitened
from headrace.models.parts.collectives import from_first, rank
from headrace.models.parts.sobel import Sobel
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Normalize, View, ViewSpec

VGG = BackboneConfig(name="vgg16_bn", options={"drop_rate": 0.5})
DEVIATION = 0.01
"""Of fresh linear weights."""


@dataclass(frozen=True, kw_only=True)
class DeepClusterConfig:
    """DeepCluster with the authors' values for ImageNet and VGG-16, the one of their two networks that timm has."""

    size: int = 224
    """Side of the square views, in pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop as a share of the image."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with."""
    sobel: bool = True
    """Show the network edges by Sobel's filters, two channels, in the place of colours."""
    clusters: int = 10000
    """K, at most the samples of the set."""
    pca_dim: int = 256
    """Principal components of the features that clusters are found in."""
    iterations: int = 20
    """Of k-means, at most."""
    backbone: BackboneConfig = field(default_factory=lambda: VGG)
    """The network that is kept. Its input has two channels with `sobel`."""

    def __post_init__(self) -> None:
        require(self.clusters >= 2, self, "clusters", "be at least 2")
        for name in ("pca_dim", "iterations"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        deepcluster_views(self)  # its fields' limits are View's


def deepcluster_views(config: DeepClusterConfig) -> ViewSpec:
    """A crop and a flip. facebookresearch/deepcluster at 2d1927e, clustering.py, cluster_assign."""
    return ViewSpec([View(size=config.size, scale=config.crop_scale, flip=config.flip, normalize=config.normalize)])


class DeepCluster(Method):
    """Each epoch begins with new clusters of the whole set's features, and with a new classifier of them.

    Followed: facebookresearch/deepcluster at 2d1927e, main.py, clustering.py, util.py and models/vgg16.py. The
    backbone's output is what they cluster: a VGG's last ReLU stands behind it, in front of the classifier. Probes see
    the same.

    Rank 0 clusters, and the others wait for it. Before the first clusters a sample's label is its number modulo K, so
    that a step can be measured.
    """

    config: DeepClusterConfig
    inputs: ViewSpec
    keeps_samples = True
    assignments: Tensor
    """int64 (N,): the cluster of each sample of the set; none before the first epoch."""
    weights: Tensor
    """float32 (K,): of a sample in each cluster, 0 for empty ones; their mean over the set is 1, and all clusters with
    samples weigh the same."""
    nmi: Tensor
    """float32 scalar: the normalised mutual information of this epoch's clusters and those before; 0 in the first."""

    def __init__(self, config: DeepClusterConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = deepcluster_views(config)
        options = {"in_chans": 2 if config.sobel else 3, **config.backbone.options}
        network, self.feature_dim = build_backbone(replace(config.backbone, options=options))
        require(config.pca_dim <= self.feature_dim, config, "pca_dim", f"be at most {self.feature_dim}, the features'")
        if isinstance(network, timm.models.VGG):
            _as_the_authors(network)
        self.backbone = nn.Sequential(Sobel(), network) if config.sobel else network
        self.classifier = nn.Linear(self.feature_dim, config.clusters)
        nn.init.normal_(self.classifier.weight, std=DEVIATION)
        nn.init.zeros_(self.classifier.bias)
        self.register_buffer("assignments", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("weights", torch.ones(config.clusters))
        self.register_buffer("nmi", torch.zeros(()))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the cross entropy of the clusters, in which each cluster weighs as much as any other; `"accuracy"`:
        the share of samples that is right; `"nmi"`; metered, `"clusters_used"`: the share of the clusters that have a
        sample in the whole set."""
        (view,) = batch.normalized()
        logits = self.classifier(F.relu(self.backbone(view))).float()
        known = len(self.assignments) > 0
        labels = self.assignments[batch.index] if known else batch.index % self.config.clusters
        return {
            "loss": F.cross_entropy(logits, labels, self.weights, reduction="sum") / len(labels),
            "accuracy": (logits.detach().argmax(dim=1) == labels).float().mean(),
            "nmi": self.nmi.clone(),
            **({"clusters_used": (self.weights > 0).float().mean()} if self.metered else {}),
        }

    def cluster_scores(self, batch: Batch) -> Tensor:
        """The classifier's outputs for the clusters of the last epoch."""
        outputs: Tensor = self.classifier(F.relu(self.encode(batch)))
        return outputs

    def parameter_groups(self) -> list[ParameterGroup]:
        """The authors decay everything, and move the classifier without momentum."""
        classifier = list(self.classifier.parameters())
        others = [p for name, p in self.named_parameters() if not name.startswith("classifier.") and p.requires_grad]
        return [ParameterGroup(params=others), ParameterGroup(params=classifier, momentum_scale=0.0)]

    def on_epoch(self, context: Context) -> None:
        """New clusters, and a new classifier.

        Raises:
            ValueError: if the set has fewer samples than clusters, or features are not finite.
        """
        require(self.config.clusters <= context.samples, self.config, "clusters", f"be at most {context.samples}, "
                "the samples of the set")  # fmt: skip
        seeds = np.random.SeedSequence((context.seed, context.epoch)).generate_state(2)
        found = torch.zeros(context.samples, dtype=torch.int64)
        if rank() == 0:
            index, points = self._points(context)
            found[index] = kmeans(points, self.config.clusters, iterations=self.config.iterations, seed=int(seeds[0]))
        self._assign(from_first(found.to(self.weights.device)))
        with seeded(int(seeds[1])):
            fresh = torch.empty(self.classifier.weight.shape).normal_(std=DEVIATION)
        self.classifier.weight.copy_(fresh)
        self.classifier.bias.zero_()
        if context.forget is not None:
            context.forget(list(self.classifier.parameters()))

    def _points(self, context: Context) -> tuple[Tensor, Tensor]:
        """The number (n,) of each sample and its point on the unit sphere (n, `pca_dim`), on the CPU."""
        assert context.batches is not None
        assert isinstance(self.probe_inputs, ViewSpec)
        training = self.training
        self.eval()
        index, features = [], []
        for batch in context.batches(self.probe_inputs):
            index.append(batch.index.cpu())
            features.append(self.encode(batch).float().cpu())
        self.train(training)
        if not all(part.isfinite().all() for part in features):
            raise ValueError(f"epoch {context.epoch}: features are not finite, and have no clusters")
        return torch.cat(index), unit_whitened(features, self.config.pca_dim)

    def _assign(self, found: Tensor) -> None:
        """Take the clusters (N,) for labels."""
        if len(self.assignments):
            nmi = normalized_mutual_info_score(self.assignments.cpu().numpy(), found.cpu().numpy())
            self.nmi.fill_(nmi)
        self.assignments = found
        sizes = found.bincount(minlength=self.config.clusters).float()
        filled = sizes > 0
        self.weights.copy_(torch.where(filled, len(found) / (filled.sum() * sizes), 0.0))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """The set has as many samples as it had."""
        if (kept := state_dict.get(prefix + "assignments")) is not None:
            self.assignments = self.assignments.new_empty(kept.shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _as_the_authors(network: Any) -> None:
    """A VGG without its last ReLU and the dropout behind it, whose linear layers, convolutions for timm, start as the
    authors' do."""
    network.pre_logits.act2 = nn.Identity()
    network.head.drop = nn.Identity()
    for layer in (network.pre_logits.fc1, network.pre_logits.fc2):
        nn.init.normal_(layer.weight, std=DEVIATION)
